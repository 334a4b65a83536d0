"""gRPC over HTTP/2 as ASGI carries it, without a loop or a service behind it.

Owns: length-prefixed messages, request headers, `grpc-timeout`, status and trailers. May import: `api.calls`,
`core.errors`, the standard library. Everything is after
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. Compressed messages are refused: `identity` is all that
is offered.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from authsvc.api.calls import Received, Refusal, Unread
from authsvc.core.errors import Exhausted, FieldViolation, InvalidRequest, Reason

Header = tuple[bytes, bytes]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]

PREFIX_BYTES: Final = 5
METADATA_BYTES: Final = 16 * 1024
"""All request headers together, 32 bytes a pair beside name and value, as HTTP/2 counts them (RFC 9113 6.5.2)."""

_UNITS: Mapping[int, float] = {
    ord("H"): 3600.0,
    ord("M"): 60.0,
    ord("S"): 1.0,
    ord("m"): 1e-3,
    ord("u"): 1e-6,
    ord("n"): 1e-9,
}
_PAIR_BYTES = 32
_GRPC_MESSAGE_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

_GRPC: Final = b"application/grpc"
_GRPC_KINDS: Final = (b"application/grpc+", b"application/grpc;")
_IDENTITY_ENCODING: Final = b"identity"
_NOT_METADATA = frozenset(
    {
        b"authorization",
        b"grpc-timeout",
        b"content-type",
        b"grpc-encoding",
        b"x-forwarded-client-cert",
        b"te",
        b"host",
        b"content-length",
        b"grpc-accept-encoding",
        b"x-envoy-external-address",
    }
)
"""What belongs to HTTP, gRPC or Envoy, and what the transport has read already."""

_CONTENT: Header = (b"content-type", b"application/grpc")
START: Event = {"type": "http.response.start", "status": 200, "headers": [_CONTENT], "trailers": True}
_TAKEN: Header = (b"grpc-accept-encoding", b"identity")
START_REFUSED: Event = {**START, "headers": [_CONTENT, _TAKEN]}
"""Says what encodings are taken, for whoever is refused because of another."""
EMPTY: Event = {"type": "http.response.body", "body": b"", "more_body": False}
OK: Event = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
NOT_GRPC: tuple[Event, Event] = (
    {"type": "http.response.start", "status": 415, "headers": []},
    {"type": "http.response.body", "body": b""},
)


class ClientLeft(Exception):
    """The caller has gone: there is nobody to answer."""


class CompressionRefused(InvalidRequest):
    """A compressed message; UNIMPLEMENTED on the wire, as gRPC's compression specification demands."""


class Head:
    """What a transport reads of a request's headers."""

    __slots__ = ("authorization", "certificate", "is_grpc", "metadata", "timeout")

    def __init__(self, headers: Sequence[Header]) -> None:
        """Raises Exhausted where they are too many bytes, CompressionRefused, InvalidRequest."""
        found = dict(headers)
        size = len(b"".join(found)) + len(b"".join(found.values())) + _PAIR_BYTES * len(headers)
        authorization = found.get(b"authorization")
        self.authorization: tuple[str, ...] = () if authorization is None else (authorization.decode("latin-1"),)
        if len(found) != len(headers):
            # Of a name that came more than once, `found` holds the last value only.
            size = sum(len(name) + len(value) + _PAIR_BYTES for name, value in headers)
            self.authorization = tuple(v.decode("latin-1") for name, v in headers if name == b"authorization")
        if size > METADATA_BYTES:
            raise Exhausted(
                f"the metadata holds more than {METADATA_BYTES} bytes",
                Reason.REQUEST_TOO_LARGE,
                metadata={"limit_bytes": str(METADATA_BYTES)},
            )
        timeout = found.get(b"grpc-timeout")
        self.timeout = None if timeout is None else parse_timeout(timeout)
        kind = found.get(b"content-type", b"")
        self.is_grpc = kind == _GRPC or kind.startswith(_GRPC_KINDS)
        if found.get(b"grpc-encoding", _IDENTITY_ENCODING) != _IDENTITY_ENCODING:
            raise _compressed()
        self.certificate = found.get(b"x-forwarded-client-cert", b"")
        self.metadata = Metadata(headers)


