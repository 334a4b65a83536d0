"""A service whose one row does what its request says, so that the same calls can be made over any transport.

`CheckRequest.permission` names the deed; what a call looked like comes back as JSON in `matched_role`. pyvoy imports
this module inside Envoy (`application`), grpcio's tests use `scenario_bench` in their own process.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from authsvc.api.calls import Context
from authsvc.api.engine import Engine
from authsvc.api.envoy_messages import AUTHORIZATION, CheckResponse
from authsvc.api.health import Health
from authsvc.api.reflection import Reflection
from authsvc.api.standard_messages import HEALTH, REFLECTION, ServerReflectionResponse
from authsvc.core.errors import NotFound, Reason
from authsvc.transport.link import StartFault
from authsvc.transport.pyvoy_lifespan import PyvoyApplication
from authsvc.v1 import authz_pb2
from tests.support.engines import ALL_SERVICES, Bench, HeldState, all_services, bench

FAULTS: Mapping[str, type[BaseException]] = {
    "ValueError": ValueError,
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
    "TimeoutError": TimeoutError,
    "StopAsyncIteration": StopAsyncIteration,
    "StopIteration": StopIteration,
    "RecursionError": RecursionError,
    "MemoryError": MemoryError,
}


@dataclass
class Deeds:
    """Counts what was begun and done: a drain must lose nothing that was begun."""

    executed: int = 0
    cancelled: int = 0
    waiting: int = 0
    said: list[str] = field(default_factory=list)


def check(deeds: Deeds, health: Health, state: HeldState) -> Any:
    """The handler of Check: plain, or a coroutine where the deed waits."""

    def handler(request: Any, context: Context) -> Any:
        deed, _, argument = request.permission.partition(":")
        if deed in {"sleep", "raise-later", "wait-for-ever"}:
            return later(deeds, deed, argument)
        if deed == "raise":
            raise FAULTS[argument]("secret inner text")
        if deed == "refuse":
            raise NotFound("100% déjà\nvu", Reason.CLIENT_NOT_FOUND)
        if deed == "serving":
            health.set_serving(serving=argument == "true")
        if deed == "move":
            state.move(int(argument))
        if deed == "large":
            return authz_pb2.CheckResponse(matched_role="x" * int(argument))
        deeds.executed += 1
        told = seen(context) if deed == "who" else vars(deeds) if deed == "deeds" else {}
        return authz_pb2.CheckResponse(matched_role=json.dumps(told))

    return handler


async def later(deeds: Deeds, deed: str, argument: str) -> Any:
    """What waits."""
    deeds.waiting += 1
    try:
        if deed == "wait-for-ever":
            await asyncio.Event().wait()
        await asyncio.sleep(0 if deed == "raise-later" else float(argument))
    except asyncio.CancelledError:
        deeds.cancelled += 1
        raise
    finally:
        deeds.waiting -= 1
    if deed == "raise-later":
        raise FAULTS[argument]("secret inner text")
    deeds.executed += 1
    return authz_pb2.CheckResponse(matched_role="slept")


def seen(context: Context) -> dict[str, Any]:
    """A call as JSON can say it."""
    call = context.call
    return {
        "method": call.method,
        "address": call.peer_address,
        "identities": list(call.peer_identities),
        "authorization": list(call.authorization),
        "metadata": {key: value.hex() if isinstance(value, bytes) else value for key, value in call.metadata.items()},
        "left": None if call.deadline is None else call.deadline - time.monotonic(),
    }


class Streams(Reflection):
    """Reflection, and streams that misbehave where they are asked to by a file's name."""

    def __init__(self, deeds: Deeds) -> None:
        super().__init__(ALL_SERVICES)
        self._deeds = deeds

    async def server_reflection_info(self, requests: Any, context: Context) -> AsyncGenerator[Any, None]:
        """As the base, but `raise:NAME` raises, `many:N` answers N times, `pad:N` with N bytes for ever."""
        self._deeds.waiting += 1
        try:
            async for request in requests:
                deed, _, argument = request.file_by_filename.partition(":")
                if deed == "raise":
                    raise FAULTS[argument]("secret inner text")
                if deed == "pad":
                    while not context.call.cancelled():
                        self._deeds.executed += 1
                        yield ServerReflectionResponse(valid_host="x" * int(argument))
                for _ in range(int(argument) if deed == "many" else 1):
                    yield self._answer(request)
        finally:
            self._deeds.waiting -= 1


class Gate:
    """Envoy's row: allows, or does what the context extension `deed` says."""

    def __init__(self, deeds: Deeds) -> None:
        self._deeds = deeds

    def check(self, request: Any, context: Context) -> Any:
        """As `check` above, without an answer worth reading."""
        deed, _, argument = request.attributes.context_extensions["deed"].partition(":")
        if deed == "raise-later":
            return later(self._deeds, deed, argument)
        if deed == "raise":
            raise FAULTS[argument]("secret inner text")
        return CheckResponse()


@dataclass
class Scenario:
    """What a transport serves in these tests. Where it ends, the letter's file `report` gets the deeds."""

    bench: Bench
    health: Health
    deeds: Deeds
    report: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def engine(self) -> Engine:
        """See `pyvoy_lifespan.Serving`."""
        return self.bench.engine

    def unready(self) -> None:
        """See `pyvoy_lifespan.Serving`."""
        self.health.set_serving(serving=False)

    async def stop(self) -> None:
        """See `pyvoy_lifespan.Serving`."""
        self.tell()

    def tell(self) -> None:
        """Write the deeds down."""
        if self.report:
            Path(self.report).write_text(json.dumps(vars(self.deeds)))


def scenario(report: str = "") -> Scenario:
    """Everything served, Check by `check`; loopback is a proxy."""
    deeds, health, state = Deeds(), Health(["a.Service"]), HeldState(5, newest=6)
    special = {HEALTH: health, REFLECTION: Streams(deeds), AUTHORIZATION: Gate(deeds)}
    services = [
        replace(service, handlers=special.get(service.descriptor, service.handlers))
        for service in all_services(check=check(deeds, health, state))
    ]
    return Scenario(bench(services, state=state, failures=1_000, proxy_address="127.0.0.1"), health, deeds, report)


async def start(letter: Mapping[str, Any]) -> Scenario:
    """Inside Envoy."""
    return scenario(letter.get("report", ""))


async def fails(_letter: Mapping[str, Any]) -> Scenario:
    """Inside Envoy, where the service does not start."""
    raise StartFault("policy.path: is not there")


application = PyvoyApplication(start)
small = PyvoyApplication(start, streams=3)
broken = PyvoyApplication(fails)


async def alone(scope: Any, receive: Any, send: Any) -> None:
    """An application without a supervisor."""
    while scope["type"] == "lifespan":
        asked = (await receive())["type"]
        await send({"type": f"{asked}.complete"})
        if asked == "lifespan.shutdown":
            return
