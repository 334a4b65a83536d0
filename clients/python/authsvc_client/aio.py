"""The awaiting edge.

Owns: asyncio channels, and taking an operation's steps by awaiting. May import: grpc, `failures`, `flow`.
Channels are made at first use, per event loop: a client may be made before a loop exists, and used by
several.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any, TypeVar

import grpc
import grpc.aio

from authsvc.core.errors import AuthsvcError, DeadlineExceeded
from authsvc_client import forks
from authsvc_client.channels import RETIRED_SECONDS, call_metadata, channel_credentials, channel_options, version_of
from authsvc_client.failures import from_rpc
from authsvc_client.flow import Flow, Pause, Send, Step
from authsvc_client.pins import Roots
from authsvc_client.settings import Settings

T = TypeVar("T")


class AsyncWire:
    """Asyncio channels to the service, one for each event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inherited: list[grpc.aio.Channel] = []
        self._loops: dict[asyncio.AbstractEventLoop, _Open] = {}
        # Loops of several threads may begin at once.
        self._lock = threading.Lock()
        forks.watch(self)

    def renew_after_fork(self) -> None:
        """Open channels of our own; the parent's are kept unused, because closing them would speak on them."""
        self._inherited.extend(open_.channel for open_ in self._loops.values())
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
        """Close the channel of the running loop; the next call would open a new one."""
        with self._lock:
            held = self._loops.pop(asyncio.get_running_loop(), None)
        if held is not None:
            held.closed.set()
            await asyncio.gather(held.channel.close(grace=None), *(old.close(grace=None) for old in held.retired))

    async def _take(self, step: Step, left: float) -> Any:
        if isinstance(step, Send):
            return await self._send(step, left)
        if isinstance(step, Pause):
            if step.seconds >= left:
                raise DeadlineExceeded("the deadline passes before another replica may be asked")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._held(None).closed.wait(), step.seconds)
            return None
        if step.flight.done():
            return step.flight.result()
        try:
            # A flight runs from its start on, so that the cancellation of one who waits does not reach it.
            return await asyncio.wait_for(asyncio.wrap_future(step.flight), max(0.0, left))
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before a token or key set was there") from None

    async def _send(self, step: Send, left: float) -> Any:
        held = self._held(step.roots)
        call = held.channel.unary_unary(
            step.method.path,
            request_serializer=type(step.request).SerializeToString,
            response_deserializer=step.method.response_type.FromString,
        )
        try:
            return await call(
                step.request,
                timeout=max(0.0, left),
                metadata=call_metadata(step.bearer),
                wait_for_ready=step.patient,
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, step.method.name, closed=held.closed.is_set()) from None

    def _held(self, roots: Roots | None) -> _Open:
        held = self._loops.get(asyncio.get_running_loop())
        version = version_of(roots)
        if held is None:
            held = _Open(self._new_channel(roots), version)
            with self._lock:
                # A channel holds its loop, so a loop that ended without `close` is let go of here.
                for loop in [loop for loop in self._loops if loop.is_closed()]:
                    del self._loops[loop]
                self._loops[asyncio.get_running_loop()] = held
        elif version > held.version:
            held.replace(self._new_channel(roots), version)
        return held

    def _new_channel(self, roots: Roots | None) -> grpc.aio.Channel:
        target, options = self._settings.target, channel_options(self._settings)
        credentials = channel_credentials(self._settings, roots)
        if credentials is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, credentials, options)


class _Open:
    """A loop's channel, and those that it replaced, while they carry something."""

    def __init__(self, channel: grpc.aio.Channel, version: int) -> None:
        self.channel = channel
        self.version = version
        self.closed = asyncio.Event()
        self.retired: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    def replace(self, channel: grpc.aio.Channel, version: int) -> None:
        """Calls that begin from now on take another channel."""
        old, self.channel, self.version = self.channel, channel, version
        self.retired[old] = asyncio.create_task(self._retire(old))

    async def _retire(self, channel: grpc.aio.Channel) -> None:
        await channel.close(grace=RETIRED_SECONDS)
        del self.retired[channel]
