"""Counters in memory: the port's suite, and what is its own: one thread's inline calls, bounded memory."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from authsvc.clock import FakeClock
from authsvc.core.consumption import Hit, LimitOutcome
from authsvc.core.limits import LimitRule
from authsvc.core.rates import Rate
from authsvc.storage.counters_memory import MemoryCounters
from tests.conformance.counters import Call, CountersSuite, allowed, hit, rule


def run(counters: MemoryCounters, hits: Call, *, peek: bool = False) -> Sequence[LimitOutcome]:
    """A call run inline: the adapter never suspends."""
    with pytest.raises(StopIteration) as ended:
        counters.consume(hits, peek=peek).send(None)
    outcomes: Sequence[LimitOutcome] = ended.value.value
    return outcomes


class MemoryBench:
    """Counters in memory, on a clock that is turned by hand, called from eight threads."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.counters = MemoryCounters(self.clock)

    def consume(self, hits: Call, *, peek: bool = False) -> Sequence[LimitOutcome]:
        return run(self.counters, hits, peek=peek)

    def consume_together(self, calls: Sequence[Call]) -> list[Sequence[LimitOutcome]]:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as threads:
                return list(threads.map(self.consume, calls))
        finally:
            sys.setswitchinterval(interval)

    def pass_us(self, us: int) -> None:
        self.clock.advance(us=us)


class TestMemoryCounters(CountersSuite):
    """The suite."""

    @pytest.fixture
    def bench(self) -> MemoryBench:
        return MemoryBench()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def spend(counters: MemoryCounters, of: LimitRule, subjects: range) -> list[bool]:
    return [allowed(run(counters, [hit(of, subject=f"user:{n}")])) for n in subjects]


def test_counters_at_rest_are_dropped_while_new_ones_come(clock: FakeClock) -> None:
    counters, brisk = MemoryCounters(clock), rule(1, rate=Rate(1, 10**6))
    spend(counters, brisk, range(1_000))
    assert counters.live_keys(brisk.domain) == 1_000
    clock.advance(1)
    spend(counters, brisk, range(1_000, 1_400))
    assert counters.live_keys(brisk.domain) == 400


def test_counters_that_are_not_at_rest_are_never_dropped(clock: FakeClock) -> None:
    counters, slow = MemoryCounters(clock), rule(1)
    spend(counters, slow, range(1_000))
    assert not any(spend(counters, slow, range(1_000)))


@pytest.mark.standard("R15")
def test_words_of_callers_do_not_fill_the_memory_however_long(clock: FakeClock) -> None:
    counters, slow = MemoryCounters(clock), rule(1)
    tracemalloc.start()
    try:
        for n in range(100):
            run(counters, [hit(slow, subject=f"{n}" + "x" * 100_000)])
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counters.live_keys(slow.domain) == 100
    assert held < 100 * 2_000


def test_counters_that_stay_do_not_hide_those_at_rest_behind_them(clock: FakeClock) -> None:
    counters, slow = MemoryCounters(clock), rule(1)
    brisk = LimitRule("brisk", slow.domain, slow.match, Rate(1, 10**6), 1)
    spend(counters, slow, range(50))
    spend(counters, brisk, range(100))
    clock.advance(1)
    spend(counters, brisk, range(100, 200))
    assert counters.live_keys(slow.domain) == 50 + 100


def test_the_counters_of_a_domain_that_went_quiet_are_dropped_too(clock: FakeClock) -> None:
    counters, quiet, busy = MemoryCounters(clock), rule(1, rate=Rate(1, 10**6)), rule(1)
    spend(counters, quiet, range(100))
    clock.advance(1)
    spend(counters, busy, range(200))
    assert counters.live_keys(quiet.domain) == 0
    assert counters.live_keys(busy.domain) == 200


@pytest.mark.standard("R15")
def test_beyond_the_cap_new_values_share_one_counter_a_rule_and_the_others_do_not_notice(
    clock: FakeClock,
) -> None:
    counters, two = MemoryCounters(clock, max_keys=10), rule(2)
    assert all(spend(counters, two, range(10)))
    assert spend(counters, two, range(10, 15)) == [True, True, False, False, False]
    assert all(spend(counters, two, range(10)))
    other = rule(2)
    assert all(spend(counters, other, range(10)))
    assert counters.live_keys(two.domain) == 11


@pytest.mark.standard("R15", "R4")
def test_one_call_cannot_pass_the_cap_and_its_excess_is_summed(clock: FakeClock) -> None:
    counters, two = MemoryCounters(clock, max_keys=1), rule(2)
    call: list[Hit] = [hit(two, subject=f"user:{n}") for n in range(4)]
    assert [outcome.allowed for outcome in run(counters, call)] == [True, False, False, False]
    assert allowed(run(counters, call[:3]))
    assert counters.live_keys(two.domain) == 2


@pytest.mark.standard("R15")
def test_a_full_domain_has_room_again_once_counters_are_at_rest(clock: FakeClock) -> None:
    counters, one = MemoryCounters(clock, max_keys=3), rule(1, rate=Rate(1, 10**6))
    assert spend(counters, one, range(5)) == [True, True, True, True, False]
    clock.advance(1)
    assert all(spend(counters, one, range(10, 13)))


def test_refused_calls_and_looks_leave_nothing_behind(clock: FakeClock) -> None:
    counters, one = MemoryCounters(clock), rule(1)
    run(counters, [hit(one, 2)])
    run(counters, [hit(one, 0)])
    run(counters, [hit(one)], peek=True)
    assert counters.live_keys(one.domain) == 0
