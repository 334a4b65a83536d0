"""The whole service counting on a real store, and without one."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from authsvc.bootstrap.counting import count_by
from authsvc.cli.serve import warnings
from authsvc.clock import FakeClock
from authsvc.config import load
from authsvc.core.errors import InvalidRequest
from authsvc.v1 import limit_pb2
from tests.support.pki import Authority
from tests.support.process import Serving, refused_start, serving
from tests.support.redis import REDIS, debian, store
from tests.support.waiting import wait_for, wait_for_async

POLICY = """
version: 1
limits:
  five: {domain: api, match: {user: "*"}, rate: 5/1h}
  closed: {domain: api, match: {closed: "*"}, rate: 5/1h, on_failure: closed}
"""
STORE, LOCAL, FAILED_CLOSED = (
    limit_pb2.DECIDED_BY_STORE,
    limit_pb2.DECIDED_BY_LOCAL,
    limit_pb2.DECIDED_BY_FAILED_CLOSED,
)

NOWHERE = "redis://127.0.0.1:1"


def metric(service: Serving, name: str) -> float:
    _, text = service.operations("/metrics")
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


def consume(service: Serving, key: str = "user") -> tuple[bool, int]:
    entry = limit_pb2.Entry(key=key, value="ann")
    request = limit_pb2.ConsumeRequest(domain="api", descriptors=[limit_pb2.Descriptor(entries=[entry])])
    answer = service.call("LimitService/Consume", request, service.admin())
    return answer.allowed, answer.results[0].decided_by


def fresh(path: Path, name: str) -> Path:
    folder = path / name
    folder.mkdir(mode=0o700)
    return folder


@pytest.mark.standard("R10")
def test_a_store_that_is_gone_holds_up_nothing_and_everybody_is_told_who_decides(tmp_path: Path) -> None:
    with store() as redis, serving(fresh(tmp_path, "data"), {"counters.url": redis.url}) as one:
        one.apply(POLICY)
        wait_for(lambda: consume(one, "closed") == (True, STORE))
        wait_for(lambda: metric(one, "authsvc_counters_store_up") == 1)
        redis.server.kill()
        wait_for(lambda: consume(one)[1] == LOCAL)
        assert consume(one, "closed") == (False, FAILED_CLOSED)
        assert metric(one, "authsvc_counters_store_up") == 0
        assert metric(one, 'authsvc_counters_decisions_total{decided_by="store"}') >= 1
        assert metric(one, 'authsvc_counters_decisions_total{decided_by="local"}') >= 1
        assert metric(one, 'authsvc_counters_decisions_total{decided_by="failed_closed"}') >= 1
        assert metric(one, 'authsvc_counters_faults_total{fault="not_connected"}') >= 1
        with store(port=redis.port):
            wait_for(lambda: consume(one)[1] == STORE, what="the store counting again")
        told = [event["kind"] for event in one.events() if str(event.get("kind")).startswith("counters.")]
        assert told[:2] == ["counters.store_lost", "counters.store_back"]


@pytest.mark.standard("R10")
def test_a_rule_that_does_not_say_fails_as_the_setting_says(tmp_path: Path) -> None:
    settings = {"counters.url": NOWHERE, "counters.on_failure": "open"}
    with serving(fresh(tmp_path, "data"), settings) as one:
        one.apply(POLICY)
        assert [consume(one) for _ in range(6)] == [(True, limit_pb2.DECIDED_BY_FAILED_OPEN)] * 6
        assert consume(one, "closed") == (False, FAILED_CLOSED)


@pytest.mark.standard("R10")
def test_a_call_waits_for_the_store_as_long_as_the_setting_says(tmp_path: Path) -> None:
    with (
        store() as redis,
        serving(fresh(tmp_path, "data"), {"counters.url": redis.url, "counters.deadline": "1s"}) as one,
    ):
        one.apply(POLICY)
        wait_for(lambda: consume(one) == (True, STORE))
        redis.signal(signal.SIGSTOP)
        begun = time.monotonic()
        assert consume(one)[1] == LOCAL
        assert 1.0 <= time.monotonic() - begun < 3.0


@pytest.mark.standard("R10")
def test_a_start_does_not_wait_for_the_store(tmp_path: Path) -> None:
    with serving(fresh(tmp_path, "data"), {"counters.url": NOWHERE}) as one:
        one.apply(POLICY)
        assert consume(one) == (True, LOCAL)
        assert [event["kind"] for event in one.events() if event.get("kind") == "counters.store_lost"]


@pytest.mark.parametrize(
    ("settings", "field", "text"),
    [
        ({"server.replicas": "3"}, "counters.url", "is memory"),
        ({"counters.url": "redis://ann:secret@h"}, "counters.url", "holds a password"),
        ({"counters.url": "redis://ann@h"}, "counters.url", "names a user"),
        ({"counters.url": "redis://h/secret"}, "counters.url", "path"),
        ({"counters.url": "rediss://h", "counters.ca": "/dev/null"}, "counters.ca", "PEM"),
        ({"counters.url": "redis://h", "counters.ca": "CA"}, "counters.url", "is not of rediss"),
        ({"counters.url": "rediss://h", "counters.certificate": "CA"}, "counters.certificate", "both or neither"),
        (
            {"counters.url": "rediss://h", "counters.certificate": "CA", "counters.key": "READABLE"},
            "counters.key",
            "chmod o-rwx",
        ),
        (
            {"counters.url": "rediss://h", "counters.certificate": "CA", "counters.key": "CA"},
            "counters.certificate",
            "certificate and its key",
        ),
        ({"counters.url": "redis://h", "counters.password_file": "/nowhere"}, "counters.password_file", "cannot read"),
        ({"counters.url": "redis://h", "counters.password_file": "READABLE"}, "counters.password_file", "chmod o-rwx"),
        ({"counters.password_file": "/nowhere"}, "counters.password_file", "goes with"),
        ({"counters.url": "redis://h", "counters.deadline": "2s"}, "counters.deadline", "is not between"),
        ({"counters.url": "redis://h", "counters.deadline": "0s"}, "counters.deadline", "is not between"),
        ({"counters.url": "redis://h", "counters.on_failure": "shrug"}, "counters.on_failure", "open, closed, local"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    tmp_path: Path, settings: dict[str, str], field: str, text: str
) -> None:
    (tmp_path / "READABLE").write_text("secret")
    (tmp_path / "READABLE").chmod(0o644)
    (tmp_path / "CA").write_bytes(Authority().pem)
    (tmp_path / "CA").chmod(0o640)
    chosen = {name: str(tmp_path / value) if value.isupper() else value for name, value in settings.items()}
    with pytest.raises(InvalidRequest) as refused:
        count_by(load("", {}, chosen), FakeClock(), b"p" * 32, lambda *_: None, lambda: 1)
    told = {violation.field: violation.description for violation in refused.value.violations}
    assert text in told[field]
    assert "secret" not in str(told)


@pytest.mark.standard("R9")
def test_a_store_that_demands_certificates_is_shown_ours_and_renewed_ones_without_a_restart(tmp_path: Path) -> None:
    authority, other = Authority(), Authority()
    files = authority.write(tmp_path, "localhost", "authsvc")
    server, server_key, ca = (files[f"server.{name}"] for name in ("tls.certificate", "tls.key", "client_ca"))
    options = ("--tls-cert-file", server, "--tls-key-file", server_key, "--tls-ca-cert-file", ca)
    ours, key = tmp_path / "ours.pem", tmp_path / "ours.key"
    told: list[str] = []

    def show(by: Authority) -> None:
        for file, content in zip((ours, key), by.issue("authsvc"), strict=True):
            file.touch(mode=0o600)
            file.write_bytes(content)

    async def counts() -> None:
        show(other)
        chosen = {"counters.ca": ca, "counters.certificate": str(ours), "counters.key": str(key)}
        config = load("", {}, {"counters.url": f"rediss://localhost:{secured.port}", **chosen})
        counting = count_by(config, FakeClock(), b"p" * 32, lambda kind, _: told.append(kind), lambda: 1)
        await counting.start()
        try:
            assert told == ["counters.store_lost"]
            show(authority)
            await wait_for_async(lambda: told == ["counters.store_lost", "counters.store_back"])
        finally:
            await counting.stop()

    with store(*options, plain=False, binary=debian(REDIS)) as secured:
        asyncio.run(counts())


def test_a_start_that_is_refused_says_why_in_a_line(tmp_path: Path) -> None:
    settings = {"counters.url": "rediss://h", "counters.ca": "/dev/null"}
    code, lines = refused_start(fresh(tmp_path, "data"), settings=settings)
    assert (code, len(lines)) == (2, 1)
    assert "counters.ca" in lines[0]


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("redis://counters.test", True),
        ("redis+sentinel://127.0.0.1,10.0.0.7/main", True),
        ("rediss://counters.test", False),
        ("redis://127.0.0.1:7", False),
        ("redis://localhost", False),
        ("memory:", False),
    ],
)
def test_a_store_beyond_this_machine_without_tls_is_warned_of(url: str, *, warned: bool) -> None:
    assert any("plain redis" in text for text in warnings(load("", {}, {"counters.url": url}))) == warned
