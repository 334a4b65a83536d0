"""HTTP by uvicorn, in the process and loop of everything else.

Owns: the socket, TLS, and start and stop of one HTTP listener. May import: uvicorn. Signals are the process's, not
uvicorn's; it writes no log of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from authsvc.transport.listening import ListenFault, TlsFiles, host_and_port

if TYPE_CHECKING:
    from starlette.types import ASGIApp

CONCURRENT_REQUESTS = 512
"""Beyond it uvicorn answers 503."""
KEEP_ALIVE_SECONDS = 15
HEADER_BYTES = 16 * 1024
BACKLOG = 128


class HttpServer:
    """One listening HTTP server."""

    def __init__(self, application: ASGIApp, address: str, tls: TlsFiles | None = None) -> None:
        self._address = address
        self._config = uvicorn.Config(
            application,  # type: ignore[arg-type] - uvicorn's own spelling of ASGI is narrower than Starlette's
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONCURRENT_REQUESTS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            h11_max_incomplete_event_size=HEADER_BYTES,
            http="h11",
            ssl_certfile=str(tls.certificate) if tls else None,
            ssl_keyfile=str(tls.key) if tls else None,
        )
        self._server = _Server(self._config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Bind and serve; gives the port. Raises ListenFault."""
        listener = self._bind()
        try:
            self._config.load()
        except (OSError, ssl.SSLError) as fault:
            listener.close()
            raise ListenFault(f"cannot serve TLS on {self._address}: certificate and key do not load") from fault
        if self._config.ssl is not None:
            self._config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
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
            return socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as fault:
            why = os.strerror(fault.errno) if fault.errno and fault.errno > 0 else "not an address of this machine"
            raise ListenFault(f"cannot listen on {self._address}: {why}") from fault


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
