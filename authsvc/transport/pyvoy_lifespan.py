"""The life of the application inside Envoy: one loop, one lifespan, one link to its supervisor.

Owns: `PyvoyApplication`, what pyvoy imports and calls. May import: `transport`, `api`, the standard library. It runs
in a thread that is not the main one, so signals are the supervisor's, and a drain comes over the link.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from authsvc.api.engine import Engine
from authsvc.transport.grpc_framing import Receive
from authsvc.transport.link import FOLDER, PEERS, READY, REFUSE, Link, StartFault
from authsvc.transport.listening import Peers
from authsvc.transport.pyvoy_app import CALLS, STREAMS, GrpcApplication, Scope, Send


class Serving(Protocol):
    """A service that has started."""

    @property
    def engine(self) -> Engine:
        """Serves its rows."""

    @property
    def told(self) -> Mapping[str, Any]:
        """What the supervisor is told, as JSON can say it."""

    def unready(self) -> None:
        """Ask for no more traffic: a drain begins."""

    async def stop(self) -> None:
        """End everything; nothing is in flight any more."""


Start = Callable[[Mapping[str, Any]], Awaitable[Serving]]
"""Starts the service from the supervisor's letter; raises StartFault and ListenFault."""


class PyvoyApplication:
    """ASGI: the lifespan starts and stops the service, every request is one call of it."""

    def __init__(self, start: Start, *, streams: int = STREAMS, calls: int = CALLS) -> None:
        """`streams` and `calls` are how many may be open at once."""
        self._start = start
        self._streams = streams
        self._calls = calls
        self._grpc: GrpcApplication | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request, or the lifespan."""
        if scope["type"] == "http" and self._grpc is not None:
            await self._grpc.serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        link = Link.inherited(os.environ)
        try:
            letter = link.hear()
            if letter is None:
                raise StartFault("the supervisor has gone")
            serving = await self._start(letter)
        except BaseException as fault:  # noqa: BLE001 - whatever it is, the supervisor is told and Envoy ends
            link.tell_failed(fault)
            await send({"type": "lifespan.startup.failed", "message": type(fault).__name__})
            return
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_without_late_events)
        grpc = GrpcApplication(
            serving.engine,
            peers=Peers(letter.get(PEERS, Peers.NOBODY)),
            streams=self._streams,
            calls=self._calls,
        )
        grpc.begin()
        self._grpc = grpc
        loop.add_reader(link.fileno(), _hear, link, grpc, serving, letter.get(FOLDER))
        link.tell({"event": READY, **serving.told})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        loop.remove_reader(link.fileno())
        await grpc.end()
        await serving.stop()
        link.close()
        await send({"type": "lifespan.shutdown.complete"})


def _hear(link: Link, grpc: GrpcApplication, serving: Serving, folder: str | None) -> None:
    """The supervisor asks for a drain, or it is gone: nobody would end Envoy then, nor remove its folder."""
    while True:
        heard = link.hear()
        if heard == REFUSE:
            grpc.refuse(lambda: link.tell(REFUSE))
        else:
            serving.unready()
            grpc.end_streams()
        if heard is None:
            asyncio.get_running_loop().remove_reader(link.fileno())
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if not link.has_line:
            return


def _without_late_events(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Pyvoy completes a `receive()` that was given up at its deadline, and finds it done."""
    if not isinstance(context.get("exception"), asyncio.InvalidStateError):
        loop.default_exception_handler(context)
