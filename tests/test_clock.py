"""The clock: two readings, and the fake that is turned by hand."""

from __future__ import annotations

import time

from authsvc.clock import FakeClock, SystemClock


def test_the_machines_clock_gives_seconds_and_microseconds_of_one_wall() -> None:
    clock = SystemClock()
    before = time.time()
    assert int(before) <= clock.now() <= int(time.time())
    assert abs(clock.now_us() - before * 1_000_000) < 5_000_000


def test_microseconds_never_go_back() -> None:
    clock = SystemClock()
    readings = [clock.now_us() for _ in range(1_000)]
    assert readings == sorted(readings)


def test_the_fake_stands_still_until_it_is_turned() -> None:
    clock = FakeClock(100, us=999_999)
    assert (clock.now(), clock.now_us()) == (100, 100_999_999)
    clock.advance(us=1)
    assert (clock.now(), clock.now_us()) == (101, 101_000_000)
    clock.advance(-1)
    assert clock.now() == 100
