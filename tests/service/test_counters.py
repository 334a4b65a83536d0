"""The whole service counting on a real store, and without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from authsvc.v1 import limit_pb2
from tests.support.process import Serving, refused_start, serving
from tests.support.redis import store
from tests.support.waiting import wait_for

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
def test_a_store_that_is_gone_holds_up_nothing_and_the_answer_says_who_decided(tmp_path: Path) -> None:
    with store() as redis, serving(fresh(tmp_path, "data"), {"counters.url": redis.url}) as one:
        one.apply(POLICY)
        wait_for(lambda: consume(one, "closed") == (True, STORE))
        redis.server.kill()
        wait_for(lambda: consume(one)[1] == LOCAL)
        assert consume(one, "closed") == (False, FAILED_CLOSED)


def test_a_start_does_not_wait_for_the_store(tmp_path: Path) -> None:
    with serving(fresh(tmp_path, "data"), {"counters.url": "redis://127.0.0.1:1"}) as one:
        one.apply(POLICY)
        assert consume(one) == (True, LOCAL)
        assert any("counter store is out of reach" in str(event) for event in one.events())


def test_settings_that_cannot_be_are_refused_by_name(tmp_path: Path) -> None:
    for number, (settings, told) in enumerate(
        [
            ({"server.replicas": "3"}, "counters.url"),
            ({"counters.url": "redis://ann:secret@h"}, "counters.url"),
            ({"counters.url": "rediss://h", "counters.ca": "/dev/null"}, "counters.ca"),
            ({"counters.url": "redis://h", "counters.password_file": "/nowhere"}, "counters.password_file"),
        ]
    ):
        code, lines = refused_start(fresh(tmp_path, str(number)), settings=settings)
        assert code == 2, lines
        assert told in "".join(lines)
        assert "secret" not in "".join(lines)
