"""`authsvc serve` counting for Envoy on a real store, on each transport: grpcio's own client and a real Envoy ask, also
while the store is killed, restarted, paused, full, failed over."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.cli.demo_envoy import EnvoySetup, RateLimits, echo_upstream, running_envoy
from tests.support.envoy import Answered, send
from tests.support.process import Serving, serving
from tests.support.redis import Store, store, watched
from tests.support.rls import (
    CALLERS,
    OK,
    OVER_LIMIT,
    POLICY,
    Proxy,
    asking,
    decided_by,
    descriptor,
    left,
    proxy,
    remaining,
    request,
    taken,
)
from tests.support.scale import scale
from tests.support.transports import TRANSPORTS, skip_where_missing
from tests.support.waiting import wait_for

RULES = """
  per_user: {domain: api, match: {user: "*"}, rate: 3/1m}
  window: {domain: api, match: {path: "*"}, rate: 5/1h, algorithm: fixed_window}
  odd: {domain: api, match: {odd: "*"}, rate: 100/15m, burst: 20}
  closed: {domain: api, match: {closed: "*"}, rate: 1000/1h, on_failure: closed}
  opened: {domain: api, match: {opened: "*"}, rate: 1000/1h, on_failure: open}
"""
HOUR = 3
IN_FLIGHT = 12
SOON_S = 2.0
"""Far below what a client library would wait, far above the deadline of a call: other tests run beside this one."""
PER_USER = ({"request_headers": {"header_name": "x-user", "descriptor_key": "user"}},)
PER_PATH = ({"request_headers": {"header_name": ":path", "descriptor_key": "path"}},)


@dataclass
class Edge:
    """The service, its store, and somebody who asks."""

    service: Serving
    redis: Store
    proxy: Proxy

    def faults(self, kind: str) -> float:
        """How many calls the store did not answer."""
        _, text = self.service.operations("/metrics")
        name = f'authsvc_counters_faults_total{{fault="{kind}"}} '
        return next(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


@contextmanager
def edge(transport: str, folder: Path, url: str = "", **settings: str) -> Iterator[Edge]:
    skip_where_missing(transport)
    data = folder / "data"
    data.mkdir(mode=0o700)
    with ExitStack() as stack:
        redis = stack.enter_context(store())
        chosen = {"server.transport": transport, "counters.url": url or redis.url, **settings}
        service = stack.enter_context(serving(data, chosen))
        service.apply(POLICY + RULES)
        found = Edge(service, redis, stack.enter_context(proxy(service.grpc)))
        wait_for(lambda: decided_by(found.proxy.ask(descriptor("odd", "x", hits=0))) == "store", what="the store")
        yield found


@pytest.fixture(scope="module", params=TRANSPORTS)
def calm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """Nothing befalls it; its deadline is no matter."""
    folder = tmp_path_factory.mktemp("calm")
    with edge(request.param, folder, **{"counters.deadline": "1s"}) as found:
        yield found


@pytest.fixture(params=TRANSPORTS)
def stormy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Edge]:
    """One for each test, with the deadline that is the default."""
    with edge(request.param, tmp_path) as found:
        yield found


@pytest.mark.standard("R1", "R4")
def test_a_status_a_descriptor_in_their_order_and_a_refusal_debits_none(calm: Edge) -> None:
    ann, path, none = descriptor("user", "r1"), descriptor("path", "/r1"), descriptor("nobody", "x")
    answers = [calm.proxy.ask(none, ann, path, descriptor("odd", "r1")) for _ in range(4)]
    assert [answer.overall_code for answer in answers] == [OK, OK, OK, OVER_LIMIT]
    assert [[status.code for status in answer.statuses] for answer in answers[2:]] == [
        [OK, OK, OK, OK],
        [OK, OVER_LIMIT, OK, OK],
    ]
    assert [remaining(answer) for answer in answers] == [[0, 2, 4, 19], [0, 1, 3, 18], [0, 0, 2, 17], [0, 0, 2, 17]]
    shown = [status.HasField("current_limit") for status in answers[0].statuses]
    assert shown == [False, True, True, False]
    assert [status.HasField("duration_until_reset") for status in answers[0].statuses] == [False, True, True, True]
    assert {decided_by(answer) for answer in answers} == {"store"}


@pytest.mark.standard("R2")
def test_hits_of_every_kind(calm: Edge) -> None:
    def ask(hits: int | None = None, *, back: bool = False, common: int = 0) -> tuple[int, int]:
        answer = calm.proxy.ask(descriptor("path", "/r2", hits=hits, back=back), hits=common)
        return answer.overall_code, answer.statuses[0].limit_remaining

    asked = [ask(0), ask(2, common=4), ask(common=3), ask(0), ask(3, back=True), ask(9, back=True), ask(6), ask(0)]
    over = OVER_LIMIT
    assert asked == [(OK, 5), (OK, 3), (OK, 0), (over, 0), (OK, 3), (OK, 5), (over, 5), (OK, 5)]


@pytest.mark.standard("R3")
def test_a_descriptors_own_limit_is_obeyed_and_validated(calm: Edge) -> None:
    own = [calm.proxy.ask(descriptor("user", "r3", limit=(4, HOUR))) for _ in range(5)]
    assert [answer.overall_code for answer in own] == [OK] * 4 + [OVER_LIMIT]
    with pytest.raises(grpc.RpcError) as refused:
        calm.proxy.ask(descriptor("user", "r3", limit=(4, 99)))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert remaining(calm.proxy.ask(descriptor("user", "r3", hits=0))) == [3]


@pytest.mark.standard("R7")
def test_calls_that_are_given_up_count_once_at_most_and_no_answer_is_anothers(calm: Edge) -> None:
    # Few enough: who gives up every third call looks like a flood of resets to Envoy, and loses its connection.
    chance, before = random.Random(20261124), left(calm.proxy)
    kept: list[list[Any]] = [[] for _ in range(CALLERS)]
    given_up, in_flight = [0] * CALLERS, deque[Any]()
    for _ in range(scale(4_000)):
        number = chance.randrange(CALLERS)
        fate = chance.random()
        asked = request(descriptor(f"caller{number}"))
        if fate < 0.1:
            given_up[number] += 1
            calm.proxy.ask_for.future(asked, timeout=30).cancel()
        elif fate < 0.18:
            given_up[number] += 1
            calm.proxy.ask_for.future(asked, timeout=chance.uniform(0.0, 0.003))
        else:
            in_flight.append(calm.proxy.ask_for.future(asked, timeout=30))
            kept[number].append(in_flight[-1])
        if len(in_flight) > IN_FLIGHT:
            in_flight.popleft().result()
    for number, futures in enumerate(kept):
        answers = [future.result() for future in futures]
        assert {(decided_by(answer), answer.overall_code) for answer in answers} == {("store", OK)}
        assert {answer.statuses[0].current_limit.name for answer in answers} == {f"caller{number}"}
        # Each took a hit of its own: no two were left with the same rest.
        assert len({answer.statuses[0].limit_remaining for answer in answers}) >= len(answers) - 1
    for debited, futures, lost in zip(taken(calm.proxy, before), kept, given_up, strict=True):
        assert len(futures) - 1 <= debited <= len(futures) + lost


@pytest.mark.standard("R12", "R1", "R10")
def test_an_envoy_is_told_429_with_all_headers_and_who_decided(calm: Edge) -> None:
    with echo_upstream() as upstream:
        limits = RateLimits("api", (PER_USER, PER_PATH))
        setup = EnvoySetup(calm.service.grpc, upstream, timeout="5s", authorize=False, limits=limits)
        with running_envoy(setup) as envoy:
            user = f"r12-{time.monotonic_ns()}"

            def get() -> Answered:
                return send(envoy.url, "GET", f"/{user}", [("x-user", user)])

            answers = [get() for _ in range(4)]
            assert [answer.status for answer in answers] == [200, 200, 200, 429]
            first, refused = answers[0].headers, answers[3].headers
            assert first["ratelimit-policy"] == '"per_user";q=3;w=60, "window";q=5;w=3600'
            assert first["x-ratelimit-limit"] == '3, 3;w=60;name="per_user", 5;w=3600;name="window"'
            assert first["x-ratelimit-remaining"] == "2"
            assert "retry-after" not in first
            assert 0 < int(refused["retry-after"]) <= 20
            assert refused["x-ratelimit-remaining"] == "0"
            assert 0 < int(refused["x-ratelimit-reset"]) <= 20
            assert refused["ratelimit"].startswith('"per_user";r=0;t=')
            assert refused["content-type"] == "application/problem+json"
            assert json.loads(answers[3].body)["violated-policies"] == ["per_user"]
            assert envoy.counter("cluster.upstream.ratelimit.error") == 0


@pytest.mark.standard("R10", "R7")
def test_paused_while_calls_run_each_is_answered_at_once_and_what_was_sent_counts_once(stormy: Edge) -> None:
    before = left(stormy.proxy)
    with asking(stormy.service.grpc) as callers:
        wait_for(lambda: callers.last() == {"store"}, what="everybody counting")
        stormy.redis.signal(signal.SIGSTOP)
        wait_for(lambda: callers.last() == {"local"}, what="everybody's share")
        paused = time.monotonic()
        wait_for(lambda: len(callers.since(paused)) > 200, what="more calls")
        during = callers.since(paused)
        assert {one.decided_by for one in during} == {"local"}
        assert all(one.allowed for one in during)
        closed = stormy.proxy.ask(descriptor("closed", "x"))
        assert (closed.overall_code, decided_by(closed)) == (OVER_LIMIT, "failed_closed")
        assert decided_by(stormy.proxy.ask(descriptor("opened", "x"))) == "failed_open"
        stormy.redis.signal(signal.SIGCONT)
        wait_for(lambda: callers.last() == {"store"}, what="everybody counting again")
    assert not callers.faults
    everything = [one for given in callers.answers for one in given]
    assert max(one.seconds for one in everything) < SOON_S
    assert all(one.rule == f"caller{n}" for n, given in enumerate(callers.answers) for one in given)
    surplus = [debited - callers.by(number)["store"] for number, debited in enumerate(taken(stormy.proxy, before))]
    assert all(each >= -1 for each in surplus)
    assert sum(surplus) <= callers.unheard() + stormy.faults("connection_lost")


@pytest.mark.standard("R10", "R7")
def test_killed_and_restarted_while_calls_run_none_fails_and_none_counts_twice(stormy: Edge) -> None:
    full = left(stormy.proxy)
    with ExitStack() as later:
        with asking(stormy.service.grpc) as callers:
            wait_for(lambda: callers.last() == {"store"}, what="everybody counting")
            stormy.redis.server.kill()
            wait_for(lambda: callers.last() == {"local"}, what="everybody's share")
            gone, lost = time.monotonic(), stormy.faults("connection_lost")
            later.enter_context(store(port=stormy.redis.port))
            wait_for(lambda: callers.last() == {"store"}, what="everybody counting again")
            wait_for(lambda: all(callers.by(n, gone)["store"] > 20 for n in range(CALLERS)), what="more calls")
        assert not callers.faults
        assert max(one.seconds for given in callers.answers for one in given) < SOON_S
        # The store began anew, and holds what it answered since.
        surplus = [
            debited - callers.by(number, gone)["store"] for number, debited in enumerate(taken(stormy.proxy, full))
        ]
        assert all(each >= -1 for each in surplus)
        assert sum(surplus) <= callers.unheard(gone) + stormy.faults("connection_lost") - lost
    kinds = [event["kind"] for event in stormy.service.events() if str(event.get("kind")).startswith("counters.")]
    assert kinds[:2] == ["counters.store_lost", "counters.store_back"]


@pytest.mark.standard("R10", "R4")
def test_a_full_store_counts_as_failed_and_keeps_nothing_of_a_call(stormy: Edge) -> None:
    before = left(stormy.proxy)
    stormy.redis.ask("CONFIG", "SET", "maxmemory", "1")
    everything = [descriptor(f"caller{n}") for n in range(CALLERS)]
    answers = [stormy.proxy.ask(*everything, descriptor("closed", "x")) for _ in range(20)]
    assert {(answer.overall_code, decided_by(answer)) for answer in answers} == {(OVER_LIMIT, "failed_closed")}
    assert decided_by(stormy.proxy.ask(descriptor("user", "x"))) == "local"
    stormy.redis.ask("CONFIG", "SET", "maxmemory", "0")
    wait_for(
        lambda: decided_by(stormy.proxy.ask(descriptor("odd", "x"))) == "store", what="the store being asked again"
    )
    assert all(abs(each) <= 1 for each in taken(stormy.proxy, before))


@pytest.mark.standard("R10")
def test_an_envoy_sees_no_error_while_the_store_is_gone(stormy: Edge) -> None:
    closed = ({"request_headers": {"header_name": "x-closed", "descriptor_key": "closed"}},)
    with echo_upstream() as upstream:
        limits = RateLimits("api", (PER_USER, closed), deny_on_failure=True)
        setup = EnvoySetup(stormy.service.grpc, upstream, timeout="5s", authorize=False, limits=limits)
        with running_envoy(setup) as envoy:
            wait_for(lambda: send(envoy.url, "GET", "/", [("x-closed", "x")]).status == 200)
            stormy.redis.server.kill()
            wait_for(lambda: send(envoy.url, "GET", "/", [("x-closed", "x")]).status == 429)
            assert [send(envoy.url, "GET", "/", [("x-user", "ann")]).status for _ in range(4)] == [200] * 3 + [429]
            assert envoy.counter("cluster.upstream.ratelimit.error") == 0
            assert envoy.counter("cluster.upstream.ratelimit.failure_mode_allowed") == 0


@pytest.mark.standard("R9", "R10")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_failover_by_sentinels_fails_no_call(transport: str, tmp_path: Path) -> None:
    with watched() as all_of_them, edge(transport, tmp_path, all_of_them.url) as found:
        old, new = all_of_them.stores
        with asking(found.service.grpc) as callers:
            wait_for(lambda: callers.last() == {"store"}, what="everybody counting")
            old.signal(signal.SIGSTOP)
            wait_for(lambda: callers.last() == {"local"}, what="everybody's share")
            wait_for(lambda: all_of_them.master() == new.port, 30, "the failover")
            wait_for(lambda: callers.last() == {"store"}, 20, "the new master counting")
        assert not callers.faults
        assert max(one.seconds for given in callers.answers for one in given) < SOON_S
        # The old one wakes, is demoted by the Sentinels, and nobody counts there.
        old.signal(signal.SIGCONT)
        wait_for(lambda: decided_by(found.proxy.ask(descriptor("odd", "x"))) == "store")
