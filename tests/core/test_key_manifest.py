"""The manifest of all keys: what it vouches for, and that nothing else passes (STANDARDS K12)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.key_manifest import KeyManifest, authentic, make_manifest
from authsvc.core.keys import KeyRecord, KeyState
from tests.support.record_values import MAC_KEY, key

ORDER = (1, 7)
KEYS = (key("k1", state=KeyState.ACTIVE), key("k2"))
MANIFEST = make_manifest(MAC_KEY, KEYS, ORDER)


@pytest.mark.standard("K12")
def test_keys_that_are_as_the_manifest_names_them_are_authentic() -> None:
    assert authentic(MAC_KEY, KEYS, MANIFEST, ORDER) == KEYS
    assert make_manifest(MAC_KEY, reversed(KEYS), ORDER) == MANIFEST


@pytest.mark.standard("K12")
@pytest.mark.parametrize("state", set(KeyState) - {KeyState.PENDING})
def test_a_row_that_was_ours_in_another_state_is_broken(state: KeyState) -> None:
    rows = (KEYS[0], key("k2", state=state))
    assert authentic(MAC_KEY, rows, MANIFEST, ORDER) == KEYS[:1]


@pytest.mark.standard("K12")
def test_a_row_that_the_manifest_does_not_name_is_broken() -> None:
    assert authentic(MAC_KEY, (*KEYS, key("k3")), MANIFEST, ORDER) == KEYS


@pytest.mark.standard("K12")
def test_a_forged_row_that_the_manifest_names_is_broken() -> None:
    forged = replace(KEYS[1], actor="somebody")
    assert authentic(MAC_KEY, (KEYS[0], forged), MANIFEST, ORDER) == KEYS[:1]


@pytest.mark.standard("K12")
@pytest.mark.parametrize(
    "manifest",
    [
        None,
        replace(MANIFEST, mac=b""),
        replace(MANIFEST, mac=bytes(32)),
        replace(MANIFEST, macs={**MANIFEST.macs, "k3": key("k3").mac}),
        replace(MANIFEST, macs={"k1": KEYS[0].mac}),
        make_manifest(b"n" * 32, KEYS, ORDER),
        make_manifest(MAC_KEY, KEYS, (1, 6)),
        make_manifest(MAC_KEY, KEYS, (2, 7)),
        replace(make_manifest(MAC_KEY, KEYS, (1, 6)), order=ORDER),
    ],
)
def test_a_manifest_that_is_missing_altered_or_old_vouches_for_nothing(manifest: KeyManifest | None) -> None:
    assert authentic(MAC_KEY, KEYS, manifest, ORDER) == ()


@pytest.mark.standard("K12")
@given(st.lists(st.sampled_from(["k1", "k2", "k3"]).flatmap(lambda kid: st.sampled_from(list(KeyState)).map(
    lambda state: key(kid, state=state))), max_size=6, unique_by=lambda key: key.kid))  # fmt: skip
def test_only_the_very_rows_of_the_last_change_are_authentic(rows: list[KeyRecord]) -> None:
    assert authentic(MAC_KEY, rows, MANIFEST, ORDER) == tuple(row for row in rows if row in KEYS)
