"""A service in a process of its own: for the demo, the benchmark and `make run`.

Owns: starting it, waiting until it is ready, ending it. May import: the standard library.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from authsvc.cli.faults import CommandFault, Exit, Fault
from authsvc.storage.data_directory import ADMIN_FILE

READY_S = 20.0
STOP_S = 15.0
_ANY_PORT = "127.0.0.1:0"
_ISSUER = "http://authsvc.localhost"
"""Of services that nobody finds by their issuer: their ports are chosen anew at each start."""
_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Child:
    """A service that is ready."""

    process: subprocess.Popen[bytes]
    directory: Path
    grpc: str
    http: str
    ops: str
    seconds: float
    """From start to ready, by the service's own count."""

    @property
    def credentials(self) -> Path:
        """The file with its administrator's credentials."""
        return self.directory / ADMIN_FILE

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()


@contextmanager
def throw_away_service(settings: Mapping[str, str] | None = None, *, cpu: int | None = None) -> Iterator[Child]:
    """A service on loopback with free ports and a directory of its own; both are gone at the end.

    `settings` are flags such as `server.auth_failures`; `cpu` pins it to one processor.
    """
    chosen = {
        "server.listen": _ANY_PORT,
        "server.http_listen": _ANY_PORT,
        "server.ops_listen": _ANY_PORT,
        "issuer": _ISSUER,
        "audit.stdout": "false",
        **(settings or {}),
    }
    with tempfile.TemporaryDirectory(prefix="authsvc-") as folder, started(Path(folder), chosen, cpu=cpu) as child:
        yield child


@contextmanager
def started(
    directory: Path,
    settings: Mapping[str, str],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    cpu: int | None = None,
) -> Iterator[Child]:
    """`authsvc serve` on a data directory; raises CommandFault with its own words where it does not start.

    Its standard output, the audit, is added to the file `log`. Without `environment` only settings in `settings` and in
    the directory's own file count: what a person at the keyboard has set must not reach a throw-away service.
    """
    command = [sys.executable, "-m", "authsvc.cli", "serve", "--output", "json"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    if environment is None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AUTHSVC_", "OTEL_"))}
    said = directory / "serve.log" if log is None else log
    said.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with said.open("ab") as sink:
        before = sink.tell()
        process = subprocess.Popen(  # noqa: S603 - this very program, with settings of ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**environment, "AUTHSVC_DATA_DIR": str(directory)},
            # A Ctrl-C is for whoever started us; we end the service in our own time.
            start_new_session=True,
        )
    try:
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})
        told = _ready(process, said, before)
        yield Child(process, directory, told["grpc"], told["http"], told["ops"], told["seconds"])
    finally:
        _stop(process)


def _ready(process: subprocess.Popen[bytes], said: Path, before: int) -> dict[str, Any]:
    """What the line says that a ready service writes, after the first `before` bytes, which an earlier one wrote."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        ended = process.poll() is not None
        lines = said.read_bytes()[before:].decode(errors="replace").strip().splitlines()
        for line in lines:
            with suppress(ValueError):
                told: Any = json.loads(line)
                if isinstance(told, dict) and told.get("event") == "ready":
                    return told
        if ended:
            last = lines[-1].removeprefix("authsvc: ") if lines else f"it ended with {process.returncode}"
            raise CommandFault(Fault(f"the service did not start: {last}"), Exit.UNREACHABLE)
        time.sleep(_PAUSE_S)
    raise CommandFault(Fault(f"the service was not ready within {READY_S:g} s"), Exit.UNREACHABLE)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
