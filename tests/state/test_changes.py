"""Applying the change log to an old snapshot equals building from the record."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.bindings import Binding, make_binding
from authsvc.core.errors import AuthsvcError
from authsvc.core.keys import KeyState
from authsvc.core.revocations import RevocationKind
from authsvc.ports.change_log import Change, UnknownEdit
from authsvc.ports.record import Record, Revocation
from authsvc.state.changes import UnknownChangeError, apply
from authsvc.state.snapshot import Snapshot, build
from authsvc.storage.sql.record import SqlRecord
from tests.state.conftest import open_at
from tests.support.record_values import (
    NOW,
    POLICY,
    client,
    draft,
    file_binding,
    granted,
    key,
    keys_change,
    keys_put,
    verify_keys,
)

Verb = Callable[[Record], object]

_names = st.sampled_from(["ann", "bob", "cy"])
_clients = st.sampled_from(["a", "b", "c"])
_subjects = st.one_of(_names.map("user:{}".format), _clients.map("client:{}".format))
_roles = st.sampled_from(["viewer", "editor"])
_tenants = st.sampled_from(["", "acme"])
_kids = st.sampled_from(["k1", "k2", "k3"])
_bindings = st.builds(
    make_binding,
    _subjects,
    _roles,
    _tenants,
    st.sampled_from(["", "orders/1", "orders/*"]),
    st.sampled_from([None, NOW + 60]),
)
_files = st.lists(_bindings, max_size=6, unique_by=lambda binding: binding.binding_id)


def _put_key(kid: str, state: KeyState, mac: bytes | None) -> Verb:
    made = key(kid, state=state)
    change = keys_put(made if mac is None else replace(made, mac=mac))
    return lambda record: record.change_keys(change, draft(), expected=None)


_verbs: st.SearchStrategy[Verb] = st.one_of(
    st.builds(_put_key, _kids, st.sampled_from(list(KeyState)), st.sampled_from([None, b"forged"])),
    st.builds(lambda kid: lambda r: r.change_keys(keys_change(forgotten=(kid,)), draft(), expected=None), _kids),
    st.builds(
        lambda name, bindings: lambda r: r.create_client(client(name), bindings, draft()),
        _clients,
        _clients.map(lambda name: [granted(f"client:{name}")]),
    ),
    st.builds(
        lambda name, text: lambda r: r.change_client(name, lambda c: replace(c, display_name=text), draft()),
        _clients,
        st.sampled_from(["x", "y"]),
    ),
    st.builds(lambda name: lambda r: r.delete_client(name, draft(), revocation_expire_time=NOW + 99), _clients),
    st.builds(lambda binding: lambda r: r.grant(binding, draft()), _bindings),
    st.builds(lambda binding: lambda r: r.revoke_binding(binding.binding_id, draft()), _bindings),
    st.builds(
        lambda bindings, mark: (
            lambda r: r.apply_policy(f"{POLICY}# {mark}\n", bindings, draft(), expected_revision=None)
        ),
        _files,
        st.integers(0, 3),
    ),
    st.builds(
        lambda kind, name, ttl: lambda r: r.revoke([Revocation(kind, name, NOW + ttl)], draft()),
        st.sampled_from(list(RevocationKind)),
        _names,
        st.integers(60, 600),
    ),
    st.just(lambda r: r.demand_epoch(r.head().revision.epoch)),
)


def content(snapshot: Snapshot) -> tuple[object, ...]:
    """All that a snapshot says, comparable."""
    bindings = sorted(map(repr, snapshot.bindings))
    return (
        snapshot.revision,
        snapshot.digest,
        dict(snapshot.keys),
        snapshot.keys_version,
        snapshot.broken_kids,
        dict(snapshot.clients),
        snapshot.policy_record,
        bindings,
        len(snapshot.bindings),
        snapshot.revocations,
    )


def followed(snapshot: Snapshot, record: SqlRecord) -> Snapshot:
    """The snapshot after everything in the log behind it."""
    for change in record.changes_from(snapshot.revision.number + 1, 10_000):
        snapshot = apply(snapshot, change, verify_keys)
    return snapshot


@pytest.mark.standard("P3")
@given(st.lists(_verbs, min_size=1, max_size=25), st.data())
def test_the_log_applied_to_an_old_snapshot_equals_a_fresh_build(verbs: list[Verb], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        record = open_at(Path(folder) / "record.db")
        early = build(record.load(), verify_keys)
        taken = data.draw(st.integers(0, len(verbs) - 1))
        middle = early
        for index, verb in enumerate(verbs):
            if index == taken:
                middle = build(record.load(), verify_keys)
            try:
                verb(record)
            except AuthsvcError:
                # Refused (an id used before, an unknown binding): nothing was written, which the end compares.
                continue
        fresh = content(build(record.load(), verify_keys))
        assert content(followed(early, record)) == fresh
        assert content(followed(middle, record)) == fresh
        record.close()


def test_a_change_leaves_what_it_does_not_touch_the_same_object(record: SqlRecord) -> None:
    record.change_keys(keys_change(key("k1")), draft(), expected=None)
    before = build(record.load(), verify_keys)
    record.grant(granted(), draft())
    after = followed(before, record)
    assert after.keys is before.keys
    assert after.policy is before.policy
    assert after.clients is before.clients


def test_an_old_snapshot_is_not_touched_by_the_next(record: SqlRecord) -> None:
    before = build(record.load(), verify_keys)
    told = content(before)
    record.grant(granted(), draft())
    record.create_client(client(), [], draft())
    followed(before, record)
    assert content(before) == told


def test_an_unknown_edit_is_refused(record: SqlRecord) -> None:
    snapshot = build(record.load(), verify_keys)
    with pytest.raises(UnknownChangeError):
        apply(snapshot, Change(1, 1, snapshot.digest, b"d", (UnknownEdit("hologram"),)), verify_keys)


def test_bulk_work_is_one_revision(record: SqlRecord) -> None:
    bindings: list[Binding] = [file_binding(f"user:{n}") for n in range(500)]
    before = build(record.load(), verify_keys)
    written = record.apply_policy(POLICY, bindings, draft(), expected_revision=None)
    assert written.revision.number == 1
    assert len(followed(before, record).bindings) == 500


@pytest.mark.standard("K12")
def test_a_key_row_that_was_altered_is_never_in_the_key_set(record: SqlRecord) -> None:
    good, forged = key("good"), replace(key("forged"), state=KeyState.ACTIVE)
    before = build(record.load(), verify_keys)
    record.change_keys(keys_put(good, forged), draft(), expected=None)
    for snapshot in (build(record.load(), verify_keys), followed(before, record)):
        assert list(snapshot.keys) == ["good"]
        assert snapshot.broken_kids == {"forged"}
