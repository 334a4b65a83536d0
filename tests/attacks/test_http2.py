"""Frames that are meant to take the service down, and callers who take no answer: others are served meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.transport.pyvoy_server import PyvoyServer
from tests.support.http2 import (
    CONTINUATION,
    HEADERS,
    PING,
    PREFACE,
    RESET,
    SETTINGS,
    connected,
    frame,
    headers,
    message,
)
from tests.support.transports import CHECK, TRANSPORTS, Served, asked, connect, do, serving, skip_where_missing
from tests.support.waiting import wait_for

CANCEL = (8).to_bytes(4, "big")
NO_WINDOW = frame(SETTINGS, 0, 0, (4).to_bytes(2, "big") + (0).to_bytes(4, "big"))
"""No stream may send any data (RFC 9113 section 6.5.2, SETTINGS_INITIAL_WINDOW_SIZE)."""
MIB = 1024 * 1024
FLOODS = {
    "resets": b"".join(headers(stream, CHECK) + frame(RESET, 0, stream, CANCEL) for stream in range(1, 4_000, 2)),
    "settings": frame(SETTINGS, 0, 0) * 2_000,
    "pings": frame(PING, 0, 0, b"12345678") * 2_000,
    "continuations": frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 2_000,
    "noise": b"\xff" * 10_000,
}


@pytest.fixture(scope="module", params=TRANSPORTS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server on each transport."""
    skip_where_missing(request.param)
    with serving(request.param) as server:
        yield server


def memory(served: Served) -> int:
    """Resident bytes of what serves."""
    pid = served.server.process.pid if isinstance(served.server, PyvoyServer) else os.getpid()
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def is_served(served: Served) -> bool:
    """Whether a caller gets an answer; for a moment it may hear that too many calls wait."""
    with connect(served.port) as channel:
        try:
            return bool(do(channel, "who"))
        except grpc.RpcError as error:
            refused: Any = error
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False


@pytest.mark.standard("U3")
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_keeps_nobody_else_from_being_served(served: Served, flood: str) -> None:
    with ExitStack() as open_ones, connect(served.port) as channel:
        for _ in range(3):
            with suppress(ConnectionError):
                open_ones.enter_context(connected(served.port, PREFACE + FLOODS[flood]))
            assert do(channel, "who")
    with connect(served.port) as channel:
        assert do(channel, "who")


@pytest.mark.standard("U3")
@pytest.mark.parametrize("deed", ["who", "large:60000"])
def test_callers_who_take_no_answer_hold_up_nobody_else(served: Served, deed: str) -> None:
    before = memory(served)
    with ExitStack() as open_ones:
        for _ in range(2):
            connection, _come = open_ones.enter_context(connected(served.port, PREFACE + NO_WINDOW))
            # More than may wait at once: what is answered and not taken waits for nobody.
            for stream in range(1, 1_200, 2):
                connection.sendall(headers(stream, CHECK) + message(stream, asked(deed)))
            wait_for(lambda: is_served(served), 10.0, "an answer to others")
        assert memory(served) - before < 200 * MIB
    with connect(served.port) as channel:
        assert do(channel, "who")
