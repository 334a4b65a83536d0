"""HTTP by uvicorn, in the process and loop of everything else.

Owns: the sockets, TLS, start and stop of the HTTP listeners. May import: `api`, uvicorn. Signals are the process's,
not uvicorn's; it writes no log of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn

from authsvc.api.http import FaultLog, KeySet, Operations, ops_application, public_application
from authsvc.core.addresses import is_loopback_address
from authsvc.transport.http_connection import Connection
from authsvc.transport.listening import cannot_listen, host_and_port
from authsvc.transport.peers import BESIDE_SIDECAR
from authsvc.transport.tls import LiveTls, TlsMaterial, server_context

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

KEEP_ALIVE_SECONDS = 15
HEADER_BYTES = 16 * 1024
BACKLOG = 128


class HttpServer:
    """One listening HTTP server."""

    def __init__(
        self,
        application: ASGIApp,
        address: str,
        tls: LiveTls | None = None,
        *,
        reuse_port: bool = False,
        connection: type[Connection] = Connection,
    ) -> None:
        """`reuse_port`: other processes listen there too. `connection` says how long one may be held."""
        self._address = address
        self._reuse_port = reuse_port
        self._tls = tls
        self._config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=HEADER_BYTES,
            http=connection,
        )
        self._server = _Server(self._config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Bind and serve; gives the port. Raises ListenFault."""
        listener = self._bind()
        self._config.load()
        if self._tls is not None:
            self._config.ssl = _renewing_context(self._tls)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        await self._server.listening.wait()
        port: int = listener.getsockname()[1]
        return port

    async def stop(self, grace: float) -> None:
        """Close the listener, finish what is in flight within `grace` seconds."""
        if self._serving is None:
            return
        self._config.timeout_graceful_shutdown = max(1, int(grace))
        self._server.should_exit = True
        await self._serving
        self._serving = None

    def _bind(self) -> socket.socket:
        host, port = host_and_port(self._address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            return socket.create_server(
                (host, port),
                family=family,
                backlog=BACKLOG,
                reuse_port=self._reuse_port,
                # Every address means IPv4 too, as it does to gRPC.
                dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
            )
        except OSError as fault:
            raise cannot_listen(self._address, fault) from fault


def _renewing_context(tls: LiveTls) -> ssl.SSLContext:
    """A context whose handshakes show the certificate in use."""
    context = shown = server_context(tls.current, tls.minimum)

    def replace(material: TlsMaterial) -> None:
        nonlocal shown
        shown = server_context(material, tls.minimum)

    def show(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context_of: ssl.SSLContext) -> None:
        connection.context = shown

    tls.use(replace)
    # Called in each handshake, whether or not the client names a server.
    context.sni_callback = show
    return context


class HttpServers:
    """The two HTTP listeners of a replica: keys for verifiers, metrics and probes for operators."""

    def __init__(
        self,
        *,
        key_set: Callable[[], KeySet],
        operations: Operations,
        log: FaultLog,
        reuse_port: bool = False,
    ) -> None:
        """`reuse_port`: other processes listen on the same ports."""
        self._key_set = key_set
        self._operations = operations
        self._log = log
        self._reuse_port = reuse_port
        self._servers: list[HttpServer] = []

    async def listen(self, http: str, ops: str, tls: LiveTls | None, *, sidecar: bool = False) -> tuple[str, str]:
        """Serve both, `ops` always in plain HTTP; gives their addresses with the ports. Raises ListenFault.

        `sidecar`: requests on `http` come through one on this machine, and others are refused.
        """
        public = public_application(self._key_set, self._log, tls=tls is not None)
        if sidecar:
            public = _behind_sidecar(public)
        listeners = (
            (http, HttpServer(public, http, tls, reuse_port=self._reuse_port)),
            (ops, HttpServer(ops_application(self._operations, self._log), ops, reuse_port=self._reuse_port)),
        )
        addresses = []
        for address, server in listeners:
            port = await server.start()
            self._servers.append(server)
            addresses.append(f"{address.rpartition(':')[0]}:{port}")
        return addresses[0], addresses[1]

    async def close(self, grace: float = 2.0) -> None:
        """Close both; what is in flight has `grace` seconds."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))
        self._servers.clear()


def _behind_sidecar(application: ASGIApp) -> ASGIApp:
    """Serves requests that come from loopback; 403 for others."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if client is not None and is_loopback_address(client[0]):
            await application(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": BESIDE_SIDECAR.encode()})

    return serve


class _Server(uvicorn.Server):
    """Leaves signals to the process, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.listening.set()
