"""The suite that every `Counters` adapter passes, concurrency included.

An adapter joins by subclassing `CountersSuite` and giving a `bench` fixture. The laws that must not see time
pass use windows of years, those that need it short ones and `Bench.pass_us`: so the suite also fits a store
whose clock is its own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol
from uuid import uuid4

import pytest

from authsvc.core.consumption import DecidedBy, Hit, LimitOutcome
from authsvc.core.limits import Algorithm, LimitRule
from authsvc.core.rates import Rate
from tests.support.scale import scale

YEARS_US = 40 * 365 * 86_400 * 10**6
BOTH = pytest.mark.parametrize("algorithm", list(Algorithm))

Call = Sequence[Hit]


class Bench(Protocol):
    """An adapter on the bench."""

    def consume(self, hits: Call, *, peek: bool = False) -> Sequence[LimitOutcome]:
        """One call, run to its end."""

    def consume_together(self, calls: Sequence[Call]) -> list[Sequence[LimitOutcome]]:
        """All calls, as much at the same time as the adapter's users can, answers in order."""

    def pass_us(self, us: int) -> None:
        """Return once at least `us` have passed on the store's clock."""


def rule(
    burst: int,
    algorithm: Algorithm = Algorithm.GCRA,
    *,
    rate: Rate | None = None,
    name: str = "r",
) -> LimitRule:
    """A rule of a domain that no other test uses; without `rate` it repays nothing while a test runs."""
    domain = f"d-{uuid4()}"
    return LimitRule(name, domain, (("subject", "*"),), rate or Rate(burst, YEARS_US), burst, algorithm)


def hit(of: LimitRule, hits: int = 1, subject: str = "user:ann") -> Hit:
    """Hits of a subject."""
    return Hit(of, of.counter_key({"subject": subject}), hits)


def allowed(outcomes: Sequence[LimitOutcome]) -> bool:
    """Whether the call passed."""
    return all(outcome.allowed for outcome in outcomes)


