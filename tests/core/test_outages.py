"""An outage is told when it begins, once a minute, and when it is over."""

from __future__ import annotations

from authsvc.core.outages import TELL_EVERY, Outage


def test_it_is_told_when_it_begins_and_once_a_minute() -> None:
    outage = Outage()
    told = [second for second in range(3 * TELL_EVERY) if outage.goes_on(second)]
    assert told == [0, TELL_EVERY, 2 * TELL_EVERY]


def test_its_end_is_told_once_and_only_where_it_began() -> None:
    outage = Outage()
    assert not outage.is_over()
    assert outage.goes_on(0)
    assert outage.is_over()
    assert not outage.is_over()


def test_the_next_one_is_told_at_once() -> None:
    outage = Outage()
    outage.goes_on(0)
    outage.is_over()
    assert outage.goes_on(1)
