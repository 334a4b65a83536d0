"""The scenario over either transport, and calls to it by grpcio's own client."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.core.roles_builtin import CALLER
from authsvc.transport.grpcio_server import STREAM_THREADS, GrpcioServer
from authsvc.transport.listening import CONNECTION_AGE_SECONDS
from authsvc.transport.pyvoy_server import PyvoyServer, why_missing
from authsvc.transport.tls import LiveTls
from authsvc.v1 import authz_pb2
from tests.support.scenario import Scenario, scenario

CHECK = "/authsvc.v1.AuthzService/Check"
BATCH = "/authsvc.v1.AuthzService/BatchCheck"
ENVOY = "/envoy.service.auth.v3.Authorization/Check"
HEALTH = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
AS_CALLER = (("authorization", f"Bearer {CALLER}"),)
GRACE = 10.0
TRANSPORTS = ("grpcio", "pyvoy")


needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")


def skip_where_missing(transport: str) -> None:
    """pyvoy is tried wherever its wheel and libpython are; in CI they must be."""
    why = why_missing() if transport == "pyvoy" else ""
    if why and not os.environ.get("CI"):
        pytest.skip(why)


@dataclass
class Served:
    """A server of the scenario."""

    transport: str
    port: int
    server: GrpcioServer | PyvoyServer
    report: Path | None = None
    here: Scenario | None = None

    def drain(self, grace: float = GRACE) -> None:
        """End it; a second time does nothing."""
        self.server.drain(grace)
        if self.here is not None:
            self.here.tell()

    def deeds(self) -> dict[str, Any]:
        """What it did, once it has ended."""
        assert self.report is not None
        told: dict[str, Any] = json.loads(self.report.read_text())
        return told


@contextmanager
def serving(
    transport: str,
    tls: LiveTls | None = None,
    *,
    small: bool = False,
    report: Path | None = None,
    host: str = "127.0.0.1",
    sidecar: bool = False,
    connection_age: float = CONNECTION_AGE_SECONDS,
) -> Iterator[Served]:
    """The scenario on a free port, drained at the end. `small`: at most three streams."""
    if transport == "pyvoy":
        letter = {"report": str(report)} if report is not None else {}
        application = f"tests.support.scenario:{'small' if small else 'application'}"
        pyvoy = PyvoyServer(application, letter, connection_age=connection_age)
        port = pyvoy.listen(f"{host}:0", tls, sidecar=sidecar)
        try:
            yield Served(transport, port, pyvoy, report)
        finally:
            pyvoy.drain(GRACE)
        return
    with running_loop() as loop:
        here = scenario(str(report) if report is not None else "")
        streams = 3 if small else STREAM_THREADS
        grpcio = GrpcioServer(here.engine, loop, stream_threads=streams, connection_age=connection_age)
        port = grpcio.listen(f"{host}:0", tls, sidecar=sidecar)
        try:
            yield Served(transport, port, grpcio, report, here)
        finally:
            grpcio.drain(GRACE)


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs beside the test."""
    running = asyncio.new_event_loop()
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    try:
        yield running
    finally:
        running.call_soon_threadsafe(running.stop)
        thread.join(5)
        running.close()


def connect(port: int, host: str = "127.0.0.1") -> Any:
    """A connection of its own. Any, because the stubs demand the serializers that raw bytes do without."""
    return grpc.insecure_channel(f"{host}:{port}", options=(("grpc.use_local_subchannel_pool", 1),))


def address_beyond_loopback() -> str:
    """An address of this machine by which it reaches itself as another would; skips where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            if os.environ.get("CI"):
                raise
            pytest.skip("this machine has no address but loopback")
        found: str = probe.getsockname()[0]
    return found


def call(channel: Any, method: str, request: bytes = b"", **options: Any) -> bytes:
    """One unary call."""
    options = {"timeout": 5, "metadata": AS_CALLER, **options}
    answer: bytes = channel.unary_unary(method)(request, **options)
    return answer


def asked(deed: str, **fields: Any) -> bytes:
    """A request of Check that asks for a deed."""
    return authz_pb2.CheckRequest(permission=deed, **fields).SerializeToString()


def do(channel: Any, deed: str, **options: Any) -> Any:
    """Have a deed done; what it told."""
    text = authz_pb2.CheckResponse.FromString(call(channel, CHECK, asked(deed), **options)).matched_role
    return json.loads(text) if text.startswith("{") else text


def error_of(run: Callable[[], object]) -> Any:
    """The error of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        run()
    return caught.value


def code_of(run: Callable[[], object]) -> grpc.StatusCode:
    """Its code."""
    found: grpc.StatusCode = error_of(run).code()
    return found


def details_of(error: Any) -> bytes:
    """The google.rpc.Status in its trailers."""
    found: bytes = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    return found


@dataclass
class Busy:
    """Callers that never pause, until they are stopped."""

    port: int
    stop: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> tuple[int, set[grpc.StatusCode]]:
        """One of them: how many calls were answered, and the codes of the others."""
        answered, codes = 0, set()
        with connect(self.port) as channel:
            while not self.stop.is_set():
                try:
                    call(channel, CHECK)
                except grpc.RpcError as error:
                    codes.add(error.code())
                    self.stop.wait(0.05)
                else:
                    answered += 1
        return answered, codes
