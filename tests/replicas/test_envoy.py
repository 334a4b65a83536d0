"""A real Envoy asks three replicas, by ext_authz and by its rate-limit service, while replicas stop and are lost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from authsvc.cli.demo_envoy import EnvoySetup, RateLimits, RunningEnvoy, echo_upstream, running_envoy
from tests.replicas.setting import three
from tests.support.envoy import Answered, send
from tests.support.fleet import Trio
from tests.support.postgresql import Postgres
from tests.support.scale import CAMPAIGN
from tests.support.waiting import wait_for

POLICY = """
version: 1
permissions: {"orders:read": {}}
roles:
  viewer: {allow: ["orders:read"]}
bindings:
  - {subject: "client:shop", role: viewer, resource: "orders/eu-*"}
routes:
  - {name: read, match: {method: GET, path: "/v1/orders/{id}"}, permission: "orders:read", resource: "orders/{id}",
     audience: orders}
limits:
  per_user: {domain: edge, match: {user: "*"}, rate: 3/1h, algorithm: fixed_window}
  busy: {domain: edge, match: {busy: "*"}, rate: 1000000/1h, algorithm: fixed_window}
"""
_LIMITS = RateLimits(
    "edge",
    (
        ({"request_headers": {"header_name": "x-user", "descriptor_key": "user"}},),
        ({"request_headers": {"header_name": "x-busy", "descriptor_key": "busy"}},),
    ),
)
PAUSE_S = 0.02
"""Between the requests of a caller: replicas that start need the processors too."""


@dataclass
class Edge:
    """Envoy before three replicas."""

    envoy: RunningEnvoy
    trio: Trio
    token: str

    def get(self, resource: str = "eu-7", *, token: str | None = None, **headers: str) -> Answered:
        """GET an order, with the client's token unless another, or none, is given."""
        bearer = self.token if token is None else token
        given = [(name.replace("_", "-"), value) for name, value in headers.items()]
        given += [("Authorization", f"Bearer {bearer}")] if bearer else []
        return send(self.envoy.url, "GET", f"/v1/orders/{resource}", given)

    @contextmanager
    def asked_without_pause(self) -> Iterator[Callable[[int], None]]:
        """Four callers; the answer waits until so many more requests were answered. At the end all were allowed."""
        answers: Counter[str] = Counter()
        stopping = threading.Event()
        turn = threading.Lock()

        def call(index: int) -> None:
            while not stopping.wait(PAUSE_S):
                answer = self.get(x_busy=str(index))
                with turn:
                    answers["allowed" if answer.status == 200 else f"{answer.status} {answer.body}"] += 1

        def answered(more: int) -> None:
            wanted = answers.total() + more
            wait_for(lambda: answers.total() >= wanted, 30.0, "requests being answered")

        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(call, index) for index in range(4)]
            try:
                yield answered
            finally:
                stopping.set()
        for one in running:
            one.result()
        assert set(answers) == {"allowed"}, answers


@pytest.fixture(params=["grpcio", *(["pyvoy"] if CAMPAIGN else [])])
def edge(server: Postgres, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Edge]:
    """Everything started; the replica that is gone is asked again elsewhere, in time for a busy machine."""
    settings = {"server.transport": request.param, "counters.deadline": "1s"}
    with three(server, tmp_path, settings) as trio, echo_upstream() as upstream:
        trio[0].apply(POLICY)
        secret = trio[0].create_client("shop", audience=["orders"])
        token = trio[0].service.token("shop", secret, audience=["orders"])
        for member in trio:
            wait_for(partial(member.verifies, token, "orders"))
        setup = EnvoySetup(",".join(trio.addresses), upstream, timeout="5s", limits=_LIMITS, retries=3)
        with running_envoy(setup) as envoy:
            yield Edge(envoy, trio, token)


@pytest.mark.standard("E2", "E7", "R1", "R12", "U4", "U5")
def test_envoy_before_three_replicas_answers_rightly_loses_no_request_with_one_and_refuses_without_all(
    edge: Edge,
) -> None:
    allowed = edge.get(x_busy="one")
    assert allowed.status == 200
    assert allowed.reached("x-authsvc-subject") == ["client:shop"]
    assert edge.get(token="").status == 401
    assert edge.get("us-7").status == 403
    # The counters are one, whichever replica is asked.
    assert [edge.get(x_user="ann").status for _ in range(4)] == [200, 200, 200, 429]
    refused = edge.get(x_user="ann")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["ratelimit-policy"] == '"per_user";q=3;w=3600'
    assert refused.headers["ratelimit"].startswith('"per_user";r=0;t=')
    with edge.asked_without_pause() as answered:
        answered(50)
        edge.trio.stop(0)
        answered(50)
        edge.trio.begin(0)
        answered(50)
        edge.trio.kill(1)
        answered(50)
    edge.trio.kill(0)
    edge.trio.kill(2)
    assert edge.get(x_busy="one").status == 503
