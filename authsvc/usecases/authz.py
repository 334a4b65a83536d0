"""Check, and authorize: verify, check and consume in one round trip.

Owns: the order of token, check and limit, and how a caller's bounds apply to a question. May import:
`core`, `state`, `ports`, `usecases`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from authsvc.core.errors import Reason, TokenRefused
from authsvc.core.policy import Decision, Question, Together, decide
from authsvc.core.roles_builtin import NAME_GROUPS
from authsvc.usecases.limits import refusal_reason

if TYPE_CHECKING:
    from authsvc.core.claims import VerifiedToken
    from authsvc.ports.counters import LimitOutcome
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.limits import Limits, Wanted
    from authsvc.usecases.principals import Principal
    from authsvc.usecases.tokens import Tokens

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Authorization:
    """The answer of all three; `token` is None where it did not verify."""

    allowed: bool
    reason: Reason
    token: VerifiedToken | None = None
    decision: Decision | None = None
    limits: tuple[LimitOutcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """What Authorize asks; empty means unset."""

    token: str
    permission: str
    resource: str = ""
    tenant: str = ""
    audience: tuple[str, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)


def check(
    snapshot: Snapshot, principal: Principal, question: Question, *, now: int, together: Together | None = None
) -> Decision:
    """Answer one question; raises PermissionDenied where the caller may not name its groups or tenant."""
    if question.groups:
        principal.require(NAME_GROUPS)
    principal.require_tenant(question.tenant)
    return decide(snapshot.policy, snapshot.bindings, question, now=now, together=together)


def question_of(
    token: VerifiedToken,
    permission: str,
    resource: str,
    *,
    tenant: str = "",
    context: Mapping[str, Any] = _NOTHING,
    request: Mapping[str, Any] | None = None,
) -> Question:
    """The question that a bearer's token and a request ask: the token's scope always bounds."""
    return Question(
        token.subject,
        permission,
        resource,
        tenant or token.tenant,
        token.groups,
        token.scopes,
        context,
        TokenContext(token),
        request,
    )


_CLAIMS = {
    "iss": "issuer",
    "sub": "subject",
    "aud": "audience",
    "client_id": "client_id",
    "scope": "scope",
    "groups": "groups",
    "roles": "roles",
    "tenant": "tenant",
    "jti": "token_id",
    "iat": "issue_time",
    "exp": "expire_time",
}


class TokenContext(Mapping[str, Any]):
    """What conditions read as `context.token`: claims by their names in RFC 9068.

    A view, because most questions meet no condition, and then nothing is copied.
    """

    __slots__ = ("_token",)

    def __init__(self, token: VerifiedToken) -> None:
        self._token = token

    def __getitem__(self, claim: str) -> Any:
        value = getattr(self._token, _CLAIMS[claim])
        return list(value) if isinstance(value, tuple) else value

    def get(self, claim: str, default: Any = None) -> Any:
        """As any mapping's; `Mapping` itself would try and catch."""
        return self[claim] if claim in _CLAIMS else default

    def __iter__(self) -> Iterator[str]:
        return iter(_CLAIMS)

    def __len__(self) -> int:
        return len(_CLAIMS)


class Authorizer:
    """Verifies, checks and consumes, in this order; the limits are debited only where allowed."""

    def __init__(self, tokens: Tokens, limits: Limits) -> None:
        self._tokens = tokens
        self._limits = limits

    def decide(self, snapshot: Snapshot, principal: Principal, ask: Ask, *, now: int) -> Authorization:
        """Verify and check, without limits; raises PermissionDenied outside the caller's bounds."""
        audience = principal.audiences(ask.audience)
        principal.require_tenant(ask.tenant)
        try:
            token = self._tokens.verify(snapshot, ask.token, audience=audience, now=now)
        except TokenRefused as refused:
            return Authorization(allowed=False, reason=refused.reason)
        if not principal.may_speak_of(token.tenant):
            return Authorization(allowed=False, reason=Reason.TENANT_MISMATCH)
        if ask.tenant and ask.tenant != token.tenant:
            return Authorization(allowed=False, reason=Reason.TENANT_MISMATCH, token=token)
        question = question_of(token, ask.permission, ask.resource, tenant=ask.tenant, context=ask.context)
        decision = decide(snapshot.policy, snapshot.bindings, question, now=now)
        return Authorization(decision.allowed, decision.reason, token, decision)

    async def authorize(
        self,
        snapshot: Snapshot,
        principal: Principal,
        ask: Ask,
        consume: Sequence[Wanted],
        *,
        now: int,
    ) -> Authorization:
        """Verify, check, then consume all or nothing."""
        for wanted in consume:
            principal.require_domain(wanted.domain)
        answer = self.decide(snapshot, principal, ask, now=now)
        if not answer.allowed or not consume:
            return answer
        consumed = await self._limits.consume(snapshot, consume)
        return Authorization(
            allowed=consumed.allowed,
            reason=answer.reason if consumed.allowed else refusal_reason(consumed.outcomes),
            token=answer.token,
            decision=answer.decision,
            limits=consumed.outcomes,
        )
