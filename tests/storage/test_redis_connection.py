"""The connection, the circuit, and where a URL says that the store is."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from authsvc.core.limits import LimitRule
from authsvc.core.rates import Rate
from authsvc.storage.circuit_breaker import CircuitBreaker
from authsvc.storage.redis_connection import CONNECTION_LOST, TIMED_OUT, RedisConnection, StoreFault
from authsvc.storage.redis_target import parse_url
from tests.conformance.counters import YEARS_US, hit
from tests.support.redis import store
from tests.support.redis_bench import redis_bench
from tests.support.waiting import wait_for_async

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def connected(answer: Answer) -> AsyncIterator[RedisConnection]:
    """To a server that answers as the test says."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    host, port = server.sockets[0].getsockname()
    _, connection = await loop.create_connection(lambda: RedisConnection(loop), host, port)
    try:
        yield connection
    finally:
        connection.close("the test is over")
        await connection.gone
        server.close()
        await server.wait_closed()


async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def code(call: asyncio.Future[object]) -> str:
    with pytest.raises(StoreFault) as fault:
        await call
    return fault.value.code


@pytest.mark.standard("R7", "R10")
@pytest.mark.asyncio
async def test_calls_fail_at_their_deadline_and_the_connection_once_the_store_has_stalled() -> None:
    async with connected(never) as connection:
        connection.limit_time(0.01, 0.05)
        assert await code(connection.call(("PING",))) == TIMED_OUT
        assert not connection.closed.done()
        assert await asyncio.wait_for(connection.closed, 5) == "the store has stalled"
        assert await code(connection.call(("PING",))) == CONNECTION_LOST


@pytest.mark.standard("R10")
@pytest.mark.asyncio
async def test_a_call_that_comes_while_older_ones_are_owed_waits_its_own_deadline_and_no_longer() -> None:
    async with connected(never) as connection:
        connection.limit_time(0.02, 5.0)
        assert await code(connection.call(("PING",))) == TIMED_OUT
        begun = asyncio.get_running_loop().time()
        assert await code(connection.call(("PING",))) == TIMED_OUT
        assert 0.02 <= asyncio.get_running_loop().time() - begun < 1.0


@pytest.mark.standard("R7")
@pytest.mark.asyncio
async def test_what_one_turn_of_the_loop_asks_goes_out_together_and_each_gets_its_own_reply() -> None:
    reads: list[bytes] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while data := await reader.read(65536):
            reads.append(data)
            for _ in range(data.count(b"PING")):
                writer.write(f":{number}\r\n".encode())
                number += 1
        writer.close()

    async with connected(count) as connection:
        calls = [connection.call(("PING",)) for _ in range(100)]
        calls[7].cancel()
        replies = await asyncio.gather(*calls, return_exceptions=True)
        assert [reply for reply in replies if isinstance(reply, int)] == [n for n in range(100) if n != 7]
        assert len(reads) == 1


@pytest.mark.standard("R10")
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_that_was_busy_itself_fails_no_call_whose_reply_has_come(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with store() as one:

        async def ask() -> list[object]:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: RedisConnection(loop), "127.0.0.1", one.port)
            connection.limit_time(0.05, 5.0)
            replies = []
            for before, after in ((0.0, 0.052), (0.0, 0.1), (0.1, 0.0), (0.1, 0.1)):
                calls = [connection.call(("PING",))]
                spend(before)
                await asyncio.sleep(0)
                spend(after)
                replies += await asyncio.gather(*calls, return_exceptions=True)
            connection.close("the test is over")
            await connection.gone
            return replies

        loop = factory()
        try:
            assert loop.run_until_complete(ask()) == [b"PONG"] * 4
        finally:
            loop.close()


