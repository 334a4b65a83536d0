"""The blocking edge.

Owns: the sync channel, and taking an operation's steps by blocking. May import: grpc, `failures`, `flow`.
It is made at first use, per process: nothing is opened by a module import or before a fork.
"""

from __future__ import annotations

import threading
import time
from typing import Any, TypeVar

import grpc

from authsvc.core.errors import AuthsvcError, DeadlineExceeded
from authsvc_client import forks
from authsvc_client.channels import RETIRED_SECONDS, call_metadata, channel_credentials, channel_options, version_of
from authsvc_client.failures import from_rpc
from authsvc_client.flow import Flow, Pause, Send, Step
from authsvc_client.pins import Roots
from authsvc_client.settings import Settings

T = TypeVar("T")


class Wire:
    """A sync channel to the service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inherited: list[grpc.Channel] = []
        self._open: grpc.Channel | None = None
        self._retired: list[grpc.Channel] = []
        self._version = 0
        self._closed = threading.Event()
        self._lock = threading.Lock()
        forks.watch(self)

    def renew_after_fork(self) -> None:
        """Open a channel of our own; the parent's is kept unused, because closing it would speak on it."""
        if self._open is not None:
            self._inherited.append(self._open)
        self._inherited.extend(self._retired)
        self._open, self._retired = None, []
        self._closed = threading.Event()
        self._lock = threading.Lock()

    def send(self, step: Send, timeout: float) -> Any:
        """One RPC within `timeout` seconds; raises the errors of `authsvc.core.errors`."""
        closed = self._closed
        call = self.channel(step.roots).unary_unary(
            step.method.path,
            request_serializer=type(step.request).SerializeToString,
            response_deserializer=step.method.response_type.FromString,
        )
        try:
            return call(
                step.request,
                timeout=max(0.0, timeout),
                metadata=call_metadata(step.bearer),
                wait_for_ready=step.patient,
            )
        except grpc.RpcError as error:
            raise from_rpc(error, step.method.name, closed=closed.is_set()) from None

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
        """Close the channel; the next call would open a new one."""
        with self._lock:
            channels = [*self._retired, *([] if self._open is None else [self._open])]
            self._open, self._retired = None, []
            closed, self._closed = self._closed, threading.Event()
        closed.set()
        for channel in channels:
            channel.close()

    def _take(self, step: Step, left: float) -> Any:
        if isinstance(step, Send):
            return self.send(step, left)
        if isinstance(step, Pause):
            if step.seconds >= left:
                raise DeadlineExceeded("the deadline passes before another replica may be asked")
            return self._closed.wait(step.seconds)
        try:
            return step.flight.result(max(0.0, left))
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before a token or key set was there") from None

    def channel(self, roots: Roots | None = None) -> grpc.Channel:
        """The channel, made where there is none, and anew where these roots are later than its own."""
        version = version_of(roots)
        with self._lock:
            if self._open is None or version > self._version:
                if self._open is not None:
                    self._retire(self._open)
                target, options = self._settings.target, channel_options(self._settings)
                credentials = channel_credentials(self._settings, roots)
                self._open = (
                    grpc.insecure_channel(target, options)
                    if credentials is None
                    else grpc.secure_channel(target, credentials, options)
                )
                self._version = version
            return self._open

    def _retire(self, channel: grpc.Channel) -> None:
        """Let what it carries go on for a while."""
        self._retired.append(channel)

        def close() -> None:
            with self._lock:
                if channel in self._retired:
                    self._retired.remove(channel)
            channel.close()

        timer = threading.Timer(RETIRED_SECONDS, close)
        timer.daemon = True
        timer.start()
