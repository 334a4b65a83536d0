"""gRPC by grpcio's synchronous server.

Owns: listening, TLS, HTTP/2 and message caps, which pool runs a row, peer identities, status and trailers, drain.
May import: `api`, grpcio. Raw bytes are registered, so that garbage meets the engine and not a deserializer.
Plain rows run in few threads; async rows in a pool that bridges to the loop; streams in a pool of their own, each
thread carrying messages between grpcio and the stream's handler on the loop.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from concurrent import futures
from typing import Any
from urllib.parse import unquote

import grpc

from authsvc.api.calls import Call, Refusal
from authsvc.api.engine import Engine, State
from authsvc.api.method_table import BATCH_BYTES, Kind, Row
from authsvc.api.overload import TEXT
from authsvc.core.errors import DeadlineExceeded, Exhausted, InvalidRequest, Reason, Unavailable
from authsvc.core.values import Revision
from authsvc.transport.grpcio_tls import credentials
from authsvc.transport.half_open import HalfOpen
from authsvc.transport.listening import CONNECTION_AGE_SECONDS, ListenFault, Peers
from authsvc.transport.peers import HEADER, SPIFFE, of_sidecar
from authsvc.transport.pools import WorkPool
from authsvc.transport.streams import Stream, Streams
from authsvc.transport.tls import LiveTls
from authsvc.transport.traffic import Traffic

PLAIN_THREADS = 8
BRIDGE_THREADS = 16
VITAL_THREADS = 2
STREAM_THREADS = 1_000

MOST_WAITING = 128
"""Calls that may wait for a thread of their kind; those beyond are refused at once, each in its row's way.

