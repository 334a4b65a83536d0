"""From errors of the product to the wire, in one place.

Owns: the total mapping of `Reason` to gRPC codes and to the HTTP status of an Envoy denial, and the
google.rpc.Status that an RPC error carries (AIP-193): ErrorInfo of domain `authsvc`, BadRequest, RetryInfo.
May import: `core`, protobuf. Inner text stays here: an exception that is none of ours becomes INTERNAL with a
fixed sentence and a request id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from itertools import islice
from types import MappingProxyType

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from authsvc.api.calls import Refusal
from authsvc.core.errors import AuthsvcError, Exhausted, Internal, InvalidRequest, Reason, Unavailable

DOMAIN = "authsvc"

MAX_MESSAGE = 256
MAX_VALUE = 128
MAX_VIOLATIONS = 12
MAX_METADATA = 4
"""Bytes and items: together, in base64, they stay under the 8 KiB of trailers that clients accept by default."""

DEFAULT_RETRY_SECONDS = 1.0

_CUT = "..."
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Code(IntEnum):
    """gRPC status codes (google.rpc.Code) that this service sends."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16

    __hash__ = int.__hash__
    """As `Reason`'s."""


_TOKEN_REASONS = (
    Reason.TOKEN_MALFORMED,
    Reason.TOKEN_TOO_LARGE,
    Reason.TOKEN_ALGORITHM_REFUSED,
    Reason.TOKEN_KEY_UNKNOWN,
    Reason.TOKEN_KEY_REVOKED,
    Reason.TOKEN_SIGNATURE_INVALID,
    Reason.TOKEN_TYPE_REFUSED,
    Reason.TOKEN_ISSUER_UNKNOWN,
    Reason.TOKEN_AUDIENCE_MISMATCH,
    Reason.TOKEN_EXPIRED,
    Reason.TOKEN_NOT_YET_VALID,
    Reason.TOKEN_CLAIM_INVALID,
    Reason.TOKEN_REVOKED,
    Reason.TOKEN_SCOPE_INSUFFICIENT,
    Reason.TOKEN_HEADER_REFUSED,
)

GRPC_CODE: Mapping[Reason, Code] = MappingProxyType(
    {
        Reason.UNSPECIFIED: Code.INTERNAL,
        # A refused token is an answer; as an error of a call it is the caller's own and tells nothing (J17).
        **dict.fromkeys(_TOKEN_REASONS, Code.UNAUTHENTICATED),
        Reason.ALLOWED: Code.INTERNAL,
        Reason.NO_BINDING: Code.PERMISSION_DENIED,
        Reason.DENIED_BY_ROLE: Code.PERMISSION_DENIED,
        Reason.SCOPE_INSUFFICIENT: Code.PERMISSION_DENIED,
        Reason.PERMISSION_UNDECLARED: Code.PERMISSION_DENIED,
        Reason.TENANT_MISMATCH: Code.PERMISSION_DENIED,
        Reason.QUESTION_INVALID: Code.INVALID_ARGUMENT,
        Reason.LIMIT_EXCEEDED: Code.RESOURCE_EXHAUSTED,
        Reason.NO_ROUTE: Code.PERMISSION_DENIED,
        Reason.REQUEST_INVALID: Code.INVALID_ARGUMENT,
        Reason.REQUEST_UNDECODABLE: Code.INVALID_ARGUMENT,
        Reason.REQUEST_TOO_LARGE: Code.RESOURCE_EXHAUSTED,
        Reason.FEATURE_NOT_SERVED: Code.INVALID_ARGUMENT,
        Reason.CALLER_UNAUTHENTICATED: Code.UNAUTHENTICATED,
        Reason.CALLER_NOT_PERMITTED: Code.PERMISSION_DENIED,
        Reason.AUTHENTICATION_THROTTLED: Code.RESOURCE_EXHAUSTED,
        Reason.CLIENT_AUTHENTICATION_FAILED: Code.UNAUTHENTICATED,
        Reason.SCOPE_REFUSED: Code.INVALID_ARGUMENT,
        Reason.AUDIENCE_REFUSED: Code.INVALID_ARGUMENT,
        Reason.METHOD_UNKNOWN: Code.UNIMPLEMENTED,
        Reason.KEY_NOT_FOUND: Code.NOT_FOUND,
        Reason.KEY_STATE_CONFLICT: Code.FAILED_PRECONDITION,
        Reason.KEY_LEAD_NOT_PASSED: Code.FAILED_PRECONDITION,
        Reason.CLIENT_NOT_FOUND: Code.NOT_FOUND,
        Reason.CLIENT_EXISTS: Code.ALREADY_EXISTS,
        Reason.BINDING_NOT_FOUND: Code.NOT_FOUND,
        Reason.ROLE_UNKNOWN: Code.INVALID_ARGUMENT,
        Reason.POLICY_INVALID: Code.INVALID_ARGUMENT,
        Reason.POLICY_REVISION_CONFLICT: Code.ABORTED,
        Reason.POLICY_FROM_FILE: Code.FAILED_PRECONDITION,
        Reason.GRANT_EXCEEDS_GRANTER: Code.PERMISSION_DENIED,
        Reason.LAST_ADMIN: Code.FAILED_PRECONDITION,
        Reason.SECRETS_EXHAUSTED: Code.FAILED_PRECONDITION,
        Reason.REVISION_UNREACHABLE: Code.FAILED_PRECONDITION,
        Reason.WAITERS_EXHAUSTED: Code.RESOURCE_EXHAUSTED,
        Reason.WRITE_CONFLICT: Code.ABORTED,
        Reason.DEADLINE_EXCEEDED: Code.DEADLINE_EXCEEDED,
        Reason.OVERLOADED: Code.RESOURCE_EXHAUSTED,
        Reason.RECORD_UNAVAILABLE: Code.UNAVAILABLE,
        Reason.COUNTERS_UNAVAILABLE: Code.UNAVAILABLE,
        Reason.SHUTTING_DOWN: Code.UNAVAILABLE,
        Reason.INTERNAL: Code.INTERNAL,
        Reason.LIMIT_CAPPED: Code.INVALID_ARGUMENT,
        Reason.SERVICE_NOT_FOUND: Code.NOT_FOUND,
    }
)

