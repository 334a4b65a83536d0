"""Connections that ask for nothing: they make no probe fail and no key set unavailable, and are ended by us."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from authsvc.api.http import OwnOperations, ops_application
from authsvc.telemetry import SecurityLog
from authsvc.transport.http_connection import Connection
from authsvc.transport.http_server import HttpServer
from tests.support.transports import address_beyond_loopback

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
ASKED = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"


class Impatient(Connection):
    """As the service's own, on another scale."""

    quiet_s = 0.3


class Small(Connection):
    """So few that a test can fill it."""

    most = 8


@asynccontextmanager
async def serving(connection: type[Connection], host: str = "127.0.0.1") -> AsyncIterator[int]:
    """The probes on a free port."""
    operations = OwnOperations(lambda: "", lambda: b"# EOF\n", "0.1.0")
    log = SecurityLog(io.StringIO(), now=lambda: 0)
    server = HttpServer(ops_application(operations, log), f"{host}:0", connection=connection)
    try:
        yield await server.start()
    finally:
        await server.stop(1.0)


@asynccontextmanager
async def held(port: int, count: int, first: bytes = b"", host: str = "127.0.0.1") -> AsyncIterator[list[Streams]]:
    """So many connections on which `first` was sent."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection(host, port)
            stack.callback(writer.close)
            writer.write(first)
            opened.append((reader, writer))
        yield opened


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server ends it; everything before that is read over."""
    try:
        async with asyncio.timeout(10):
            while await reader.read(4096):
                pass
    except ConnectionError:
        return True
    return True


async def alive(port: int) -> int:
    """What a probe is told that comes on a connection of its own."""
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{port}/livez", timeout=5)).status_code


@pytest.mark.standard("U3")
@pytest.mark.parametrize("first", [b"", b"GET /livez HTTP/1.1\r\n"])
def test_more_connections_than_are_taken_make_no_probe_fail(first: bytes) -> None:
    async def scenario() -> None:
        async with serving(Connection) as port, held(port, Connection.most + 1, first):
            for _ in range(3):
                assert await alive(port) == 200

    asyncio.run(scenario())


@pytest.mark.standard("U3")
@pytest.mark.parametrize("first", [b"", b"GET /livez HTTP/1.1\r\n", ASKED, ASKED + b"GET /li"])
def test_a_connection_that_brings_no_request_is_ended(first: bytes) -> None:
    async def scenario() -> None:
        async with serving(Impatient) as port, held(port, 1, first) as ((reader, _writer),):
            assert await ended(reader)

    asyncio.run(scenario())


@pytest.mark.standard("U3")
def test_a_request_that_comes_in_drops_gains_no_time() -> None:
    async def scenario() -> None:
        async with serving(Impatient) as port, held(port, 1, b"GET /livez HTTP/1.1\r\nX: ") as ((reader, writer),):
            over = asyncio.ensure_future(ended(reader))
            while not over.done():
                writer.write(b"x")
                await asyncio.wait((over,), timeout=0.05)
            assert await over

    asyncio.run(scenario())


@pytest.mark.standard("U3")
def test_a_connection_that_goes_on_asking_is_kept() -> None:
    async def scenario() -> None:
        async with serving(Impatient) as port, held(port, 1) as ((reader, writer),):
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + 3 * Impatient.quiet_s:
                writer.write(ASKED)
                assert b"200 OK" in await reader.readuntil(b"alive")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.Event().wait(), 0.05)

    asyncio.run(scenario())


@pytest.mark.standard("U3")
def test_the_network_that_holds_most_loses_its_quietest_and_nobody_elses() -> None:
    host = address_beyond_loopback()

    async def scenario() -> None:
        async with (
            serving(Small, "0.0.0.0") as port,
            held(port, 1) as ((other, writer),),
            held(port, Small.most, host=host) as crowd,
        ):
            assert await ended(crowd[0][0])
            writer.write(ASKED)
            assert b"200 OK" in await other.readuntil(b"alive")
            crowd[-1][1].write(ASKED)
            assert b"200 OK" in await crowd[-1][0].readuntil(b"alive")

    asyncio.run(scenario())
