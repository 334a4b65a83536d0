"""`google.rpc.Status` and its details on the wire.

Owns: reading and writing ErrorInfo, RetryInfo and BadRequest. May import: protobuf. The messages live in a
pool of their own, so that the client needs no package of Google's protos and collides with none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

STATUS_KEY = "grpc-status-details-bin"
"""The trailing metadata that holds a Status."""

_Field = descriptor_pb2.FieldDescriptorProto
_INT32, _INT64, _STRING, _BYTES = _Field.TYPE_INT32, _Field.TYPE_INT64, _Field.TYPE_STRING, _Field.TYPE_BYTES

# Name -> fields in the order of their numbers; "*" marks a repeated one. Equal on the wire to
# google/rpc/status.proto and error_details.proto; a map is a repeated message of key and value.
_MESSAGES: dict[str, tuple[tuple[str, int | str], ...]] = {
    "Any": (("type_url", _STRING), ("value", _BYTES)),
    "Status": (("code", _INT32), ("message", _STRING), ("details*", "Any")),
    "Pair": (("key", _STRING), ("value", _STRING)),
    "ErrorInfo": (("reason", _STRING), ("domain", _STRING), ("metadata*", "Pair")),
    "Duration": (("seconds", _INT64), ("nanos", _INT32)),
    "RetryInfo": (("retry_delay", "Duration"),),
    "Violation": (("field", _STRING), ("description", _STRING)),
    "BadRequest": (("field_violations*", "Violation"),),
}


def _load() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="status.proto", package="s", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (text, kind) in enumerate(fields, 1):
            label = _Field.LABEL_REPEATED if text.endswith("*") else _Field.LABEL_OPTIONAL
            field = message.field.add(name=text.rstrip("*"), number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".s.{kind}"
            else:
                field.type = _Field.Type.ValueType(kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"s.{name}")) for name in _MESSAGES}


_CLASSES = _load()


@dataclass(frozen=True, slots=True)
class StatusDetails:
    """What a refusal says beside its code; empty where the peer said nothing."""

    reason: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None
    violations: tuple[tuple[str, str], ...] = ()


def read_status(encoded: bytes) -> StatusDetails:
    """The details of a Status; bytes that are none are as good as nothing said."""
    reason, metadata, retry_after, violations = "", [], None, []
    try:
        status: Any = _CLASSES["Status"].FromString(encoded)
        for packed in status.details:
            kind = packed.type_url.rpartition(".")[2]
            if kind not in {"ErrorInfo", "RetryInfo", "BadRequest"}:
                continue
            detail: Any = _CLASSES[kind].FromString(packed.value)
            if kind == "ErrorInfo" and detail.domain == "authsvc":
                reason = detail.reason
                metadata = [(pair.key, pair.value) for pair in detail.metadata]
            elif kind == "RetryInfo":
                retry_after = detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9
            elif kind == "BadRequest":
                violations = [(v.field, v.description) for v in detail.field_violations]
    except DecodeError:
        return StatusDetails()
    return StatusDetails(reason, tuple(metadata), retry_after, tuple(violations))


def write_status(code: int, message: str, *, reason: str, retry_after: float | None = None) -> bytes:
    """A Status with ErrorInfo (domain `authsvc`) and, where waiting helps, RetryInfo in seconds."""
    status: Any = _CLASSES["Status"](code=code, message=message)
    info: Any = _CLASSES["ErrorInfo"](reason=reason, domain="authsvc")
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString())
    if retry_after is not None:
        retry: Any = _CLASSES["RetryInfo"]()
        nanos = round(retry_after * 1e9)
        retry.retry_delay.seconds, retry.retry_delay.nanos = divmod(nanos, 1_000_000_000)
        status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=retry.SerializeToString())
    encoded: bytes = status.SerializeToString()
    return encoded
