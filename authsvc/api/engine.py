"""What stands around every row, written once.

Owns: the order of size cap, deadline, parsing, authentication, permission, `min_revision`, handler, second look
at the deadline; audit, metrics, span; and the row's own way to refuse. May import: `core`, `usecases`, `api`.
Nothing raised inside leaves it: a transport gets bytes or a `Refusal`, on Envoy's rows always bytes.

The order is written once, as a coroutine that suspends only where its `Runner` does. A transport with a loop awaits
it; one with threads lends a runner that blocks instead, and then it runs to its end in one step (`Engine.serve`).
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, Protocol

from google.protobuf.message import DecodeError

from authsvc.api.calls import Call, Context, Received, Refusal, Unread
from authsvc.api.errors import GRPC_CODE, Code, reason_of, refusal
from authsvc.api.method_table import PROXY, PUBLIC, AuditClass, Kind, MethodTable, Row
from authsvc.api.overload import Overload
from authsvc.api.throttle import FailedAuthentications
from authsvc.core.audit import AuditDraft
from authsvc.core.errors import (
    AuthsvcError,
    DeadlineExceeded,
    Exhausted,
    InvalidRequest,
    PermissionDenied,
    Reason,
    Unauthenticated,
    Unavailable,
)
from authsvc.core.values import Revision
from authsvc.telemetry import OpenSpan

if TYPE_CHECKING:
    from authsvc.clock import Clock
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.principals import Principal, ProxyGrant

ALLOW_SAMPLE = 0.01
"""The share of allows that is audited unless configured otherwise."""

# A member of an enum costs a look-up in Python each time, and these are looked at for every call.
_OK: Final = Code.OK
_DECISION: Final = AuditClass.DECISION
_READ: Final = AuditClass.READ

_NOT_A_PROXY = "the peer is not one of `server.proxies`"
_QUIET = frozenset(
    {
        Reason.DEADLINE_EXCEEDED,
        Reason.OVERLOADED,
        Reason.SHUTTING_DOWN,
        Reason.AUTHENTICATION_THROTTLED,
        Reason.REQUEST_TOO_LARGE,
    }
)
_SECURITY = frozenset(
    {
        Reason.CALLER_NOT_PERMITTED,
        Reason.CLIENT_AUTHENTICATION_FAILED,
        Reason.GRANT_EXCEEDS_GRANTER,
        Reason.LAST_ADMIN,
    }
)


class Authenticator(Protocol):
    """Who calls; see `usecases.principals`."""

    def principal(
        self, authorization: tuple[str, ...], identities: tuple[str, ...], snapshot: Snapshot, now: int
    ) -> Principal:
        """The principal, or Unauthenticated."""

    def proxy(self, address: str, identities: tuple[str, ...]) -> ProxyGrant | None:
        """What an Envoy peer may ask; None where it is none of ours."""


class State(Protocol):
    """The state that this replica holds; see `state.tail`."""

    @property
    def current(self) -> Snapshot:
        """The snapshot in force; raises Unavailable where it is too old to trust (STANDARDS U6)."""

    def reached(self, revision: Revision) -> bool:
        """Whether the snapshot is at least this new; raises Conflict REVISION_UNREACHABLE for another record's."""

    def reach(self, revision: Revision, deadline: float | None, caller: str = "") -> None:
        """Block until it is; raises as `state.tail.Tail.reach` says (STANDARDS U13)."""

    async def wait_for(self, revision: Revision, caller: str, deadline: float | None) -> None:
        """`reach` for a loop: suspends until it is."""


class AuditSink(Protocol):
    """Takes events that no write commits; must neither block nor raise."""

    def record(self, draft: AuditDraft) -> None:
        """Keep the event."""


class Metrics(Protocol):
    """Counts calls; must neither block nor raise."""

    def observe(self, method: str, code: int, reason: Reason, seconds: float) -> None:
        """One call is over. `method` is a row's name, so that labels are bounded."""


