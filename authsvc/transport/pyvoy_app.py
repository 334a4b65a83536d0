"""gRPC inside Envoy: the ASGI application that pyvoy runs on one loop.

Owns: from an ASGI scope to a `Call` and back to a status, streams, callers that left. May import: `api`,
`core.errors`, `transport`. Every call ends with a status of ours: pyvoy turns an exception before the answer begins
into `grpc-status: 0`, and leaves the caller of an application that only returns waiting for ever (STATE).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Final

from google.rpc import status_pb2

from authsvc.api.calls import Call, Refusal
from authsvc.api.engine import Engine
from authsvc.api.errors import Code
from authsvc.api.method_table import Kind, Row
from authsvc.api.overload import TEXT
from authsvc.core.errors import Exhausted, Reason, Unavailable
from authsvc.transport import grpc_framing as framing
from authsvc.transport.grpc_framing import ClientLeft, Event, Head, Receive
from authsvc.transport.listening import Peers
from authsvc.transport.peers import of_certificate, of_sidecar
from authsvc.transport.requests import Requests
from authsvc.transport.streams import Stream, Streams
from authsvc.transport.waits import CLOCK_SECONDS, WaitRunner, Waits

STREAMS: Final = 5_000
"""Streams that may be open at once; those beyond are refused, each in its row's way."""
CALLS: Final = 512
"""Calls that may wait at once, the same: less than a tenth of a second's work, and who waits longer has mostly given
up, as an Envoy does that asks for 200 ms.
"""

SWEEP_SECONDS: Final = 0.25
HEARTBEAT_SECONDS: Final = 1.0
"""How often callers of quiet streams are looked for; one that left is noticed then."""

_IDENTITIES: Mapping[Peers, Callable[[str, bytes], tuple[str, ...]]] = {
    Peers.NOBODY: lambda _address, _header: (),
    Peers.CERTIFICATE: lambda _address, header: of_certificate(header),
    Peers.SIDECAR: of_sidecar,
}
"""From the peer's address and `x-forwarded-client-cert` to who it is."""

_UNARY: Final = Kind.UNARY

Send = Callable[[Event], Awaitable[None]]
Events = tuple[Event, ...]
Scope = dict[str, Any]


