"""What a snapshot refuses, by the revision that a token was minted at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.revocations import RevocationKind, revocation_digest
from authsvc.ports.record import Order, RevocationMark
from authsvc.state.revocations import Revocations
from tests.support.minted import OF_TOKEN, token
from tests.support.record_values import NOW

SINCE = [kind for kind in RevocationKind if kind is not RevocationKind.TOKEN]
NONE = Revocations.of(())


def mark(kind: RevocationKind, at: Order = (1, 5), value: str | None = None, expire_time: int = NOW) -> RevocationMark:
    """A revocation of the token's own value, or of another."""
    return RevocationMark(kind, revocation_digest(kind, OF_TOKEN[kind] if value is None else value), at, expire_time)


@pytest.mark.standard("J21")
@pytest.mark.parametrize("kind", SINCE)
def test_what_was_minted_below_the_revocation_is_refused(kind: RevocationKind) -> None:
    for revocations in (Revocations.of([mark(kind)]), NONE.put(mark(kind))):
        assert revocations.refuse(token((1, 4)))
        for minted_at in ((1, 5), (1, 6), (2, 1)):
            assert not revocations.refuse(token(minted_at))


@pytest.mark.standard("J21")
def test_a_token_that_does_not_say_when_it_was_minted_is_refused() -> None:
    assert NONE.refuse(token(None))


@pytest.mark.standard("J21")
@pytest.mark.parametrize("kind", SINCE)
def test_an_earlier_epoch_is_below_whatever_its_number(kind: RevocationKind) -> None:
    assert NONE.put(mark(kind, at=(2, 5))).refuse(token((1, 900)))


@pytest.mark.standard("J21")
@pytest.mark.parametrize("minted_at", [(1, 4), (1, 6), (9, 1)])
def test_a_revoked_token_is_refused_whenever_it_was_minted(minted_at: Order) -> None:
    assert NONE.put(mark(RevocationKind.TOKEN)).refuse(token(minted_at))


@pytest.mark.standard("J21")
@pytest.mark.parametrize("kind", list(RevocationKind))
def test_a_revocation_of_something_else_refuses_nothing(kind: RevocationKind) -> None:
    assert not NONE.refuse(token((1, 1)))
    assert not NONE.put(mark(kind, value="another")).refuse(token((1, 1)))


@pytest.mark.standard("J21")
def test_a_value_of_one_kind_is_not_the_same_value_of_another_kind() -> None:
    assert len({revocation_digest(kind, "same") for kind in RevocationKind}) == len(RevocationKind)


@given(st.lists(st.tuples(st.sampled_from(list(RevocationKind)), st.sampled_from("abc"), st.integers(-90, 90))))
def test_sweeping_forgets_only_what_expired(entries: list[tuple[RevocationKind, str, int]]) -> None:
    marks = [mark(kind, value=value, expire_time=NOW + ttl) for kind, value, ttl in entries]
    last = {(m.kind, m.digest): m for m in marks}
    swept = Revocations.of(last.values()).swept(NOW)
    kept = {*swept.tokens, *swept.subjects, *swept.clients, *swept.issuers}
    assert {m.digest for m in last.values() if m.expire_time > NOW} <= kept
    assert kept <= {m.digest for m in last.values() if m.expire_time > NOW - 60}


def test_sweeping_nothing_keeps_the_maps_as_they_are() -> None:
    revocations = NONE.put(mark(RevocationKind.TOKEN, expire_time=NOW + 600))
    assert revocations.swept(NOW).tokens is revocations.tokens
