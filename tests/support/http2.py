"""HTTP/2 by hand: frames that no client of grpcio sends, and those that come back (RFC 9113)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.transports import AS_CALLER

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 0x1, 0x4


@dataclass(frozen=True)
class Frame:
    """One that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of one."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)


def headers(stream: int, path: str, *more: tuple[bytes, bytes], end: bool = False) -> bytes:
    """The beginning of a call as an authorized caller."""
    pairs = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"localhost"),
        (b":path", path.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"authorization", AS_CALLER[0][1].encode()),
        *more,
    ]
    # HPACK literals without indexing or Huffman coding (RFC 7541 section 6.2.2).
    block = b"".join(b"\0" + _literal(name) + _literal(value) for name, value in pairs)
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


def message(stream: int, request: bytes, *, end: bool = True) -> bytes:
    """A message of gRPC."""
    return frame(DATA, END_STREAM if end else 0, stream, b"\0" + len(request).to_bytes(4, "big") + request)


@contextmanager
def connected(port: int, first: bytes = PREFACE) -> Iterator[tuple[socket.socket, Callable[[float], Iterator[Frame]]]]:
    """A connection on which `first` was sent, and the frames that come, until it ends or none came for some seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(first)
        with connection.makefile("rb") as stream:

            def come(seconds: float) -> Iterator[Frame]:
                connection.settimeout(seconds)
                while len(head := stream.read(9)) == 9:
                    size = int.from_bytes(head[:3], "big")
                    yield Frame(head[3], head[4], int.from_bytes(head[5:9], "big"), stream.read(size))

            yield connection, come


def _literal(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text
