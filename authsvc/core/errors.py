"""The closed set of reasons and the error tree.

Owns: every reason that an answer or a refusal can carry, and the exceptions of the product.
May import: the standard library only. The mapping to gRPC and HTTP lives in `authsvc.api.errors`;
numbers and names equal `authsvc.v1.Reason` of `error_reason.proto`, which a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Reason(IntEnum):
    """Why an answer is what it is, or why a call was refused; prose in `error_reason.proto`."""

    UNSPECIFIED = 0

    # Answers of verification: the token is not valid because .
    TOKEN_MALFORMED = 1
    TOKEN_TOO_LARGE = 2
    TOKEN_ALGORITHM_REFUSED = 3
    TOKEN_KEY_UNKNOWN = 4
    TOKEN_KEY_REVOKED = 5
    TOKEN_SIGNATURE_INVALID = 6
    TOKEN_TYPE_REFUSED = 7
    TOKEN_ISSUER_UNKNOWN = 8
    TOKEN_AUDIENCE_MISMATCH = 9
    TOKEN_EXPIRED = 10
    TOKEN_NOT_YET_VALID = 11
    TOKEN_CLAIM_INVALID = 12
    TOKEN_REVOKED = 13
    TOKEN_SCOPE_INSUFFICIENT = 14
    TOKEN_HEADER_REFUSED = 15

    # Answers of a check.
    ALLOWED = 30
    NO_BINDING = 31
    DENIED_BY_ROLE = 32
    SCOPE_INSUFFICIENT = 33
    PERMISSION_UNDECLARED = 34
    TENANT_MISMATCH = 35
    QUESTION_INVALID = 36
    LIMIT_EXCEEDED = 37
    NO_ROUTE = 38

    # Refusals of a call (ErrorInfo.reason without the prefix).
    REQUEST_INVALID = 60
    REQUEST_UNDECODABLE = 61
    REQUEST_TOO_LARGE = 62
    FEATURE_NOT_SERVED = 63
    CALLER_UNAUTHENTICATED = 64
    CALLER_NOT_PERMITTED = 65
    AUTHENTICATION_THROTTLED = 66
    CLIENT_AUTHENTICATION_FAILED = 67
    SCOPE_REFUSED = 68
    AUDIENCE_REFUSED = 69
    METHOD_UNKNOWN = 70
    KEY_NOT_FOUND = 71
    KEY_STATE_CONFLICT = 72
    KEY_LEAD_NOT_PASSED = 73
    CLIENT_NOT_FOUND = 74
    CLIENT_EXISTS = 75
    BINDING_NOT_FOUND = 76
    ROLE_UNKNOWN = 77
    POLICY_INVALID = 78
    POLICY_REVISION_CONFLICT = 79
    POLICY_FROM_FILE = 80
    GRANT_EXCEEDS_GRANTER = 81
    LAST_ADMIN = 82
    SECRETS_EXHAUSTED = 83
    REVISION_UNREACHABLE = 84
    WAITERS_EXHAUSTED = 85
    WRITE_CONFLICT = 86
    DEADLINE_EXCEEDED = 87
    OVERLOADED = 88
    RECORD_UNAVAILABLE = 89
    COUNTERS_UNAVAILABLE = 90
    SHUTTING_DOWN = 91
    INTERNAL = 92
    LIMIT_CAPPED = 93
    SERVICE_NOT_FOUND = 94

    __hash__ = int.__hash__
    """Equal numbers have equal hashes; and Enum's own is a function in Python, called for each look into a mapping."""

    @property
    def text(self) -> str:
        """The form for people and JSON lines: lower case, no prefix, e.g. `token_expired`."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One fault of a request: the proto path of the field and what is wrong with it."""

    field: str
    description: str


class AuthsvcError(Exception):
    """Base of every deliberate refusal; abstract: raise one of the kinds below.

    `message` is for the caller: no token, secret, type name or store text. Every variable part of it
    is also in `metadata` (AIP-193).
    """

    default_reason = Reason.UNSPECIFIED

    def __init__(
        self,
        message: str,
        reason: Reason | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        if type(self) is AuthsvcError:
            raise TypeError("raise one of the kinds, not the base")
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.metadata: Mapping[str, str] = dict(metadata or {})


class InvalidRequest(AuthsvcError):
    """The request (or policy, or configuration) is wrong; `violations` names each field."""

    default_reason = Reason.REQUEST_INVALID

    def __init__(
        self,
        violations: Sequence[FieldViolation],
        reason: Reason | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        text = "; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in violations)
        super().__init__(text, reason, metadata=metadata)
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str, reason: Reason | None = None) -> InvalidRequest:
        """The usual case: one field, one fault."""
        return cls([FieldViolation(field, description)], reason)


class TokenRefused(AuthsvcError):
    """A token does not verify; an answer of VerifyToken, never an RPC error of it."""

    default_reason = Reason.TOKEN_MALFORMED


class Unauthenticated(AuthsvcError):
    """The caller did not prove who it is. One sentence for every cause (STANDARDS J17)."""

    default_reason = Reason.CALLER_UNAUTHENTICATED


class PermissionDenied(AuthsvcError):
    """The caller is known and may not do this."""

    default_reason = Reason.CALLER_NOT_PERMITTED


class NotFound(AuthsvcError):
    """The thing named does not exist."""


class Conflict(AuthsvcError):
    """The state of the record does not allow the change, or another writer was first."""

    default_reason = Reason.WRITE_CONFLICT


class Exhausted(AuthsvcError):
    """A cap or a limit holds the call back; `retry_after` in seconds, None where waiting does not help."""

    default_reason = Reason.OVERLOADED

    def __init__(
        self,
        message: str,
        reason: Reason | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, reason, metadata=metadata)
        self.retry_after = retry_after


class Unavailable(AuthsvcError):
    """A dependency is down, or this replica may not answer now; adapters raise it from driver errors."""

    default_reason = Reason.RECORD_UNAVAILABLE


class DeadlineExceeded(AuthsvcError):
    """The caller's or the row's deadline passed before the answer was there."""

    default_reason = Reason.DEADLINE_EXCEEDED


class Internal(AuthsvcError):
    """A stored thing that we wrote ourselves is broken (failed MAC, unreadable envelope): loud, closed."""

    default_reason = Reason.INTERNAL