class CountersSuite:
    """The laws. Subclass it and give a `bench` fixture."""

    @BOTH
    def test_the_limit_passes_at_once_and_not_one_hit_more(self, bench: Bench, algorithm: Algorithm) -> None:
        five = rule(5, algorithm)
        answers = [bench.consume([hit(five)]) for _ in range(7)]
        assert [allowed(answer) for answer in answers] == [True] * 5 + [False] * 2
        assert [answer[0].remaining for answer in answers] == [4, 3, 2, 1, 0, 0, 0]

    @BOTH
    def test_an_outcome_tells_all_that_its_fields_promise(self, bench: Bench, algorithm: Algorithm) -> None:
        five = rule(5, algorithm)
        (passed,) = bench.consume([hit(five, 5)])
        assert (passed.rule, passed.limit, passed.decided_by) == (five, 5, DecidedBy.STORE)
        assert passed.retry_after_us is None
        assert 0 < passed.reset_after_us <= YEARS_US
        (refused,) = bench.consume([hit(five)])
        assert refused.retry_after_us is not None
        assert 0 < refused.retry_after_us <= YEARS_US
        assert all(type(n) is int for n in (passed.remaining, passed.reset_after_us, refused.retry_after_us))

    @BOTH
    def test_more_hits_than_the_limit_never_pass(self, bench: Bench, algorithm: Algorithm) -> None:
        (outcome,) = bench.consume([hit(rule(5, algorithm), 6)])
        assert (outcome.allowed, outcome.remaining, outcome.retry_after_us) == (False, 5, None)

    @BOTH
    def test_each_value_has_its_own_counter(self, bench: Bench, algorithm: Algorithm) -> None:
        one = rule(1, algorithm)
        assert allowed(bench.consume([hit(one, subject="user:ann")]))
        assert allowed(bench.consume([hit(one, subject="user:bob")]))
        assert not allowed(bench.consume([hit(one, subject="user:ann")]))

    @pytest.mark.standard("R5")
    @BOTH
    def test_values_of_any_length_have_counters_of_their_own(self, bench: Bench, algorithm: Algorithm) -> None:
        one, long = rule(1, algorithm), "x" * 5_000
        for subject in (long, long + "y", "y" + long):
            assert allowed(bench.consume([hit(one, subject=subject)]))
            assert not allowed(bench.consume([hit(one, subject=subject)]))

    @pytest.mark.standard("R4")
    @BOTH
    def test_a_refusal_debits_none(self, bench: Bench, algorithm: Algorithm) -> None:
        wide, narrow = rule(10, algorithm, name="wide"), rule(1, algorithm, name="narrow")
        assert allowed(bench.consume([hit(wide), hit(narrow)]))
        outcomes = bench.consume([hit(wide, 3), hit(narrow)])
        assert [(each.allowed, each.remaining) for each in outcomes] == [(True, 9), (False, 0)]
        assert bench.consume([hit(wide, 0)])[0].remaining == 9

    @pytest.mark.standard("R4")
    @BOTH
    def test_hits_for_one_counter_are_summed_first(self, bench: Bench, algorithm: Algorithm) -> None:
        three = rule(3, algorithm)
        assert not allowed(bench.consume([hit(three, 2), hit(three, 2)]))
        assert [each.remaining for each in bench.consume([hit(three, 2), hit(three, 1)])] == [0, 0]

    @BOTH
    def test_peek_and_no_hits_take_nothing(self, bench: Bench, algorithm: Algorithm) -> None:
        two = rule(2, algorithm)
        assert bench.consume([hit(two, 2)], peek=True)[0].remaining == 2
        assert not allowed(bench.consume([hit(two, 3)], peek=True))
        assert bench.consume([hit(two, 0)])[0].remaining == 2
        assert allowed(bench.consume([hit(two, 2)]))
        assert not allowed(bench.consume([hit(two)], peek=True))
        assert bench.consume([hit(two, 0)])[0].allowed

    def test_no_hits_at_all_is_a_call_that_passes(self, bench: Bench) -> None:
        assert list(bench.consume([])) == []

    @BOTH
    def test_what_retry_after_says_is_when_it_passes(self, bench: Bench, algorithm: Algorithm) -> None:
        brisk = rule(4, algorithm, rate=Rate(4, 200_000))
        answers = (bench.consume([hit(brisk, 2)])[0] for _ in range(100))
        refused = next(outcome for outcome in answers if not outcome.allowed)
        assert refused.retry_after_us is not None
        bench.pass_us(refused.retry_after_us)
        assert allowed(bench.consume([hit(brisk, 2)]))

    @BOTH
    def test_after_reset_after_the_counter_is_at_rest(self, bench: Bench, algorithm: Algorithm) -> None:
        brisk = rule(4, algorithm, rate=Rate(4, 100_000))
        bench.pass_us(bench.consume([hit(brisk, 3)])[0].reset_after_us)
        (rest,) = bench.consume([hit(brisk, 0)])
        assert (rest.remaining, rest.reset_after_us) == (4, 0)

    @pytest.mark.standard("R14")
    @BOTH
    def test_a_new_count_keeps_the_counters(self, bench: Bench, algorithm: Algorithm) -> None:
        old = rule(10, algorithm)
        bench.consume([hit(old, 6)])
        new = LimitRule(old.name, old.domain, old.match, Rate(20, YEARS_US), 20, algorithm)
        assert bench.consume([hit(new, 0)])[0].remaining == 14
        tight = LimitRule(old.name, old.domain, old.match, Rate(5, YEARS_US), 5, algorithm)
        assert bench.consume([hit(tight)])[0].allowed is False

    @pytest.mark.standard("R4", "R8")
    @BOTH
    def test_together_exactly_the_limit_passes(self, bench: Bench, algorithm: Algorithm) -> None:
        fifty = rule(50, algorithm)
        answers = bench.consume_together([[hit(fifty)]] * scale(10_000))
        assert sum(allowed(answer) for answer in answers) == 50

    @pytest.mark.standard("R4")
    @BOTH
    def test_together_what_was_debited_is_what_passed(self, bench: Bench, algorithm: Algorithm) -> None:
        rules = [rule(burst, algorithm, name=f"r{burst}") for burst in (40, 60, 90)]
        chance = random.Random(8)
        calls = [
            [hit(each, chance.randint(1, 3)) for each in chance.sample(rules, chance.randint(1, 3))]
            for _ in range(scale(10_000))
        ]
        answers = bench.consume_together(calls)
        passed = [call for call, answer in zip(calls, answers, strict=True) if allowed(answer)]
        for each in rules:
            debited = sum(one.hits for call in passed for one in call if one.rule is each)
            (now,) = bench.consume([hit(each, 0)])
            assert now.remaining == each.burst - debited
        assert len(passed) < len(calls)

    def test_together_looks_change_nothing(self, bench: Bench) -> None:
        three = rule(3)
        answers = bench.consume_together([[hit(three, 0)]] * 50)
        assert {answer[0].remaining for answer in answers} == {3}
