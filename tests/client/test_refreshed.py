"""A value renewed ahead of its end by one flight."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from authsvc.core.errors import Unavailable
from authsvc_client.flow import Flow, Wait
from authsvc_client.refreshed import FIRST_BACKOFF, LAST_BACKOFF, Lease, Refreshed
from tests.support.waiting import wait_for

T = TypeVar("T")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Source:
    """Gives 1, 2, 3, ... as leases; `closed` lets its fetches fail, `gate` holds them."""

    def __init__(self) -> None:
        self.begun = 0
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> Lease[int]:
        self.begun += 1
        number = self.begun
        assert self.gate.wait(10)
        if self.closed:
            raise Unavailable("closed")
        return Lease(number, fresh=10.0, due=20.0, end=30.0)


def run(flow: Flow[T]) -> T:
    try:
        step = next(flow)
        while True:
            assert isinstance(step, Wait)
            try:
                outcome = step.flight.result(10)
            except Unavailable as error:
                step = flow.throw(error)
            else:
                step = flow.send(outcome)
    except StopIteration as stop:
        value: T = stop.value
        return value


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def value(source: Source, clock: Clock) -> Refreshed[int]:
    return Refreshed(source, clock)


def settled(value: Refreshed[int]) -> Callable[[], bool]:
    return lambda: value._flight is None


def test_a_fresh_value_is_used_as_it_is(value: Refreshed[int], source: Source, clock: Clock) -> None:
    assert run(value.obtain()) == 1
    clock.now += 9.9
    assert run(value.obtain()) == 1
    assert source.begun == 1


def test_a_value_is_renewed_ahead_while_the_old_one_is_used(
    value: Refreshed[int], source: Source, clock: Clock
) -> None:
    run(value.obtain())
    clock.now += 10
    source.gate.clear()
    assert [run(value.obtain()) for _ in range(3)] == [1, 1, 1]
    source.gate.set()
    wait_for(settled(value))
    assert run(value.obtain()) == 2
    assert source.begun == 2


def test_a_due_value_is_waited_for(value: Refreshed[int], clock: Clock) -> None:
    run(value.obtain())
    clock.now += 20
    assert run(value.obtain()) == 2


def test_the_last_good_value_outlives_a_failure_but_not_its_end(
    value: Refreshed[int], source: Source, clock: Clock
) -> None:
    run(value.obtain())
    source.closed = True
    clock.now += 29.9
    assert run(value.obtain()) == 1
    clock.now += 0.1 + LAST_BACKOFF
    with pytest.raises(Unavailable):
        run(value.obtain())


def test_a_failed_fetch_is_not_repeated_at_once(value: Refreshed[int], source: Source, clock: Clock) -> None:
    source.closed = True
    for _ in range(50):
        with pytest.raises(Unavailable):
            run(value.obtain())
    assert source.begun == 1
    clock.now += FIRST_BACKOFF
    source.closed = False
    assert run(value.obtain()) == 2


def test_the_backoff_grows_to_its_most_and_no_further(value: Refreshed[int], source: Source, clock: Clock) -> None:
    source.closed = True
    for _ in range(20):
        with pytest.raises(Unavailable):
            run(value.obtain())
        clock.now += LAST_BACKOFF
    assert source.begun == 20


def test_a_hundred_at_once_make_one_flight(value: Refreshed[int], source: Source, clock: Clock) -> None:
    begin = threading.Barrier(100)

    def obtain(_: int) -> int:
        begin.wait(10)
        return run(value.obtain())

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(obtain, range(100))) == {1}
        clock.now += 20
        assert set(pool.map(obtain, range(100))) == {2}
    assert source.begun == 2


def test_newer_fetches_at_most_once_an_interval(value: Refreshed[int], source: Source, clock: Clock) -> None:
    first = run(value.obtain())
    assert [run(value.newer(first, 5.0)) for _ in range(50)] == [1] * 50
    assert source.begun == 1
    clock.now += 5
    assert run(value.newer(first, 5.0)) == 2
    assert [run(value.newer(2, 5.0)) for _ in range(50)] == [2] * 50
    assert source.begun == 2


def test_newer_gives_the_value_that_somebody_else_fetched_meanwhile(
    value: Refreshed[int], source: Source, clock: Clock
) -> None:
    first = run(value.obtain())
    clock.now += 20
    run(value.obtain())
    assert run(value.newer(first, 1000.0)) == 2
    assert source.begun == 2


def test_a_dropped_value_is_not_used_again_unless_it_is_young(
    value: Refreshed[int], source: Source, clock: Clock
) -> None:
    run(value.obtain())
    value.drop(1, 1.0)
    assert run(value.obtain()) == 1
    clock.now += 1
    value.drop(1, 1.0)
    assert run(value.obtain()) == 2
    value.drop(1, 0.0)
    assert run(value.obtain()) == 2
    assert source.begun == 2


def test_a_child_process_flies_anew_though_the_parent_was_flying_with_the_lock_held(
    value: Refreshed[int], source: Source
) -> None:
    source.gate.clear()
    flow = value.obtain()
    assert isinstance(next(flow), Wait)
    value._lock.acquire()
    value.renew_after_fork()
    source.gate.set()
    assert run(value.obtain()) in {1, 2}
    assert source.begun == 2
    flow.close()


def test_a_fault_of_ours_frees_those_who_wait(clock: Clock) -> None:
    def broken() -> Lease[int]:
        raise ZeroDivisionError

    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        run(Refreshed(broken, clock).obtain())