def spend(seconds: float) -> None:
    """Keep the processor, as a batch or a collection of garbage does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.standard("R7")
@pytest.mark.asyncio
async def test_a_reply_that_comes_after_its_deadline_reaches_no_call_that_came_later() -> None:
    slow = asyncio.Event()

    async def hesitate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while data := await reader.read(65536):
            await slow.wait()
            for _ in range(data.count(b"PING")):
                writer.write(f":{number}\r\n".encode())
                number += 1
        writer.close()

    async with connected(hesitate) as connection:
        connection.limit_time(0.01, 5.0)
        late = [connection.call(("PING",)) for _ in range(3)]
        assert [await code(call) for call in late] == [TIMED_OUT] * 3
        connection.limit_time(5.0, 25.0)
        slow.set()
        assert await asyncio.gather(*(connection.call(("PING",)) for _ in range(3))) == [3, 4, 5]


@pytest.mark.standard("R7")
@pytest.mark.asyncio
@pytest.mark.parametrize("said", [b"garbage\r\n", b":1\r\n:2\r\n"])
async def test_a_store_that_says_what_was_not_asked_is_given_up(said: bytes) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(said)
        await reader.read()
        writer.close()

    async with connected(babble) as connection:
        call = connection.call(("PING",))
        await asyncio.gather(call, return_exceptions=True)
        await wait_for_async(connection.closed.done, what="the end of the connection")


@pytest.mark.standard("R10")
def test_an_open_circuit_lets_one_trial_through_a_rest_and_closes_once_one_succeeds() -> None:
    circuit = CircuitBreaker(failures=3, rest_s=1.0)
    for _ in range(3):
        assert circuit.admits(10.0)
        circuit.failed(10.0)
    assert [circuit.admits(at) for at in (10.0, 10.9, 11.0, 11.0, 11.9, 12.0)] == [
        *(False, False, True),
        *(False, False, True),
    ]
    circuit.failed(12.0)
    assert circuit.is_open
    circuit.succeeded()
    assert circuit.admits(12.0)
    assert not circuit.is_open


def test_a_url_says_where_the_store_is() -> None:
    plain = parse_url("redis://ann@redis.test/3", password=lambda: "secret")
    assert (plain.addresses, plain.database, plain.username) == ((("redis.test", 6379),), 3, "ann")
    assert plain.password() == "secret"
    assert plain.tls is None
    assert parse_url("rediss://[::1]:7000").tls is not None
    assert parse_url("rediss://[::1]:7000").addresses == (("::1", 7000),)
    watched = parse_url("redis+sentinel://a,b:1/main/2")
    assert watched.addresses == (("a", 26379), ("b", 1))
    assert (watched.master_name, watched.database) == ("main", 2)


@pytest.mark.parametrize(
    "url",
    [
        *("http://a", "redis://", "redis://a,b", "redis://ann:secret@a", "redis://a/x", "redis://a/1/2"),
        *("redis://ann@a", "redis://ann:se/cret@a", "redis://ann:se#cret@a", "redis://ann:se?cret@a"),
        *("redis+sentinel://a", "redis+sentinel://a/main/x", "redis://a?db=1", "redis+cluster://a", "redis://a:x"),
    ],
)
def test_a_url_that_says_something_else_is_refused_and_no_part_of_it_is_repeated(url: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_url(url)
    assert "se" not in str(refused.value).split()
    assert "secret" not in str(refused.value)


def test_an_authority_without_tls_is_refused() -> None:
    with pytest.raises(ValueError, match="not of rediss"):
        parse_url("redis://a", tls=ssl.create_default_context)


@pytest.mark.standard("R5", "U8")
def test_keys_name_the_rule_and_nobody_and_carry_the_tag_of_their_partition() -> None:
    def made(name: str, *keys: str) -> LimitRule:
        return LimitRule(name, "api", tuple((key, "*") for key in sorted(keys)), Rate(9, YEARS_US), 9)

    subject, wide = made("per_user", "subject"), made("per_tenant", "tenant")
    both = made("per_user_of_tenant", "subject", "tenant")
    with store() as one, redis_bench(parse_url(one.url)) as bench:
        bench.consume([hit(subject, subject="user:ann")])
        for rule, values in ((wide, {"tenant": "acme"}), (both, {"tenant": "acme", "subject": "user:ann"})):
            bench.consume([type(hit(subject))(rule, rule.counter_key(values))])
        listed = [key.decode() for key in bench.run(bench.node.call(("KEYS", "*")))]
    assert not [key for key in listed if "ann" in key or "acme" in key]
    parts = {key.split(":")[1]: key.split(":") for key in listed}
    assert {name: part[2] for name, part in parts.items()} == {r.name: r.revision for r in (subject, wide, both)}
    assert parts["per_tenant"][0] == parts["per_user_of_tenant"][0] != parts["per_user"][0]
    assert all(part[0].startswith("{") and part[0].endswith("}") for part in parts.values())
