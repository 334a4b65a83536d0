"""AuthzService and LimitService.

Owns: one method an RPC. May import: `core`, `usecases`, `v1`, `api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authsvc.api import convert_authz, convert_limits, ready
from authsvc.core.errors import PermissionDenied, Reason
from authsvc.core.policy import Together
from authsvc.core.roles_builtin import EXPLAIN
from authsvc.usecases import authz
from authsvc.usecases.limits import refusal_reason
from authsvc.v1 import authz_pb2, limit_pb2

if TYPE_CHECKING:
    from authsvc.api.calls import Context
    from authsvc.core.policy import Decision
    from authsvc.usecases.limits import Limits, Wanted


class AuthzHandlers:
    """AuthzService."""

    def __init__(self, authorizer: authz.Authorizer) -> None:
        self._authorizer = authorizer

    def check(self, request: authz_pb2.CheckRequest, context: Context) -> authz_pb2.CheckResponse | bytes:
        """Answer one question."""
        caller, snapshot = context.caller, context.snapshot
        question = convert_authz.question(request)
        decision = authz.check(snapshot, caller, question, now=context.now)
        context.subject = question.subject
        context.decided(decision.reason, allowed=decision.allowed)
        if EXPLAIN not in caller.permissions:
            return ready.decision(decision.reason, decision.allowed, snapshot.revision_text)
        response = authz_pb2.CheckResponse()
        convert_authz.put_decision(response, decision)
        return response

    def batch_check(
        self, request: authz_pb2.BatchCheckRequest, context: Context
    ) -> authz_pb2.BatchCheckResponse | bytes:
        """Answer several questions against one snapshot."""
        caller, snapshot, now = context.caller, context.snapshot, context.now
        decisions: list[Decision] = []
        together = Together()
        questions = convert_authz.questions(request, context.while_wanted)
        for question in context.while_wanted(questions):
            try:
                decisions.append(authz.check(snapshot, caller, question, now=now, together=together))
            except PermissionDenied as denied:
                raise PermissionDenied(
                    f"checks[{len(decisions)}]: {denied.message}", denied.reason, metadata=denied.metadata
                ) from None
        refused = [decision.reason for decision in decisions if not decision.allowed]
        context.decided(refused[-1] if refused else Reason.ALLOWED, allowed=not refused)
        if EXPLAIN not in caller.permissions:
            return ready.decisions(decisions, snapshot.revision_text)
        response = authz_pb2.BatchCheckResponse()
        for decision in decisions:
            convert_authz.put_decision(response.results.add(), decision)
        return response

    async def authorize(self, request: authz_pb2.AuthorizeRequest, context: Context) -> authz_pb2.AuthorizeResponse:
        """Verify, check and consume."""
        ask, wanted = convert_authz.ask(request)
        answer = await self._authorizer.authorize(context.snapshot, context.caller, ask, wanted, now=context.now)
        if answer.token is not None:
            context.subject = answer.token.subject
        context.decided(answer.reason, allowed=answer.allowed)
        return convert_authz.authorization(answer, context.request_id)


class LimitHandlers:
    """LimitService."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def consume(self, request: limit_pb2.ConsumeRequest, context: Context) -> limit_pb2.ConsumeResponse:
        """Take from every rule that matches, all or nothing."""
        wanted = self._own(convert_limits.consume(request), context)
        consumed = await self._limits.consume(context.snapshot, (wanted,))
        reason = Reason.ALLOWED if consumed.allowed else refusal_reason(consumed.outcomes)
        context.decided(reason, allowed=consumed.allowed)
        return convert_limits.consumed(consumed)

    async def peek(self, request: limit_pb2.PeekRequest, context: Context) -> limit_pb2.PeekResponse:
        """Look, and take nothing."""
        wanted = self._own(convert_limits.wanted(request), context)
        return convert_limits.peeked(await self._limits.consume(context.snapshot, (wanted,), peek=True))

    @staticmethod
    def _own(wanted: Wanted, context: Context) -> Wanted:
        context.caller.require_domain(wanted.domain)
        return wanted
