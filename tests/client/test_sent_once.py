"""What consumes is begun at most once, whatever happens on the way; reads may be asked again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from authsvc_client import Consumption, Settings
from tests.client.conftest import Ask

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 1, 3, 4, 6, 7
_ACK = 1
_REFUSED_STREAM = 7

Answer = Callable[[socket.socket, int], None]


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def refuse_stream(connection: socket.socket, stream: int) -> None:
    """Say that the call was refused before it was processed."""
    connection.sendall(_frame(_RST_STREAM, 0, stream, _REFUSED_STREAM.to_bytes(4, "big")))


def go_away(connection: socket.socket, _stream: int) -> None:
    """Declare that no call of this connection was begun (RFC 9113 section 6.8): gRPC repeats it once by itself."""
    connection.sendall(_frame(_GOAWAY, 0, 0, bytes(8)))
    connection.shutdown(socket.SHUT_RDWR)


def cut(connection: socket.socket, _stream: int) -> None:
    """Cut the connection after the call arrived: nobody knows whether it counted."""
    connection.shutdown(socket.SHUT_RDWR)


class Peer:
    """The least of an HTTP/2 server: counts the calls that arrive, and answers each one badly."""

    def __init__(self, answer: Answer) -> None:
        self.arrived = 0
        self.left_open = 0
        """Connections that a client which was closed has not ended."""
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.settings = Settings(f"127.0.0.1:{self._listener.getsockname()[1]}", deadline=2.0)

    @contextmanager
    def serving(self) -> Iterator[Peer]:
        acceptor = threading.Thread(target=self._accept)
        acceptor.start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            acceptor.join(30)
        # Were an error held by a frame of its own traceback, the call would be held too, and its connection.
        assert not self.left_open

    def _accept(self) -> None:
        speakers = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            speakers.append(threading.Thread(target=self._speak, args=(connection,)))
            speakers[-1].start()
        for speaker in speakers:
            speaker.join(5)
        self.left_open = sum(speaker.is_alive() for speaker in speakers)

    def _speak(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                if stream.read(len(_PREFACE)) != _PREFACE:
                    return
                connection.sendall(_frame(_SETTINGS, 0, 0))
                while len(head := stream.read(9)) == 9:
                    payload = stream.read(int.from_bytes(head[:3], "big"))
                    kind, flags, number = head[3], head[4], int.from_bytes(head[5:], "big")
                    if kind in (_SETTINGS, _PING) and not flags & _ACK:
                        connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
                    elif kind == _HEADERS:
                        self.arrived += 1
                        self._answer(connection, number)
            except (OSError, ValueError):
                return


CONSUMING: dict[str, Callable[[Any], Any]] = {
    "consume": lambda c: c.consume("api", {"path": "/v1"}),
    "authorize": lambda c: c.authorize("a.b.c", "orders:read", consume=[Consumption("api", [{"path": "/v1"}])]),
}
READING: dict[str, Callable[[Any], Any]] = {
    "check": lambda c: c.check("user:ann", "orders:read"),
    "authorize": lambda c: c.authorize("a.b.c", "orders:read"),
    "peek": lambda c: c.peek("api", {"path": "/v1"}),
}


@pytest.mark.parametrize("answer", [refuse_stream, cut])
@pytest.mark.parametrize("operation", CONSUMING)
@pytest.mark.standard("R7")
def test_what_consumes_is_sent_once(ask: Ask, operation: str, answer: Answer) -> None:
    with Peer(answer).serving() as peer:
        denied = ask(peer.settings, CONSUMING[operation])
        assert not denied
        assert denied.unavailable
    assert peer.arrived == 1


@pytest.mark.parametrize("operation", CONSUMING)
@pytest.mark.standard("R7")
def test_what_consumes_is_repeated_once_where_the_peer_declares_it_was_never_begun(ask: Ask, operation: str) -> None:
    with Peer(go_away).serving() as peer:
        denied = ask(peer.settings, CONSUMING[operation])
        assert denied.unavailable
    assert peer.arrived == 2


@pytest.mark.parametrize("answer", [refuse_stream, go_away, cut])
@pytest.mark.parametrize("operation", READING)
def test_a_read_is_asked_again(ask: Ask, operation: str, answer: Answer) -> None:
    with Peer(answer).serving() as peer:
        assert not ask(peer.settings, READING[operation])
    assert peer.arrived > 1
