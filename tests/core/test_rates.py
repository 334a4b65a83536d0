"""The arithmetic of rates against references that remember every hit and use fractions."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.errors import InvalidRequest
from authsvc.core.rates import MAX_UNITS, CounterState, FixedWindow, Gcra, Rate, parse_rate
from tests.support.scale import scale

START = 1_800_000_000_000_000


class Reference(Protocol):
    """An algorithm told in the plainest way."""

    def left(self, now_us: int) -> Fraction:
        """How many hits would pass at `now_us`."""

    def take(self, now_us: int, hits: int) -> None:
        """Take them."""


class TokenBucket:
    """Tokens as a fraction that is never rounded."""

    def __init__(self, rate: Rate, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.tokens, self.at_us = Fraction(burst), START

    def left(self, now_us: int) -> Fraction:
        gained = Fraction((now_us - self.at_us) * self.rate.count, self.rate.window_us)
        return min(Fraction(self.burst), self.tokens + gained)

    def take(self, now_us: int, hits: int) -> None:
        self.tokens, self.at_us = self.left(now_us) - hits, now_us


class HitLog:
    """Every hit that was taken, counted anew for the window in question."""

    def __init__(self, rate: Rate, burst: int) -> None:
        self.window_us, self.burst = rate.window_us, burst
        self.log: list[tuple[int, int]] = []

    def left(self, now_us: int) -> Fraction:
        window = now_us // self.window_us
        return Fraction(self.burst - sum(n for at, n in self.log if at // self.window_us == window))

    def take(self, now_us: int, hits: int) -> None:
        self.log.append((now_us, hits))


RATES = [
    Rate(100, 15 * 60 * 10**6),
    Rate(1, 1),
    Rate(1_000_000, 10**6),
    Rate(300_000, 10**6),
    Rate(3, 10**6),
    Rate(7_000_000, 10**6),
    Rate(999_983, 10**6),
    Rate(10, 86_400 * 10**6),
]


def trace(seed: int, rate: Rate, burst: int, length: int) -> list[tuple[int, int]]:
    """Moments and hits that meet the limit often: bursts, single hits, looks, pauses, too many at once."""
    chance = random.Random(seed)
    pause = max(1, rate.window_us // rate.count)
    now_us, calls = START + chance.randrange(rate.window_us), []
    for _ in range(length):
        now_us += chance.choice((0, 0, 1, chance.randrange(2 * pause), chance.randrange(burst * pause + 1)))
        calls.append((now_us, chance.choice((0, 1, 1, 1, 2, chance.randrange(burst + 2)))))
    return calls


@pytest.mark.standard("R8", "R6")
@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("algorithm", ["gcra", "fixed_window"])
def test_every_trace_equals_its_reference_to_the_hit(rate: Rate, algorithm: str) -> None:
    for seed in range(scale(400)):
        burst = random.Random(seed).choice((1, 2, 20, min(rate.count, 1000)))
        meter = Gcra.of(rate, burst) if algorithm == "gcra" else FixedWindow(rate.window_us, burst)
        reference: Reference = TokenBucket(rate, burst) if algorithm == "gcra" else HitLog(rate, burst)
        state = None
        for now_us, hits in trace(seed, rate, burst, 100):
            verdict = meter.decide(state, now_us, hits)
            expected = hits <= reference.left(now_us)
            assert verdict.allowed == expected
            if expected:
                reference.take(now_us, hits)
            assert verdict.remaining == int(reference.left(now_us))
            assert all(type(number) is int for number in (verdict.remaining, verdict.reset_after_us))
            state = verdict.state


@pytest.mark.standard("R8")
@pytest.mark.parametrize("count", [1_000_000, 300_000, 999_983, 7_000_000])
def test_a_greedy_client_gets_the_rate_and_the_burst_and_not_one_hit_more(count: int) -> None:
    meter, state, admitted = Gcra.of(Rate(count, 10**6), 5), None, 0
    elapsed_us = scale(200_000)
    for us in range(elapsed_us):
        verdict = meter.decide(state, START + us, 0)
        admitted += verdict.remaining
        state = meter.decide(state, START + us, verdict.remaining).state
    assert admitted == 5 + min((elapsed_us - 1) * count // 10**6, 5 * (elapsed_us - 1))


meters = st.one_of(
    st.builds(
        Gcra.of,
        st.builds(Rate, st.integers(1, 10**7), st.integers(1, 10**11)),
        st.integers(1, 10**4),
    ),
    st.builds(FixedWindow, st.integers(1, 10**11), st.integers(1, 10**4)),
)


@pytest.mark.standard("R8")
@given(
    meter=meters,
    calls=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**4)), max_size=20),
    hits=st.integers(1, 10**4),
)
def test_retry_after_and_reset_after_are_the_first_such_moment(
    meter: Gcra | FixedWindow, calls: list[tuple[int, int]], hits: int
) -> None:
    state, now_us = None, START
    for pause_us, taken in calls:
        now_us += pause_us
        state = meter.decide(state, now_us, taken).state
    verdict = meter.decide(state, now_us, hits)
    if verdict.allowed or hits > meter.limit:
        assert verdict.retry_after_us is None
    else:
        wait_us = verdict.retry_after_us
        assert wait_us is not None
        assert wait_us > 0
        assert meter.decide(state, now_us + wait_us, hits).allowed
        assert not meter.decide(state, now_us + wait_us - 1, hits).allowed
    rest_us = now_us + verdict.reset_after_us
    assert meter.decide(verdict.state, rest_us, 0).reset_after_us == 0
    assert meter.decide(verdict.state, rest_us, 0).remaining == meter.limit
    if verdict.reset_after_us:
        assert meter.decide(verdict.state, rest_us - 1, 0).reset_after_us == 1


@given(meter=meters, hits=st.integers(1, 10**4), back_us=st.integers(1, 10**12))
def test_a_clock_that_goes_back_gives_nothing_back(meter: Gcra | FixedWindow, hits: int, back_us: int) -> None:
    taken = meter.decide(None, START, min(hits, meter.limit))
    verdict = meter.decide(taken.state, START - back_us, 1)
    assert verdict.allowed == (taken.remaining > 0)
    assert verdict.remaining == max(0, taken.remaining - 1)
    if not verdict.allowed:
        assert verdict.retry_after_us is not None
        assert meter.decide(taken.state, START - back_us + verdict.retry_after_us, 1).allowed


@pytest.mark.parametrize("meter", [Gcra.of(Rate(10, 10**6), 3), FixedWindow(10**6, 3)], ids=["gcra", "fixed_window"])
def test_no_hits_always_pass_and_take_nothing(meter: Gcra | FixedWindow) -> None:
    full = meter.decide(None, START, 3)
    assert full.allowed
    look = meter.decide(full.state, START, 0)
    assert (look.allowed, look.remaining, look.state) == (True, 0, full.state)


def test_more_hits_than_the_burst_never_pass_and_waiting_does_not_help() -> None:
    for meter in (Gcra.of(Rate(10, 10**6), 3), FixedWindow(10**6, 3)):
        verdict = meter.decide(None, START, 4)
        assert (verdict.allowed, verdict.remaining, verdict.retry_after_us) == (False, 3, None)


@pytest.mark.standard("R2")
@pytest.mark.parametrize("meter", [Gcra.of(Rate(10, 10**6), 3), FixedWindow(10**6, 3)], ids=["gcra", "fixed_window"])
def test_hits_are_given_back_at_most_to_rest(meter: Gcra | FixedWindow) -> None:
    full = meter.decide(None, START, 3)
    back = meter.decide(full.state, START, -2)
    assert (back.allowed, back.remaining, back.retry_after_us) == (True, 2, None)
    rest = meter.decide(back.state, START, -5)
    assert (rest.allowed, rest.remaining, rest.reset_after_us) == (True, 3, 0)
    assert meter.decide(None, START, -1).remaining == 3


@pytest.mark.standard("R14", "R8")
def test_a_debt_carried_over_to_another_scale_stays_within_what_a_store_keeps_exactly() -> None:
    taken = Gcra.of(Rate(10**9, 1), MAX_UNITS).decide(None, START, MAX_UNITS)
    assert Gcra.of(Rate(1, 10**9), 1).decide(taken.state, START, 0).state.owed == MAX_UNITS


@given(count=st.integers(1, 10**6), later=st.integers(1, 10**6), taken=st.integers(1, 100), burst=st.integers(1, 100))
@pytest.mark.standard("R14")
def test_a_rule_whose_count_or_burst_changes_goes_on_from_the_hits_it_had(
    count: int, later: int, taken: int, burst: int
) -> None:
    before = Gcra.of(Rate(count, 10**6), 100).decide(None, START, taken)
    after = Gcra.of(Rate(later, 10**6), burst).decide(before.state, START, 0)
    assert after.remaining == max(0, burst - taken)


@given(count=st.integers(1, 10**6), later=st.integers(1, 10**6), pause_us=st.integers(0, 10**6))
@pytest.mark.standard("R14")
def test_a_changed_count_never_forgives_a_part_of_a_hit(count: int, later: int, pause_us: int) -> None:
    taken = Gcra.of(Rate(count, 10**6), 100).decide(None, START, 100)
    before = Gcra.of(Rate(count, 10**6), 100).decide(taken.state, START + pause_us, 0).state
    after = Gcra.of(Rate(later, 10**6), 100).decide(before, START + pause_us, 0).state
    owed, kept = Fraction(before.owed, before.units_a_hit), Fraction(after.owed, after.units_a_hit)
    assert owed <= kept < owed + Fraction(1, after.units_a_hit)


def test_a_window_is_aligned_to_the_epoch_and_opens_anew_at_its_edge() -> None:
    meter = FixedWindow(60 * 10**6, 2)
    edge = 60 * 10**6 * 1_000
    last = meter.decide(None, edge - 1, 2)
    assert last.reset_after_us == 1
    assert meter.decide(last.state, edge - 1, 1).retry_after_us == 1
    assert meter.decide(last.state, edge, 2).allowed


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/15m", Rate(100, 900_000_000)),
        ("1/1us", Rate(1, 1)),
        ("5/20ms", Rate(5, 20_000)),
        ("1000000/1s", Rate(1_000_000, 1_000_000)),
        ("3/2h", Rate(3, 7_200_000_000)),
        ("9/30d", Rate(9, 2_592_000_000_000)),
    ],
)
def test_a_rate_reads_as_written(text: str, rate: Rate) -> None:
    assert parse_rate(text, "rate") == rate


@pytest.mark.parametrize(
    "text",
    [
        *("", "100", "100/m", "1.5/s", "100/15", "-1/1s", "1/1w", "1 / 1s", "1/1s\n", "1_0/1s", "1/1S"),
        *("0/1s", "1/0s", "9007199254740992/1s", "1/9999999999999999d", "99999999999999999/1s", "\u0661/1s"),
    ],
)
def test_a_rate_that_is_none_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_rate(text, "limits.a.rate")
    assert [fault.field for fault in refused.value.violations] == ["limits.a.rate"]


@pytest.mark.standard("R8")
def test_exact_says_whether_every_state_fits_what_a_store_keeps_exactly() -> None:
    hour = 3_600 * 10**6
    assert Gcra.of(Rate(1, hour), MAX_UNITS // hour).exact
    assert not Gcra.of(Rate(1, hour), MAX_UNITS // hour + 1).exact
    assert FixedWindow(hour, MAX_UNITS).exact
    assert not FixedWindow(hour, MAX_UNITS + 1).exact


def test_a_state_is_three_whole_numbers() -> None:
    assert Gcra.of(Rate(300_000, 10**6), 9).decide(None, START, 2).state == CounterState(20, 10, START)
