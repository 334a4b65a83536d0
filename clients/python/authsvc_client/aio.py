"""The awaiting edge.

Owns: asyncio channels, and taking an operation's steps by awaiting. May import: grpc, `failures`, `flow`.
Channels are made at first use, per event loop: a client may be made before a loop exists, and used by
several.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, TypeVar

import grpc
import grpc.aio

from authsvc.core.errors import AuthsvcError, DeadlineExceeded
from authsvc_client import forks
from authsvc_client.channels import call_metadata, channel_credentials
from authsvc_client.failures import from_rpc
from authsvc_client.flow import Flow, Send, Step
from authsvc_client.methods import channel_options
from authsvc_client.settings import Settings

T = TypeVar("T")

_Channels = dict[bool, grpc.aio.Channel]


class AsyncWire:
    """Asyncio channels to the service, a pair for each event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inherited: list[_Channels] = []
        self._loops: dict[asyncio.AbstractEventLoop, _Channels] = {}
        # Loops of several threads may begin at once.
        self._lock = threading.Lock()
        forks.watch(self)

    def renew_after_fork(self) -> None:
        """Open channels of our own; the parent's are kept unused, because closing them would speak on them."""
        self._inherited.extend(self._loops.values())
        self._loops = {}
        self._lock = threading.Lock()

    async def run(self, flow: Flow[T], deadline: float) -> T:
        """Run an operation within `deadline` seconds."""
        end = time.monotonic() + deadline
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._take(step, end - time.monotonic())
                except AuthsvcError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def close(self) -> None:
        """Close the channels of the running loop; the next call would open new ones."""
        with self._lock:
            channels = self._loops.pop(asyncio.get_running_loop(), {})
        for channel in channels.values():
            await channel.close(grace=None)

    def _new_loop(self) -> _Channels:
        # A channel holds its loop, so a loop that ended without `close` is let go of here.
        with self._lock:
            for loop in [loop for loop in self._loops if loop.is_closed()]:
                del self._loops[loop]
            return self._loops.setdefault(asyncio.get_running_loop(), {})

    async def _take(self, step: Step, left: float) -> Any:
        if isinstance(step, Send):
            return await self._send(step, left)
        if step.flight.done():
            return step.flight.result()
        try:
            # A flight runs from its start on, so that the cancellation of one who waits does not reach it.
            return await asyncio.wait_for(asyncio.wrap_future(step.flight), max(0.0, left))
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before a token or key set was there") from None

    async def _send(self, step: Send, left: float) -> Any:
        call = self._channel(once=step.once).unary_unary(
            step.method.path,
            request_serializer=type(step.request).SerializeToString,
            response_deserializer=step.method.response_type.FromString,
        )
        try:
            return await call(step.request, timeout=max(0.0, left), metadata=call_metadata(step.bearer))
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, step.method.name) from None

    def _channel(self, *, once: bool) -> grpc.aio.Channel:
        channels = self._loops.get(asyncio.get_running_loop()) or self._new_loop()
        channel = channels.get(once)
        if channel is None:
            credentials = channel_credentials(self._settings)
            options = channel_options(once=once)
            target = self._settings.target
            channel = (
                grpc.aio.insecure_channel(target, options)
                if credentials is None
                else grpc.aio.secure_channel(target, credentials, options)
            )
            channels[once] = channel
        return channel
