"""TokenService: grants, verifications, revocations.

Owns: the conversion of its messages. May import: `core`, `usecases`, `v1`, `api.convert`.
"""

from __future__ import annotations

from typing import NamedTuple

from authsvc.api import convert
from authsvc.core import values
from authsvc.core.claims import VerifiedToken
from authsvc.core.errors import InvalidRequest, Reason
from authsvc.usecases.revocations import Target
from authsvc.usecases.tokens import IssuedToken, TokenRequest
from authsvc.v1 import token_pb2

MAX_SECRET = 512
_BEARER = "Bearer"
MAX_TTL = 10 * 365 * 86_400
"""Seconds; the configured maximum is far lower and is looked at by the use case."""


class Verification(NamedTuple):
    """What VerifyToken asks; an empty audience is the caller's own."""

    token: str
    audience: tuple[str, ...]
    required_scope: frozenset[str]

    def __repr__(self) -> str:
        return f"Verification(audience={self.audience!r})"


def token_request(request: token_pb2.IssueTokenRequest) -> TokenRequest:
    """A grant; raises InvalidRequest with paths of IssueTokenRequest."""
    if request.WhichOneof("grant") is None:
        raise InvalidRequest.of("grant", "is required")
    grant = request.client_credentials
    if not grant.client_secret:
        raise InvalidRequest.of("client_credentials.client_secret", "is required")
    if len(grant.client_secret) > MAX_SECRET:
        raise InvalidRequest.of("client_credentials.client_secret", f"is longer than {MAX_SECRET} characters")
    ttl = 0
    if request.HasField("ttl"):
        ttl = convert.seconds(request.ttl, "ttl", least=1, most=MAX_TTL)
    return TokenRequest(
        client_id=convert.client_id(grant.client_id, "client_credentials.client_id"),
        client_secret=grant.client_secret,
        audience=convert.names(request.audience, "audience", convert.audience),
        scope=convert.names(request.scope, "scope", convert.scope),
        tenant=convert.tenant(request.tenant),
        ttl=ttl,
    )


def issued(token: IssuedToken) -> token_pb2.IssueTokenResponse:
    """The answer with the token; the engine adds the revision."""
    message = token_pb2.IssueTokenResponse(
        access_token=token.access_token,
        token_type=_BEARER,
        scope=token.scope,
    )
    message.expire_time.seconds = token.expire_time
    return message


def verification(request: token_pb2.VerifyTokenRequest) -> Verification:
    """What is to be verified; raises InvalidRequest with paths of VerifyTokenRequest."""
    convert.not_served(request, "proof")
    return Verification(
        convert.token_text(request.token),
        convert.names(request.audience, "audience", convert.audience),
        frozenset(convert.names(request.required_scope, "required_scope", convert.scope)),
    )


def verifications(request: token_pb2.BatchVerifyTokensRequest, each: convert.Each = iter) -> list[Verification]:
    """The requests of a batch, in order; the first that is wrong refuses the batch and is named."""
    return convert.batch(request.requests, "requests", verification, each)


def put_valid(message: token_pb2.VerifyTokenResponse, verified: VerifiedToken) -> None:
    """Fill the answer for a token that verified."""
    message.valid = True
    message.token.CopyFrom(convert.token_message(verified))


def put_refused(message: token_pb2.VerifyTokenResponse, reason: Reason) -> None:
    """Fill the answer for one that did not; only authorized callers see the reason (STANDARDS J17)."""
    message.reason = convert.reason(reason)


def revocation(request: token_pb2.RevokeTokenRequest) -> tuple[Target, str]:
    """What is to be revoked; raises InvalidRequest with paths of RevokeTokenRequest."""
    which = request.WhichOneof("target")
    if which is None:
        raise InvalidRequest.of("target", "is required")
    target = Target(which)
    value: str = getattr(request, which)
    match target:
        case Target.TOKEN:
            convert.token_text(value)
            if len(value) > values.MAX_TOKEN:
                raise InvalidRequest.of("token", f"is longer than {values.MAX_TOKEN} characters")
        case Target.SUBJECT:
            values.subject(value)
        case Target.CLIENT:
            values.client_id(value)
        case Target.TOKEN_ID | Target.ISSUER:
            values.plain(value, which)
    return target, value
