"""AuthzService: questions in, decisions out.

Owns: the conversion of its messages. May import: `core`, `usecases`, `v1`, `api.convert`.
"""

from __future__ import annotations

from authsvc.api import convert
from authsvc.api.convert_limits import consumptions, put_results
from authsvc.core.errors import InvalidRequest
from authsvc.core.policy import Decision, Question
from authsvc.usecases.authz import Ask, Authorization
from authsvc.usecases.limits import Wanted
from authsvc.v1 import authz_pb2, types_pb2

MAX_CONSUME = 8


def question(request: authz_pb2.CheckRequest) -> Question:
    """One question; raises InvalidRequest with paths of CheckRequest."""
    scope = None
    if request.scope_bound:
        scope = frozenset(convert.names(request.scope, "scope", convert.scope))
    elif request.scope:
        raise InvalidRequest.of("scope", "is given, but `scope_bound` is not set")
    return Question(
        convert.subject(request.subject),
        convert.permission(request.permission),
        convert.resource(request.resource),
        convert.tenant(request.tenant),
        convert.names(request.groups, "groups", convert.group),
        scope,
        convert.context(request),
    )


def questions(request: authz_pb2.BatchCheckRequest, each: convert.Each = iter) -> list[Question]:
    """The questions of a batch, in order; the first that is wrong refuses the batch and is named."""
    return convert.batch(request.checks, "checks", question, each)


def put_decision(message: authz_pb2.CheckResponse, decision: Decision) -> None:
    """Fill an answer for a caller that may have it explained; for all others it is ready (`api.ready`)."""
    message.decision = types_pb2.DECISION_ALLOW if decision.allowed else types_pb2.DECISION_DENY
    message.reason = convert.reason(decision.reason)
    message.matched_role = decision.role
    message.matched_binding = decision.binding_id


def ask(request: authz_pb2.AuthorizeRequest) -> tuple[Ask, tuple[Wanted, ...]]:
    """What Authorize asks, and what it shall consume."""
    convert.not_served(request, "proof")
    return (
        Ask(
            token=convert.token_text(request.token),
            permission=convert.permission(request.permission),
            resource=convert.resource(request.resource),
            tenant=convert.tenant(request.tenant),
            audience=convert.names(request.audience, "audience", convert.audience),
            context=convert.context(request),
        ),
        consumptions(request.consume, "consume", MAX_CONSUME),
    )


def authorization(answer: Authorization, decision_id: str) -> authz_pb2.AuthorizeResponse:
    """The answer of all three; the engine adds the revision."""
    message = authz_pb2.AuthorizeResponse(
        decision=types_pb2.DECISION_ALLOW if answer.allowed else types_pb2.DECISION_DENY,
        reason=convert.reason(answer.reason),
        token=None if answer.token is None else convert.token_message(answer.token),
        decision_id=decision_id,
    )
    put_results(message.limits, answer.limits)
    return message
