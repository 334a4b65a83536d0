"""Rows over real HTTP/2 by grpcio."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pytest

from authsvc.api.calls import Context
from authsvc.api.engine import Engine
from authsvc.api.method_table import READ_SECONDS
from authsvc.core.roles_builtin import CALLER
from authsvc.transport.grpcio_server import GrpcioServer
from authsvc.transport.half_open import MOST_OF_NETWORK
from authsvc.transport.listening import ListenFault
from authsvc.transport.tls import LiveTls
from authsvc.v1 import authz_pb2
from tests.support.engines import DENIED, HeldState, all_services, bench
from tests.support.http2 import GOAWAY, PREFACE, RESET, connected, headers
from tests.support.waiting import wait_for

CHECK = "/authsvc.v1.AuthzService/Check"
BATCH = "/authsvc.v1.AuthzService/BatchCheck"
CREATE = "/authsvc.v1.ClientAdminService/CreateClient"
ENVOY = "/envoy.service.auth.v3.Authorization/Check"
HEALTH = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
AS_CALLER = (("authorization", f"Bearer {CALLER}"),)
GRACE = 10.0


@contextmanager
def serving(
    loop: asyncio.AbstractEventLoop, engine: Engine, tls: LiveTls | None = None, **options: Any
) -> Iterator[tuple[GrpcioServer, int]]:
    """A server on a free port, drained at the end."""
    server = GrpcioServer(engine, loop, **options)
    port = server.listen("127.0.0.1:0", tls)
    try:
        yield server, port
    finally:
        server.drain(GRACE)


def connect(port: int) -> Any:
    """A connection of its own. Any, because the stubs demand the serializers that raw bytes do without."""
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),))


def call(channel: Any, method: str, request: bytes = b"", **options: Any) -> bytes:
    """One unary call."""
    options = {"timeout": 5, "metadata": AS_CALLER, **options}
    answer: bytes = channel.unary_unary(method)(request, **options)
    return answer


def error_of(run: Callable[[], object]) -> Any:
    """The error of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        run()
    return caught.value


@pytest.mark.standard("U13")
def test_calls_that_wait_for_a_revision_do_not_hold_up_the_others(loop: asyncio.AbstractEventLoop) -> None:
    state = HeldState(5, newest=6)
    waiting = authz_pb2.CheckRequest(min_revision="0123abcd-1.6").SerializeToString()
    with (
        serving(loop, bench(state=state).engine, plain_threads=2) as (_, port),
        connect(port) as channel,
    ):
        held = [channel.unary_unary(CHECK).future(waiting, metadata=AS_CALLER, timeout=20) for _ in range(2)]
        wait_for(lambda: state.waiting == 2)
        for _ in range(20):
            call(channel, CHECK)
        assert not any(one.done() for one in held)
        state.move(6)
        for one in held:
            assert authz_pb2.CheckResponse.FromString(one.result()).revision.endswith("-1.6")


@pytest.mark.standard("E2")
def test_overload_is_refused_each_row_in_its_own_way(loop: asyncio.AbstractEventLoop) -> None:
    gate, entered = threading.Event(), threading.Semaphore(0)

    def check(request: Any, context: Context) -> Any:
        entered.release()
        gate.wait(20)
        return authz_pb2.CheckResponse()

    with (
        serving(loop, bench(all_services(check=check)).engine, plain_threads=1, most_waiting=2) as (server, port),
        connect(port) as channel,
    ):

        def start(method: str) -> Any:
            return channel.unary_unary(method).future(b"", metadata=AS_CALLER, timeout=20)

        held = [start(CHECK)]
        assert entered.acquire(timeout=5)
        held += [start(CHECK) for _ in range(2)]
        wait_for(lambda: server._plain.depth == 2)
        # While nobody gets on, those that come are refused, and health is known.
        assert start(CHECK).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert start(ENVOY).result().startswith(DENIED)
        assert start(HEALTH).code() is grpc.StatusCode.OK
        gate.set()
        assert [one.code() for one in held] == [grpc.StatusCode.OK] * 3


