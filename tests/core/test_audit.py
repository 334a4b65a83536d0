"""The audit chain: what its hash covers, and what the offline check finds."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.audit import AuditEvent, ChainPoint, SealedIdentifier, canonical, check_chain, event_hash

SEALED = SealedIdentifier(b"key", b"hash", b"ciphertext")
EVENT = AuditEvent("record", 1, 100, "act", "done", "", 1, SEALED, None, b"p", "{}", ChainPoint().hash)


def chain(length: int) -> list[AuditEvent]:
    """A chain that holds."""
    made: list[AuditEvent] = []
    end = ChainPoint()
    for number in range(1, length + 1):
        event = replace(EVENT, sequence=number, time=100 + number, previous=end.hash)
        made.append(replace(event, hash=event_hash(event)))
        end = ChainPoint(number, made[-1].hash)
    return made


def end_of(events: list[AuditEvent]) -> ChainPoint:
    """The last point of a chain."""
    return ChainPoint(events[-1].sequence, events[-1].hash)


OTHER: dict[str, object] = {
    "chain": "replica",
    "sequence": 2,
    "time": 101,
    "kind": "other",
    "outcome": "denied",
    "reason": "last_admin",
    "count": 2,
    "actor": replace(SEALED, ciphertext=b"x"),
    "subject": SEALED,
    "private": b"",
    "detail": '{"a":"b"}',
    "previous": b"\x01" * 32,
}


@pytest.mark.standard("U7")
@pytest.mark.parametrize("name", [f.name for f in fields(AuditEvent) if f.name != "hash"])
def test_the_hash_covers_every_field(name: str) -> None:
    assert event_hash(replace(EVENT, **{name: OTHER[name]})) != event_hash(EVENT)  # type: ignore[arg-type]


@pytest.mark.standard("U7")
@pytest.mark.parametrize("part", ["key_id", "keyed_hash", "ciphertext"])
def test_the_hash_covers_every_part_of_an_identifier(part: str) -> None:
    assert event_hash(replace(EVENT, actor=replace(SEALED, **{part: b"x"}))) != event_hash(EVENT)


def test_no_two_events_share_their_bytes() -> None:
    assert event_hash(replace(EVENT, kind="ab", outcome="c")) != event_hash(replace(EVENT, kind="a", outcome="bc"))
    assert event_hash(replace(EVENT, actor=None, subject=SEALED)) != event_hash(EVENT)


def test_equal_details_have_one_text() -> None:
    assert canonical({"b": "2", "a": "\u00e9"}) == canonical({"a": "\u00e9", "b": "2"}) == '{"a":"\\u00e9","b":"2"}'


@pytest.mark.standard("U7")
def test_a_whole_chain_holds_from_anywhere() -> None:
    events = chain(5)
    assert check_chain(events) is None
    assert check_chain(events, end=end_of(events)) is None
    assert check_chain(events, end=end_of(events[:3])) is None
    assert check_chain(events[2:], after=end_of(events[:2]), end=end_of(events)) is None
    assert check_chain([], end=ChainPoint()) is None


@pytest.mark.standard("U7")
@given(st.integers(2, 6), st.data())
def test_any_edit_removal_or_reorder_is_found(length: int, data: st.DataObject) -> None:
    events = chain(length)
    end = end_of(events)
    at = data.draw(st.integers(0, length - 1))
    edited = [*events]
    edited[at] = replace(edited[at], outcome="failed")
    rehashed = [*events]
    rehashed[at] = replace(edited[at], hash=event_hash(edited[at]))
    removed = events[:at] + events[at + 1 :]
    other = data.draw(st.integers(0, length - 1).filter(lambda index: index != at))
    swapped = [*events]
    swapped[at], swapped[other] = swapped[other], swapped[at]
    for broken in (edited, rehashed, removed, swapped):
        assert check_chain(broken, end=end) is not None


@pytest.mark.standard("U7")
def test_a_truncation_is_found_by_the_known_end_alone() -> None:
    events = chain(4)
    assert check_chain(events[:2]) is None
    fault = check_chain(events[:2], end=end_of(events))
    assert fault is not None
    assert fault.sequence == 3


@pytest.mark.standard("U7")
def test_another_chain_of_the_same_length_is_not_the_known_one() -> None:
    events = chain(3)
    assert check_chain(events, end=ChainPoint(3, b"\x02" * 32)) is not None
