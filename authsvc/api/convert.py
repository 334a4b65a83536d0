"""Proto messages to core values and back: what all services share.

Owns: paths of faults, caps on repeated fields, times, structs, tokens, outcomes of limits. May import: `core`, `v1`,
protobuf. Request validation is written by hand, here and in `convert_*.py` only: a fault names its field by the proto
path, such as `checks[3].subject`. Unknown enum numbers are refused; fields that this release does not serve are refused
by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from authsvc.core import values
from authsvc.core.claims import VerifiedToken
from authsvc.core.errors import FieldViolation, InvalidRequest, Reason
from authsvc.core.policy import NOTHING
from authsvc.v1 import error_reason_pb2, types_pb2

MAX_BATCH = 10_000
MAX_NAMES = 256
"""Items of a repeated field of names: audiences, scopes, groups, roles, tenants, domains."""
MAX_CONTEXT_DEPTH = 16
MAX_TIME = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second of a Timestamp."""

M = TypeVar("M")
T = TypeVar("T")
Each = Callable[[Iterable[Any]], Iterable[Any]]
"""How the items of a batch are walked; it may end the walk, as `Context.while_wanted` does."""

_RESERVED_CONTEXT = ("token", "request")
_CACHE = 8_192
_CONTEXTS, _CONTEXT_BYTES = 2_048, 2_048
_contexts: dict[bytes, Mapping[str, Any]] = {}

# The same few names come again and again; a name is checked once while it is remembered.
subject = lru_cache(_CACHE)(values.subject)
permission = lru_cache(_CACHE)(values.permission)
resource = lru_cache(_CACHE)(values.resource)
tenant = lru_cache(_CACHE)(values.tenant)
client_id = lru_cache(_CACHE)(values.client_id)
audience = lru_cache(_CACHE)(values.audience)
scope = lru_cache(_CACHE)(values.scope)


def reason(value: Reason) -> error_reason_pb2.Reason:
    """The wire's number, which a test compares with ours."""
    return cast("error_reason_pb2.Reason", int(value))


def under(prefix: str, error: InvalidRequest) -> InvalidRequest:
    """The same faults, of a message that is part of another: `subject` becomes `checks[3].subject`."""
    violations = [FieldViolation(f"{prefix}.{v.field}" if v.field else prefix, v.description) for v in error.violations]
    return InvalidRequest(violations, error.reason, metadata=error.metadata)


def capped(items: Sequence[Any], field: str, most: int, *, least: int = 0) -> None:
    """Refuse a repeated field with more items than the row takes, or fewer."""
    if len(items) > most:
        raise InvalidRequest(
            [FieldViolation(field, f"holds {len(items)} items, at most {most} are taken")],
            Reason.LIMIT_CAPPED,
            metadata={"cap": str(most)},
        )
    if len(items) < least:
        raise InvalidRequest.of(field, f"holds {len(items)} items, at least {least} are needed")


def names(items: Sequence[str], field: str, check: Callable[[str, str], str]) -> tuple[str, ...]:
    """A repeated field of names, each checked with its own path, in order."""
    if not items:
        return ()
    capped(items, field, MAX_NAMES)
    return tuple(check(item, f"{field}[{i}]") for i, item in enumerate(items))


def group(text: str, field: str) -> str:
    """A group's bare name, without its kind."""
    values.plain(text, field)
    if "*" in text:
        raise InvalidRequest.of(field, "holds a wildcard")
    return text


def tenant_or_any(text: str, field: str) -> str:
    """A tenant, or `*` for any."""
    if not text:
        raise InvalidRequest.of(field, "is empty")
    return text if text == values.ANY else values.tenant(text, field)


def domain_or_any(text: str, field: str) -> str:
    """A limit domain, or `*` for any."""
    return text if text == values.ANY else group(text, field)


def not_served(message: Any, *fields: str) -> None:
    """Refuse fields that are known and not served, by name."""
    kind: Any = type(message)
    for field in fields:
        present = message.HasField(field) if _has_presence(kind, field) else bool(getattr(message, field))
        if present:
            raise InvalidRequest.of(field, "is not served by this release", Reason.FEATURE_NOT_SERVED)


@lru_cache(64)
def _has_presence(kind: Any, field: str) -> bool:
    return bool(kind.DESCRIPTOR.fields_by_name[field].message_type is not None)


