"""Replicas that stop, are killed and are replaced under load: the client's callers see none of it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from authsvc.core.consumption import DecidedBy
from authsvc.core.values import SERVICE_AUDIENCE
from authsvc.v1 import token_pb2
from authsvc_client import AsyncClient, Client, Consumption, Reason, Settings, TokenRefused
from tests.replicas.setting import POLICY, three
from tests.support.fleet import Trio
from tests.support.postgresql import Postgres
from tests.support.scale import CAMPAIGN, scale
from tests.support.transports import TRANSPORTS, skip_where_missing
from tests.support.waiting import wait_for

THREADS = TASKS = 3
KILLS = scale(20)
LIMIT = 1_000_000
PAUSE_S = 0.004
"""Between two calls of a caller: the replicas share the test's processors."""

TAKE = [Consumption("wide", [{"user": "user:ann"}])]
Calls = dict[str, Callable[[Any], Any]]


def calls(token: str) -> Calls:
    """What callers do in turn. All of it is allowed."""
    return {
        "check": lambda c: c.check("user:ann", "orders:read"),
        "consume": lambda c: c.consume("wide", {"user": "user:ann"}),
        "authorize": lambda c: c.authorize(token, "orders:read"),
        "authorize and consume": lambda c: c.authorize(token, "orders:read", consume=TAKE),
        "verify": lambda c: c.verify(token),
        "filter": lambda c: c.filter("user:ann", "orders:read", ["a"]),
    }


COUNTING = frozenset({"consume", "authorize and consume"})


@dataclass
class Served:
    """Three replicas, and the clients `app` (which asks) and `shopper` (which comes)."""

    trio: Trio
    folder: Path
    shopper: str

    def settings(self) -> Settings:
        """As the client `app`, of all replicas."""
        return Settings(
            ",".join(self.trio.addresses),
            client_id="app",
            client_secret_file=self.folder / "app",
            issuer="http://authsvc.test",
            audience=("app",),
            deadline=5.0,
        )

    def token(self) -> str:
        """Of the client that comes."""
        return next(iter(self.trio)).service.token("shopper", self.shopper, audience=["app"])

    def taken(self) -> int:
        """How many hits the store has counted."""
        with Client(self.settings()) as client:
            (result,) = client.peek("wide", {"user": "user:ann"}).results
            return LIMIT - result.remaining


class Load:
    """Callers of both forms of the client that never stop asking, and how each call ended."""

    def __init__(self, served: Served) -> None:
        self.settings = served.settings()
        self.allowed: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.stored = self.doubtful = 0
        """Hits that the store admitted, and those that a replica admitted alone while the store was too slow for it."""
        self.clients: list[Client | AsyncClient] = []
        self._deeds = calls(served.token())
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[Load]:
        """While the block runs, and until the last call has ended."""
        with Client(self.settings) as client, ThreadPoolExecutor(THREADS + 1) as pool:
            self.clients.append(client)
            client.prepare(20.0)
            ends = [pool.submit(self._block, client, number) for number in range(THREADS)]
            ends.append(pool.submit(asyncio.run, self._await()))
            try:
                yield self
            finally:
                self._stop.set()
            for end in ends:
                end.result(60)

    def goes_on(self, more: int = 150) -> None:
        """Wait until so many more calls were allowed."""
        wanted = self.allowed.total() + more
        wait_for(lambda: self.allowed.total() >= wanted, 60.0, lambda: f"more than {self.allowed}, {self.refused}")

    def _block(self, client: Client, number: int) -> None:
        for turn, (name, deed) in enumerate(itertools.cycle(self._deeds.items())):
            if self._stop.wait(PAUSE_S):
                return
            self._count(name, deed(client))
            if number == 0 and turn % 50 == 0:
                self._drop(client)

    async def _await(self) -> None:
        async with AsyncClient(self.settings) as client:
            self.clients.append(client)
            await client.prepare(20.0)
            await asyncio.gather(*(self._task(client) for _ in range(TASKS)))

    async def _task(self, client: AsyncClient) -> None:
        for name, deed in itertools.cycle(self._deeds.items()):
            if self._stop.is_set():
                return
            await asyncio.to_thread(self._stop.wait, PAUSE_S)
            self._count(name, await deed(client))

    def _count(self, name: str, answer: object) -> None:
        with self._lock:
            (self.allowed if answer else self.refused)[name] += 1
            for result in getattr(answer, "results", ()) or getattr(answer, "limits", ()):
                self.stored += result.decided_by is DecidedBy.STORE
                self.doubtful += result.decided_by is not DecidedBy.STORE

    @staticmethod
    def _drop(client: Client) -> None:
        """Let our own token be renewed now, in the middle of everything."""
        source = client.operations.source((SERVICE_AUDIENCE,))
        source.drop(client.run(source.obtain()))


