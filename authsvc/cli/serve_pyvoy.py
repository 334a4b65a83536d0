"""`authsvc serve` where Envoy carries the service: this process supervises it.

Owns: starting Envoy with the service inside, its end, and what is said where pyvoy cannot run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from authsvc.cli.faults import CommandFault, Exit, Fault, wrong_use

if TYPE_CHECKING:
    from authsvc.config import Config
    from authsvc.storage.sql.directory_lock import DataDirectoryLock
    from authsvc.transport.tls import LiveTls

APPLICATION = "authsvc.bootstrap.pyvoy:application"
"""What Envoy imports. This process does not, so that it stays small."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the service listens; as `bootstrap.service.Addresses`, which would bring the service with it."""

    grpc: str
    http: str
    ops: str


def why_not(config: Config) -> str:
    """Why grpcio serves although pyvoy was chosen, in one line; empty where it was not, or where it can."""
    from authsvc.transport.pyvoy_server import why_missing

    if config.server.transport != "pyvoy":
        return ""
    missing = why_missing()
    return f"server.transport: grpcio serves instead of pyvoy: {missing}" if missing else ""


async def serve_in_envoy(
    config: Config,
    sources: tuple[str, Mapping[str, str]],
    directory: Path,
    lock: DataDirectoryLock,
    *,
    accept_new_issuer: bool,
    switch_interval: float,
    named: Callable[[str], str],
    ready: Callable[[Addresses, LiveTls | None], None],
    stopped: asyncio.Event,
) -> None:
    """Serve until `stopped`; `ready` is told the addresses and the certificates in use. Raises CommandFault, also where
    Envoy ends by itself, and InvalidRequest where certificate files are at fault.
    """
    from authsvc.bootstrap.serving_tls import live_tls
    from authsvc.clock import SystemClock
    from authsvc.config import TlsMode
    from authsvc.transport.link import StartFault
    from authsvc.transport.listening import ListenFault
    from authsvc.transport.pyvoy_server import PyvoyServer

    text, flags = sources
    letter = {
        "text": text,
        "flags": dict(flags),
        "directory": str(directory),
        "accept_new_issuer": accept_new_issuer,
        "switch_interval": switch_interval,
    }
    # The service inside looks at the same files, for HTTP, and tells of them.
    tls = live_tls(config, directory, SystemClock().now)
    server = PyvoyServer(APPLICATION, letter, keep=(lock.fileno(),))
    try:
        sidecar = config.server.tls.mode is TlsMode.MESH
        port = await asyncio.to_thread(server.listen, config.server.listen, tls, sidecar=sidecar)
    except ListenFault as fault:
        raise wrong_use(named(str(fault))) from None
    except StartFault as fault:
        raise wrong_use(str(fault)) from None
    host = config.server.listen.rpartition(":")[0]
    ready(Addresses(f"{host}:{port}", server.told["http"], server.told["ops"]), tls)
    if tls is not None:
        tls.start()
    ended = asyncio.create_task(asyncio.to_thread(server.process.wait))
    asked = asyncio.create_task(stopped.wait())
    await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    by_itself = ended.done() and not asked.done()
    if tls is not None:
        await asyncio.to_thread(tls.stop)
    await asyncio.to_thread(server.drain, config.server.grace)
    asked.cancel()
    if by_itself:
        raise CommandFault(Fault(f"Envoy has ended by itself with {ended.result()}"), Exit.REFUSED)
