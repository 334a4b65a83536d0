"""`authsvc serve` where this process supervises the ones that serve: several workers, or Envoy with the service inside.

Owns: what a worker is on each transport, what several share, and the way from start to drain. May import: `transport`
and what else stays small: nothing of the service.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authsvc.bootstrap.serving_tls import live_tls
from authsvc.cli.faults import wrong_use
from authsvc.cli.orphans import Orphans
from authsvc.cli.supervisor import Supervisor, Worker
from authsvc.clock import SystemClock
from authsvc.config import TlsMode
from authsvc.transport.link import StartFault
from authsvc.transport.listening import ListenFault
from authsvc.transport.pyvoy_server import PyvoyServer, why_missing
from authsvc.transport.sharing import Place, SharedPort
from authsvc.transport.worker_process import WorkerProcess

if TYPE_CHECKING:
    import subprocess

    from authsvc.bootstrap.letter import Letter
    from authsvc.config import Config
    from authsvc.transport.tls import LiveTls

IN_ENVOY = "authsvc.bootstrap.pyvoy:application"
IN_PYTHON = "authsvc.bootstrap.worker"
"""What serves on each transport. This process does not import it."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the service listens; as `bootstrap.service.Addresses`, which would bring the service with it."""

    grpc: str
    http: str
    ops: str


def why_not(config: Config) -> str:
    """Why grpcio serves although pyvoy was chosen, in one line; empty where it was not, or where it can."""
    if config.server.transport != "pyvoy":
        return ""
    missing = why_missing()
    return f"server.transport: grpcio serves instead of pyvoy: {missing}" if missing else ""


@dataclass(frozen=True, slots=True)
class Supervision:
    """What a supervised service is made from."""

    config: Config
    letter: Letter
    lock: int
    """The descriptor of the data directory's lock: workers hold it too, should this process be killed."""
    in_envoy: bool
    orphans: Orphans
    say: Callable[[int, str], None]
    """Told what becomes of a worker, by its number, in a line."""


async def supervise(
    given: Supervision,
    *,
    named: Callable[[str], str],
    ready: Callable[[Addresses, LiveTls | None], None],
    stopped: asyncio.Event,
) -> None:
    """Serve until `stopped`; `ready` is told the addresses and the certificates in use once all workers serve.

    Raises CommandFault, and InvalidRequest where certificate files are at fault; `named` puts the setting at fault
    before the line of a listener.
    """
    count = given.config.server.workers
    # The workers look at the same files, and one of them tells of them.
    tls = live_tls(given.config, given.letter.directory, SystemClock().now)
    try:
        with _workers(given, tls) as make:
            supervisor = Supervisor(make, count, grace=given.config.server.grace, orphans=given.orphans, say=given.say)
            told = await supervisor.start()
            ready(Addresses(told["grpc"], told["http"], told["ops"]), tls)
            if tls is not None:
                tls.start()
            await supervisor.run(stopped)
    except ListenFault as fault:
        raise wrong_use(named(str(fault))) from None
    except StartFault as fault:
        raise wrong_use(str(fault)) from None
    finally:
        if tls is not None:
            tls.stop()


@contextmanager
def _workers(given: Supervision, tls: LiveTls | None) -> Iterator[Callable[[int], Worker]]:
    """Makes the worker of a number; what several share is held while the block runs."""
    server = given.config.server
    if server.workers == 1:
        yield lambda _number: _worker(given, given.letter, server.listen, tls)
        return
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="authsvc-")))
        ports = [SharedPort(address) for address in (server.listen, server.http_listen, server.ops_listen)]
        for port in ports:
            held.callback(port.close)
        grpc, http, ops = (port.address for port in ports)

        def make(number: int) -> Worker:
            place = Place(number, server.workers, folder, grpc, http, ops)
            return _worker(given, replace(given.letter, place=place), grpc, tls)

        yield make


def _worker(given: Supervision, letter: Letter, listen: str, tls: LiveTls | None) -> Worker:
    if not given.in_envoy:
        return WorkerProcess(IN_PYTHON, letter.plain(), os.environ, keep=(given.lock,))
    server = PyvoyServer(IN_ENVOY, letter.plain(), keep=(given.lock,), reuse_port=letter.place is not None)
    return _EnvoyWorker(server, listen, tls, sidecar=given.config.server.tls.mode is TlsMode.MESH)


class _EnvoyWorker:
    """Envoy with the service inside; see `supervisor.Worker`."""

    def __init__(self, server: PyvoyServer, listen: str, tls: LiveTls | None, *, sidecar: bool) -> None:
        self._server = server
        self._listen = listen
        self._tls = tls
        self._sidecar = sidecar
        self.drain = server.drain
        self.kill = server.kill

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._server.process

    def begin(self) -> None:
        self._server.begin(self._listen, self._tls, sidecar=self._sidecar)

    def await_ready(self) -> Mapping[str, Any]:
        port = self._server.await_listening()
        return {**self._server.told, "grpc": f"{self._listen.rpartition(':')[0]}:{port}"}
