"""The counter store killed, restarted, paused, filled up, failed over: what answers, who decided, and that none counts
twice."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from authsvc.clock import FakeClock
from authsvc.core.consumption import DecidedBy, Hit, LimitOutcome
from authsvc.core.limits import LimitRule, OnFailure
from authsvc.core.rates import Rate
from authsvc.storage.counters_failure import FailurePolicy
from authsvc.storage.redis_target import parse_url
from tests.conformance.counters import YEARS_US, allowed, hit, rule
from tests.support.redis import Store, store, watched
from tests.support.redis_bench import RedisBench, redis_bench
from tests.support.scale import scale
from tests.support.waiting import wait_for

SOON_S = 0.5
"""Far below what a client library would wait, far above the deadline of a call: other tests run beside this one."""


@pytest.fixture
def one() -> Iterator[Store]:
    with store() as running:
        yield running


@pytest.fixture
def bench(one: Store) -> Iterator[RedisBench]:
    """With the deadlines of the product."""
    with redis_bench(parse_url(one.url), patient=False) as ready:
        yield ready


@pytest.fixture
def patient(one: Store) -> Iterator[RedisBench]:
    with redis_bench(parse_url(one.url)) as ready:
        yield ready


def failing(on_failure: OnFailure, burst: int = 4) -> LimitRule:
    return LimitRule(
        f"r-{on_failure}-{burst}", "api", (("subject", "*"),), Rate(burst, YEARS_US), burst, on_failure=on_failure
    )


def decided(outcomes: Sequence[LimitOutcome]) -> list[tuple[bool, DecidedBy]]:
    return [(outcome.allowed, outcome.decided_by) for outcome in outcomes]


def told_by_the_store(bench: RedisBench, of: LimitRule) -> bool:
    (look,) = bench.consume([hit(of, 0)])
    return look.decided_by is DecidedBy.STORE


def assert_each_rule_goes_its_way(bench: RedisBench, subject: str = "user:ann") -> None:
    rules = {way: failing(way) for way in OnFailure}
    begun = time.monotonic()
    assert decided(bench.consume([hit(rules[OnFailure.OPEN], 9)])) == [(True, DecidedBy.FAILED_OPEN)]
    (closed,) = bench.consume([hit(rules[OnFailure.CLOSED])])
    assert (closed.allowed, closed.decided_by) == (False, DecidedBy.FAILED_CLOSED)
    assert closed.retry_after_us
    local = [decided(bench.consume([hit(rules[OnFailure.LOCAL], subject=subject)]))[0] for _ in range(5)]
    assert local == [(True, DecidedBy.LOCAL)] * 4 + [(False, DecidedBy.LOCAL)]
    assert time.monotonic() - begun < SOON_S


@pytest.mark.standard("R10")
def test_killed_each_rule_goes_its_own_way_at_once_and_counting_goes_on_after_the_restart(
    one: Store, bench: RedisBench
) -> None:
    counted = rule(5)
    wait_for(lambda: told_by_the_store(bench, counted))
    one.server.kill()
    wait_for(lambda: not bench.node.available)
    assert_each_rule_goes_its_way(bench)
    with store(port=one.port):
        wait_for(lambda: told_by_the_store(bench, counted), what="the store being asked again")
        # The script is gone with the process: its text is sent again.
        assert decided(bench.consume([hit(counted)])) == [(True, DecidedBy.STORE)]


@pytest.mark.standard("R10")
def test_paused_calls_wait_their_deadline_and_no_longer_and_it_recovers_by_itself(
    one: Store, bench: RedisBench
) -> None:
    counted = rule(1_000)
    wait_for(lambda: told_by_the_store(bench, counted))
    one.signal(signal.SIGSTOP)
    assert_each_rule_goes_its_way(bench)
    wait_for(lambda: not bench.node.available)
    assert_each_rule_goes_its_way(bench, "user:bob")
    one.signal(signal.SIGCONT)
    wait_for(lambda: told_by_the_store(bench, counted), what="the store being asked again")


@pytest.mark.standard("R10")
def test_a_full_store_counts_as_failed_and_nothing_of_a_call_is_kept(one: Store, patient: RedisBench) -> None:
    first, second = failing(OnFailure.CLOSED), failing(OnFailure.CLOSED, burst=9)
    assert allowed(patient.consume([hit(first), hit(second)]))
    one.ask("CONFIG", "SET", "maxmemory", "1")
    calls = [patient.consume([hit(first), hit(second)]) for _ in range(3)]
    assert [decided(call) for call in calls] == [[(False, DecidedBy.FAILED_CLOSED)] * 2] * 3
    one.ask("CONFIG", "SET", "maxmemory", "0")
    assert [outcome.remaining for outcome in patient.consume([hit(first, 0), hit(second, 0)])] == [3, 8]


@pytest.mark.standard("R10", "R4")
def test_a_rule_that_fails_closed_keeps_local_shares_from_being_debited(one: Store, bench: RedisBench) -> None:
    one.server.kill()
    wait_for(lambda: not bench.node.available)
    closed, local = failing(OnFailure.CLOSED), failing(OnFailure.LOCAL)
    assert decided(bench.consume([hit(local, 3), hit(closed)])) == [
        (True, DecidedBy.LOCAL),
        (False, DecidedBy.FAILED_CLOSED),
    ]
    assert bench.consume([hit(local, 0), hit(closed, 0)])[0].remaining == 4


@pytest.mark.standard("R10")
@pytest.mark.parametrize(
    ("default", "decided_by"),
    [
        (OnFailure.OPEN, DecidedBy.FAILED_OPEN),
        (OnFailure.CLOSED, DecidedBy.FAILED_CLOSED),
        (OnFailure.LOCAL, DecidedBy.LOCAL),
    ],
)
def test_a_rule_that_does_not_say_follows_the_service_and_one_that_does_its_own(
    default: OnFailure, decided_by: DecidedBy
) -> None:
    policy = FailurePolicy(FakeClock(), lambda: 1, default)
    (outcome,) = asyncio.run(policy.consume([hit(rule(5))]))
    assert outcome.decided_by is decided_by
    for way in OnFailure:
        (own,) = asyncio.run(policy.consume([hit(failing(way))]))
        assert own.decided_by.removeprefix("failed_") == way


@pytest.mark.standard("R10")
def test_replicas_share_a_limit_while_nobody_counts_for_all() -> None:
    ten = failing(OnFailure.LOCAL, burst=10)
    passed = 0
    with ExitStack() as stack:
        nowhere = parse_url("redis://127.0.0.1:1")
        for _ in range(3):
            replica = stack.enter_context(redis_bench(nowhere, replicas=3))
            passed += sum(allowed(replica.consume([hit(ten)])) for _ in range(10))
    assert passed == 9


@pytest.mark.standard("R7")
def test_a_call_past_its_deadline_is_sent_once_and_its_reply_reaches_no_other(one: Store, bench: RedisBench) -> None:
    """The store counts them when it wakes; we have long answered, and never ask again."""
    rules = [LimitRule(f"r{n}", "api", (("subject", "*"),), Rate(n, YEARS_US), n) for n in range(50, 60)]
    wait_for(lambda: told_by_the_store(bench, rules[0]))

    async def pause_and_ask() -> list[Sequence[LimitOutcome]]:
        one.signal(signal.SIGSTOP)
        late = asyncio.gather(*(bench.counters.consume([hit(each)]) for each in rules))
        answers = list(await late)
        one.signal(signal.SIGCONT)
        return answers

    late = bench.run(pause_and_ask())
    assert {answer[0].decided_by for answer in late} == {DecidedBy.LOCAL}
    for each in rules:
        wait_for(lambda of=each: told_by_the_store(bench, of))  # type: ignore[misc]
        (look,) = bench.consume([hit(each, 0)])
        assert (look.rule, look.remaining) == (each, each.burst - 1)


@pytest.mark.standard("R7")
def test_cancelled_calls_never_cross_replies(patient: RedisBench) -> None:
    """Each rule has its own burst, so that another one's reply would show as another remainder."""
    rules = [LimitRule(f"r{n}", "api", (("subject", "*"),), Rate(n, YEARS_US), n) for n in range(1_000, 1_040)]

    async def ask(count: int) -> list[tuple[LimitRule, int]]:
        tasks = []
        for number in range(count):
            of = rules[number % len(rules)]
            tasks.append((of, asyncio.ensure_future(patient.counters.consume([hit(of, 0)]))))
            if number % 3 == 0:
                tasks[number // 2][1].cancel()
            if number % 7 == 0:
                await asyncio.sleep(0)
        ended = await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)
        return [
            (of, answer[0].remaining)
            for (of, _), answer in zip(tasks, ended, strict=True)
            if not isinstance(answer, BaseException)
        ]

    answers = patient.run(ask(scale(40_000)))
    assert answers
    assert [remaining for _, remaining in answers] == [of.burst for of, _ in answers]