def batch(items: Sequence[M], field: str, read: Callable[[M], T], each: Each) -> list[T]:
    """The parts of a batch, in order; the first that is wrong refuses the batch and is named."""
    capped(items, field, MAX_BATCH, least=1)
    found: list[T] = []
    for place, item in enumerate(each(items)):
        try:
            without_revision(item)
            found.append(read(item))
        except InvalidRequest as error:
            raise under(f"{field}[{place}]", error) from None
    return found


def without_revision(message: Any) -> None:
    """Refuse `min_revision` inside a batch, whose own holds for all."""
    if message.min_revision:
        raise InvalidRequest.of("min_revision", "must be unset inside a batch")


def token_text(text: str, field: str = "token") -> str:
    """A token as it came; only its presence is checked, the rest is an answer."""
    if not text:
        raise InvalidRequest.of(field, "is required")
    return text


def seconds(duration: Duration, field: str, *, least: int, most: int) -> int:
    """A Duration of whole seconds within bounds."""
    if duration.nanos:
        raise InvalidRequest.of(field, "is not a whole number of seconds")
    if not least <= duration.seconds <= most:
        raise InvalidRequest.of(field, f"is not between {least} and {most} seconds")
    return duration.seconds


def time_of(timestamp: Timestamp, field: str) -> int:
    """A Timestamp as unix seconds, rounded down."""
    if not 0 <= timestamp.seconds <= MAX_TIME or not 0 <= timestamp.nanos < 1_000_000_000:
        raise InvalidRequest.of(field, "is not a time from 1970 to 9999")
    return timestamp.seconds


def put_time(message: Any, field: str, time: int | None) -> None:
    """Set a Timestamp field; None leaves it unset."""
    if time is not None:
        getattr(message, field).seconds = time


def put_microseconds(duration: Duration, microseconds: int) -> None:
    """Set a Duration, also a zero one, which shows as set."""
    duration.SetInParent()
    duration.seconds, rest = divmod(microseconds, 1_000_000)
    duration.nanos = rest * 1_000


def context(message: Any) -> Mapping[str, Any]:
    """What conditions read as `context`, never to be changed; the service's own members are refused.

    Questions that come together, and those of one page or job, have a context in common: one of moderate size is read
    once while it is remembered, found by its bytes.
    """
    if not message.HasField("context"):
        return NOTHING
    given = message.context
    encoded = given.SerializeToString()
    found = _contexts.get(encoded)
    if found is None:
        found = _members(given)
        if len(encoded) <= _CONTEXT_BYTES:
            if len(_contexts) >= _CONTEXTS:
                _contexts.clear()
            _contexts[encoded] = found
    return found


def _members(given: struct_pb2.Struct) -> Mapping[str, Any]:
    # The fastest of several ways, by measurement: most members are texts, and a text that is set needs no more asking.
    fields = given.fields
    members = {key: fields[key].string_value or _value(fields[key], f"context.{key}", 1) for key in fields}
    for reserved in _RESERVED_CONTEXT:
        if reserved in members:
            raise InvalidRequest.of(f"context.{reserved}", "is set by the service and cannot be given")
    return members


def _value(value: struct_pb2.Value, path: str, depth: int) -> Any:
    if depth > MAX_CONTEXT_DEPTH:
        raise InvalidRequest.of(path, f"is nested deeper than {MAX_CONTEXT_DEPTH}")
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case "number_value":
            return _number(value.number_value, path)
        case "struct_value":
            members = value.struct_value.fields.items()
            return {key: _value(member, f"{path}.{key}", depth + 1) for key, member in members}
        case "list_value":
            items = value.list_value.values
            return [_value(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(items)]
        case _:
            raise InvalidRequest.of(path, "holds no value")


def _number(number: float, path: str) -> int | float:
    """JSON has one kind of number: a whole one is an integer to conditions, as in a policy's own tests."""
    if not math.isfinite(number):
        raise InvalidRequest.of(path, "is not a finite number")
    return int(number) if number.is_integer() and abs(number) <= 2**53 else number


def token_message(verified: VerifiedToken) -> types_pb2.Token:
    """What a verified token says; never its text."""
    message = types_pb2.Token(
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
    message.issue_time.seconds = verified.issue_time
    message.expire_time.seconds = verified.expire_time
    return message
