"""The script's arithmetic against core's, unit by unit, up to the largest numbers that a rule may bring."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from authsvc.core.limits import Algorithm, LimitRule
from authsvc.core.rates import MAX_UNITS, CounterState, Gcra, Rate
from authsvc.storage.counters_redis import _SCRIPT, _STATE, _numbers, _state
from authsvc.storage.redis_target import parse_url
from tests.support.redis import Store, store
from tests.support.redis_bench import RedisBench, redis_bench
from tests.support.scale import scale

KEY = "counter"


@pytest.fixture(scope="module")
def one() -> Iterator[Store]:
    with store() as running:
        yield running


@pytest.fixture(scope="module")
def bench(one: Store) -> Iterator[RedisBench]:
    with redis_bench(parse_url(one.url)) as ready:
        yield ready


def magnitude(chance: random.Random, most: int) -> int:
    """A whole number of 1 to `most`, small and large ones alike."""
    return chance.randint(1, min(most, 2 ** chance.randint(1, most.bit_length())))


def some_rule(chance: random.Random) -> LimitRule:
    while True:
        rate = Rate(magnitude(chance, MAX_UNITS), magnitude(chance, MAX_UNITS))
        made = LimitRule("r", "d", (("k", "*"),), rate, magnitude(chance, MAX_UNITS), chance.choice(list(Algorithm)))
        if made.meter.exact:
            return made


def some_state(chance: random.Random, of: LimitRule, now_us: int) -> CounterState:
    """What this rule, or an earlier one with another count, may have left behind, lately or long ago."""
    age = chance.choice((-1, 1)) * magnitude(chance, 10 ** chance.randint(1, 14))
    if of.algorithm is Algorithm.FIXED_WINDOW:
        at = max(0, now_us - age)
        return CounterState(magnitude(chance, MAX_UNITS), 1, at - at % of.rate.window_us)
    assert isinstance(of.meter, Gcra)
    units = of.meter.units_a_hit
    units = chance.choice((units, units, magnitude(chance, MAX_UNITS)))
    return CounterState(magnitude(chance, MAX_UNITS), units, max(0, now_us - age))


@pytest.mark.standard("R8", "R6")
def test_what_the_script_stores_is_what_core_says_to_the_unit(bench: RedisBench) -> None:
    chance = random.Random(20261124)
    now_us, taken = 1_800_000_000_000_000, 0
    for _ in range(scale(100_000)):
        of = some_rule(chance)
        before = chance.choice((None, some_state(chance, of, now_us)))
        hits = chance.choice((0, 1, of.burst, of.burst + 1, magnitude(chance, 2**36), -magnitude(chance, of.burst)))
        now_us, expected, stored = run(bench, of, before, hits)
        assert stored == expected, (of, before, hits, now_us)
        taken += stored != before
    assert taken > scale(100_000) // 10


def run(
    bench: RedisBench, of: LimitRule, before: CounterState | None, hits: int
) -> tuple[int, CounterState | None, CounterState | None]:
    """The moment; the state that core expects afterwards; the state that is stored."""

    async def once() -> tuple[int, bytes | None]:
        if before is None:
            await bench.node.call(("DEL", KEY))
        else:
            await bench.node.call(("SET", KEY, _STATE.pack(*before)))
        now_us, _ = await bench.node.call(("EVAL", _SCRIPT, 1, KEY, _numbers(of, hits)))
        return now_us, await bench.node.call(("GET", KEY))

    now_us, stored = bench.run(once())
    verdict = of.meter.decide(before, now_us, hits)
    expected = verdict.state if verdict.allowed and hits else before
    return now_us, None if expected is not None and expected.owed == 0 else expected, _state(stored)


@pytest.mark.standard("R6")
def test_a_counter_lives_until_it_is_at_rest_and_about_a_second_more(bench: RedisBench) -> None:
    for algorithm in Algorithm:
        of = LimitRule("r", "d", (("k", "*"),), Rate(10, 60_000_000), 10, algorithm)
        now_us, expected, _ = run(bench, of, None, 5)
        rest_us = of.meter.decide(expected, now_us, 0).reset_after_us
        left_ms = bench.run(bench.node.call(("PTTL", KEY)))
        assert rest_us / 1000 < left_ms <= rest_us / 1000 + 1_001