@pytest.mark.standard("R7")
def test_a_cancelled_call_counts_once_and_no_more(patient: RedisBench) -> None:
    many = rule(10_000)
    patient.consume([hit(many)])

    async def cancelled(count: int) -> None:
        for _ in range(count):
            task = asyncio.ensure_future(patient.counters.consume([hit(many)]))
            await asyncio.sleep(0)
            task.cancel()

    patient.run(cancelled(100))
    assert patient.consume([hit(many, 0)])[0].remaining == 9_899


def test_a_script_that_the_store_forgot_is_sent_again(one: Store, patient: RedisBench) -> None:
    five = rule(5)
    patient.consume([hit(five)])
    one.ask("SCRIPT", "FLUSH")
    answers = patient.consume_together([[hit(five)]] * 6)
    assert sum(map(allowed, answers)) == 4
    assert {answer[0].decided_by for answer in answers} == {DecidedBy.STORE}


@pytest.mark.standard("R10")
def test_a_store_that_only_errs_is_left_alone_but_for_a_trial_now_and_then(one: Store, patient: RedisBench) -> None:
    one.ask("CONFIG", "SET", "maxmemory", "1")
    closed = failing(OnFailure.CLOSED)
    for _ in range(20):
        patient.consume([hit(closed)])
    assert not patient.node.available
    before = _calls(one)
    for _ in range(200):
        patient.consume([hit(closed)])
    assert _calls(one) - before < 100
    one.ask("CONFIG", "SET", "maxmemory", "0")
    wait_for(lambda: decided(patient.consume([hit(closed)]))[0][1] is DecidedBy.STORE, what="the circuit closing")