class GrpcApplication:
    """Serves the rows of an engine. Begin and end it on the loop that it runs on."""

    def __init__(
        self, engine: Engine, *, peers: Peers = Peers.NOBODY, streams: int = STREAMS, calls: int = CALLS
    ) -> None:
        """`peers`: where the listener learns who its peer is."""
        self._engine = engine
        self._rows = {f"/{row.name}".encode(): row for row in engine.table}
        self._identities = _IDENTITIES[peers]
        self._waits = Waits(_has_left)
        self._streams = Streams(streams)
        self._most_calls = calls
        self._in_flight = 0
        self._refusing = False
        self._quiet: Callable[[], None] | None = None
        self._requests = Requests()
        self._half_closed: dict[Stream, Receive] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Begin to look for callers that are slow, and for callers that left."""
        self._keep(self._sweep())
        self._keep(self._look_for_callers())
        self._keep(self._waits.look_for_callers())

    def end_streams(self) -> None:
        """End every stream with UNAVAILABLE, and those that come (STANDARDS U4)."""
        self._streams.end_all()

    def refuse(self, quiet: Callable[[], None]) -> None:
        """Refuse calls from now on: the process ends. `quiet` is called once, when those admitted before are over."""
        self._refusing = True
        self._quiet = quiet
        self._tell_if_quiet()

    async def end(self) -> None:
        """Stop looking."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request; never raises."""
        # The path as it came: a decoded one could spell a row in another way.
        row = self._rows.get(scope["raw_path"])
        counted = not self._refusing
        self._in_flight += counted
        try:
            if row is None or scope["query_string"] or scope["method"] != "POST":
                events = self._unknown(scope)
            elif row.kind is _UNARY:
                events = await self._unary(row, scope, receive)
            else:
                events = await self._stream(row, scope, receive, send)
            for event in events:
                await send(event)
        except Exception:  # noqa: BLE001 - the caller left: ours, or pyvoy's ClientDisconnectedError, which is not public
            return
        finally:
            self._in_flight -= counted
            if self._quiet is not None:
                self._tell_if_quiet()

    async def _unary(self, row: Row, scope: Scope, receive: Receive) -> Events:
        call: Call | None = None
        late = self._in_flight > self._most_calls and self._is_late(row)
        if late and (held_back := self._engine.overload.refuse(row)) is not None:
            return _events(held_back)
        try:
            head = Head(scope["headers"])
            if not head.is_grpc:
                return framing.NOT_GRPC
            call = self._call(row, scope, head)
            if self._refusing:
                raise Unavailable("this replica drains", Reason.SHUTTING_DOWN)
            if late:
                raise Exhausted(TEXT, Reason.OVERLOADED)
            request = await self._requests.one(row, receive, call.deadline, call.peer_address)
            answer = await self._engine.answer(row, call, request, WaitRunner(self._waits, receive))
        except ClientLeft:
            raise
        except BaseException as fault:  # noqa: BLE001 - the caller gets a status, whatever it is (STANDARDS U3, E2)
            answer = self._refused(row, call or Call(row.name), fault)
        return _events(answer)

    async def _stream(self, row: Row, scope: Scope, receive: Receive, send: Send) -> Events:
        """Sends what comes of the stream; gives the events that end it."""
        loop = asyncio.get_running_loop()
        stream, call, started = Stream(loop), Call(row.name), False
        end = framing.OK
        try:
            head = Head(scope["headers"])
            if not head.is_grpc:
                return framing.NOT_GRPC
            call = self._call(row, scope, head)._replace(cancelled=stream.ended, on_end=stream.on_end)
            with self._streams.holding(stream, row, call.peer_address):
                if call.deadline is not None:
                    _end_at(call.deadline, stream)
                self._keep(self._read(row, stream, receive, call.peer_address))
                async with aclosing(
                    self._engine.stream(row, call, stream.requests(), WaitRunner(self._waits))
                ) as answers:
                    async for answer in answers:
                        if isinstance(answer, Refusal):
                            end = framing.trailers(answer)
                            break
                        body = {"type": "http.response.body", "body": framing.framed(answer), "more_body": True}
                        await _tell(send, *(() if started else (framing.START,)), body)
                        started = True
        except ClientLeft:
            raise
        except BaseException as fault:  # noqa: BLE001 - as for unary calls
            refused = self._refused(row, call, fault)
            end = framing.OK if isinstance(refused, bytes) else framing.trailers(refused)
        finally:
            self._half_closed.pop(stream, None)
        return (*(() if started else (framing.START,)), framing.EMPTY, end)

    async def _read(self, row: Row, stream: Stream, receive: Receive, address: str) -> None:
        """Give the caller's messages in, then leave it to the heartbeat to notice that it left."""
        try:
            if row.kind is Kind.BIDI:
                async for message in framing.messages(receive, row.max_bytes):
                    if not await stream.give(message):
                        return None
            else:
                await stream.give(await self._requests.of_stream(row, receive, address))
        except ClientLeft:
            return stream.end()
        except BaseException as fault:  # noqa: BLE001 - raised again where the handler asks for the next message
            await stream.give(fault)
            return None
        if not stream.ended():
            self._half_closed[stream] = receive
        await stream.give(None)
        return None

    def _unknown(self, scope: Scope) -> Events:
        is_grpc = any(
            name == b"content-type" and value.startswith(b"application/grpc") for name, value in scope["headers"]
        )
        if not is_grpc:
            return framing.NOT_GRPC
        return (framing.START, framing.EMPTY, framing.trailers(self._engine.unknown()))

    def _call(self, row: Row, scope: Scope, head: Head) -> Call:
        client = scope["client"]
        address = client[0] if client else ""
        return Call(
            row.name,
            address,
            self._identities(address, head.certificate),
            head.authorization,
            head.metadata,
            None if head.timeout is None else time.monotonic() + head.timeout,
        )

    def _is_late(self, row: Row) -> bool:
        """Whether a call came when too many wait; those that are open as streams, or half-read, do not."""
        waiting = self._in_flight - self._streams.count - self._requests.half_read
        return waiting > self._most_calls and not row.always_admitted and not self._refusing

    def _tell_if_quiet(self) -> None:
        if self._quiet is not None and not self._in_flight:
            tell, self._quiet = self._quiet, None
            tell()

    def _refused(self, row: Row, call: Call, fault: BaseException) -> bytes | Refusal:
        refused = self._engine.refuse(row, call, fault)
        if isinstance(fault, framing.CompressionRefused) and isinstance(refused, Refusal):
            status = status_pb2.Status.FromString(refused.details)
            status.code = int(Code.UNIMPLEMENTED)
            return Refusal(status.code, refused.message, status.SerializeToString())
        return refused

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._requests.sweep(time.monotonic(), draining=self._refusing)

    async def _look_for_callers(self) -> None:
        """After it half-closed, `receive` tells at once whether the caller is there; `send` would tell too late."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            for stream, receive in tuple(self._half_closed.items()):
                self._keep(_end_if_left(stream, receive))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _events(answer: bytes | Refusal) -> Events:
    """The whole answer to a unary call."""
    if isinstance(answer, bytes):
        return (framing.START, {"type": "http.response.body", "body": framing.framed(answer)}, framing.OK)
    return (framing.START_REFUSED, framing.EMPTY, framing.trailers(answer))


def _end_at(deadline: float, stream: Stream) -> None:
    """End a stream once its deadline (monotonic) has passed, and never before it, as the loop's coarser clock might."""
    loop = asyncio.get_running_loop()
    left = deadline - time.monotonic()
    if left < 0:
        stream.end()
    elif not stream.ended():
        stream.on_end(loop.call_later(left + CLOCK_SECONDS, _end_at, deadline, stream).cancel)


async def _has_left(receive: Receive) -> bool:
    """Whether a caller that half-closed is gone: then, and only then, `receive` tells at once."""
    return bool((await receive())["type"] == "http.disconnect")


async def _end_if_left(stream: Stream, receive: Receive) -> None:
    if await _has_left(receive):
        stream.end()


async def _tell(send: Send, *events: Event) -> None:
    try:
        for event in events:
            await send(event)
    except Exception as gone:
        # pyvoy's ClientDisconnectedError; its type is not part of its interface.
        raise ClientLeft from gone
