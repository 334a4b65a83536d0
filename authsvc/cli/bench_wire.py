"""One unary gRPC call, over and over, on one HTTP/2 connection.

Owns: the frames of a call that is made once and then copied, and the reading of what comes back (RFC 9113, RFC 7541).
May import: the standard library. A gRPC library in Python spends more on a call than a fast server does, and would
measure itself; here a call costs some ten microseconds, and still every answer is compared.

The request's headers are put into the server's table by the first call and are references afterwards, as gRPC
libraries send them. The server is told to keep no table for us, so that trailers can be read without one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct, pack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW, FRAME, MOST_WINDOW = 65_535, 16_384, 2**31 - 1
"""Defaults of RFC 9113 section 6.5.2, and the largest window."""
FIRST_ENTRY = 62
"""The newest entry of the dynamic table (RFC 7541 section 2.3.3)."""
PREFIX = 5
"""Bytes before a gRPC message: whether it is compressed, and its length."""

_HEAD = Struct(">IBI")
_STATUS = (b"\x0bgrpc-status", b"\x88" + 0x9ACAC8B21234DA8F.to_bytes(8, "big"))
_OK = tuple(name + value for name in _STATUS for value in (b"\x010", b"\x81\x07"))
"""`grpc-status: 0`, name and value each as it is or by Huffman's code (RFC 7541 appendix B)."""
_RECEIVE = 1 << 18


class WireFault(Exception):
    """The server cannot be measured so; one line that says why."""


@dataclass(frozen=True, slots=True)
class Expected:
    """How a right answer begins, and how many bytes it has; 0 where that differs from call to call."""

    start: bytes
    length: int = 0

    def matches(self, framed: bytes) -> bool:
        """Whether a message with its prefix is right."""
        return framed.startswith(self.start, PREFIX) and (not self.length or len(framed) == self.length + PREFIX)


class Connection:
    """A connection with calls in flight, each known by the time it was due.

    `ended(due, right)` is told of each call: True for a right answer, False for a wrong one, None for an error.
    """

    def __init__(
        self,
        address: str,
        headers: Sequence[tuple[str, str]],
        message: bytes,
        expected: Expected,
        ended: Callable[[int, bool | None], None],
    ) -> None:
        if len(message) + PREFIX > WINDOW:
            raise WireFault(f"the request has {len(message)} bytes, more than a stream's first window")
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=5.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expected, self._ended = expected, ended
        self._first, self._next = _call(headers, message)
        self._cost = len(message) + PREFIX
        self._stream = 1
        self._window, self._received = WINDOW, 0
        self.in_flight: dict[int, int] = {}
        """Calls without an answer yet: their streams, and when they were due."""
        self._messages: dict[int, bytes] = {}
        self._trailers = b""
        self._rest = b""
        self._out = [
            PREFACE,
            _frame(SETTINGS, 0, 0, pack(">HIHIHI", 1, 0, 2, 0, 4, MOST_WINDOW)),
            _frame(WINDOW_UPDATE, 0, 0, pack(">I", MOST_WINDOW - WINDOW)),
        ]
        self.flush()
        self.socket.setblocking(False)

    def call(self, due: int) -> bool:
        """Send one call; False where the server's window has no room for it now. `flush` puts it on the wire."""
        if self._window < self._cost:
            return False
        self._window -= self._cost
        stream, self._stream = self._stream, self._stream + 2
        self.in_flight[stream] = due
        parts = self._next if stream > 1 else self._first
        self._out.append(stream.to_bytes(4, "big").join(parts))
        return True

    def flush(self) -> None:
        """Write what is waiting, as much as the socket takes."""
        if self._out:
            waiting = b"".join(self._out)
            with suppress(BlockingIOError):
                waiting = waiting[self.socket.send(waiting) :]
            self._out = [waiting] if waiting else []

    def receive(self) -> None:
        """Read what is there; raises WireFault where the server ends the connection."""
        try:
            more = self.socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError as fault:
            raise WireFault(f"the connection broke: {fault.strerror}") from None
        if not more:
            raise WireFault("the server closed the connection")
        data = self._rest + more if self._rest else more
        place, size = 0, len(data)
        while size - place >= 9:
            head, flags, stream = _HEAD.unpack_from(data, place)
            end = place + 9 + (head >> 8)
            if end > size:
                break
            self._frame(head & 0xFF, flags, stream, data[place + 9 : end])
            place = end
        self._rest = data[place:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._data(flags, stream, payload)
        elif kind == HEADERS:
            if flags & END_STREAM:
                self._end(stream, payload)
        elif kind == WINDOW_UPDATE:
            self._window += 0 if stream else int.from_bytes(payload, "big")
        elif kind == RST_STREAM and stream in self.in_flight:
            # After the trailers it says only that the rest of the request is not wanted.
            self._messages.pop(stream, None)
            self._end(stream, b"")
        elif kind in {SETTINGS, PING} and not flags & ACK:
            self._out.append(_frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == GOAWAY:
            raise WireFault(f"the server said goodbye, code {int.from_bytes(payload[4:8], 'big')}")

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & PADDED:
            raise WireFault("the server pads its frames")
        held = self._messages.get(stream)
        self._messages[stream] = payload if held is None else held + payload
        self._received += len(payload)
        if self._received > MOST_WINDOW // 2:
            self._out.append(_frame(WINDOW_UPDATE, 0, 0, pack(">I", self._received)))
            self._received = 0
        if flags & END_STREAM:
            self._end(stream, b"")

    def _end(self, stream: int, trailers: bytes) -> None:
        """A call is over; without the status OK it is an error whatever came before."""
        message = self._messages.pop(stream, None)
        right = None
        if message is not None and (trailers == self._trailers or _is_ok(trailers)):
            self._trailers = trailers
            right = self._expected.matches(message)
        self._ended(self.in_flight.pop(stream), right)


def _is_ok(trailers: bytes) -> bool:
    """Whether the field `grpc-status: 0` stands in the block, in one of the spellings of a literal."""
    return any(mark in trailers for mark in _OK)


def _call(headers: Sequence[tuple[str, str]], message: bytes) -> tuple[list[bytes], list[bytes]]:
    """The frames of the first call and of every later one, cut where the stream's number stands."""
    literal = b"".join(b"\x40" + _text(name) + _text(value) for name, value in headers)
    newest = FIRST_ENTRY + len(headers) - 1
    if newest > 127:
        raise WireFault("too many headers")
    indexed = bytes(0x80 | (newest - place) for place in range(len(headers)))
    framed = pack(">BI", 0, len(message)) + message
    pieces = [framed[place : place + FRAME] for place in range(0, len(framed), FRAME)]
    calls = []
    for block in (literal, indexed):
        parts = [_head(HEADERS, END_HEADERS, len(block)), block]
        for piece in pieces:
            parts[-1] += _head(DATA, END_STREAM if piece is pieces[-1] else 0, len(piece))
            parts.append(piece)
        calls.append(parts)
    return calls[0], calls[1]


def _head(kind: int, flags: int, length: int) -> bytes:
    return length.to_bytes(3, "big") + bytes([kind, flags])


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _head(kind, flags, len(payload)) + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    """A string literal without Huffman coding (RFC 7541 sections 5.1 and 5.2)."""
    raw = text.encode("ascii")
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    coded, rest = bytearray([127]), len(raw) - 127
    while rest >= 128:
        coded.append(rest % 128 + 128)
        rest //= 128
    return bytes([*coded, rest]) + raw