def _calls(one: Store) -> int:
    calls: int = one.ask("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    return calls


@pytest.mark.standard("R9", "R10")
def test_a_failover_costs_seconds_of_policy_and_never_a_connection_to_the_old_master() -> None:
    with watched() as all_of_them, redis_bench(parse_url(all_of_them.url), patient=False) as bench:
        counted = rule(5)
        wait_for(lambda: told_by_the_store(bench, counted))
        old, new = all_of_them.stores
        old.signal(signal.SIGSTOP)
        wait_for(lambda: all_of_them.master() == new.port, 30, "the failover")
        wait_for(lambda: told_by_the_store(bench, counted), 20, "the new master being asked")
        old.signal(signal.SIGCONT)
        assert decided(bench.consume([hit(counted)])) == [(True, DecidedBy.STORE)]
        assert new.ask("DBSIZE") == 1


@pytest.mark.standard("R9")
def test_a_master_that_was_demoted_under_us_is_dropped(one: Store, patient: RedisBench) -> None:
    counted = rule(5)
    patient.consume([hit(counted)])
    with store() as other:
        one.ask("REPLICAOF", "127.0.0.1", str(other.port))
        assert not any(outcome.decided_by is DecidedBy.STORE for outcome in patient.consume([hit(counted)]))
        one.ask("REPLICAOF", "NO", "ONE")
        wait_for(lambda: told_by_the_store(patient, counted))


def test_hits_of_a_call_that_fails_are_never_none() -> None:
    with redis_bench(parse_url("redis://127.0.0.1:1")) as bench:
        assert bench.consume([]) == ()
        hits: list[Hit] = [hit(failing(way)) for way in OnFailure]
        assert [outcome.rule for outcome in bench.consume(hits)] == [each.rule for each in hits]
