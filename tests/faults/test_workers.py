"""Several workers of one service, as processes on one PostgreSQL and one Redis: they share ports and answer as one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from authsvc.transport.siblings import STUCK_SECONDS
from authsvc.v1 import authz_pb2
from tests.support.embedded import Caller, Refused
from tests.support.load import CHECK, CONSUME, ENDS, ISSUE, REVOKE, Load
from tests.support.ports import free_port, is_listening
from tests.support.postgresql import Postgres, postgres
from tests.support.process import Serving, children, command, page, refused_start, serving
from tests.support.redis import Store, store
from tests.support.scale import scale
from tests.support.servers import running
from tests.support.transports import TRANSPORTS, skip_where_missing
from tests.support.waiting import wait_for

WORKERS = 2
CALLERS = 6
QUESTION = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


@dataclass
class Shared:
    """What workers need to share."""

    record: Postgres
    counters: Store
    database: str = ""

    def settings(self, transport: str) -> dict[str, str]:
        """Several workers on a database of their own."""
        self.database = self.record.database()
        return {
            "record.url": self.record.url(self.database),
            "record.password_file": str(self.record.password),
            "counters.url": self.counters.url,
            "server.transport": transport,
            "server.workers": str(WORKERS),
        }


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """The stores of all tests here."""
    with postgres("fsync=off") as record, store() as counters:
        yield Shared(record, counters)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    name: str = request.param
    skip_where_missing(name)
    return name


def state(pid: int) -> str:
    """Z is one that has ended and that nobody has waited for; empty where it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def said(service: Serving) -> list[str]:
    """What the supervisor said about workers."""
    return [f"worker {one['worker']} {one['text']}" for one in service.events() if one.get("event") == "worker"]


def samples(service: Serving, name: str) -> list[Any]:
    """Those of a name on the page that any worker shows."""
    families: Any = text_string_to_metric_families
    page_of_all = service.operations("/metrics")[1]
    return [sample for family in families(page_of_all) for sample in family.samples if sample.name == name]


def gauges(service: Serving, name: str) -> dict[str, int]:
    """A gauge of each worker."""
    return {one.labels["worker"]: int(one.value) for one in samples(service, name)}


def calls_of(service: Serving) -> dict[str, int]:
    """How many calls of Check each worker has answered."""
    counted = dict.fromkeys(gauges(service, "authsvc_worker_up"), 0)
    for one in samples(service, "authsvc_calls_total"):
        if one.labels["method"] == CHECK:
            counted[one.labels["worker"]] += int(one.value)
    return counted


def asked_over_new_connections(service: Serving, count: int) -> None:
    """Ask a question over each of so many connections."""
    for _ in range(count):
        with grpc.insecure_channel(service.grpc, OPTIONS) as channel:
            Caller(channel)("AuthzService/Check", QUESTION, service.admin())


def test_workers_share_every_port_and_any_of_them_answers_for_all(
    shared: Shared, tmp_path: Path, transport: str
) -> None:
    directory = tmp_path / "data"
    settings = shared.settings(transport)
    with serving(directory, settings) as service:
        service.apply()
        # All by one worker is as likely as so many heads in a row.
        asked_over_new_connections(service, 30)
        counted = calls_of(service)
        assert counted.keys() == {"1", "2"}
        assert all(counted.values())
        assert sum(counted.values()) == 30
        assert calls_of(service) == counted
        assert service.operations("/readyz") == (200, "ready\n")
        assert service.operations("/livez") == (200, "alive\n")
        keys = {page(f"http://{service.http}/.well-known/jwks.json") for _ in range(8)}
        assert len(keys) == 1
        assert len([one for one in service.events() if one.get("event") == "ready"]) == 1
        code, lines = refused_start(directory, settings=settings)
        assert (code, len(lines)) == (2, 1)
        assert "in use by another authsvc process" in lines[0]
        # A port is shared by our own workers alone, although the same user asks for it.
        code, lines = refused_start(tmp_path / "other", settings={**settings, "server.listen": service.grpc})
        assert code == 2
        assert lines == [f"authsvc: server.listen: cannot listen on {service.grpc}: Address already in use"]


@dataclass
class Retrying:
    """A caller that asks again, over a new connection, where there was no answer."""

    service: Serving
    stop: threading.Event

    def work(self) -> int:
        """Ask until the stop; how many questions, each of which was answered."""
        answered, channel = 0, grpc.insecure_channel(self.service.grpc, OPTIONS)
        try:
            while not self.stop.is_set():
                for attempt in range(5):
                    try:
                        Caller(channel)("AuthzService/Check", QUESTION, self.service.admin())
                        break
                    except Refused as refused:
                        if refused.code is not grpc.StatusCode.UNAVAILABLE or attempt == 4:
                            raise
                        channel.close()
                        channel = grpc.insecure_channel(self.service.grpc, OPTIONS)
                answered += 1
        finally:
            channel.close()
        return answered


def test_a_worker_that_is_killed_starts_again_and_callers_that_retry_notice_nothing(
    shared: Shared, tmp_path: Path, transport: str
) -> None:
    with serving(tmp_path / "data", shared.settings(transport)) as service, ThreadPoolExecutor(CALLERS) as pool:
        service.apply()
        service.admin()
        load = Retrying(service, threading.Event())
        callers = [pool.submit(load.work) for _ in range(CALLERS)]
        try:
            before = children(service.pid)
            os.kill(before[0], signal.SIGKILL)
            wait_for(lambda: "worker 1 is ready again" in said(service), 30.0, "the start")
            wait_for(lambda: service.operations("/readyz")[0] == 200, 10.0, "being ready")
            asked_over_new_connections(service, 20)
            wait_for(lambda: all(calls_of(service).values()), 10.0, "calls of both")
        finally:
            load.stop.set()
        assert all(one.result(30) for one in callers)
        told = said(service)
        assert told[0] == "worker 1 has been ended by SIGKILL; it starts again in 0.2 s"
        assert len(told) == 2
        now = children(service.pid)
        assert len(now) == WORKERS
        assert before[0] not in now


