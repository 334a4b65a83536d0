"""Envelopes open only in their place, and client secrets prove only their client."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.client_secrets import keyed_hash, proves
from authsvc.core.clients import ClientSecret
from authsvc.core.envelopes import NONCE_BYTES, PRIVATE_KEY, SECRET, Kek, open_envelope, seal, sealed_by
from authsvc.core.errors import Internal
from authsvc.core.framing import length_prefixed

KEK = Kek(bytes(range(32)))
OTHER_KEK = Kek(bytes(32))
NONCE = bytes(range(NONCE_BYTES))
PLACE = (PRIVATE_KEY, "kid-1", "ES256")
BLOB = seal(KEK, b"a private key", *PLACE, nonce=NONCE)


@pytest.mark.standard("K6")
@given(st.binary(max_size=200), st.text(max_size=9), st.text(max_size=9), st.binary(min_size=12, max_size=12))
def test_an_envelope_opens_in_its_place(plaintext: bytes, purpose: str, name: str, nonce: bytes) -> None:
    blob = seal(KEK, plaintext, purpose, name, nonce=nonce)
    assert open_envelope(KEK, blob, purpose, name) == plaintext
    assert sealed_by(blob) == KEK.id
    assert len(plaintext) < 8 or plaintext not in blob[1 + 8 + NONCE_BYTES :]


@pytest.mark.standard("K6")
@pytest.mark.parametrize(
    "place",
    [
        (SECRET, "kid-1", "ES256"), (PRIVATE_KEY, "kid-2", "ES256"), (PRIVATE_KEY, "kid-1", "EdDSA"),
        (PRIVATE_KEY, "kid-1", ""), (PRIVATE_KEY + "k", "id-1", "ES256"), (PRIVATE_KEY, "kid-1E", "S256"), ("", "", ""),
    ],
)  # fmt: skip
def test_a_swapped_envelope_fails_closed(place: tuple[str, str, str]) -> None:
    with pytest.raises(Internal):
        open_envelope(KEK, BLOB, *place)


@pytest.mark.standard("K6")
@pytest.mark.parametrize("length", range(len(BLOB)))
def test_a_truncated_or_flipped_envelope_fails_closed(length: int) -> None:
    flipped = BLOB[:length] + bytes([BLOB[length] ^ 1]) + BLOB[length + 1 :]
    for broken in (BLOB[:length], flipped, BLOB + bytes(length + 1), BLOB[length + 1 :]):
        with pytest.raises(Internal):
            open_envelope(KEK, broken, *PLACE)


@pytest.mark.standard("K6")
def test_another_key_does_not_open_it_even_under_a_forged_id() -> None:
    assert KEK.id != OTHER_KEK.id
    for blob in (BLOB, BLOB[:1] + OTHER_KEK.id + BLOB[9:]):
        with pytest.raises(Internal):
            open_envelope(OTHER_KEK, blob, *PLACE)


def test_keys_and_nonces_have_one_length_and_no_repr_shows_a_key() -> None:
    for key in (b"", bytes(16), bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="32"):
            Kek(key)
    with pytest.raises(ValueError, match="12"):
        seal(KEK, b"", *PLACE, nonce=bytes(11))
    assert repr(KEK.key_bytes) not in repr(KEK)


@given(st.lists(st.lists(st.binary(max_size=3), max_size=4).map(tuple), max_size=8, unique=True))
def test_no_two_lists_of_fields_have_the_same_bytes(lists: list[tuple[bytes, ...]]) -> None:
    for one, other in combinations(lists, 2):
        assert length_prefixed(*one) != length_prefixed(*other)


HASH_KEY = b"h" * 32


def kept(secret: str, expire_time: int | None = None, client: str = "billing") -> ClientSecret:
    return ClientSecret(secret, keyed_hash(HASH_KEY, client, secret), 0, expire_time)


@pytest.mark.standard("S9")
def test_a_secret_proves_its_client_while_it_lives() -> None:
    secrets = (kept("old", expire_time=100), kept("new"))
    for secret, now, proved in (("old", 99, True), ("old", 100, False), ("new", 99, True), ("new", 10**9, True)):
        assert proves(keyed_hash(HASH_KEY, "billing", secret), secrets, now=now) is proved
    for client, secret in (
        ("billing", "wrong"),
        ("billing", ""),
        ("billin", "gnew"),
        ("orders", "new"),
        ("\ud800", "new"),
    ):
        assert not proves(keyed_hash(HASH_KEY, client, secret), secrets, now=0)
    assert not proves(keyed_hash(b"k" * 32, "billing", "new"), secrets, now=0)


@pytest.mark.standard("S9")
def test_what_is_kept_is_a_keyed_hash() -> None:
    assert len(keyed_hash(HASH_KEY, "billing", "s3cret")) == 32
    assert b"s3cret" not in keyed_hash(HASH_KEY, "billing", "s3cret")


@pytest.mark.standard("S9")
def test_nothing_proves_a_client_without_secrets() -> None:
    for presented in (keyed_hash(HASH_KEY, "nobody", "x"), bytes(32), b""):
        assert not proves(presented, (), now=0)
        assert not proves(presented, (kept("a"),), now=0)


@pytest.mark.standard("S9")
def test_comparisons_do_not_stop_at_the_first_match() -> None:
    """A broken second row is met also where the first one matched: nothing is skipped."""
    broken = ClientSecret("broken", "not bytes", 0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        proves(keyed_hash(HASH_KEY, "billing", "old"), (kept("old"), broken), now=0)
