"""Calls that begin and never say what they ask: they take from nobody what others need, and are ended by us."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc
import pytest

from authsvc.api.method_table import READ_SECONDS
from tests.support.engines import DENIED
from tests.support.http2 import DATA, END_STREAM, HEADERS, PREFACE, RESET, connected, frame, headers, message
from tests.support.transports import (
    CHECK,
    ENVOY,
    HEALTH,
    TRANSPORTS,
    WATCH,
    Served,
    asked,
    call,
    connect,
    do,
    serving,
    skip_where_missing,
)
from tests.support.waiting import wait_for

STREAMS_A_CONNECTION = 100


@pytest.fixture(scope="module", params=TRANSPORTS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server on each transport."""
    skip_where_missing(request.param)
    with serving(request.param) as server:
        yield server


@contextmanager
def half_open(served: Served, path: str, count: int) -> Iterator[None]:
    """So many calls without a message, held open."""
    with ExitStack() as connections:
        for first in range(0, count, STREAMS_A_CONNECTION):
            connection, _come = connections.enter_context(connected(served.port))
            some = range(min(STREAMS_A_CONNECTION, count - first))
            connection.sendall(b"".join(headers(1 + 2 * stream, path) for stream in some))
        yield


def answers(served: Served) -> set[str]:
    """What is answered to a caller who sends what he asks, within two seconds."""
    found = set()
    with connect(served.port) as channel:
        for name, method, request in (("Check", CHECK, asked("who")), ("health", HEALTH, b""), ("Envoy", ENVOY, b"")):
            try:
                answer = call(channel, method, request, timeout=2.0)
            except grpc.RpcError:
                continue
            if not answer.startswith(DENIED):
                found.add(name)
    return found


@pytest.mark.standard("U3")
@pytest.mark.standard("E2")
@pytest.mark.parametrize("path", [CHECK, ENVOY, HEALTH, WATCH])
@pytest.mark.parametrize("count", [50, 1_000])
def test_calls_without_a_message_hold_up_nobody_else(served: Served, path: str, count: int) -> None:
    everybody = {"Check", "health", "Envoy"}
    with half_open(served, path, count):
        # They are meant for right after the others came, and for while they are held.
        wait_for(lambda: answers(served) == everybody, 10.0, "an answer to others")
        for _ in range(5):
            assert answers(served) == everybody
    wait_for(lambda: answers(served) == everybody, 10.0, "an answer afterwards")


@pytest.mark.standard("U3")
@pytest.mark.parametrize("path", [CHECK, ENVOY])
def test_a_call_without_a_message_is_ended_when_its_row_has_had_its_time(served: Served, path: str) -> None:
    with connected(served.port, PREFACE + headers(1, path, (b"grpc-timeout", b"99999999H"))) as (_connection, come):
        began = time.monotonic()
        wait = 3 * READ_SECONDS
        assert any(found.stream == 1 and found.kind in (RESET, HEADERS) for found in come(wait))
        assert time.monotonic() - began < wait


@pytest.mark.standard("U3")
def test_a_call_that_ends_without_a_message_is_told_so(served: Served) -> None:
    with connected(served.port, PREFACE + headers(1, CHECK, end=True)) as (_connection, come):
        assert any(found.stream == 1 and found.flags & END_STREAM for found in come(5.0))


@pytest.mark.standard("U3")
def test_who_is_slow_with_the_message_is_served_nevertheless(served: Served) -> None:
    whole = message(1, asked("who"))
    body = whole[9:]
    with connected(served.port, PREFACE + headers(1, CHECK)) as (connection, come), connect(served.port) as channel:
        for piece in body[:-1]:
            connection.sendall(frame(DATA, 0, 1, bytes([piece])))
            assert do(channel, "who")
        slow = time.monotonic() + 0.5
        wait_for(lambda: do(channel, "who") and time.monotonic() > slow)
        connection.sendall(frame(DATA, END_STREAM, 1, body[-1:]))
        assert any(found.stream == 1 and found.kind == DATA and found.payload for found in come(5.0))
