"""How the node is found, logged in to, lost and found again, and what is told of it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from authsvc.storage.redis_node import RedisNode
from authsvc.storage.redis_target import RedisTarget, parse_url
from authsvc.storage.store_watch import StoreWatch
from tests.conformance.counters import allowed, hit, rule
from tests.support.pki import Authority
from tests.support.redis import REDIS, debian, store
from tests.support.redis_bench import redis_bench
from tests.support.waiting import wait_for, wait_for_async

PASSWORD = "a-password-of-the-tests"
TLS_HANDSHAKE = b"\x16"
"""The first byte that a client of TLS says (RFC 8446 section 5.1)."""
Told = list[tuple[str, Mapping[str, object]]]


def kinds(told: Told) -> list[str]:
    return [kind for kind, _ in told]


@asynccontextmanager
async def saying(*replies: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on a port that gives these replies to the first commands of each connection, and to later ones none."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            if not await reader.read(65536):
                break
            writer.write(reply)
        else:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def started(target: RedisTarget) -> AsyncIterator[tuple[RedisNode, Told]]:
    told: Told = []
    node = RedisNode(target, lambda kind, fields: told.append((kind, fields)))
    await node.start()
    try:
        yield node, told
    finally:
        await node.stop()


def names(port: int) -> bytes:
    """A Sentinel's reply: the master is there."""
    return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port)), port)


@pytest.mark.standard("J17", "U14")
@pytest.mark.asyncio
async def test_a_store_that_repeats_the_password_brings_it_into_no_event() -> None:
    repeated = f"-ERR unknown command 'AUTH', with args beginning with: 'ann' '{PASSWORD}'\r\n".encode()
    async with saying(repeated) as port:
        target = parse_url(f"redis://ann@127.0.0.1:{port}", password=lambda: PASSWORD)
        async with started(target) as (node, told):
            assert not node.available
            assert kinds(told) == ["counters.store_lost"]
            assert "refuses the login" in str(told)
            assert PASSWORD not in str(told)


@pytest.mark.standard("R9")
@pytest.mark.asyncio
async def test_sentinels_are_asked_over_tls_where_the_store_is() -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with started(parse_url(f"rediss+sentinel://127.0.0.1:{port}/counters")) as (node, _):
            await wait_for_async(lambda: TLS_HANDSHAKE in heard, what="somebody who connects")
            assert not node.available
    # On a busy machine one may give up before it says anything.
    assert set(heard) <= {TLS_HANDSHAKE, b""}


@pytest.mark.standard("R9")
def test_the_master_that_sentinels_name_over_tls_is_counted_on(tmp_path: Path) -> None:
    authority = Authority()
    files = authority.write(tmp_path, "127.0.0.1", "localhost")
    certificate, key, ca = (files[f"server.{name}"] for name in ("tls.certificate", "tls.key", "client_ca"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cadata=authority.pem.decode())
    options = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", ca]

    async def counted(port: int) -> bool:
        async with saying(names(port), tls=server) as sentinel:
            target = parse_url(f"rediss+sentinel://127.0.0.1:{sentinel}/counters", tls=lambda: client)
            async with started(target) as (node, _):
                return bool(await node.call(("PING",)) == b"PONG")

    with store(*options, "--tls-auth-clients", "no", plain=False, binary=debian(REDIS)) as secured:
        assert asyncio.run(counted(secured.port))


@pytest.mark.standard("R9")
@pytest.mark.asyncio
async def test_a_sentinel_that_names_no_master_is_not_the_last_word() -> None:
    with store() as one:
        async with saying(names(1)) as cut_off, saying(b"*-1\r\n") as ignorant, saying(names(one.port)) as right:
            hosts = ",".join(f"127.0.0.1:{port}" for port in (cut_off, ignorant, right))
            async with started(parse_url(f"redis+sentinel://{hosts}/counters")) as (node, _):
                await wait_for_async(lambda: node.available, what="the Sentinel that is right")


def test_a_password_is_read_anew_at_each_connection() -> None:
    current = [PASSWORD]
    with store("--requirepass", PASSWORD) as one:
        target = parse_url(one.url, password=lambda: current[0])
        with redis_bench(target) as bench:
            assert bench.node.available
            current[0] = "another-one"
            bench.run(bench.node.call(("CONFIG", "SET", "requirepass", "another-one")))
            bench.run(bench.node.call(("CLIENT", "KILL", "SKIPME", "no")))
            wait_for(lambda: kinds(bench.told) == ["counters.store_lost", "counters.store_back"])
            assert allowed(bench.consume([hit(rule(5))]))


@pytest.mark.standard("R10")
def test_a_store_that_goes_and_comes_is_told_once_each() -> None:
    with store() as one, redis_bench(parse_url(one.url)) as bench:
        counted = rule(1_000)
        bench.consume([hit(counted)])
        one.server.kill()
        wait_for(lambda: not bench.node.available)
        for _ in range(50):
            bench.consume([hit(counted)])
        with store(port=one.port):
            wait_for(lambda: bench.node.available, what="the store being back")
            bench.consume([hit(counted)])
        assert kinds(bench.told)[:2] == ["counters.store_lost", "counters.store_back"]
        assert bench.node.faults()["not_connected"] >= 50


@pytest.mark.standard("R10")
def test_a_store_that_fails_some_calls_and_not_others_is_not_back() -> None:
    told: Told = []
    watch = StoreWatch(lambda kind, fields: told.append((kind, fields)))
    watch.lost("full", 10.0)
    for at in (10.2, 10.9, 11.1, 11.9):
        watch.failed("OOM", at)
        watch.lost("full", at)
        watch.answered(at + 0.5)
    assert kinds(told) == ["counters.store_lost"]
    watch.answered(12.9)
    assert told[1:] == [("counters.store_back", {"seconds": 2.9})]
    assert watch.faults() == {"timed_out": 0, "connection_lost": 0, "error": 4, "not_connected": 0, "circuit_open": 0}


@pytest.mark.asyncio
async def test_a_store_that_closes_at_once_is_asked_ever_more_seldom() -> None:
    tries = 0

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await reader.read(65536)
        writer.write(b"+PONG\r\n")
        await reader.read(65536)
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    async with server:
        begun = time.monotonic()
        async with started(parse_url(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")):
            await wait_for_async(lambda: tries == 5, what="the fifth try")
    # Four pauses, 50 ms and doubled, each at least half as long.
    assert time.monotonic() - begun >= (0.05 + 0.1 + 0.2 + 0.4) / 2


def test_a_store_that_evicts_is_told_of() -> None:
    with store("--maxmemory-policy", "allkeys-lru") as one, redis_bench(parse_url(one.url)) as bench:
        wait_for(lambda: kinds(bench.told) == ["counters.store_evicts"])