@pytest.fixture(scope="module", params=TRANSPORTS if CAMPAIGN else ["grpcio"])
def served(
    request: pytest.FixtureRequest, server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    skip_where_missing(request.param)
    folder = tmp_path_factory.mktemp("trio")
    with three(server, folder, {"server.transport": request.param}) as trio:
        trio[0].apply(POLICY)
        trio[0].grant("client:shopper")
        secret = trio[0].create_client("app", own_audience=["app"], tenants=["*"], domains=["*"])
        (folder / "app").write_text(secret)
        yield Served(trio, folder, trio[0].create_client("shopper", audience=["app"]))


def refuses(client: Client, token: str) -> bool:
    """Whether local verification knows that the token is revoked."""
    try:
        client.verify(token)
    except TokenRefused as refused:
        return refused.reason is Reason.TOKEN_REVOKED
    return False


@pytest.mark.standard("U4", "R7")
def test_a_rolling_update_fails_no_call_and_counts_every_hit_once(served: Served) -> None:
    before = served.taken()
    with Load(served).running() as load:
        for turn in range(scale(20)):
            load.goes_on()
            served.trio.stop(turn % 3)
            load.goes_on()
            served.trio.begin(turn % 3)
        load.goes_on()
    assert not load.refused
    assert load.stored + load.doubtful == sum(load.allowed[name] for name in COUNTING)
    assert load.stored <= served.taken() - before <= load.stored + load.doubtful
    assert sum(client.statistics.drained for client in load.clients) > 0
    assert all(client.statistics.unanswered == 0 for client in load.clients)


@pytest.mark.standard("R7")
def test_killed_replicas_fail_no_read_and_no_hit_is_counted_twice(served: Served) -> None:
    before = served.taken()
    with Load(served).running() as load:
        for turn in range(KILLS):
            load.goes_on()
            served.trio.kill(turn % 3)
            load.goes_on()
            served.trio.begin(turn % 3)
        load.goes_on()
    # What was on its way when its replica died may have counted: it is told, never repeated.
    assert set(load.refused) <= COUNTING
    assert load.refused.total() <= KILLS * (THREADS + TASKS)
    assert load.stored <= served.taken() - before <= load.stored + load.doubtful + load.refused.total()
    assert sum(client.statistics.unanswered for client in load.clients) == load.refused.total()


@pytest.mark.standard("J21", "U12")
def test_a_revocation_reaches_every_client_also_those_whose_replica_was_killed(served: Served) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(served.settings())) for _ in range(6)]
        for client in clients:
            client.prepare(20.0)
        wait_for(lambda: all(client.watched_revision for client in clients), what="a state at every client")
        served.trio.kill(0)
        served.trio.kill(1)
        token = served.token()
        assert all(client.verify(token).client_id == "shopper" for client in clients)
        last = served.trio[2]
        revoke = token_pb2.RevokeTokenRequest(token=token)
        last.service.call("TokenService/RevokeToken", revoke, last.admin())
        for client in clients:
            wait_for(lambda client=client: refuses(client, token), 10.0, "a revocation")  # type: ignore[misc]
        assert sum(client.statistics.asked for client in clients) == 0
        # Not all six had their streams at the one that is left.
        assert sum(client.statistics.watches for client in clients) > len(clients)
    served.trio.begin(0)
    served.trio.begin(1)
