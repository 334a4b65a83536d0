"""TokenService and KeyService.

Owns: one method an RPC. May import: `core`, `usecases`, `v1`, `api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authsvc.api import convert_tokens, ready
from authsvc.core.client_secrets import LEAST_CHARACTERS
from authsvc.core.errors import Reason, TokenRefused
from authsvc.v1 import key_pb2, token_pb2

if TYPE_CHECKING:
    from authsvc.api.calls import Context
    from authsvc.core.claims import VerifiedToken
    from authsvc.usecases.key_sets import KeySets
    from authsvc.usecases.revocations import Revocations
    from authsvc.usecases.tokens import Tokens


class TokenHandlers:
    """TokenService."""

    def __init__(self, tokens: Tokens, revocations: Revocations) -> None:
        self._tokens = tokens
        self._revocations = revocations
        self._valid = ready.ValidTokens()

    def issue_token(self, request: token_pb2.IssueTokenRequest, context: Context) -> token_pb2.IssueTokenResponse:
        """Issue by client credentials."""
        wanted = convert_tokens.token_request(request)
        # Until the secret is proved it is only what somebody wrote; audit and throttle need it all the same. Somebody
        # who took the secret for the id must not find it in a log.
        if wanted.client_id in context.snapshot.clients or len(wanted.client_id) < LEAST_CHARACTERS:
            context.private["client_id"] = wanted.client_id
        issued = self._tokens.issue(context.snapshot, wanted, now=context.now)
        context.subject = issued.subject
        context.decided(Reason.ALLOWED, allowed=True)
        return convert_tokens.issued(issued)

    def verify_token(self, request: token_pb2.VerifyTokenRequest, context: Context) -> bytes:
        """Verify one token."""
        outcome = self._outcome(convert_tokens.verification(request), context)
        revision = context.snapshot.revision_text
        if isinstance(outcome, Reason):
            context.decided(outcome, allowed=False)
            return ready.refused_token(outcome, revision)
        context.decided(Reason.ALLOWED, allowed=True)
        return self._valid(outcome, revision)

    def batch_verify_tokens(
        self, request: token_pb2.BatchVerifyTokensRequest, context: Context
    ) -> token_pb2.BatchVerifyTokensResponse:
        """Verify several tokens against one snapshot."""
        response = token_pb2.BatchVerifyTokensResponse()
        worst = Reason.ALLOWED
        verifications = convert_tokens.verifications(request, context.while_wanted)
        for wanted in context.while_wanted(verifications):
            outcome = self._outcome(wanted, context)
            if isinstance(outcome, Reason):
                convert_tokens.put_refused(response.results.add(), outcome)
                worst = outcome
            else:
                convert_tokens.put_valid(response.results.add(), outcome)
        context.subject = ""
        context.decided(worst, allowed=worst is Reason.ALLOWED)
        return response

    async def revoke_token(
        self, request: token_pb2.RevokeTokenRequest, context: Context
    ) -> token_pb2.RevokeTokenResponse:
        """Revoke a token, or all of a subject, client or issuer."""
        target, value = convert_tokens.revocation(request)
        revision = await self._revocations.revoke(
            context.snapshot,
            target,
            value,
            actor=context.caller.subject,
            now=context.now,
            deadline=context.deadline,
        )
        return token_pb2.RevokeTokenResponse(revision=str(revision))

    def _outcome(self, wanted: convert_tokens.Verification, context: Context) -> VerifiedToken | Reason:
        """The token, or why it did not verify."""
        audience = context.caller.audiences(wanted.audience)
        try:
            verified = self._tokens.verify(
                context.snapshot,
                wanted.token,
                audience=audience,
                required_scope=wanted.required_scope,
                now=context.now,
            )
        except TokenRefused as refused:
            return refused.reason
        if not context.caller.may_speak_of(verified.tenant):
            return Reason.TENANT_MISMATCH
        context.subject = verified.subject
        return verified


class KeyHandlers:
    """KeyService."""

    def __init__(self, key_sets: KeySets) -> None:
        self._key_sets = key_sets

    def get_jwks(self, _request: key_pb2.GetJwksRequest, context: Context) -> key_pb2.GetJwksResponse:
        """The key set, the same bytes as over HTTP."""
        found = self._key_sets.of(context.snapshot, context.now)
        return key_pb2.GetJwksResponse(jwks=found.text, max_age=found.max_age)