def executed(shared: Shared) -> Counter[str]:
    """How many calls of each row were executed, by the audit log of workers that sample everything."""
    asked = "SELECT detail::json->>'method', SUM(count)::int FROM audit_event GROUP BY 1"
    rows = shared.record.sql(asked, database=shared.database)
    return Counter({str(method): int(str(count)) for method, count in rows if method})


@pytest.mark.standard("U4")
def test_a_stop_of_all_workers_under_load_loses_no_call_that_was_executed(
    shared: Shared, tmp_path: Path, transport: str
) -> None:
    settings = {**shared.settings(transport), "audit.allow_sample": "1.0"}
    with serving(tmp_path / "data", settings) as service, ThreadPoolExecutor(CALLERS) as pool:
        service.apply()
        load = Load(service, service.admin(), service.create_client("shop", audience=["orders"]))
        # Only one of them has made the client, and a token may be asked of the other.
        wait_for(lambda: set(gauges(service, "authsvc_clients").values()) == {2}, 10.0, "the client on all workers")
        callers = [pool.submit(load.work, number) for number in range(CALLERS)]
        try:
            wait_for(lambda: load.answered.total() >= scale(10_000), 120.0, "calls")
            service.server.process.send_signal(signal.SIGTERM)
            assert service.server.process.wait(30) == 0, service.server.output()
        finally:
            load.stop.set()
        codes = set().union(*(one.result(30) for one in callers))
        assert not any(is_listening(int(one.rpartition(":")[2])) for one in (service.grpc, service.http, service.ops))
    assert codes <= ENDS
    done = executed(shared)
    # The administrator's token was asked for by the test itself.
    assert done[ISSUE] - load.answered[ISSUE] == 1
    assert {row: done[row] for row in (CHECK, CONSUME)} == {row: load.answered[row] for row in (CHECK, CONSUME)}
    ((revoked,),) = shared.record.sql("SELECT COUNT(*) FROM revocation", database=shared.database)
    assert revoked == load.answered[REVOKE] == len(load.revoked)


def test_a_worker_that_cannot_start_ends_all_with_its_line(shared: Shared, tmp_path: Path, transport: str) -> None:
    settings = {**shared.settings(transport), "keys.kek": "/nowhere/kek"}
    code, lines = refused_start(tmp_path / "data", settings=settings)
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("authsvc: keys.kek: ")


def test_a_port_on_which_another_program_listens_is_named(shared: Shared, tmp_path: Path) -> None:
    taken = f"127.0.0.1:{shared.counters.port}"
    code, lines = refused_start(tmp_path / "data", settings={**shared.settings("grpcio"), "server.ops_listen": taken})
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0] == f"authsvc: server.ops_listen: cannot listen on {taken}: Address already in use"


def test_a_worker_that_is_stuck_shows_on_the_page_of_the_others(shared: Shared, tmp_path: Path) -> None:
    with serving(tmp_path / "data", shared.settings("grpcio")) as service:
        stuck = children(service.pid)[1]

        def alive() -> tuple[int, str]:
            with suppress(OSError):  # the stuck one was asked
                return page(f"http://{service.ops}/livez", timeout=STUCK_SECONDS + 2)
            return 0, ""

        os.kill(stuck, signal.SIGSTOP)
        try:
            wait_for(lambda: alive() == (503, "worker 2: it does not answer\n"), 30.0, "the other's page")
        finally:
            os.kill(stuck, signal.SIGCONT)
        wait_for(lambda: service.operations("/livez")[0] == 200, 10.0, "life")


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_children_of_others_that_it_inherits_are_waited_for(shared: Shared, tmp_path: Path, workers: int) -> None:
    """As PID 1 does: here they are children that the program had before it became the service."""
    settings = {**shared.settings("grpcio"), "server.workers": str(workers)}
    program = (
        "import os, subprocess, sys\n"
        "early = subprocess.Popen(['true'])\n"
        "late = subprocess.Popen(['sh', '-c', 'read line'], stdin=subprocess.PIPE)\n"
        "os.set_inheritable(late.stdin.fileno(), True)\n"
        "print(early.pid, late.pid, flush=True)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    log = tmp_path / "log"
    with running(
        [sys.executable, "-c", program, *command(settings)[1:]],
        log=log,
        ready=lambda server: '"ready"' in server.output(),
        env={"AUTHSVC_DATA_DIR": str(tmp_path / "data")},
        deadline_s=40,
    ) as server:
        early, late = (int(word) for word in log.read_text().splitlines()[0].split())
        wait_for(lambda: not state(early), 10.0, "the one that ended before")
        assert state(late) in {"S", "R"}
        os.kill(late, signal.SIGKILL)
        wait_for(lambda: not state(late), 10.0, "the one that ends now")
        assert server.alive


def test_workers_end_with_a_supervisor_that_is_killed(shared: Shared, tmp_path: Path, transport: str) -> None:
    directory = tmp_path / "data"
    settings = {**shared.settings(transport), "server.listen": f"127.0.0.1:{free_port()}"}
    with serving(directory, settings) as service:
        workers = children(service.pid)
        os.kill(service.pid, signal.SIGKILL)
        service.server.process.wait(10)
        wait_for(lambda: not any(state(pid) not in {"", "Z"} for pid in workers), 20.0, "their end")
    with serving(directory, settings) as again:
        assert again.operations("/readyz")[0] == 200
