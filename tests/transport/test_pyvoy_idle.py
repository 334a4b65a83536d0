"""What Envoy holds for callers who do nothing, and for how long."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from authsvc.api.method_table import READ_SECONDS
from authsvc.api.standard_messages import HealthCheckRequest, HealthCheckResponse
from authsvc.bootstrap.certificates import TlsFiles
from authsvc.transport.pyvoy_server import PyvoyServer
from tests.support.http2 import HEADERS, PREFACE, RESET, connected, frame, headers
from tests.support.pki import live
from tests.support.transports import CHECK, GRACE, WATCH, connect, do, serving, skip_where_missing

IDLE = 1.0
LONG = 30.0


@pytest.fixture(autouse=True)
def _here() -> None:
    skip_where_missing("pyvoy")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that ends idle connections soon."""
    skip_where_missing("pyvoy")
    server = PyvoyServer("tests.support.scenario:application", {}, connection_idle=IDLE)
    try:
        yield server.listen("127.0.0.1:0")
    finally:
        server.drain(GRACE)


def ends(connection: socket.socket) -> bool:
    """Whether the server ends it in good time."""
    connection.settimeout(LONG)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.standard("U3")
@pytest.mark.parametrize("first", [b"", PREFACE[:10], PREFACE])
def test_a_connection_without_a_call_is_ended(port: int, first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(first)
        assert ends(connection)


@pytest.mark.standard("U3")
def test_a_quiet_stream_is_a_call_and_stays(port: int) -> None:
    with connect(port) as channel:
        watch: Any = channel.unary_stream(WATCH)(HealthCheckRequest().SerializeToString(), timeout=60)
        assert HealthCheckResponse.FromString(next(watch)).status == 2
        with socket.create_connection(("127.0.0.1", port)) as first, socket.create_connection(("127.0.0.1", port)):
            assert ends(first)
        with socket.create_connection(("127.0.0.1", port)) as second:
            assert ends(second)
        assert do(channel, "serving:true") == {}
        assert HealthCheckResponse.FromString(next(watch)).status == 1
        watch.cancel()


@pytest.mark.standard("U3")
def test_headers_that_do_not_end_are_not_waited_for(port: int) -> None:
    whole = headers(1, CHECK)
    begun = frame(HEADERS, 0, 1, whole[9:])
    with connected(port, PREFACE + begun) as (_connection, come):
        assert any(found.kind in (RESET, HEADERS) and found.stream == 1 for found in come(LONG))


@pytest.mark.standard("U3")
def test_a_handshake_that_does_not_begin_is_not_waited_for(plain_files: TlsFiles) -> None:
    with (
        serving("pyvoy", live(plain_files)) as served,
        socket.create_connection(("127.0.0.1", served.port)) as connection,
    ):
        assert ends(connection)


@pytest.mark.standard("U3")
def test_a_stream_whose_request_does_not_come_is_ended(port: int) -> None:
    began = time.monotonic()
    with connected(port, PREFACE + headers(1, WATCH)) as (_connection, come):
        assert any(found.kind in (RESET, HEADERS) and found.stream == 1 for found in come(LONG))
    assert time.monotonic() - began < 2 * READ_SECONDS


@pytest.mark.standard("U4")
def test_a_drain_does_not_wait_for_messages_that_do_not_come() -> None:
    with serving("pyvoy") as served, ExitStack() as connections:
        for path in (CHECK, WATCH):
            connection, _ = connections.enter_context(connected(served.port))
            connection.sendall(b"".join(headers(1 + 2 * stream, path) for stream in range(20)))
        with connect(served.port) as channel:
            assert do(channel, "who")
        began = time.monotonic()
        served.drain(LONG)
        assert time.monotonic() - began < READ_SECONDS