_ONE_SENTENCE: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.CALLER_UNAUTHENTICATED: "the caller is not authenticated",
        Reason.CLIENT_AUTHENTICATION_FAILED: "the client is not authenticated",
    }
)

_RETRIED = frozenset(
    {
        Reason.RECORD_UNAVAILABLE,
        Reason.COUNTERS_UNAVAILABLE,
        Reason.SHUTTING_DOWN,
        Reason.OVERLOADED,
        Reason.AUTHENTICATION_THROTTLED,
    }
)

_DENIED_FOR_CALLER = frozenset({Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.NOT_FOUND})


def reason_of(fault: BaseException) -> Reason:
    """The reason of a fault as a caller may know it: INTERNAL for everything that is not an error of ours."""
    if not isinstance(fault, AuthsvcError) or isinstance(fault, Internal):
        return Reason.INTERNAL
    code = GRPC_CODE[fault.reason]
    if code is Code.UNAUTHENTICATED and fault.reason not in _ONE_SENTENCE:
        return Reason.CALLER_UNAUTHENTICATED
    return Reason.INTERNAL if code is Code.INTERNAL else fault.reason


def denial_status(reason: Reason) -> int:
    """The HTTP status of an Envoy denial: 403 where the peer may not or its request is wrong, else 503 (E7)."""
    code = GRPC_CODE[reason]
    return 403 if code in _DENIED_FOR_CALLER or reason is Reason.REQUEST_TOO_LARGE else 503


def refusal(fault: BaseException, request_id: str) -> Refusal:
    """The RPC error for a fault; never holds its text unless it is one of `core.errors`."""
    reason = reason_of(fault)
    code = GRPC_CODE[reason]
    details: list[any_pb2.Any] = []
    if reason is Reason.INTERNAL or not isinstance(fault, AuthsvcError):
        message = "an internal fault; the request id finds it in the log"
        metadata: Mapping[str, str] = {"request_id": request_id}
    elif code is Code.UNAUTHENTICATED:
        message, metadata = _ONE_SENTENCE[reason], {}
    else:
        message, metadata = _clean(fault.message, MAX_MESSAGE), fault.metadata
    info = error_details_pb2.ErrorInfo(reason=reason.name, domain=DOMAIN)
    for key, value in islice(metadata.items(), MAX_METADATA):
        info.metadata[_clean(key, MAX_VALUE)] = _clean(value, MAX_VALUE)
    details.append(_pack("ErrorInfo", info.SerializeToString()))
    if isinstance(fault, InvalidRequest) and fault.violations:
        bad = error_details_pb2.BadRequest()
        for violation in fault.violations[:MAX_VIOLATIONS]:
            bad.field_violations.add(
                field=_clean(violation.field, MAX_VALUE), description=_clean(violation.description, MAX_VALUE)
            )
        details.append(_pack("BadRequest", bad.SerializeToString()))
    delay = _retry_delay(fault, reason)
    if delay is not None:
        retry = error_details_pb2.RetryInfo(retry_delay=_duration(delay))
        details.append(_pack("RetryInfo", retry.SerializeToString()))
    status = status_pb2.Status(code=int(code), message=message, details=details)
    return Refusal(int(code), message, status.SerializeToString())


def _retry_delay(fault: BaseException, reason: Reason) -> float | None:
    if isinstance(fault, Exhausted) and fault.retry_after is not None:
        return fault.retry_after
    if reason in _RETRIED and isinstance(fault, Exhausted | Unavailable):
        return DEFAULT_RETRY_SECONDS
    return None


def _duration(seconds: float) -> duration_pb2.Duration:
    nanos = round(seconds * 1_000_000_000)
    return duration_pb2.Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def _pack(name: str, value: bytes) -> any_pb2.Any:
    return any_pb2.Any(type_url=f"type.googleapis.com/google.rpc.{name}", value=value)


def _clean(text: str, most: int) -> str:
    """Text as one line of at most `most` bytes, controls escaped (STANDARDS U14)."""
    shown = _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text[:most])
    encoded = shown.encode()
    if len(text) <= most and len(encoded) <= most:
        return shown
    return encoded[: most - len(_CUT)].decode(errors="ignore") + _CUT
