"""What a failed RPC means to the caller.

Owns: the mapping of gRPC statuses to `authsvc.core.errors`, and which of these mean "out of reach". May
import: grpc, `core`, `status`. It is the reverse of `authsvc.api.errors` of the service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import grpc

from authsvc.core.errors import (
    AuthsvcError,
    Conflict,
    DeadlineExceeded,
    Exhausted,
    FieldViolation,
    Internal,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Reason,
    Unauthenticated,
    Unavailable,
)
from authsvc_client.status import STATUS_KEY, StatusDetails, read_status

# A gRPC server that stops says CANCELLED to calls that it does not take any more.
_GONE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_CONFLICTS = frozenset({grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED})


class Unanswered(Unavailable):
    """The replica went away, or sends its callers away: another one may answer.

    `taken`: whether it may have begun, so that what counts must not be asked again.
    """

    def __init__(self, message: str, reason: Reason | None = None, *, metadata: Mapping[str, str], taken: bool) -> None:
        super().__init__(message, reason, metadata=metadata)
        self.taken = taken


def out_of_reach(error: AuthsvcError) -> bool:
    """Whether `on_unavailable` decides: nobody answered, or nobody could. Misuse is never that."""
    if isinstance(error, Exhausted):
        return error.reason not in (Reason.REQUEST_TOO_LARGE, Reason.LIMIT_CAPPED)
    return isinstance(error, Unavailable | DeadlineExceeded | Internal)


def from_rpc(error: grpc.RpcError, method: str, *, closed: bool = False) -> AuthsvcError:
    """The error that a failed RPC means. `closed`: our own end closed the channel, so nobody else is to be asked."""
    code, text = error.code(), error.details() or ""
    details = _details(error.trailing_metadata() or ())
    reason = Reason.__members__.get(details.reason)
    metadata = dict(details.metadata)
    message = f"{method}: {text or code.name}"
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        violations = [FieldViolation(*pair) for pair in details.violations] or [FieldViolation("", message)]
        return InvalidRequest(violations, reason, metadata=metadata)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(message, reason, metadata=metadata)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return PermissionDenied(message, reason, metadata=metadata)
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(message, reason, metadata=metadata)
    if code in _CONFLICTS:
        return Conflict(message, reason, metadata=metadata)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Exhausted(message, reason, metadata=metadata, retry_after=details.retry_after)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(message, reason, metadata=metadata)
    if code in _GONE and not closed:
        return Unanswered(message, reason, metadata=metadata, taken=reason is not Reason.SHUTTING_DOWN)
    return Unavailable(message, reason, metadata=metadata)


def _details(trailers: Iterable[Any]) -> StatusDetails:
    for key, value in trailers:
        if key == STATUS_KEY and isinstance(value, bytes):
            return read_status(value)
    return StatusDetails()