class Metadata(Mapping[str, str | bytes]):
    """The caller's metadata, decoded when somebody looks: few rows do. Of a key that came twice the last value."""

    __slots__ = ("_decoded", "_headers")

    def __init__(self, headers: Sequence[Header]) -> None:
        self._headers = headers
        self._decoded: dict[str, str | bytes] | None = None

    def __getitem__(self, key: str) -> str | bytes:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, str | bytes]:
        if self._decoded is None:
            self._decoded = {
                name.decode("latin-1"): _binary(value) if name.endswith(b"-bin") else value.decode("latin-1")
                for name, value in self._headers
                if name not in _NOT_METADATA
            }
        return self._decoded


def parse_timeout(value: bytes) -> float:
    """`grpc-timeout` in seconds: at most eight digits and a unit; InvalidRequest for anything else."""
    unit = _UNITS.get(value[-1]) if value else None
    digits = value[:-1]
    if unit is None or not digits.isdigit() or len(digits) > 8:
        raise InvalidRequest.of("grpc-timeout", "is not up to eight digits and a unit")
    return int(digits) * unit


def framed(message: bytes) -> bytes:
    """A message with its prefix, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def trailers(refused: Refusal) -> Event:
    """The trailers of a call that ends with an error."""
    return {
        "type": "http.response.trailers",
        "headers": [
            (b"grpc-status", str(refused.code).encode()),
            (b"grpc-message", quote(refused.message, safe=_GRPC_MESSAGE_SAFE).encode()),
            (b"grpc-status-details-bin", base64.b64encode(refused.details).rstrip(b"=")),
        ],
    }


async def messages(receive: Receive, most: int) -> AsyncIterator[Received]:
    """The caller's messages until it half-closes; never asks for an event after that.

    A message of more than `most` bytes is judged from its prefix: it comes as `Unread`, and is the last.
    Raises ClientLeft, CompressionRefused, and InvalidRequest where the end cuts a message.
    """
    buffer, more = bytearray(), True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            raise ClientLeft
        buffer += event.get("body", b"")
        more = event.get("more_body", False)
        while len(buffer) >= PREFIX_BYTES:
            end = PREFIX_BYTES + _size(buffer)
            if end > PREFIX_BYTES + most:
                yield Unread(end - PREFIX_BYTES)
                return
            if len(buffer) < end:
                break
            yield bytes(memoryview(buffer)[PREFIX_BYTES:end])
            del buffer[:end]
    if buffer:
        raise InvalidRequest.of("", "the call ended within a message", Reason.REQUEST_UNDECODABLE)


def whole_message(event: Event, most: int) -> Received | None:
    """The message of a call whose one event is its first and last, as nearly every call's is; None for any other.

    Raises CompressionRefused.
    """
    body: bytes = event.get("body", b"")
    if event.get("more_body", False) or len(body) < PREFIX_BYTES or event["type"] != "http.request":
        return None
    size = _size(body)
    if size > most:
        return Unread(size)
    return body[PREFIX_BYTES:] if size + PREFIX_BYTES == len(body) else None


async def one_message(receive: Receive, most: int, first: Event | None = None) -> Received:
    """The single message of a call, whose `first` event may have come already.

    Raises as `messages`, and InvalidRequest where it is not exactly one.
    """
    found: Received | None = None
    async for message in messages(receive if first is None else _again(first, receive), most):
        if found is not None:
            raise _not_one()
        found = message
    if found is None:
        raise _not_one()
    return found


def _again(event: Event, receive: Receive) -> Receive:
    """`receive` with one event before it."""
    first: list[Event] = [event]

    async def again() -> Event:
        return first.pop() if first else await receive()

    return again


def _size(prefixed: bytes | bytearray) -> int:
    if prefixed[0]:
        raise _compressed()
    return int.from_bytes(prefixed[1:PREFIX_BYTES], "big")


def _compressed() -> CompressionRefused:
    violation = FieldViolation("grpc-encoding", "compressed messages are not taken")
    return CompressionRefused([violation], Reason.FEATURE_NOT_SERVED)


def _not_one() -> InvalidRequest:
    return InvalidRequest.of("", "the call does not hold exactly one message", Reason.REQUEST_UNDECODABLE)


def _binary(value: bytes) -> bytes:
    """A `-bin` value: base64, with or without padding; as it came where it is not."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return value
