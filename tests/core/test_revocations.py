"""What stands for a revoked thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.revocations import RevocationKind, Since, refuses, revocation_digest
from tests.support.minted import OF_TOKEN, token

SINCE = [kind for kind in RevocationKind if kind is not RevocationKind.TOKEN]
AT = (2, 5)


def test_the_digest_is_the_one_that_the_protos_tell_other_languages() -> None:
    # Computed by a BLAKE2b written from RFC 7693, not by the library in use.
    assert revocation_digest(RevocationKind.TOKEN, "jti").hex() == "f6daa7045d964e3ddea157e2ec9433a7"


@pytest.mark.standard("J21")
@given(st.text(max_size=64), st.sampled_from(RevocationKind), st.sampled_from(RevocationKind))
def test_a_revocation_of_one_kind_concerns_no_other(value: str, one: RevocationKind, other: RevocationKind) -> None:
    assert (revocation_digest(one, value) == revocation_digest(other, value)) is (one is other)
    assert len(revocation_digest(one, value)) == 16


def refused(minted_at: tuple[int, int] | None, kind: RevocationKind, value: str) -> bool:
    """Whether a token is where this alone was revoked."""
    digest = revocation_digest(kind, value)
    since: dict[RevocationKind, Since] = {one: {digest: (AT, 0)} if one is kind else {} for one in SINCE}
    tokens = {digest} if kind is RevocationKind.TOKEN else frozenset[bytes]()
    return refuses(token(minted_at), tokens, *since.values())


@pytest.mark.standard("J21")
@pytest.mark.parametrize("kind", SINCE)
@pytest.mark.parametrize(
    ("minted_at", "is_below"), [((2, 4), True), ((1, 900), True), ((2, 5), False), ((3, 1), False)]
)
def test_what_was_minted_below_a_revocation_of_its_own_is_refused(
    kind: RevocationKind, minted_at: tuple[int, int], *, is_below: bool
) -> None:
    assert refused(minted_at, kind, OF_TOKEN[kind]) is is_below
    assert not refused(minted_at, kind, "another")


@pytest.mark.standard("J21")
@pytest.mark.parametrize("minted_at", [(1, 1), AT, (9, 9)])
def test_a_revoked_token_is_refused_whenever_it_was_minted_and_no_other(minted_at: tuple[int, int]) -> None:
    assert refused(minted_at, RevocationKind.TOKEN, OF_TOKEN[RevocationKind.TOKEN])
    assert not refused(minted_at, RevocationKind.TOKEN, "another")


@pytest.mark.standard("J21")
def test_nothing_revoked_refuses_only_what_does_not_say_when_it_was_minted() -> None:
    assert not refuses(token((1, 1)), (), {}, {}, {})
    assert refuses(token(None), (), {}, {}, {})
