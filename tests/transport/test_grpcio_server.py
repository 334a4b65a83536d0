"""Rows over real HTTP/2 by grpcio."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from authsvc.api.calls import Call, Context
from authsvc.api.engine import Engine
from authsvc.api.health import Health
from authsvc.api.method_table import BATCH_BYTES, Service
from authsvc.api.reflection import Reflection
from authsvc.api.standard_messages import (
    HEALTH,
    REFLECTION,
    HealthCheckResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from authsvc.core.roles_builtin import ADMIN, CALLER
from authsvc.transport.grpcio_server import GrpcioServer
from authsvc.transport.listening import ListenFault, TlsFiles
from authsvc.v1 import authz_pb2
from tests.support.engines import ALL_SERVICES, DENIED, HeldState, all_services, bench
from tests.support.scale import scale
from tests.support.waiting import wait_for
from tests.transport.conftest import SPIFFE, Certificates

CHECK = "/authsvc.v1.AuthzService/Check"
BATCH = "/authsvc.v1.AuthzService/BatchCheck"
CREATE = "/authsvc.v1.ClientAdminService/CreateClient"
ENVOY = "/envoy.service.auth.v3.Authorization/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
AS_CALLER = (("authorization", f"Bearer {CALLER}"),)
GRACE = 10.0


@contextmanager
def serving(
    loop: asyncio.AbstractEventLoop, engine: Engine, tls: TlsFiles | None = None, **options: Any
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


def test_a_row_is_served(loop: asyncio.AbstractEventLoop) -> None:
    with serving(loop, bench().engine) as (_, port), connect(port) as channel:
        answer = authz_pb2.CheckResponse.FromString(call(channel, CHECK))
    assert answer.revision.endswith(".5")


def test_a_transport_gives_what_it_knows_of_a_call(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[Call] = []

    def check(request: Any, context: Context) -> Any:
        seen.append(context.call)
        return authz_pb2.CheckResponse()

    metadata = (*AS_CALLER, ("x-one", "1"), ("x-raw-bin", b"\x00\xff"))
    with (
        serving(loop, bench(all_services(check=check)).engine) as (_, port),
        connect(port) as channel,
    ):
        call(channel, CHECK, metadata=metadata, timeout=30)
        call(channel, CHECK, timeout=None)
    first, second = seen
    assert (first.method, first.peer_address, first.authorization) == (CHECK[1:], "127.0.0.1", (AS_CALLER[0][1],))
    assert first.metadata["x-one"] == "1"
    assert first.metadata["x-raw-bin"] == b"\x00\xff"
    assert first.deadline is not None
    assert 20 < first.deadline - time.monotonic() < 31
    assert second.deadline is None
    assert first.peer_identities == ()


def test_two_credentials_come_as_two(loop: asyncio.AbstractEventLoop) -> None:
    with serving(loop, bench().engine) as (_, port), connect(port) as channel:
        metadata = (("authorization", "Bearer nobody"), *AS_CALLER)
        assert error_of(lambda: call(channel, CHECK, metadata=metadata)).code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.standard("U3")
def test_refusals_carry_code_text_and_details(loop: asyncio.AbstractEventLoop) -> None:
    with serving(loop, bench().engine) as (_, port), connect(port) as channel:
        error = error_of(lambda: call(channel, CHECK, b"\xff"))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert b"REQUEST_UNDECODABLE" in dict(error.trailing_metadata())["grpc-status-details-bin"]
        for method in ("/authsvc.v1.AuthzService/Nothing", "/no.Such/Thing", CHECK.lower()):
            error = error_of(lambda method=method: call(channel, method))  # type: ignore[misc]
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert b"METHOD_UNKNOWN" in dict(error.trailing_metadata())["grpc-status-details-bin"]


@pytest.mark.standard("U3")
@pytest.mark.parametrize(
    ("method", "size", "code"),
    [
        (CHECK, 256 * 1024, grpc.StatusCode.INVALID_ARGUMENT),
        (CHECK, 256 * 1024 + 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (BATCH, BATCH_BYTES, grpc.StatusCode.INVALID_ARGUMENT),
        (BATCH, BATCH_BYTES + 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_message_caps(loop: asyncio.AbstractEventLoop, method: str, size: int, code: grpc.StatusCode) -> None:
    with serving(loop, bench().engine) as (_, port), connect(port) as channel:
        error = error_of(lambda: call(channel, method, b"\x00" * size, timeout=20))
    assert error.code() is code
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert str(size - 1) in (error.details() or "")


@pytest.mark.standard("U3")
def test_metadata_is_capped(loop: asyncio.AbstractEventLoop) -> None:
    with serving(loop, bench().engine) as (_, port), connect(port) as channel:
        small = (*AS_CALLER, ("x-much", "a" * 15_000))
        call(channel, CHECK, metadata=small)
        large = (*AS_CALLER, ("x-much", "a" * 17_000))
        assert error_of(lambda: call(channel, CHECK, metadata=large)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.standard("U3")
def test_an_async_row_ends_at_its_deadline_and_is_cancelled_with_its_caller(loop: asyncio.AbstractEventLoop) -> None:
    cancelled = threading.Semaphore(0)

    async def check(request: Any, context: Context) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.release()
            raise

    with (
        serving(loop, bench(all_services(check=check)).engine) as (_, port),
        connect(port) as channel,
    ):
        error = error_of(lambda: call(channel, CHECK, timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert cancelled.acquire(timeout=5)
        gone = channel.unary_unary(CHECK).future(b"", metadata=AS_CALLER, timeout=60)
        gone.cancel()
        # Either it never began, or it was cancelled.
        call_after = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)
        assert isinstance(call_after, bytes)


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
        serving(loop, bench(all_services(check=check)).engine, plain_threads=1, queue_cap=2) as (_, port),
        connect(port) as channel,
    ):

        def start(method: str) -> Any:
            return channel.unary_unary(method).future(b"", metadata=AS_CALLER, timeout=20)

        first = start(CHECK)
        assert entered.acquire(timeout=5)
        # They wait in this order behind the first; those that find more than two behind them are refused.
        rest = [start(method) for method in (ENVOY, CHECK, CHECK, CHECK, CHECK)]
        server_saw = time.monotonic() + 0.5
        wait_for(lambda: time.monotonic() > server_saw)
        gate.set()
        assert first.result() is not None
        assert rest[0].result().startswith(DENIED)
        codes = [one.code() for one in rest[1:]]
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
    assert codes[-1] is grpc.StatusCode.OK


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


@pytest.mark.standard("U4")
def test_a_drain_under_load_answers_every_call_that_was_executed(loop: asyncio.AbstractEventLoop) -> None:
    executed = queue.SimpleQueue[None]()

    def check(request: Any, context: Context) -> Any:
        executed.put(None)
        return authz_pb2.CheckResponse()

    server = GrpcioServer(bench(all_services(check=check)).engine, loop)
    port = server.listen("127.0.0.1:0")
    stop = threading.Event()

    def busy() -> tuple[int, set[grpc.StatusCode]]:
        answered, codes = 0, set()
        with connect(port) as channel:
            while not stop.is_set():
                try:
                    call(channel, CHECK)
                except grpc.RpcError as error:
                    codes.add(error.code())
                    stop.wait(0.05)
                else:
                    answered += 1
        return answered, codes

    with futures.ThreadPoolExecutor(4) as callers:
        running = [callers.submit(busy) for _ in range(4)]
        wait_for(lambda: executed.qsize() > scale(4_000))
        server.drain(GRACE)
        stop.set()
        results = [one.result() for one in running]
    assert sum(answered for answered, _ in results) == executed.qsize()
    # What met the stopped server was not executed: no other code may be seen.
    assert set().union(*(codes for _, codes in results)) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@contextmanager
def standard(loop: asyncio.AbstractEventLoop, **options: Any) -> Iterator[tuple[Health, GrpcioServer, int]]:
    """Health and reflection, as served."""
    health = Health(["a.Service"])
    services = [Service(HEALTH, health), Service(REFLECTION, Reflection(ALL_SERVICES))]
    with serving(loop, bench(services).engine, **options) as (server, port):
        yield health, server, port


def test_health_is_watched(loop: asyncio.AbstractEventLoop) -> None:
    with standard(loop) as (health, _, port), connect(port) as channel:
        watched = channel.unary_stream(WATCH)(b"", timeout=20)
        states = [HealthCheckResponse.FromString(next(watched)).status]
        for serving_now in (True, False):
            health.set_serving(serving=serving_now)
            states.append(HealthCheckResponse.FromString(next(watched)).status)
        watched.cancel()
    assert states == [2, 1, 2]


@pytest.mark.standard("U4")
def test_a_drain_ends_open_streams_with_unavailable(loop: asyncio.AbstractEventLoop) -> None:
    asking: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with standard(loop) as (_, server, port), connect(port) as channel:
        watched = channel.unary_stream(WATCH)(b"", timeout=20)
        reflected = channel.stream_stream(REFLECT)(iter(asking.get, None), timeout=20)
        asking.put(ServerReflectionRequest(list_services="").SerializeToString())
        next(watched)
        listed = ServerReflectionResponse.FromString(next(reflected)).list_services_response.service
        assert "authsvc.v1.AuthzService" in {service.name for service in listed}
        started = time.monotonic()
        server.drain(GRACE)
        assert time.monotonic() - started < GRACE / 2
        for stream in (watched, reflected):
            assert error_of(lambda stream=stream: next(stream)).code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[misc]
        asking.put(None)


@pytest.mark.standard("U3")
def test_streams_are_capped_and_leave_unary_calls_alone(loop: asyncio.AbstractEventLoop) -> None:
    with standard(loop, stream_threads=3) as (_, _, port), connect(port) as channel:
        held = [channel.unary_stream(WATCH)(b"", timeout=20) for _ in range(3)]
        for one in held:
            next(one)
        beyond = channel.unary_stream(WATCH)(b"", timeout=20)
        assert error_of(lambda: next(beyond)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)
        held[0].cancel()

        def another() -> bool:
            try:
                next(channel.unary_stream(WATCH)(b"", timeout=20))
            except grpc.RpcError:
                return False
            return True

        wait_for(another)


def test_reflection_gives_files_with_all_they_import(loop: asyncio.AbstractEventLoop) -> None:
    with standard(loop) as (_, _, port), connect(port) as channel:
        asked = ServerReflectionRequest(file_containing_symbol="authsvc.v1.AuthzService.Check")
        unknown = ServerReflectionRequest(file_by_filename="../../etc/passwd")
        requests = iter([asked.SerializeToString(), unknown.SerializeToString(), b""])
        answers = [
            ServerReflectionResponse.FromString(raw) for raw in channel.stream_stream(REFLECT)(requests, timeout=5)
        ]
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in answers[0].file_descriptor_response.file_descriptor_proto
    ]
    pool, left = descriptor_pool.DescriptorPool(), {file.name: file for file in files}
    while left:
        ready = [f for f in left.values() if not set(f.dependency) & set(left)]
        assert ready
        for file in ready:
            pool.Add(left.pop(file.name))
    assert "Check" in pool.FindServiceByName("authsvc.v1.AuthzService").methods_by_name
    assert [answer.error_response.error_code for answer in answers[1:]] == [5, 3]


def test_a_second_server_on_the_port_fails_in_one_line(loop: asyncio.AbstractEventLoop) -> None:
    with serving(loop, bench().engine) as (_, port):
        second = GrpcioServer(bench().engine, loop)
        with pytest.raises(ListenFault) as fault:
            second.listen(f"127.0.0.1:{port}")
        second.drain(1)
    assert "\n" not in str(fault.value)
    assert str(port) in str(fault.value)


def _secure(port: int, certificates: Certificates, pair: tuple[bytes, bytes] | None) -> Any:
    key, certificate = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(certificates.ca, key, certificate)
    return grpc.secure_channel(f"localhost:{port}", credentials)


@pytest.mark.standard("E10", "U1")
def test_identities_come_from_the_verified_certificate(
    loop: asyncio.AbstractEventLoop, certificates: Certificates
) -> None:
    seen: list[tuple[str, ...]] = []

    def check(request: Any, context: Context) -> Any:
        seen.append(context.call.peer_identities)
        return authz_pb2.CheckResponse()

    engine = bench(all_services(check=check)).engine
    with serving(loop, engine, certificates.files) as (_, port):
        with _secure(port, certificates, certificates.client) as channel:
            call(channel, CHECK)
        for pair in (None, certificates.stranger):
            with _secure(port, certificates, pair) as channel:
                error = error_of(lambda channel=channel: call(channel, CHECK, timeout=2))  # type: ignore[misc]
                assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert seen == [(SPIFFE, "dns:orders.shop", "dns:spiffe://evil/x")]


def test_tls_without_client_certificates_has_no_identities(
    loop: asyncio.AbstractEventLoop, certificates: Certificates, plain_files: TlsFiles
) -> None:
    with serving(loop, bench().engine, plain_files) as (_, port), _secure(port, certificates, None) as channel:
        assert call(channel, CHECK)
        assert error_of(lambda: call(channel, CREATE)).code() is grpc.StatusCode.PERMISSION_DENIED
        assert call(channel, CREATE, metadata=(("authorization", f"Bearer {ADMIN}"),)) is not None