Less than a tenth of a second's work: who waits longer has mostly given up, as an Envoy does that asks for 200 ms, and
grpcio serves the slower the more calls it holds. Calls wait inside grpcio too, which takes up no more of them than its
one thread for events gets to: with 768 in flight 224 were taken up, so that a bound of 256 refused nobody.
"""

CONNECTION_AGE_GRACE_MS = 60 * 60 * 1_000
"""How long calls and streams stay on a connection that takes no more of them."""
METADATA_BYTES = 16 * 1024

HANDSHAKE_SECONDS = 10.0
"""How long who connects may take until the connection can carry calls."""
CONNECTION_IDLE_SECONDS = 120.0
"""How long a connection may carry none; then its caller is told to open another when it has one."""

QUIET_SECONDS = 0.25
"""A drain stops refusing once no call has come for so long."""
REFUSING_SECONDS = 3.0
"""It refuses at most so long: a caller that never pauses must not hold up the stop."""

_OPTIONS = (
    # The largest row's cap; the engine judges each row's own.
    ("grpc.max_receive_message_length", BATCH_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ("grpc.max_concurrent_streams", STREAM_THREADS),
    ("grpc.max_connection_age_grace_ms", CONNECTION_AGE_GRACE_MS),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
)

_STATUS_DETAILS = "grpc-status-details-bin"
_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_NOBODY = Peers.NOBODY
_FOREVER = 10 * 365 * 86_400.0
"""A deadline this far away was not given."""


class GrpcioServer:
    """One listening gRPC server."""

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        *,
        plain_threads: int = PLAIN_THREADS,
        bridge_threads: int = BRIDGE_THREADS,
        stream_threads: int = STREAM_THREADS,
        most_waiting: int = MOST_WAITING,
        reuse_port: bool = False,
        connection_age: float = CONNECTION_AGE_SECONDS,
        connection_idle: float = CONNECTION_IDLE_SECONDS,
        handshake: float = HANDSHAKE_SECONDS,
    ) -> None:
        """`reuse_port`: other processes listen on the same port. Of connections: seconds."""
        self._engine = engine
        self._loop = loop
        self._plain = WorkPool(plain_threads, "row", most_waiting=most_waiting)
        self._bridge = WorkPool(bridge_threads, "bridge", most_waiting=most_waiting)
        # Health is asked for under any load: its calls wait behind no others.
        self._vital = WorkPool(VITAL_THREADS, "vital")
        # A few more than the cap, so that a stream beyond it finds a thread to be refused by.
        self._streaming = WorkPool(stream_threads + 4, "stream")
        self._traffic = Traffic()
        self._half_open = HalfOpen(lambda context: _address(context.peer()))
        self._peers = Peers.NOBODY
        self._streams = Streams(stream_threads)
        self._server = grpc.server(
            self._plain,
            handlers=[_Handlers(self._behaviours())],
            options=(
                ("grpc.so_reuseport", int(reuse_port)),
                ("grpc.max_connection_age_ms", int(connection_age * 1_000)),
                ("grpc.max_connection_idle_ms", int(connection_idle * 1_000)),
                ("grpc.server_handshake_timeout_ms", int(handshake * 1_000)),
                *_OPTIONS,
            ),
        )

    def listen(self, address: str, tls: LiveTls | None = None, *, sidecar: bool = False) -> int:
        """Bind `host:port` and begin to serve; gives the port. Raises ListenFault.

        `sidecar`: calls come through one on this machine, and others are refused.
        """
        self._peers = Peers.SIDECAR if sidecar else Peers.NOBODY if tls is None else Peers.CERTIFICATE
        try:
            if tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials(tls))
        except (RuntimeError, ValueError, OSError) as fault:
            raise ListenFault(f"cannot listen on {address}: in use, or not an address of this machine") from fault
        if not port:
            raise ListenFault(f"cannot listen on {address}")
        self._half_open.start()
        self._server.start()
        return port

    def drain(self, grace: float) -> None:
        """Take no new calls, end streams with UNAVAILABLE, finish what is in flight within `grace` seconds.

        Blocks; afterwards nothing runs any more. The loop must go on running until then, and the record
        stay open (STANDARDS U4). Calls that come meanwhile are refused by us, Envoy's answered, since those that
        meet a stopped server get CANCELLED; it stops once they have ceased.
        """
        deadline = time.monotonic() + grace
        self._traffic.refuse()
        self._streams.end_all()
        self._half_open.end_all()
        self._traffic.wait_quiet(QUIET_SECONDS, min(deadline, time.monotonic() + REFUSING_SECONDS))
        self._server.stop(max(0.0, deadline - time.monotonic())).wait()
        for pool in (self._plain, self._bridge, self._vital, self._streaming):
            pool.shutdown()
        self._half_open.close()

    def _behaviours(self) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
        handlers = {f"/{row.name}": self._behaviour(row) for row in self._engine.table}
        handlers[""] = grpc.stream_stream_rpc_method_handler(self._unknown)
        return handlers

    def _behaviour(self, row: Row) -> grpc.RpcMethodHandler[bytes, bytes]:
        if row.kind.is_stream:
            pool = self._streaming
        elif row.always_admitted:
            pool = self._vital
        else:
            pool = self._bridge if row.is_async else self._plain
        runner = _Runner(self._loop, pool)
        # Any, because grpcio looks for an attribute that no type of a function has.
        serve: Any = functools.partial(self._stream if row.kind.is_stream else self._unary, row, pool, runner)
        if pool is not self._plain:
            serve.experimental_thread_pool = pool
        # Never as of one request: there grpcio waits for it itself, in a thread of ours and without an end.
        if row.kind.is_stream:
            return grpc.stream_stream_rpc_method_handler(serve)
        return grpc.stream_unary_rpc_method_handler(serve)

    def _unary(
        self, row: Row, pool: WorkPool, runner: _Runner, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        counted = self._traffic.enter()
        try:
            answer = self._answer(row, pool, runner, requests, context, counted=counted)
        except grpc.RpcError:
            # Raised by grpcio alone: the call ended before its message came, and nobody takes an answer.
            answer = b""
        except BaseException as fault:  # noqa: BLE001 - grpcio would put its text on the wire, or hang the caller
            answer = self._engine.refuse(row, Call(row.name), fault)
        finally:
            self._traffic.leave(counted=counted)
        return answer if isinstance(answer, bytes) else _refuse(context, answer)

    def _answer(
        self,
        row: Row,
        pool: WorkPool,
        runner: _Runner,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
        *,
        counted: bool,
    ) -> bytes | Refusal:
        late = pool.late and not row.always_admitted
        if late and counted and (held_back := self._engine.overload.refuse(row)) is not None:
            return held_back
        call = _call(row.name, context, self._peers)
        # Envoy cannot take a denial elsewhere: its rows are answered until the connection says that it ends.
        if not counted and row.denials is None:
            return self._engine.refuse(row, call, Unavailable("this replica drains", Reason.SHUTTING_DOWN))
        if late:
            return self._engine.refuse(row, call, Exhausted(TEXT, Reason.OVERLOADED))
        request = self._half_open.first(row, pool, requests, context)
        if isinstance(request, InvalidRequest):
            return self._engine.refuse(row, call, request)
        return self._engine.serve(row, call, request, runner)

    def _stream(
        self, row: Row, _pool: WorkPool, runner: _Runner, requests: Any, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        stream = Stream(self._loop)
        try:
            with self._streams.holding(stream, row, _address(context.peer())):
                if not context.add_callback(stream.end):
                    stream.end()
                for answer in self._answers(row, stream, runner, requests, context):
                    if isinstance(answer, Refusal):
                        _refuse(context, answer)
                        return
                    yield answer
        except GeneratorExit:
            raise
        except BaseException as fault:  # noqa: BLE001 - grpcio would put its text on the wire, or hang the caller
            refused = self._engine.refuse(row, Call(row.name), fault)
            if isinstance(refused, Refusal):
                _refuse(context, refused)

    def _answers(
        self, row: Row, stream: Stream, runner: _Runner, requests: Any, context: grpc.ServicerContext
    ) -> Iterator[bytes | Refusal]:
        source = requests if row.kind is Kind.BIDI else self._one(row, requests, context)
        threading.Thread(target=self._read, args=(stream, source), name="stream-reader", daemon=True).start()
        call = _call(row.name, context, self._peers, stream)
        answers = self._engine.stream(row, call, stream.requests(), runner)
        try:
            while (answer := self._on_loop(_next(answers))) is not None:
                yield answer
        finally:
            self._on_loop(answers.aclose())

    def _one(
        self, row: Row, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes | InvalidRequest]:
        yield self._half_open.first(row, self._streaming, requests, context)

    def _read(self, stream: Stream, source: Any) -> None:
        """Give the caller's messages in. A thread of its own, because grpcio's iterator blocks until the call ends."""
        try:
            for item in source:
                if not self._on_loop(stream.give(item)):
                    return
        except Exception:  # noqa: BLE001 - grpcio raises a bare Exception here when the caller has gone
            stream.end()
        else:
            self._on_loop(stream.give(None))

    def _on_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _unknown(self, _requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        _refuse(context, self._engine.unknown())
        yield from ()


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic for type checkers only
    """Finds the behaviour of a method; what has no row gets the answer of an unknown one."""

    def __init__(self, behaviours: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._behaviours = behaviours
        self._unknown = behaviours[""]

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return self._behaviours.get(handler_call_details.method, self._unknown)


class _Runner:
    """Lends a bridge thread's call the loop, and its pool a spare thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: WorkPool) -> None:
        self._loop = loop
        self._pool = pool

    async def run(self, work: Coroutine[Any, Any, Any], call: Call, deadline: float) -> Any:
        """See `engine.Runner`; blocks."""
        future = asyncio.run_coroutine_threadsafe(_contained(work), self._loop)
        call.on_end(lambda: None if future.done() else _ignore(future.cancel()))
        try:
            return future.result(timeout=max(0.0, deadline - time.monotonic()))
        except futures.CancelledError:
            raise DeadlineExceeded("the caller has gone") from None
        except TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise DeadlineExceeded("the deadline passed") from None

    async def reach(self, state: State, revision: Revision, caller: str, deadline: float) -> None:
        """See `engine.Runner`; blocks."""
        with self._pool.blocking():
            state.reach(revision, deadline, caller)


