"""A rolling update of three replicas to the release after this one, and back, while the thin client asks."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from authsvc_client import Client, Consumption, OnUnavailable, Settings
from tests.replicas.setting import POLICY, three
from tests.support import releases
from tests.support.fleet import Trio
from tests.support.postgresql import Postgres
from tests.support.releases import Release, this
from tests.support.scale import CAMPAIGN
from tests.support.waiting import wait_for

PAUSE_S = 0.05
"""Between the calls of a thread: replicas that start need the processors too."""


class Asking:
    """Threads that check, authorize and consume through one thin client, and count what was not as it should be."""

    def __init__(self, client: Client, token: str) -> None:
        self.answered = 0
        self.wrong: list[str] = []
        self._client = client
        self._token = token
        self._stopping = threading.Event()
        self._turn = threading.Lock()

    def goes_on(self, more: int = 100) -> None:
        """Wait until so many more were answered."""
        wanted = self.answered + more
        wait_for(lambda: self.wrong or self.answered >= wanted, 30.0, "calls being answered")
        assert not self.wrong, self.wrong[:3]

    @contextmanager
    def running(self, threads: int = 2) -> Iterator[Self]:
        """Ask until the end."""
        with ThreadPoolExecutor(threads) as pool:
            running = [pool.submit(self._run) for _ in range(threads)]
            try:
                yield self
            finally:
                self._stopping.set()
        for one in running:
            one.result()
        assert not self.wrong, self.wrong[:3]

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_S):
            try:
                wrong = self._ask()
            except Exception as error:  # noqa: BLE001 -- whatever reaches a caller is what this test is about
                wrong = [repr(error)]
            with self._turn:
                self.wrong += wrong
                self.answered += not wrong

    def _ask(self) -> list[str]:
        client, user = self._client, {"user": "rolling"}
        authorized = client.authorize(
            self._token, "orders:read", audience=["orders"], consume=[Consumption("wide", [user])]
        )
        answers = {
            "check": client.check("user:ann", "orders:read").allowed,
            "check of what is denied": not client.check("user:nobody", "orders:read").allowed,
            "authorize and consume": authorized.allowed,
            "consume": client.consume("wide", user).allowed,
        }
        return [name for name, is_right in answers.items() if not is_right]


@pytest.mark.standard("U4", "U5")
def test_a_rolling_update_with_a_schema_change_and_its_rollback_fail_no_call_of_the_thin_client(
    server: Postgres, tmp_path: Path, next_release: Release
) -> None:
    steps = [(next_release, index) for index in range(Trio.COUNT)]
    steps += [(this(), index) for index in range(Trio.COUNT if CAMPAIGN else 1)]
    with three(server, tmp_path) as trio:
        trio[0].apply(POLICY)
        trio[0].grant("client:shop")
        secret = trio[0].create_client("shop", audience=["orders"])
        own = tmp_path / "asking"
        own.write_text(trio[0].create_client("asking", own_audience=["orders"], tenants=["*"], domains=["*"]))
        token = trio[0].service.token("shop", secret, audience=["orders"])
        settings = Settings(
            ",".join(trio.addresses),
            client_id="asking",
            client_secret_file=own,
            deadline=10.0,
            on_unavailable=OnUnavailable.RAISE,
        )
        with Client(settings) as client, Asking(client, token).running() as asking:
            asking.goes_on()
            for release, index in steps:
                trio.stop(index)
                asking.goes_on(20)
                trio.begin(index, release).grant(f"user:{release.version}-{index}")
                asking.goes_on(20)
            assert client.statistics.unanswered == 0
        for member, (release, index) in itertools.product(trio, steps):
            assert member.allows(f"user:{release.version}-{index}")
        # What was rolled back runs on the schema of the release after.
        (row,) = server.sql(
            "SELECT convert_from(value, 'UTF8') FROM setting WHERE name = 'schema'", database=trio.database
        )
        assert row == (releases.NEXT,)
