"""The fake's RPCs.

Owns: one function an RPC, and the gRPC handler around them. May import: grpc, `authsvc.v1`, `state`.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from authsvc.core import claims, values
from authsvc.core.claims import VerifiedToken
from authsvc.core.consumption import DecidedBy, Descriptor, LimitOutcome
from authsvc.core.errors import AuthsvcError, InvalidRequest, Reason, TokenRefused, Unauthenticated
from authsvc.core.policy import Decision, Question
from authsvc.v1 import authz_pb2, key_pb2, limit_pb2, sync_pb2, token_pb2, types_pb2
from authsvc_client import methods
from authsvc_client.status import STATUS_KEY, write_status
from authsvc_client.testing.state import State
from authsvc_client.testing.watch import Watchers

DEFAULT_TTL = 300
"""Seconds that an issued token lives unless asked."""

_SCHEME = "Bearer"


@dataclass(slots=True)
class Service:
    """What the rows answer from. `own_audience` stands for the caller's own; `max_age` is the key set's."""

    state: State
    own_audience: tuple[str, ...]
    watchers: Watchers
    max_age: int = 300


def _issue_token(service: Service, request: token_pb2.IssueTokenRequest, _: None) -> Message:
    state, grant = service.state, request.client_credentials
    secret = state.clients.get(grant.client_id, "")
    if not secret or not hmac.compare_digest(secret.encode(), grant.client_secret.encode()):
        raise Unauthenticated("client authentication failed", Reason.CLIENT_AUTHENTICATION_FAILED)
    ttl = request.ttl.seconds if request.HasField("ttl") else DEFAULT_TTL
    audience = list(request.audience) or list(service.own_audience)
    subject = f"client:{grant.client_id}"
    token = state.mint(subject, grant.client_id, audience, request.scope, (), request.tenant, ttl)
    response = token_pb2.IssueTokenResponse(
        access_token=token,
        token_type=_SCHEME,
        scope=request.scope,
        revision=state.revision,
    )
    response.expire_time.FromSeconds(state.clock.now() + ttl)
    return response


def _get_jwks(service: Service, _request: key_pb2.GetJwksRequest, _: None) -> Message:
    state = service.state
    return key_pb2.GetJwksResponse(jwks=state.jwks(), max_age=service.max_age, revision=state.revision)


def _verify_token(service: Service, request: token_pb2.VerifyTokenRequest, _: VerifiedToken) -> Message:
    state = service.state
    try:
        verified = state.verify(request.token, request.audience or service.own_audience, request.required_scope)
    except TokenRefused as refused:
        return token_pb2.VerifyTokenResponse(reason=_number(refused.reason), revision=state.revision)
    return token_pb2.VerifyTokenResponse(valid=True, token=_token(verified), revision=state.revision)


def _check(service: Service, request: authz_pb2.CheckRequest, _: VerifiedToken) -> Message:
    response = _decided(service.state.decide(_question(request)))
    response.revision = service.state.revision
    return response


def _batch_check(service: Service, request: authz_pb2.BatchCheckRequest, _: VerifiedToken) -> Message:
    if not request.checks:
        raise InvalidRequest.of("checks", "is required")
    results = [_decided(service.state.decide(_question(check))) for check in request.checks]
    return authz_pb2.BatchCheckResponse(results=results, revision=service.state.revision)


def _authorize(service: Service, request: authz_pb2.AuthorizeRequest, _: VerifiedToken) -> Message:
    state = service.state
    response = authz_pb2.AuthorizeResponse(
        decision=types_pb2.DECISION_DENY, decision_id=secrets.token_hex(16), revision=state.revision
    )
    try:
        verified = state.verify(request.token, request.audience or service.own_audience)
    except TokenRefused as refused:
        response.reason = _number(refused.reason)
        return response
    response.token.CopyFrom(_token(verified))
    decision = state.decide(
        Question(
            verified.subject,
            values.permission(request.permission),
            values.resource(request.resource),
            values.tenant(request.tenant) or verified.tenant,
            verified.groups,
            frozenset(verified.scope),
            json_format.MessageToDict(request.context),
            token={"tenant": verified.tenant, "client_id": verified.client_id, "issuer": verified.issuer},
        )
    )
    response.reason = _number(decision.reason)
    if not decision.allowed:
        return response
    outcomes = state.consume([(each.domain, _descriptors(each.descriptors)) for each in request.consume])
    response.limits.extend(map(_limit, outcomes))
    if all(outcome.allowed for outcome in outcomes):
        response.decision = types_pb2.DECISION_ALLOW
    else:
        response.reason = _number(Reason.LIMIT_EXCEEDED)
    return response


def _consume(service: Service, request: limit_pb2.ConsumeRequest, _: VerifiedToken) -> Message:
    outcomes = service.state.consume([(request.domain, _descriptors(request.descriptors))])
    return limit_pb2.ConsumeResponse(
        allowed=all(outcome.allowed for outcome in outcomes),
        results=map(_limit, outcomes),
        revision=service.state.revision,
    )


def _peek(service: Service, request: limit_pb2.PeekRequest, _: VerifiedToken) -> Message:
    outcomes = service.state.consume([(request.domain, _descriptors(request.descriptors))], peek=True)
    return limit_pb2.PeekResponse(
        allowed=all(outcome.allowed for outcome in outcomes),
        results=map(_limit, outcomes),
        revision=service.state.revision,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    request_type: type[Message]
    answer: Callable[[Service, Any, Any], Message]
    public: bool = False


_ROWS = {
    "/authsvc.v1.TokenService/IssueToken": _Row(token_pb2.IssueTokenRequest, _issue_token, public=True),
    "/authsvc.v1.TokenService/VerifyToken": _Row(token_pb2.VerifyTokenRequest, _verify_token),
    "/authsvc.v1.KeyService/GetJwks": _Row(key_pb2.GetJwksRequest, _get_jwks, public=True),
    "/authsvc.v1.AuthzService/Check": _Row(authz_pb2.CheckRequest, _check),
    "/authsvc.v1.AuthzService/BatchCheck": _Row(authz_pb2.BatchCheckRequest, _batch_check),
    "/authsvc.v1.AuthzService/Authorize": _Row(authz_pb2.AuthorizeRequest, _authorize),
    "/authsvc.v1.LimitService/Consume": _Row(limit_pb2.ConsumeRequest, _consume),
    "/authsvc.v1.LimitService/Peek": _Row(limit_pb2.PeekRequest, _peek),
}


class Rows(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # no generic at run time
    """Serves the rows; `arrived` hears the name of each call before it is answered."""

    def __init__(self, service: Service, arrived: Callable[[str], None]) -> None:
        self._service = service
        self._arrived = arrived

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Of grpc."""
        path = handler_call_details.method
        row = _ROWS.get(path)
        if row is None and path != methods.WATCH.path:
            return None
        self._arrived(path.rpartition("/")[2])
        bearers = [
            str(value) for key, value in handler_call_details.invocation_metadata or () if key == "authorization"
        ]

        if row is None:
            return grpc.stream_stream_rpc_method_handler(
                lambda requests, context: self._watch(bearers, requests, context),
                request_deserializer=sync_pb2.WatchRequest.FromString,
                response_serializer=lambda response: response.SerializeToString(),
            )

        def answer(request: Message, context: grpc.ServicerContext) -> Message:
            try:
                principal = None if row.public else self._principal(bearers)
                return row.answer(self._service, request, principal)
            except AuthsvcError as error:
                _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=row.request_type.FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )

    def _watch(self, bearers: Sequence[str], requests: Any, context: Any) -> Iterator[Message]:
        try:
            self._principal(bearers)
        except AuthsvcError as error:
            _abort(context, error)
        yield from self._service.watchers.watch(requests, context)

    def _principal(self, bearers: Sequence[str]) -> VerifiedToken:
        scheme, _, token = bearers[0].partition(" ") if len(bearers) == 1 else ("", "", "")
        if scheme != _SCHEME:
            raise Unauthenticated("the caller is not known")
        return self._service.state.principal(token)