async def _contained(work: Coroutine[Any, Any, Any]) -> Any:
    """The work, without the two exceptions by which one task ends the whole loop."""
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as fault:
        raise RuntimeError(f"a handler raised {type(fault).__name__}") from fault


async def _next(answers: AsyncGenerator[bytes | Refusal, None]) -> bytes | Refusal | None:
    return await anext(answers, None)


def _ignore(_value: object) -> None:
    return None


def _refuse(context: grpc.ServicerContext, refused: Refusal) -> bytes:
    """End the call with an error; the empty message given back is not read by any client."""
    context.set_trailing_metadata(((_STATUS_DETAILS, refused.details),))
    context.set_code(_CODES[refused.code])
    context.set_details(refused.message)
    return b""


def _call(method: str, context: grpc.ServicerContext, peers: Peers, stream: Stream | None = None) -> Call:
    metadata: dict[str, str | bytes] = {}
    authorization: tuple[str, ...] = ()
    for key, value in context.invocation_metadata():
        if key == "authorization":
            authorization = (*authorization, value if isinstance(value, str) else "")
        else:
            metadata[key] = value
    remaining = context.time_remaining()
    # Nobody else is to look at it: it counts behind a sidecar only, and is anybody's word elsewhere.
    forwarded = metadata.pop(HEADER, "")
    address = _address(context.peer())
    identities: tuple[str, ...] = ()
    if peers is not _NOBODY:
        identities = of_sidecar(address, str(forwarded).encode()) if peers is Peers.SIDECAR else _identities(context)
    return Call(
        method,
        address,
        identities,
        authorization,
        metadata,
        None if remaining > _FOREVER else time.monotonic() + remaining,
        stream.ended if stream is not None else lambda: not context.is_active(),
        stream.on_end if stream is not None else functools.partial(_on_end, context),
    )


def _on_end(context: grpc.ServicerContext, callback: Callable[[], None]) -> None:
    if not context.add_callback(callback):
        callback()


@functools.lru_cache(maxsize=4096)
def _address(peer: str) -> str:
    """The IP address of grpcio's `ipv4:127.0.0.1:4242` or `ipv6:%5B::1%5D:4242`; empty for a UNIX socket."""
    family, _, rest = peer.partition(":")
    if family == "ipv4":
        return rest.rpartition(":")[0]
    if family == "ipv6":
        return unquote(rest).rpartition(":")[0].strip("[]")
    return ""


def _identities(context: grpc.ServicerContext) -> tuple[str, ...]:
    """SPIFFE ids and DNS names of the client certificate, which the handshake has verified.

    URI and DNS names come apart here: a DNS name that is written like a SPIFFE id stays a DNS name.
    """
    # The stubs say bytes; it is lists of bytes.
    auth: Mapping[str, Any] = context.auth_context()
    if auth.get("transport_security_type") != [b"ssl"]:
        return ()
    uris = (value.decode("utf-8", "replace") for value in auth.get("peer_uri", ()))
    names = (value.decode("utf-8", "replace") for value in auth.get("peer_dns", ()))
    return (*(uri for uri in uris if uri.startswith(SPIFFE)), *(f"dns:{name}" for name in names))
