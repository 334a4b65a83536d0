"""Questions and answers as protobuf messages.

Owns: building the requests and reading the responses. May import: `authsvc.v1`, `core`, `answers`. What a
response does not say plainly is read as no: an unknown decision denies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from authsvc.core.consumption import DecidedBy, Descriptor
from authsvc.core.errors import Reason
from authsvc.v1 import authz_pb2, limit_pb2, types_pb2
from authsvc_client.answers import (
    AuthorizeAnswer,
    BearerToken,
    CheckAnswer,
    ConsumeAnswer,
    Consumption,
    DescriptorLike,
    LimitResult,
)

Context = Mapping[str, Any]
"""What conditions may read: JSON values."""

_DECIDED_BY = {
    limit_pb2.DECIDED_BY_STORE: DecidedBy.STORE,
    limit_pb2.DECIDED_BY_LOCAL: DecidedBy.LOCAL,
    limit_pb2.DECIDED_BY_FAILED_OPEN: DecidedBy.FAILED_OPEN,
}


def _struct(context: Context | None) -> Struct | None:
    if not context:
        return None
    struct = Struct()
    struct.update(context)
    return struct


def check_request(
    subject: str,
    permission: str,
    *,
    resource: str = "",
    tenant: str = "",
    groups: Sequence[str] = (),
    scope: Sequence[str] | None = None,
    context: Context | None = None,
    min_revision: str = "",
) -> authz_pb2.CheckRequest:
    """A question; `scope` None leaves it unbounded."""
    return authz_pb2.CheckRequest(
        subject=subject,
        groups=groups,
        permission=permission,
        resource=resource,
        tenant=tenant,
        scope_bound=scope is not None,
        scope=scope or (),
        context=_struct(context),
        min_revision=min_revision,
    )


def authorize_request(
    token: str,
    permission: str,
    *,
    resource: str = "",
    tenant: str = "",
    audience: Sequence[str] = (),
    context: Context | None = None,
    consume: Iterable[Consumption] = (),
    min_revision: str = "",
) -> authz_pb2.AuthorizeRequest:
    """Verify, check, consume."""
    return authz_pb2.AuthorizeRequest(
        token=token,
        permission=permission,
        resource=resource,
        tenant=tenant,
        audience=audience,
        context=_struct(context),
        consume=[
            limit_pb2.Consumption(domain=each.domain, descriptors=descriptors(each.descriptors)) for each in consume
        ],
        min_revision=min_revision,
    )


def descriptors(given: Iterable[DescriptorLike]) -> list[limit_pb2.Descriptor]:
    """Descriptors on the wire; a bare mapping is one hit."""
    return [_descriptor(each) for each in given]


def _descriptor(given: DescriptorLike) -> limit_pb2.Descriptor:
    known = given if isinstance(given, Descriptor) else Descriptor(tuple(given.items()))
    entries = [limit_pb2.Entry(key=key, value=value) for key, value in known.entries]
    return limit_pb2.Descriptor(entries=entries, hits=known.hits)


def read_check(response: authz_pb2.CheckResponse) -> CheckAnswer:
    """The answer to one question."""
    return CheckAnswer(
        response.decision == types_pb2.DECISION_ALLOW,
        read_reason(response.reason),
        response.revision,
        response.matched_role,
        response.matched_binding,
    )


def read_authorize(response: authz_pb2.AuthorizeResponse) -> AuthorizeAnswer:
    """The answer of all three."""
    return AuthorizeAnswer(
        response.decision == types_pb2.DECISION_ALLOW,
        read_reason(response.reason),
        read_token(response.token) if response.HasField("token") else None,
        tuple(_limit(result) for result in response.limits),
        response.decision_id,
        response.revision,
    )


def read_consume(response: limit_pb2.ConsumeResponse | limit_pb2.PeekResponse) -> ConsumeAnswer:
    """The answer of all rules."""
    return ConsumeAnswer(response.allowed, tuple(_limit(result) for result in response.results), response.revision)


def read_token(token: types_pb2.Token) -> BearerToken:
    """What a token says, as the service verified it."""
    return BearerToken(
        token.issuer,
        token.subject,
        tuple(token.audience),
        token.client_id,
        tuple(token.scope),
        tuple(token.groups),
        tuple(token.roles),
        token.tenant,
        token.token_id,
        token.key_id,
        token.issue_time.seconds,
        token.expire_time.seconds,
    )


def read_reason(number: int) -> Reason:
    """The reason of an answer; one of a later release is unspecified here."""
    try:
        return Reason(number)
    except ValueError:
        return Reason.UNSPECIFIED


def _limit(result: limit_pb2.LimitResult) -> LimitResult:
    wait = _seconds(result.retry_after) if result.HasField("retry_after") else 0.0
    return LimitResult(
        result.rule,
        result.allowed,
        result.limit,
        result.remaining,
        _seconds(result.reset_after),
        # On the wire zero says never.
        wait or None,
        _DECIDED_BY.get(result.decided_by, DecidedBy.FAILED_CLOSED),
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
