"""A real Envoy's rate-limit filter before a real server that counts on a real Redis."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from authsvc import config
from authsvc.cli.demo_envoy import EnvoySetup, RateLimits, RunningEnvoy, echo_upstream, running_envoy
from authsvc.clock import SystemClock
from authsvc.storage.counters_failure import FailurePolicy
from authsvc.storage.counters_redis import RedisCounters
from authsvc.storage.redis_node import RedisNode
from authsvc.storage.redis_target import parse_url
from authsvc.transport.grpcio_server import GrpcioServer
from tests.api.rls_world import Rls
from tests.support.envoy import Answered, send
from tests.support.redis import Store, store
from tests.support.redis_bench import PSEUDONYM_KEY
from tests.support.waiting import wait_for

PER_USER = ({"request_headers": {"header_name": "x-user", "descriptor_key": "user"}},)
PER_PATH = ({"request_headers": {"header_name": ":path", "descriptor_key": "path"}},)
CLOSED = ({"request_headers": {"header_name": "x-closed", "descriptor_key": "closed"}},)
OVER, ERROR = "cluster.upstream.ratelimit.over_limit", "cluster.upstream.ratelimit.error"


@dataclass
class Edge:
    """Envoy, and what stands behind its question."""

    envoy: RunningEnvoy
    redis: Store
    node: RedisNode
    served: ExitStack = field(repr=False)

    def get(self, target: str = "/", **headers: str) -> Answered:
        given = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return send(self.envoy.url, "GET", target, given)


@contextmanager
def edge(*, domain: str = "api", domains: tuple[str, ...] = ("api",), deny_on_failure: bool = False) -> Iterator[Edge]:
    with ExitStack() as stack, ExitStack() as served:
        redis = stack.enter_context(store())
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        stack.callback(loop.close)
        stack.callback(thread.join)
        stack.callback(lambda: loop.call_soon_threadsafe(loop.stop))
        node = RedisNode(parse_url(redis.url), lambda *_: None)
        asyncio.run_coroutine_threadsafe(node.start(), loop).result(10)
        stack.callback(lambda: asyncio.run_coroutine_threadsafe(node.stop(), loop).result(10))
        counters = RedisCounters(node, FailurePolicy(SystemClock(), lambda: 1), pseudonym_key=PSEUDONYM_KEY)
        proxies = [config.Proxy(peer="loopback", domains=domains)]
        rls = Rls(proxies=proxies, counters=counters, monotonic=time.monotonic)
        server = GrpcioServer(rls.engine, loop, stream_threads=4)
        served.callback(lambda: server.drain(1.0))
        authsvc = f"127.0.0.1:{server.listen('127.0.0.1:0')}"
        upstream = stack.enter_context(echo_upstream())
        limits = RateLimits(domain, (PER_USER, PER_PATH, CLOSED), deny_on_failure)
        setup = EnvoySetup(authsvc, upstream, timeout="5s", authorize=False, limits=limits)
        envoy = stack.enter_context(running_envoy(setup))
        yield Edge(envoy, redis, node, served)


@pytest.fixture
def ready() -> Iterator[Edge]:
    with edge() as one:
        yield one


@pytest.mark.standard("R1", "R4", "R12")
def test_the_client_is_limited_and_told_so(ready: Edge) -> None:
    answers = [ready.get("/one", x_user="ann") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    first, refused = answers[0], answers[3]
    assert first.headers["ratelimit-policy"] == '"per_user";q=3;w=60, "window";q=5;w=60'
    assert first.headers["x-ratelimit-limit"] == '3, 3;w=60;name="per_user", 5;w=60;name="window"'
    assert first.headers["x-ratelimit-remaining"] == "2"
    assert 0 < int(refused.headers["retry-after"]) <= 20
    assert refused.headers["content-type"] == "application/problem+json"
    assert json.loads(refused.body)["violated-policies"] == ["per_user"]
    # The refused request has debited none: the path's five are three spent, and two left for another user.
    assert [ready.get("/one", x_user="bob").status for _ in range(3)] == [200, 200, 429]
    assert ready.envoy.counter(OVER) == 2
    assert ready.envoy.counter(ERROR) == 0


@pytest.mark.standard("R10")
def test_with_redis_paused_each_rule_goes_its_way_and_envoy_sees_no_error(ready: Edge) -> None:
    assert ready.get("/two", x_closed="x").status == 200
    ready.redis.signal(signal.SIGSTOP)
    assert ready.get("/three", x_closed="x").status == 429
    assert [ready.get("/three", x_user="eve").status for _ in range(4)] == [200, 200, 200, 429]
    ready.redis.signal(signal.SIGCONT)
    wait_for(lambda: ready.node.available)
    assert ready.get("/two", x_closed="x").status == 200
    assert ready.envoy.counter(ERROR) == 0


@pytest.mark.standard("E10")
def test_a_domain_that_is_not_the_proxys_is_refused_even_where_envoy_lets_failures_through() -> None:
    with edge(domain="other") as one:
        assert one.get(x_user="ann").status == 429
        assert one.envoy.counter(ERROR) == 0


@pytest.mark.standard("R1")
@pytest.mark.parametrize(("deny_on_failure", "status"), [(False, 200), (True, 503)])
def test_with_the_service_gone_envoys_own_failure_mode_decides(*, deny_on_failure: bool, status: int) -> None:
    with edge(deny_on_failure=deny_on_failure) as one:
        assert one.get(x_user="ann").status == 200
        one.served.close()
        assert one.get(x_user="ann").status == status
