"""An engine over small real parts: whoever calls, whatever is asked, without a record."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.rpc import error_details_pb2, status_pb2
from immutables import Map

from authsvc.api import envoy_messages, standard_messages
from authsvc.api.calls import Call, Context, Refusal
from authsvc.api.engine import Engine, State, Surroundings
from authsvc.api.envoy_rls import FAULTS
from authsvc.api.method_table import METHODS, MethodTable, Row, Service
from authsvc.api.throttle import FailedAuthentications
from authsvc.clock import FakeClock
from authsvc.core.audit import AuditDraft
from authsvc.core.bindings import BindingIndex
from authsvc.core.clients import Client
from authsvc.core.errors import Conflict, DeadlineExceeded, Exhausted, Reason, Unauthenticated
from authsvc.core.rates import Rate
from authsvc.core.roles_builtin import BUILTIN_ROLES
from authsvc.core.values import Revision
from authsvc.ports.record import PolicyRecord
from authsvc.state.revocations import Revocations
from authsvc.state.snapshot import Snapshot, compiled
from authsvc.telemetry import Metrics, SecurityLog
from authsvc.usecases.principals import Principal, ProxyGrant
from authsvc.v1 import (
    authz_pb2,
    client_admin_pb2,
    key_admin_pb2,
    key_pb2,
    limit_pb2,
    policy_admin_pb2,
    sync_pb2,
    token_pb2,
)

RECORD = "0123abcd"
DENIED = b"denied"
PROXY_ADDRESS = "192.0.2.9"
"""The peer that is a proxy here."""

OWN_SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service
    for module in (
        authz_pb2,
        client_admin_pb2,
        key_admin_pb2,
        key_pb2,
        limit_pb2,
        policy_admin_pb2,
        sync_pb2,
        token_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)
ENVOY_SERVICES = (envoy_messages.AUTHORIZATION, envoy_messages.RATE_LIMIT_SERVICE)
ALL_SERVICES = (
    *OWN_SERVICES,
    *ENVOY_SERVICES,
    standard_messages.HEALTH,
    standard_messages.REFLECTION,
)


def empty_snapshot(number: int = 5) -> Snapshot:
    """The state of a record that holds nothing."""
    return Snapshot(
        revision=Revision(RECORD, 1, number),
        digest=b"",
        keys=Map(),
        keys_version=(1, number),
        broken_kids=frozenset(),
        clients=Map(),
        policy_record=PolicyRecord(),
        policy=compiled(PolicyRecord()),
        bindings=BindingIndex.from_bindings(()),
        revocations=Revocations.of(()),
    )


class HeldState:
    """A state that moves when it is told to; `newest` is where the record is."""

    def __init__(self, number: int = 5, newest: int | None = None) -> None:
        self.current = empty_snapshot(number)
        self.newest = number if newest is None else newest
        self._moved = threading.Condition()
        self.waiting = 0

    def move(self, number: int) -> None:
        """The replica catches up."""
        with self._moved:
            self.current = replace(self.current, revision=Revision(RECORD, 1, number))
            self.newest = max(self.newest, number)
            self._moved.notify_all()

    def reached(self, revision: Revision) -> bool:
        """As `state.tail.Tail.reached`."""
        if revision.record != RECORD:
            raise Conflict("of another record", Reason.REVISION_UNREACHABLE)
        return revision.order <= self.current.revision.order

    def reach(self, revision: Revision, deadline: float | None, caller: str = "") -> None:
        """As `state.tail.Tail.reach`, with a cap of two waiters in all."""
        assert caller
        with self._moved:
            if revision.order > (1, self.newest):
                raise Conflict("above the newest", Reason.REVISION_UNREACHABLE)
            if self.waiting >= 2:
                raise Exhausted("too many wait", Reason.WAITERS_EXHAUSTED)
            self.waiting += 1
            try:
                rest = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._moved.wait_for(lambda: self.reached(revision), rest):
                    raise DeadlineExceeded("too late")
            finally:
                self.waiting -= 1

    async def wait_for(self, revision: Revision, caller: str, deadline: float | None) -> None:
        """As `state.tail.Tail.wait_for`."""
        await asyncio.to_thread(self.reach, revision, deadline, caller)


class RoleAuthenticator:
    """`Bearer ROLE` is a client that holds the built-in role, up to and without the revision `gone_at`."""

    def __init__(self, gone_at: int = 2**62, proxy_address: str = PROXY_ADDRESS) -> None:
        self._gone_at = gone_at
        self._proxy_address = proxy_address

    def principal(
        self, authorization: Sequence[str], identities: Sequence[str], snapshot: Snapshot, now: int
    ) -> Principal:
        """As `usecases.principals.Authenticator.principal`."""
        role = authorization[0].removeprefix("Bearer ") if authorization else "".join(identities)
        if role not in BUILTIN_ROLES or snapshot.revision.number >= self._gone_at:
            raise Unauthenticated(f"inner text about {role}")
        return Principal(f"client:{role}", Client(client_id=role), BUILTIN_ROLES[role])

    def proxy(self, address: str, identities: Sequence[str]) -> ProxyGrant | None:
        """As `usecases.principals.Authenticator.proxy`."""
        return ProxyGrant(()) if address == self._proxy_address else None


class InlineRunner:
    """Runs async rows to their end on the spot, and waits in the thread that calls."""

    async def run(self, work: Coroutine[Any, Any, Any], call: Call, deadline: float) -> Any:
        """As `engine.Runner.run`."""
        return asyncio.run(work)

    async def reach(self, state: State, revision: Revision, caller: str, deadline: float) -> None:
        """As `engine.Runner.reach`."""
        state.reach(revision, deadline, caller)


@dataclass
class Audit:
    """Keeps what it is told."""

    drafts: list[AuditDraft] = field(default_factory=list)

    def record(self, draft: AuditDraft) -> None:
        """As `usecases.audit_log.AuditLog.record`."""
        self.drafts.append(draft)


Handle = Callable[[Any, Context], Any]


class Handlers:
    """Answers every method of a service with its empty response, unless another handler is given."""

    def __init__(self, service: ServiceDescriptor, **given: Handle) -> None:
        for row in METHODS:
            name, _, method = row.name.partition("/")
            if name == service.full_name:
                setattr(self, _snake(method), _empty(service.methods_by_name[method]))
        for name, handler in given.items():
            setattr(self, name, handler)


@dataclass
class Bench:
    """An engine and everything around it, for a test to look at."""

    engine: Engine
    state: HeldState
    audit: Audit
    clock: FakeClock
    log: io.StringIO
    metrics: Metrics

    def row(self, name: str) -> Row:
        """A row that must be there."""
        row = self.engine.table.get(name)
        assert row is not None
        return row

    def serve(self, name: str, request: bytes = b"", **call: Any) -> bytes | Refusal:
        """One unary call."""
        return self.engine.serve(self.row(name), Call(name, **call), request, InlineRunner())

    def stream(self, row: Row, call: Call, *requests: bytes) -> list[bytes | Refusal]:
        """One stream to its end."""

        async def asked() -> AsyncGenerator[bytes, None]:
            for request in requests:
                yield request

        async def answers() -> list[bytes | Refusal]:
            return [item async for item in self.engine.stream(row, call, asked(), InlineRunner())]

        return asyncio.run(answers())

    def refused(self, name: str, request: bytes = b"", **call: Any) -> status_pb2.Status:
        """One unary call that must be refused by an RPC error."""
        answer = self.serve(name, request, **call)
        assert isinstance(answer, Refusal), answer
        return status_of(answer)


def bench(
    services: Iterable[Service] | None = None,
    *,
    state: HeldState | None = None,
    allow_sample: float = 1.0,
    failures: int = 3,
    gone_at: int = 2**62,
    proxy_address: str = PROXY_ADDRESS,
) -> Bench:
    """An engine that serves everything, with handlers that answer nothing in particular."""
    audit, clock, text, metrics = Audit(), FakeClock(), io.StringIO(), Metrics()
    state = state or HeldState()
    around = Surroundings(
        authenticator=RoleAuthenticator(gone_at, proxy_address),
        state=state,
        audit=audit,
        metrics=metrics,
        log=SecurityLog(text, now=clock.now),
        clock=clock,
        failures=FailedAuthentications(Rate(failures, 60_000_000)),
        allow_sample=allow_sample,
    )
    table = MethodTable.build(all_services() if services is None else services)
    return Bench(Engine(table, around), state, audit, clock, text, metrics)


def all_services(**authz: Handle) -> list[Service]:
    """Every service; `authz` replaces handlers of AuthzService."""
    check = authz_pb2.DESCRIPTOR.services_by_name["AuthzService"]
    return [
        Service(
            descriptor,
            Handlers(descriptor, **(authz if descriptor is check else {})),
            deny if descriptor in ENVOY_SERVICES else None,
            FAULTS if descriptor is envoy_messages.RATE_LIMIT_SERVICE else frozenset(),
        )
        for descriptor in ALL_SERVICES
    ]


def deny(reason: Reason, http_status: int) -> bytes:
    """Stands for Envoy's explicit denial: readable by a test."""
    return DENIED + f" {reason.name} {http_status}".encode()


def status_of(refusal: Refusal) -> status_pb2.Status:
    """The google.rpc.Status of a refusal, which must agree with it."""
    status = status_pb2.Status.FromString(refusal.details)
    assert (status.code, status.message) == (refusal.code, refusal.message)
    return status


def info_of(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """Its ErrorInfo, which every refusal has."""
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "authsvc"
    return info


def reason_of(status: status_pb2.Status) -> str:
    """The reason's name."""
    return str(info_of(status).reason)


def fields_of(status: status_pb2.Status) -> list[str]:
    """The paths that its BadRequest names."""
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(bad):
            return [violation.field for violation in bad.field_violations]
    return []


def retry_seconds_of(status: status_pb2.Status) -> float | None:
    """What its RetryInfo says, None where there is none."""
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    return None


def _empty(method: MethodDescriptor) -> Handle:
    answer = message_factory.GetMessageClass(method.output_type)
    if method.server_streaming:

        async def stream(request: Any, context: Context) -> AsyncGenerator[Any, None]:
            yield answer()

        return stream
    return lambda request, context: answer()


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
