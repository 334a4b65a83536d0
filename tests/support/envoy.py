"""A real Envoy in front of an echoing service, asking a real gRPC server; and a client that sends bytes as they are."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from authsvc.cli.demo_envoy import EnvoySetup, RunningEnvoy, echo_upstream, running_envoy
from authsvc.transport.grpcio_server import GrpcioServer
from authsvc.transport.tls import LiveTls
from tests.api.envoy_world import World

RawHeaders = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Answered:
    """What the client got. `told` is what the echoing service says reached it, None where it was not reached."""

    status: int
    headers: dict[str, str]
    body: str
    told: dict[str, Any] | None = field(default=None)

    def reached(self, name: str) -> list[str]:
        """The values of one header at the service, as a service reads them for which `_` and `-` are one."""
        assert self.told is not None
        return [value for key, value in self.told["headers"] if key.lower().replace("_", "-") == name]


def send(url: str, method: str = "GET", target: str | bytes = "/v1/orders/7", headers: RawHeaders = ()) -> Answered:
    """One HTTP/1.1 request whose target and header values go out byte for byte."""
    where = urlsplit(url)
    raw = target if isinstance(target, bytes) else target.encode()
    lines = [method.encode() + b" " + raw + b" HTTP/1.1", b"Host: orders.example", b"Content-Length: 0"]
    for name, value in headers:
        lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
        response = HTTPResponse(connection, method=method)
        try:
            response.begin()
        except (http.client.HTTPException, ConnectionError) as closed:
            return Answered(0, {}, repr(closed))
        body = response.read().decode()
    told = json.loads(body) if response.status == 200 and body else None
    return Answered(response.status, {name.lower(): value for name, value in response.getheaders()}, body, told)


def send_http2(url: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The body of the answer to one HTTP/2 GET, empty where the stream was reset; every byte goes out as it is."""
    where = urlsplit(url)
    pseudo = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"orders.example")]
    # HPACK literals without indexing or Huffman coding (RFC 7541 section 6.2.2).
    block = b"".join(b"\0" + _hpack(name) + _hpack(value) for name, value in [*pseudo, *headers])
    body = b""
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(1, 0x5, 1, block))
        with connection.makefile("rb") as stream:
            while len(head := stream.read(9)) == 9:
                kind, flags, payload = head[3], head[4], stream.read(int.from_bytes(head[:3], "big"))
                if kind == 4 and not flags & 1:
                    connection.sendall(_frame(4, 1, 0, b""))
                if kind == 0:
                    body += payload
                if kind in {3, 7} or (kind in {0, 1} and flags & 1):
                    break
    return body


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _hpack(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    coded, rest = bytearray([127]), length - 127
    while rest >= 128:
        coded.append(rest % 128 + 128)
        rest //= 128
    return bytes([*coded, rest]) + text


@contextmanager
def serving(world: World, tls: LiveTls | None = None) -> Iterator[str]:
    """The world's row on a real gRPC server; gives its `ip:port`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = GrpcioServer(world.engine, loop, stream_threads=4)
    try:
        yield f"127.0.0.1:{server.listen('127.0.0.1:0', tls)}"
    finally:
        server.drain(1.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(frozen=True)
class Edge:
    """Envoy, and the world that it asks."""

    envoy: RunningEnvoy
    world: World

    def get(self, target: str | bytes = "/v1/orders/7", token: str | None = None, headers: RawHeaders = ()) -> Answered:
        """GET with a bearer token."""
        return self.ask("GET", target, token, headers)

    def ask(self, method: str, target: str | bytes, token: str | None = None, headers: RawHeaders = ()) -> Answered:
        """Any request with a bearer token."""
        given = list(headers) + ([("Authorization", f"Bearer {token}")] if token is not None else [])
        return send(self.envoy.url, method, target, given)


@contextmanager
def edge(world: World | None = None, **setup: Any) -> Iterator[Edge]:
    """Everything started; `setup` are members of EnvoySetup."""
    asked = world or World(monotonic=time.monotonic)
    with serving(asked) as authsvc, echo_upstream() as upstream:
        # Slow machines must not turn an answer into a failure that the test then mistakes for a denial.
        known = {"timeout": "5s"} | setup
        with running_envoy(EnvoySetup(authsvc, upstream, **known)) as envoy:
            yield Edge(envoy, asked)
