"""Messages of the service as plain values, and plain values as messages.

Owns: the form in which answers are printed: every field is there, enums are lower case without prefix, times
are RFC 3339, durations are seconds. May import: protobuf, `v1`.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from authsvc.cli.faults import wrong_use
from authsvc.core.durations import parse_duration

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def plain(message: Message) -> dict[str, Any]:
    """The message as JSON values; what is unset is null, an UNSPECIFIED enum the empty text."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        return [_value(field, item) for item in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return enum_text(field.enum_type, value)
    if isinstance(value, Timestamp):
        return datetime.fromtimestamp(value.seconds, UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Duration):
        return value.seconds + value.nanos / 1e9
    return plain(value) if isinstance(value, Message) else value


def enum_text(kind: EnumDescriptor, number: int) -> str:
    """`REASON_TOKEN_EXPIRED` as `token_expired`; a number of a later release as text."""
    if number == 0:
        return ""
    known = kind.values_by_number.get(number)
    if known is None:
        return str(number)
    prefix = _WORD_START.sub("_", kind.name).upper() + "_"
    return known.name.removeprefix(prefix).lower()


def duration(text: str, option: str) -> Duration:
    """`15m` as a message; a fault of the command line where it is no duration."""
    try:
        microseconds = parse_duration(text)
    except ValueError as error:
        raise wrong_use(f"{option}: {error}") from None
    return Duration(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1_000)


def timestamp(text: str, option: str) -> Timestamp:
    """An RFC 3339 time as a message; a fault of the command line where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise wrong_use(f"{option}: `{text}` is not a time such as 2027-01-31T12:00:00Z")
    return Timestamp(seconds=int(moment.timestamp()))


def struct(text: str, option: str) -> struct_pb2.Struct:
    """A JSON object as a message; a fault of the command line where it is none."""
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise wrong_use(f"{option}: is not a JSON object")
    found = struct_pb2.Struct()
    try:
        found.update(members)
    except (ValueError, TypeError):
        raise wrong_use(f"{option}: holds what a context cannot hold") from None
    return found
