"""The real `authsvc serve` as a process of its own: started, asked, killed, started again on the same data.

Owns: its command line, when it counts as ready, and how a test speaks to it. Every start takes free ports.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from authsvc.v1 import client_admin_pb2, policy_admin_pb2, token_pb2
from tests.support.embedded import Caller
from tests.support.servers import Server, running

START_DEADLINE_S = 40.0
_ANY_PORT = "127.0.0.1:0"
POLICY = """\
version: 1
permissions: {"orders:read": {}, "orders:write": {}}
roles:
  viewer: {allow: ["orders:read"]}
bindings:
  - {subject: "user:ann", role: viewer}
limits:
  per_user: {domain: api, match: {user: "*"}, rate: 1000000/1s, algorithm: gcra}
"""
"""A policy that uses what a load needs: a role, a binding, a limit that admits it."""

_QUIET: Mapping[str, str] = {
    "server.listen": _ANY_PORT,
    "server.http_listen": _ANY_PORT,
    "server.ops_listen": _ANY_PORT,
    "issuer": "http://authsvc.test",
    "audit.stdout": "false",
}
# As on anybody's machine: where Python may not keep what it compiled, two thirds of a start is compiling.
_COMPILED: Mapping[str, str] = {"PYTHONDONTWRITEBYTECODE": ""}
_COUNT = itertools.count()


@dataclass
class Serving:
    """A service process that is ready."""

    server: Server
    directory: Path
    grpc: str
    http: str
    ops: str
    seconds: float
    """From the start of the process to the first answer that says ready, as somebody outside sees it, without the time
    that its main thread stood in the queue for a processor: other tests run beside this one."""
    call: Caller
    _admin: str = field(default="", init=False)

    @property
    def pid(self) -> int:
        """The process."""
        return self.server.process.pid

    def admin(self) -> str:
        """A token of the first administrator; asked for once."""
        if not self._admin:
            found = json.loads((self.directory / "admin.json").read_text())
            self._admin = self.token(found["client_id"], found["client_secret"], audience=["authsvc"])
        return self._admin

    def token(self, client_id: str, client_secret: str, **request: Any) -> str:
        """A token by client credentials."""
        grant = token_pb2.ClientCredentials(client_id=client_id, client_secret=client_secret)
        wanted = token_pb2.IssueTokenRequest(client_credentials=grant, **request)
        return str(self.call("TokenService/IssueToken", wanted).access_token)

    def create_client(self, client_id: str, **request: Any) -> str:
        """Make a client; its secret."""
        wanted = client_admin_pb2.CreateClientRequest(client_id=client_id, **request)
        return str(self.call("ClientAdminService/CreateClient", wanted, self.admin()).client_secret)

    def apply(self, policy: str = POLICY) -> None:
        """Put a policy in force."""
        wanted = policy_admin_pb2.ApplyPolicyRequest(policy=policy)
        self.call("PolicyAdminService/ApplyPolicy", wanted, self.admin())

    def operations(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the operations listener."""
        return page(f"http://{self.ops}{path}")

    def events(self) -> list[dict[str, Any]]:
        """What it has written so far, each line parsed; raises ValueError where a line is not JSON."""
        return [json.loads(line) for line in self.server.log.read_text().splitlines()]


def page(url: str, timeout: float = 5.0) -> tuple[int, str]:
    """Status and text; raises OSError where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def command(settings: Mapping[str, str] | None = None) -> list[str]:
    """`authsvc serve` on free ports of loopback, with settings as flags."""
    chosen = {**_QUIET, **(settings or {})}
    flags = [f"--{name}={value}" for name, value in chosen.items()]
    return [sys.executable, "-m", "authsvc.cli", "serve", "--output", "json", *flags]


@contextmanager
def serving(
    directory: Path,
    settings: Mapping[str, str] | None = None,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    environment: Mapping[str, str] | None = None,
    standard_output: int | None = None,
    readyz: int = 200,
) -> Iterator[Serving]:
    """Run it on a data directory, until `/readyz` answers `readyz`; stopped at the end unless it has ended before.

    Its log lies beside the directory, a new one a start. `credentials` are for a service with TLS; `environment` is
    added to the tests' own. `standard_output` is a descriptor in place of the log.
    """
    log = directory.parent / f"{directory.name}-{next(_COUNT)}.log"
    begun = time.monotonic()
    around = {**_COMPILED, "AUTHSVC_DATA_DIR": str(directory), **(environment or {})}
    with running(
        command(settings),
        log=log,
        ready=lambda server: _answers_ready(server, readyz),
        env=around,
        deadline_s=START_DEADLINE_S,
        standard_output=standard_output,
    ) as server:
        seconds = time.monotonic() - begun - _queued_seconds(server.process.pid)
        said = _said_ready(server)
        target = said["grpc"]
        # A pool of its own: channels with equal arguments would share the connection to a process that is gone.
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        with channel:
            yield Serving(server, directory, target, said["http"], said["ops"], seconds, Caller(channel))


def refused_start(directory: Path, *flags: str, settings: Mapping[str, str] | None = None) -> tuple[int, list[str]]:
    """Exit code and lines on standard error of a start that must not succeed."""
    ended = subprocess.run(
        [*command(settings), *flags],
        env={**_COMPILED, "PATH": "", "AUTHSVC_DATA_DIR": str(directory)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_DEADLINE_S,
        check=False,
    )
    return ended.returncode, ended.stderr.splitlines()


def children(pid: int) -> list[int]:
    """Processes that a process has started, oldest first, those included that have ended and nobody waited for."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _queued_seconds(pid: int) -> float:
    """How long the main thread was ready to run and did not get to; 0 where the kernel does not count it."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def _answers_ready(server: Server, status: int) -> bool:
    said = _said_ready(server)
    if not said:
        return False
    with suppress(OSError):
        return page(f"http://{said['ops']}/readyz")[0] == status
    return False


def _said_ready(server: Server) -> dict[str, Any]:
    """The line with its addresses; empty before it is written."""
    for line in server.log.read_text().splitlines():
        with suppress(ValueError):
            said: Any = json.loads(line)
            if isinstance(said, dict) and said.get("event") == "ready":
                return said
    return {}
