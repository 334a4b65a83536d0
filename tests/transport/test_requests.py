"""Requests that are slow to come, or never do: by hand, with the sweeps where the test wants them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from authsvc.api.method_table import READ_SECONDS, Row
from authsvc.core.errors import DeadlineExceeded, Exhausted, Unavailable
from authsvc.core.roles_builtin import CALLER
from authsvc.transport.grpc_framing import Event, framed
from authsvc.transport.pyvoy_app import GrpcApplication
from authsvc.transport.requests import Requests
from tests.support.engines import bench
from tests.support.scenario import scenario

ROW: Row = bench().row("authsvc.v1.AuthzService/Check")
HERE, THERE = "192.0.2.1", "198.51.100.1"
MESSAGE = framed(b"asked")


class Caller:
    """One who sends what the test says, and what it has come to."""

    def __init__(self, requests: Requests, address: str = HERE, deadline: float | None = None) -> None:
        self._coming: asyncio.Future[Event] | None = None
        self.result = asyncio.ensure_future(requests.one(ROW, self._receive, deadline, address))

    async def send(self, body: bytes, *, more: bool = False) -> None:
        """So much of the request."""
        assert self._coming is not None
        self._coming.set_result({"type": "http.request", "body": body, "more_body": more})
        await turn()

    @property
    def fault(self) -> type[BaseException] | None:
        """How it was refused; None where it was not, or not yet."""
        fault = self.result.exception() if self.result.done() else None
        return None if fault is None else type(fault)

    def _receive(self) -> Awaitable[Event]:
        self._coming = asyncio.get_running_loop().create_future()
        return self._coming


async def turn() -> None:
    """Let everything that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def sweep(requests: Requests, times: int = 1, *, later: float = 0.0, draining: bool = False) -> None:
    """So many sweeps."""
    for _ in range(times):
        requests.sweep(time.monotonic() + later, draining=draining)
        await turn()


def on_loop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it, and leave nothing."""
    asyncio.run(scenario())


@pytest.mark.standard("U3")
def test_a_call_is_half_read_once_nothing_came_for_two_sweeps_and_no_longer_when_it_came() -> None:
    async def scenario() -> None:
        requests = Requests()
        caller = Caller(requests)
        await turn()
        await sweep(requests)
        assert requests.half_read == 0
        await sweep(requests)
        assert requests.half_read == 1
        await caller.send(MESSAGE)
        assert requests.half_read == 0
        assert await caller.result == b"asked"

    on_loop(scenario)


@pytest.mark.standard("U3")
def test_a_call_whose_message_comes_in_drops_is_half_read_from_the_first_to_the_last() -> None:
    async def scenario() -> None:
        requests = Requests()
        caller = Caller(requests)
        await turn()
        for at in range(len(MESSAGE) - 1):
            await caller.send(MESSAGE[at : at + 1], more=True)
            assert requests.half_read == 1
        await caller.send(MESSAGE[-1:])
        assert await caller.result == b"asked"
        assert requests.half_read == 0

    on_loop(scenario)


@pytest.mark.standard("U3")
@pytest.mark.parametrize("begun", [False, True])
def test_a_message_has_its_rows_time_whatever_deadline_the_caller_gave(*, begun: bool) -> None:
    async def scenario() -> None:
        requests = Requests()
        caller = Caller(requests, deadline=time.monotonic() + 1e9)
        await turn()
        if begun:
            await caller.send(MESSAGE[:3], more=True)
        await sweep(requests, later=READ_SECONDS - 1.0)
        assert not caller.result.done()
        await sweep(requests, later=READ_SECONDS + 1.0)
        assert caller.fault is DeadlineExceeded
        assert requests.half_read == 0

    on_loop(scenario)


@pytest.mark.standard("U3")
@pytest.mark.parametrize("begun", [False, True])
def test_a_network_and_all_together_hold_so_many_half_read_calls(*, begun: bool) -> None:
    async def scenario() -> None:
        requests = Requests(most=3, most_of_one_network=2)
        callers = [Caller(requests, address) for address in (HERE, HERE, HERE, THERE, THERE)]
        await turn()
        if begun:
            for caller in callers:
                await caller.send(MESSAGE[:3], more=True)
        await sweep(requests, 2)
        assert [caller.fault for caller in callers] == [None, None, Exhausted, None, Exhausted]
        assert requests.half_read == 3
        for caller in callers:
            caller.result.cancel()
        await turn()
        assert requests.half_read == 0

    on_loop(scenario)


@pytest.mark.standard("U4")
def test_a_drain_ends_what_is_quiet_and_waits_for_what_comes() -> None:
    async def scenario() -> None:
        requests = Requests()
        silent, stuck, coming = Caller(requests), Caller(requests), Caller(requests)
        await turn()
        await stuck.send(MESSAGE[:3], more=True)
        await coming.send(MESSAGE[:3], more=True)
        await sweep(requests)
        await coming.send(MESSAGE[3:6], more=True)
        await sweep(requests, draining=True)
        assert [caller.fault for caller in (silent, stuck, coming)] == [Unavailable, Unavailable, None]
        await coming.send(MESSAGE[6:])
        assert await coming.result == b"asked"

    on_loop(scenario)


@pytest.mark.standard("U3")
def test_calls_without_a_message_are_no_reason_to_hold_back_others() -> None:
    async def status(application: GrpcApplication, receive: Callable[[], Awaitable[Event]]) -> bytes:
        sent: list[Any] = []

        async def send(event: Any) -> None:
            sent.append(event)

        headers = [(b"content-type", b"application/grpc"), (b"authorization", f"Bearer {CALLER}".encode())]
        path = f"/{ROW.name}".encode()
        scope = {"method": "POST", "raw_path": path, "query_string": b"", "client": None, "headers": headers}
        await application.serve(scope, receive, send)
        told: bytes = dict(sent[-1]["headers"])[b"grpc-status"]
        return told

    async def never() -> Event:
        await asyncio.get_running_loop().create_future()
        return {"type": "http.disconnect"}

    def silent() -> Awaitable[Event]:
        return asyncio.get_running_loop().create_future()

    async def asked() -> Event:
        return {"type": "http.request", "body": framed(b"")}

    async def scenario_of_two() -> None:
        application = GrpcApplication(scenario().engine, calls=2)
        # Who waits for anything but a message counts as before.
        held = [asyncio.ensure_future(status(application, never)) for _ in range(2)]
        await turn()
        assert await status(application, asked) == b"8"
        for one in held:
            one.cancel()
        await turn()
        held = [asyncio.ensure_future(status(application, silent)) for _ in range(2)]
        await turn()
        application.begin()
        async with asyncio.timeout(READ_SECONDS / 2):
            while await status(application, asked) != b"0":
                await turn()
        assert not any(one.done() for one in held)
        await application.end()

    on_loop(scenario_of_two)