class FaultLog(Protocol):
    """Where exceptions go instead of onto the wire."""

    def fault(self, request_id: str, method: str, exception: BaseException) -> None:
        """Write it down, without tokens or secrets."""


class Runner(Protocol):
    """How a transport waits: it suspends on a loop, or blocks in a thread and never suspends."""

    async def run(self, work: Coroutine[Any, Any, Any], call: Call, deadline: float) -> Any:
        """Run `work` on the loop; raises DeadlineExceeded, and cancels where the caller has gone."""

    async def reach(self, state: State, revision: Revision, caller: str, deadline: float) -> None:
        """Wait until the state is at least this new; raises as `State.reach` does."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the engine is given."""

    authenticator: Authenticator
    state: State
    audit: AuditSink
    metrics: Metrics
    log: FaultLog
    clock: Clock
    failures: FailedAuthentications
    monotonic: Callable[[], float] = time.monotonic
    allow_sample: float = ALLOW_SAMPLE
    span: OpenSpan | None = None
    """Opens a trace span; None where tracing is off."""


class Engine:
    """Serves rows."""

    def __init__(self, table: MethodTable, around: Surroundings) -> None:
        self.table = table
        self._around = around
        self.overload = Overload(around.metrics)

    def serve(self, row: Row, call: Call, request: Received, runner: Runner) -> bytes | Refusal:
        """One unary call, from bytes to bytes, by a runner that never suspends; blocks until it is done."""
        try:
            self.answer(row, call, request, runner).send(None)
        except StopIteration as done:
            answer: bytes | Refusal = done.value
            return answer
        raise RuntimeError("a runner that lends a thread has suspended")

    def answer(self, row: Row, call: Call, request: Received, runner: Runner) -> Coroutine[Any, Any, bytes | Refusal]:
        """One unary call, from bytes to bytes, for a loop to await."""
        if self._around.span is None:
            return self._answer(row, call, request, runner)
        return self._traced(self._around.span, row, call, request, runner)

    async def stream(
        self, row: Row, call: Call, requests: AsyncIterator[Received], runner: Runner
    ) -> AsyncGenerator[bytes | Refusal, None]:
        """One stream, on the loop; where it ends by a `Refusal`, that is the last item.

        A single request is read at once.
        """
        started = self._around.monotonic()
        context = self._context(row, call, started)
        handed_over = False
        try:
            self._open(row, context, started)
            messages = (self._parse(row, item) async for item in requests)
            message: Any = messages if row.kind is Kind.BIDI else await anext(messages)
            if row.takes_min_revision and row.kind is not Kind.BIDI and message.min_revision:
                await self._renew(row, context, message.min_revision, runner)
            context.look_again = partial(self._look_again, row, context)
            async for response in row.handler(message, context):
                answer = response if isinstance(response, bytes) else response.SerializeToString()
                handed_over = True
                yield answer
                handed_over = False
            self._ended_by_itself(context)
            self._finish(row, context, _OK, Reason.UNSPECIFIED, self._around.monotonic() - started)
        except BaseException as fault:
            if handed_over:
                # Not the handler's: the transport closed the stream where it was.
                raise
            yield self._refuse(row, context, fault, started)

    def refuse(self, row: Row, call: Call, fault: BaseException) -> bytes | Refusal:
        """Refuse without work, in the row's own way: overload, drain, a fault of the transport."""
        started = self._around.monotonic()
        return self._refuse(row, self._context(row, call, started), fault, started)

    def unknown(self) -> Refusal:
        """The answer to a method without a row."""
        self._around.metrics.observe("unknown", Code.UNIMPLEMENTED, Reason.METHOD_UNKNOWN, 0.0)
        return refusal(PermissionDenied("this method is not served", Reason.METHOD_UNKNOWN), "")

    async def _traced(self, span: OpenSpan, row: Row, call: Call, request: Received, runner: Runner) -> bytes | Refusal:
        with span(row.name, call.metadata) as opened:
            answer = await self._answer(row, call, request, runner)
            opened.set_attribute("rpc.grpc.status_code", 0 if isinstance(answer, bytes) else answer.code)
            return answer

    async def _answer(self, row: Row, call: Call, request: Received, runner: Runner) -> bytes | Refusal:
        started = self._around.monotonic()
        context = self._context(row, call, started)
        try:
            self._open(row, context, started)
            message = self._parse(row, request)
            if row.takes_min_revision and message.min_revision:
                await self._renew(row, context, message.min_revision, runner)
            answer = row.handler(message, context)
            if not isinstance(answer, bytes):
                if isinstance(answer, CoroutineType):
                    answer = await runner.run(answer, call, context.deadline)
                answer = answer if isinstance(answer, bytes) else _encoded(row, context, answer)
            ended = self._in_time(context)
            self._finish(row, context, _OK, context.reason, ended - started)
        except BaseException as fault:  # noqa: BLE001 - whatever it is, the caller gets a status (STANDARDS U3, E2)
            return self._refuse(row, context, fault, started)
        return answer

    def _ended_by_itself(self, context: Context) -> None:
        if context.call.cancelled():
            self._in_time(context)
            raise Unavailable("this replica drains", Reason.SHUTTING_DOWN)

    def _in_time(self, context: Context) -> float:
        """The deadline is looked at again after deciding (STANDARDS E3); gives the time, monotonic."""
        now = self._around.monotonic()
        if now > context.deadline:
            raise DeadlineExceeded("the deadline passed")
        return now

    def _context(self, row: Row, call: Call, started: float) -> Context:
        deadline = started + row.deadline_s if call.deadline is None else min(call.deadline, started + row.longest_s)
        return Context(call, self._around.clock.now(), deadline, self._around.monotonic)

    def _open(self, row: Row, context: Context, started: float) -> None:
        """Before the request is looked at: deadline, snapshot, caller."""
        if started >= context.deadline:
            raise DeadlineExceeded("the deadline had passed before work began")
        context.snapshot = self._around.state.current
        self._authenticate(row, context)

    def _parse(self, row: Row, request: Received) -> Any:
        if isinstance(request, Unread) or len(request) > row.max_bytes:
            raise Exhausted(
                f"the request holds {len(request)} bytes, at most {row.max_bytes} are taken",
                Reason.REQUEST_TOO_LARGE,
                metadata={"limit_bytes": str(row.max_bytes)},
            )
        try:
            return row.request_type.FromString(request)
        except (DecodeError, UnicodeDecodeError, RecursionError):
            raise InvalidRequest.of(
                "", f"the bytes are not a {row.request_type.DESCRIPTOR.full_name}", Reason.REQUEST_UNDECODABLE
            ) from None

    def _authenticate(self, row: Row, context: Context) -> None:
        if row.permission == PUBLIC:
            return
        call, around = context.call, self._around
        if row.permission == PROXY:
            context.proxy = around.authenticator.proxy(call.peer_address, call.peer_identities)
            if context.proxy is None:
                raise PermissionDenied(_NOT_A_PROXY)
            return
        principal = around.authenticator.principal(
            call.authorization, call.peer_identities, context.snapshot, context.now
        )
        context.principal = principal
        if row.permission not in principal.permissions:
            raise PermissionDenied(f"the caller lacks `{row.permission}`", metadata={"permission": row.permission})

    async def _renew(self, row: Row, context: Context, wanted: str, runner: Runner) -> None:
        """Move the call to a snapshot that holds `wanted`; who waits is counted by principal, else address.

        The caller is looked at again there: what was revoked meanwhile is refused.
        """
        state = self._around.state
        revision = Revision.parse(wanted)
        if not state.reached(revision):
            caller = context.principal.subject if context.principal else context.call.peer_address or "local"
            await runner.reach(state, revision, caller, context.deadline)
        if state.current is not context.snapshot:
            self._look_again(row, context)

    def _look_again(self, row: Row, context: Context) -> None:
        """Move the call to the newest snapshot, and look at its caller anew there and now."""
        context.snapshot = self._around.state.current
        context.now = self._around.clock.now()
        self._authenticate(row, context)

    def _refuse(self, row: Row, context: Context, fault: BaseException, started: float) -> bytes | Refusal:
        around = self._around
        error = self._throttled(context, fault) if isinstance(fault, Unauthenticated) else fault
        reason = reason_of(error)
        code = GRPC_CODE[reason]
        context.decided(reason, allowed=False)
        try:
            if reason is Reason.INTERNAL:
                around.log.fault(context.request_id, row.name, error)
            self._finish(row, context, code, reason, around.monotonic() - started)
        except Exception as second:  # noqa: BLE001 - the refusal must go out, on Envoy's rows above all (E2)
            around.log.fault(context.request_id, row.name, second)
        if row.denials is not None and not (reason in row.errors and self._asked_by_proxy(context)):
            return row.denials[reason]
        return refusal(error, context.request_id if reason is Reason.INTERNAL else "")

    def _asked_by_proxy(self, context: Context) -> bool:
        """Whether a proxy of ours calls; it is looked at anew where the call was refused before that was known."""
        if context.proxy is not None:
            return True
        return self._around.authenticator.proxy(context.call.peer_address, context.call.peer_identities) is not None

    def _throttled(self, context: Context, fault: Unauthenticated) -> AuthsvcError:
        """Count a failed proof: not a call without any credential, nor a caller that was known when its call began."""
        call = context.call
        tried = call.authorization or fault.reason is Reason.CLIENT_AUTHENTICATION_FAILED
        if not tried or context.principal is not None:
            return fault
        wait = self._around.failures.failed(
            call.peer_address, context.private.get("client_id", ""), self._around.clock.now_us()
        )
        if wait is None:
            return fault
        return Exhausted(
            "too many failed authentications from this address",
            Reason.AUTHENTICATION_THROTTLED,
            retry_after=wait,
        )

    def _finish(self, row: Row, context: Context, code: Code, reason: Reason, seconds: float) -> None:
        around = self._around
        around.metrics.observe(row.name, code, reason, seconds)
        if code is _OK and row.permission == PUBLIC and "client_id" in context.private:
            around.failures.succeeded(context.call.peer_address, context.private["client_id"])
        if self._audited(row, context, code, reason):
            around.audit.record(_draft(row, context, reason))

    def _audited(self, row: Row, context: Context, code: Code, reason: Reason) -> bool:
        if code is not _OK:
            return self._refusal_audited(row, context, code, reason)
        if row.audit_class is _DECISION:
            # Sampling is statistics, not a secret.
            return context.allowed is False or random.random() < self._around.allow_sample  # noqa: S311
        return row.audit_class is _READ

    @staticmethod
    def _refusal_audited(row: Row, context: Context, code: Code, reason: Reason) -> bool:
        """Security events, and acts of administrators that were refused; what is malformed is only counted.

        A stranger who shows nothing proves nothing: an event for each of its calls would let it fill the record.
        """
        if reason is Reason.CALLER_UNAUTHENTICATED:
            return context.principal is None and bool(context.call.authorization or context.call.peer_identities)
        administers = row.audit_class in {AuditClass.READ, AuditClass.WRITE}
        return reason in _SECURITY or (administers and code is not Code.INVALID_ARGUMENT and reason not in _QUIET)


def _encoded(row: Row, context: Context, response: Any) -> bytes:
    if row.gives_revision and not response.revision:
        response.revision = context.snapshot.revision_text
    serialized: bytes = response.SerializeToString()
    return serialized


def _draft(row: Row, context: Context, reason: Reason) -> AuditDraft:
    actor = context.principal.subject if context.principal else ""
    private = dict(context.private)
    if context.call.peer_address:
        private["address"] = context.call.peer_address
    return AuditDraft(
        kind=row.name if row.permission == PUBLIC else row.permission,
        outcome="denied" if context.allowed is False else "allowed",
        time=context.now,
        actor=actor,
        subject=context.subject,
        reason=reason.text if reason else "",
        detail={"method": row.name, "request_id": context.request_id},
        private=private,
    )
