"""The client that `demo`, `smoke` and `bench` make for themselves: a shop that verifies its own tokens.

Owns: what each of its calls asks, and what the answer reads like. May import: `cli.session`, `v1`.
"""

from __future__ import annotations

import time

from authsvc.cli.messages import enum_text
from authsvc.cli.session import Session
from authsvc.cli.steps import Answer
from authsvc.core.values import SERVICE_AUDIENCE
from authsvc.v1 import authz_pb2, client_admin_pb2, error_reason_pb2, limit_pb2, token_pb2, types_pb2

AUDIENCE = "orders"
DOMAIN = "shop"
READ, REFUND, ORDER = "orders:read", "orders:refund", "orders/7"


class Shop:
    """A client of the service with its secret; `session` is the administrator who made it."""

    def __init__(self, session: Session, client_id: str) -> None:
        self.session = session
        self.client_id = client_id
        self.secret = ""
        self.access_token = ""
        """For audience `orders`: what is verified."""
        self._caller_token = ""

    @property
    def subject(self) -> str:
        """`sub` of its tokens."""
        return f"client:{self.client_id}"

    def create(self) -> Answer:
        """Let the administrator make the client."""
        request = client_admin_pb2.CreateClientRequest(
            client_id=self.client_id,
            display_name="throw-away client of the command line",
            audience=[AUDIENCE],
            own_audience=[AUDIENCE],
            domains=[DOMAIN],
        )
        made = self.session.call("ClientAdminService/CreateClient", request, client_admin_pb2.CreateClientResponse)
        self.secret = made.client_secret
        return Answer(bool(self.secret), f"{self.subject}, role {', '.join(made.client.roles)}")

    def issue(self) -> Answer:
        """A fresh access token for `orders`."""
        issued = self.session.issue(self.client_id, self.secret, AUDIENCE)
        self.access_token = issued.access_token
        life = issued.expire_time.seconds - int(time.time())
        return Answer(True, f"{len(self.access_token)} characters, for `{AUDIENCE}`, expires in {life} s")

    def caller_token(self) -> str:
        """Its token for the service itself."""
        if not self._caller_token:
            self._caller_token = self.session.issue(self.client_id, self.secret, SERVICE_AUDIENCE).access_token
        return self._caller_token

    def forget(self) -> None:
        """Ask for new service tokens, its own and the administrator's: their key was revoked."""
        self._caller_token = ""
        self.session.forget()

    def verify(self, token: str = "", *, refused_as: str = "") -> Answer:
        """Verify a token, its newest unless one is given; `refused_as` names the reason that is expected."""
        request = token_pb2.VerifyTokenRequest(token=token or self.access_token)
        answer = self.session.call(
            "TokenService/VerifyToken", request, token_pb2.VerifyTokenResponse, token=self.caller_token()
        )
        if answer.valid:
            return Answer(not refused_as, f"valid: {answer.token.subject}, key {answer.token.key_id[:8]}")
        reason = _reason(answer.reason)
        return Answer(reason == refused_as, f"refused: {reason}")

    def check(self, permission: str, *, expected: str) -> Answer:
        """Ask whether the client itself holds a permission; `expected` is the reason."""
        request = authz_pb2.CheckRequest(subject=self.subject, permission=permission, resource=ORDER)
        answer = self.session.call("AuthzService/Check", request, authz_pb2.CheckResponse, token=self.caller_token())
        decision, reason = enum_text(types_pb2.Decision.DESCRIPTOR, answer.decision), _reason(answer.reason)
        return Answer(reason == expected, f"{permission} on {ORDER}: {decision}, {reason}")

    def consume(self) -> limit_pb2.ConsumeResponse:
        """One hit of the limit of its subject."""
        entry = limit_pb2.Entry(key="subject", value=self.subject)
        request = limit_pb2.ConsumeRequest(domain=DOMAIN, descriptors=[limit_pb2.Descriptor(entries=[entry])])
        return self.session.call("LimitService/Consume", request, limit_pb2.ConsumeResponse, token=self.caller_token())

    def consume_until_refused(self, most: int = 100) -> Answer:
        """Consume until the limit is reached."""
        for taken in range(most):
            answer = self.consume()
            if not answer.allowed:
                wait = min(result.retry_after.ToTimedelta().total_seconds() for result in answer.results)
                return Answer(taken > 0, f"{taken} admitted, then refused: come back in {wait:.1f} s")
        return Answer(False, f"{most} admitted and no refusal")

    def authorize(self, *, expected: str) -> Answer:
        """Verify, check and consume in one call; `expected` is the reason."""
        entry = limit_pb2.Entry(key="path", value="/orders/{id}")
        request = authz_pb2.AuthorizeRequest(
            token=self.access_token,
            permission=READ,
            resource=ORDER,
            consume=[limit_pb2.Consumption(domain=DOMAIN, descriptors=[limit_pb2.Descriptor(entries=[entry])])],
        )
        answer = self.session.call(
            "AuthzService/Authorize", request, authz_pb2.AuthorizeResponse, token=self.caller_token()
        )
        decision, reason = enum_text(types_pb2.Decision.DESCRIPTOR, answer.decision), _reason(answer.reason)
        left = ", ".join(f"{result.remaining} of {result.limit} left" for result in answer.limits)
        return Answer(reason == expected, ", ".join(filter(None, (decision, reason, left))))

    def revoke_token(self) -> Answer:
        """Let the administrator revoke its newest token."""
        request = token_pb2.RevokeTokenRequest(token=self.access_token)
        answer = self.session.call("TokenService/RevokeToken", request, token_pb2.RevokeTokenResponse)
        return Answer(True, f"revoked from revision {answer.revision} on")


def _reason(number: int) -> str:
    return enum_text(error_reason_pb2.Reason.DESCRIPTOR, number)
