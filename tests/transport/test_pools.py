"""Threads for rows."""

from __future__ import annotations

import threading

import pytest

from authsvc.core.errors import Exhausted, Reason
from authsvc.transport.pools import WAITING_THREADS, WorkPool
from tests.support.waiting import wait_for


def test_results_and_faults_come_back() -> None:
    pool = WorkPool(2, "t")
    assert pool.submit(pow, 2, 5).result(5) == 32
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(5)
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(pow, 2, 5)


def test_no_more_threads_work_than_were_asked_for() -> None:
    pool, gate, at_work = WorkPool(3, "t"), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        at_work.release()
        gate.wait(10)

    queued = [pool.submit(work) for _ in range(10)]
    for _ in range(3):
        assert at_work.acquire(timeout=5)
    assert not at_work.acquire(timeout=0.05)
    assert pool.depth == 7
    gate.set()
    for one in queued:
        one.result(5)
    pool.shutdown()


def test_a_call_that_comes_when_enough_wait_runs_at_once_and_knows_that_it_is_late() -> None:
    pool, gate, at_work = WorkPool(1, "t", most_waiting=2), threading.Event(), threading.Semaphore(0)

    def work() -> bool:
        at_work.release()
        gate.wait(10)
        return pool.late

    held = [pool.submit(work)]
    assert at_work.acquire(timeout=5)
    held += [pool.submit(work) for _ in range(2)]
    assert pool.submit(lambda: pool.late).result(5)
    gate.set()
    assert [one.result(5) for one in held] == [False, False, False]
    assert not pool.submit(lambda: pool.late).result(5)
    pool.shutdown()


def test_an_idle_thread_is_used_before_another_is_started() -> None:
    pool, gate, at_work = WorkPool(100, "t"), threading.Event(), threading.Semaphore(0)
    for _ in range(200):
        pool.submit(pow, 2, 3).result(5)
        # The result is there a moment before its thread is idle again.
        wait_for(lambda: pool._idle == len(pool._alive))
    assert len(pool._alive) == 1

    def work() -> None:
        at_work.release()
        gate.wait(10)

    held = [pool.submit(work) for _ in range(5)]
    for _ in held:
        assert at_work.acquire(timeout=5)
    gate.set()
    for one in held:
        one.result(5)
    assert len(pool._alive) == 5
    pool.shutdown()


def test_a_thread_that_waits_is_replaced_and_the_spare_one_goes_again() -> None:
    pool, gate, waiting = WorkPool(1, "t"), threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        with pool.blocking():
            waiting.release()
            gate.wait(10)

    held = [pool.submit(wait) for _ in range(5)]
    for _ in held:
        assert waiting.acquire(timeout=5)
    assert pool.submit(pow, 2, 3).result(5) == 8
    gate.set()
    for one in held:
        one.result(5)
    for _ in range(20):
        pool.submit(pow, 2, 3).result(5)
    assert len(pool._alive) <= 2
    pool.shutdown()


@pytest.mark.standard("U13")
def test_threads_that_wait_are_capped() -> None:
    pool = WorkPool(1, "t")

    def nest(depth: int) -> None:
        with pool.blocking():
            nest(depth + 1)

    with pytest.raises(Exhausted) as refused:
        nest(0)
    assert refused.value.reason is Reason.WAITERS_EXHAUSTED
    for _ in range(WAITING_THREADS):
        with pool.blocking():
            pass
    pool.shutdown()


@pytest.mark.standard("U3")
def test_a_pool_has_as_many_more_threads_as_it_is_lent_and_no_longer() -> None:
    pool, gate, at_work = WorkPool(1, "t"), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        at_work.release()
        gate.wait(10)

    queued = [pool.submit(work) for _ in range(5)]
    assert at_work.acquire(timeout=5)
    assert not at_work.acquire(timeout=0.05)
    pool.lend(2)
    assert at_work.acquire(timeout=5)
    assert at_work.acquire(timeout=5)
    assert not at_work.acquire(timeout=0.05)
    pool.lend(0)
    gate.set()
    for one in queued:
        one.result(5)
    gate.clear()
    again = [pool.submit(work) for _ in range(2)]
    while at_work.acquire(timeout=0.05):
        pass
    assert pool.depth == 1
    gate.set()
    for one in again:
        one.result(5)
    pool.shutdown()
