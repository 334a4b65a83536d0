"""The blocking edge.

Owns: sync channels, and taking an operation's steps by blocking. May import: grpc, `failures`, `flow`.
Channels are made at first use, per process: nothing is opened by a module import or before a fork.
"""

from __future__ import annotations

import threading
import time
from typing import Any, TypeVar

import grpc

from authsvc.core.errors import AuthsvcError, DeadlineExceeded
from authsvc_client import forks
from authsvc_client.channels import call_metadata, channel_credentials
from authsvc_client.failures import from_rpc
from authsvc_client.flow import Flow, Send, Step
from authsvc_client.methods import channel_options
from authsvc_client.settings import Settings

T = TypeVar("T")


class Wire:
    """Sync channels to the service: one for what may be repeated, one for what is sent once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inherited: list[grpc.Channel] = []
        self._channels: dict[bool, grpc.Channel] = {}
        self._lock = threading.Lock()
        forks.watch(self)

    def renew_after_fork(self) -> None:
        """Open channels of our own; the parent's are kept unused, because closing them would speak on them."""
        self._inherited.extend(self._channels.values())
        self._channels = {}
        self._lock = threading.Lock()

    def send(self, step: Send, timeout: float) -> Any:
        """One RPC within `timeout` seconds; raises the errors of `authsvc.core.errors`."""
        call = self._channel(once=step.once).unary_unary(
            step.method.path,
            request_serializer=type(step.request).SerializeToString,
            response_deserializer=step.method.response_type.FromString,
        )
        try:
            return call(step.request, timeout=max(0.0, timeout), metadata=call_metadata(step.bearer))
        except grpc.RpcError as error:
            raise from_rpc(error, step.method.name) from None

    def run(self, flow: Flow[T], deadline: float) -> T:
        """Run an operation within `deadline` seconds."""
        end = time.monotonic() + deadline
        try:
            step = next(flow)
            while True:
                try:
                    outcome = self._take(step, end - time.monotonic())
                except AuthsvcError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def close(self) -> None:
        """Close the channels; the next call would open new ones."""
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    def _take(self, step: Step, left: float) -> Any:
        if isinstance(step, Send):
            return self.send(step, left)
        try:
            return step.flight.result(max(0.0, left))
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before a token or key set was there") from None

    def _channel(self, *, once: bool) -> grpc.Channel:
        with self._lock:
            channel = self._channels.get(once)
            if channel is None:
                credentials = channel_credentials(self._settings)
                options = channel_options(once=once)
                target = self._settings.target
                channel = (
                    grpc.insecure_channel(target, options)
                    if credentials is None
                    else grpc.secure_channel(target, credentials, options)
                )
                self._channels[once] = channel
            return channel