@pytest.mark.standard("U4")
def test_a_drain_loses_nothing_in_flight_and_refuses_what_comes_later(loop: asyncio.AbstractEventLoop) -> None:
    gate, entered = threading.Event(), threading.Semaphore(0)

    def check(request: Any, context: Context) -> Any:
        entered.release()
        gate.wait(20)
        return authz_pb2.CheckResponse()

    server = GrpcioServer(bench(all_services(check=check)).engine, loop)
    port = server.listen("127.0.0.1:0")
    with connect(port) as channel, futures.ThreadPoolExecutor(1) as drainer:
        held = [channel.unary_unary(CHECK).future(b"", metadata=AS_CALLER, timeout=20) for _ in range(4)]
        for _ in held:
            assert entered.acquire(timeout=5)
        drained = drainer.submit(server.drain, GRACE)
        health = "/grpc.health.v1.Health/Check"
        codes: set[grpc.StatusCode] = set()

        def refused() -> bool:
            try:
                call(channel, health)
            except grpc.RpcError as error:
                codes.add(error.code())
            return bool(codes)

        wait_for(refused)
        assert codes == {grpc.StatusCode.UNAVAILABLE}
        assert not drained.done()
        gate.set()
        assert [one.code() for one in held] == [grpc.StatusCode.OK] * 4
        drained.result(GRACE + 5)
    with connect(port) as later:
        assert error_of(lambda: call(later, CHECK, timeout=1)).code() in {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }


def test_a_second_server_on_the_port_fails_in_one_line(loop: asyncio.AbstractEventLoop) -> None:
    with serving(loop, bench().engine) as (_, port):
        second = GrpcioServer(bench().engine, loop)
        with pytest.raises(ListenFault) as fault:
            second.listen(f"127.0.0.1:{port}")
        second.drain(1)
    assert "\n" not in str(fault.value)
    assert str(port) in str(fault.value)


@pytest.mark.standard("U3")
def test_of_one_address_only_so_many_calls_wait_for_a_message(loop: asyncio.AbstractEventLoop) -> None:
    calls = MOST_OF_NETWORK + 10
    begun = b"".join(headers(1 + 2 * number, CHECK) for number in range(calls))
    with serving(loop, bench().engine) as (_, port), connected(port, PREFACE + begun) as (_connection, come):
        # Nothing comes for a second once those beyond the cap are ended: the others have their row's five.
        ended: list[int] = []
        with suppress(TimeoutError):
            ended.extend(found.stream for found in come(1.0) if found.kind == RESET)
        assert len(ended) == calls - MOST_OF_NETWORK


@pytest.mark.standard("U4")
def test_calls_without_a_message_hold_up_no_drain(loop: asyncio.AbstractEventLoop) -> None:
    with serving(loop, bench().engine) as (server, port), connect(port) as channel:
        silent = threading.Event()

        def nothing() -> Iterator[bytes]:
            silent.wait(GRACE)
            yield from ()

        begun = channel.stream_unary(CHECK).future(nothing(), metadata=AS_CALLER)
        # On the same connection, so that the server has begun the one before.
        assert call(channel, CHECK)
        began = time.monotonic()
        server.drain(GRACE)
        assert time.monotonic() - began < READ_SECONDS / 2
        assert begun.code() is grpc.StatusCode.CANCELLED
        silent.set()


@pytest.mark.standard("U3")
def test_a_connection_that_carries_nothing_is_ended(loop: asyncio.AbstractEventLoop) -> None:
    with serving(loop, bench().engine, connection_idle=0.5, handshake=0.5) as (_, port):
        with connected(port) as (_connection, come):
            assert any(found.kind == GOAWAY for found in come(GRACE))
        with connected(port, b"") as (_connection, come):
            # Without a preface: whatever it is sent, it ends.
            assert all(found.stream == 0 for found in come(GRACE))