def _abort(context: grpc.ServicerContext, error: AuthsvcError) -> NoReturn:
    invalid = isinstance(error, InvalidRequest)
    code = grpc.StatusCode.INVALID_ARGUMENT if invalid else grpc.StatusCode.UNAUTHENTICATED
    number: int = code.value[0]
    details = write_status(number, error.message, reason=error.reason.name)
    context.set_trailing_metadata(((STATUS_KEY, details),))
    context.abort(code, error.message)
    raise error


def _number(reason: Reason) -> Any:
    return int(reason)


def _question(request: authz_pb2.CheckRequest) -> Question:
    return Question(
        values.subject(request.subject),
        values.permission(request.permission),
        values.resource(request.resource),
        values.tenant(request.tenant),
        tuple(request.groups),
        frozenset(request.scope) if request.scope_bound else None,
        json_format.MessageToDict(request.context),
    )


def _decided(decision: Decision) -> authz_pb2.CheckResponse:
    return authz_pb2.CheckResponse(
        decision=types_pb2.DECISION_ALLOW if decision.allowed else types_pb2.DECISION_DENY,
        reason=_number(decision.reason),
    )


def _descriptors(given: Sequence[limit_pb2.Descriptor]) -> list[Descriptor]:
    return [
        Descriptor(tuple((entry.key, entry.value) for entry in each.entries), each.hits if each.HasField("hits") else 1)
        for each in given
    ]


_DECIDED_BY = {
    DecidedBy.STORE: limit_pb2.DECIDED_BY_STORE,
    DecidedBy.LOCAL: limit_pb2.DECIDED_BY_LOCAL,
    DecidedBy.FAILED_OPEN: limit_pb2.DECIDED_BY_FAILED_OPEN,
    DecidedBy.FAILED_CLOSED: limit_pb2.DECIDED_BY_FAILED_CLOSED,
}


def _limit(outcome: LimitOutcome) -> limit_pb2.LimitResult:
    result = limit_pb2.LimitResult(
        rule=outcome.rule.name,
        limit=outcome.limit,
        remaining=outcome.remaining,
        reset_after=_duration(outcome.reset_after_us),
        decided_by=_DECIDED_BY[outcome.decided_by],
        allowed=outcome.allowed,
    )
    if not outcome.allowed:
        # On the wire zero says never.
        result.retry_after.CopyFrom(_duration(outcome.retry_after_us or 0))
    return result


def _duration(microseconds: int) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(microseconds)
    return duration


def _token(verified: VerifiedToken) -> types_pb2.Token:
    token = types_pb2.Token(
        issuer=verified.issuer,
        subject=verified.subject,
        audience=verified.audience,
        client_id=verified.client_id,
        scope=verified.scope,
        groups=verified.groups,
        roles=verified.roles,
        tenant=verified.tenant,
        token_id=verified.token_id,
        key_id=verified.key_id,
    )
    token.issue_time.FromSeconds(verified.issue_time)
    token.expire_time.FromSeconds(min(verified.expire_time, claims.MAX_TIME))
    return token
