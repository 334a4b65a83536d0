"""The node that counts: found, connected, watched, connected again.

Owns: where the store is (an address, or whatever Sentinels name), the handshake, and reconnecting. May import: the
standard library, `storage`; redis-py on need, to ask Sentinels. Calls never wait for a connection: while there is
none they fail at once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from authsvc.storage.circuit_breaker import CircuitBreaker
from authsvc.storage.redis_connection import (
    CONNECTION_LOST,
    DEADLINE_S,
    STALL_S,
    Part,
    RedisConnection,
    StoreFault,
)

PORT = 6379
SENTINEL_PORT = 26379

CONNECT_S = 1.0
"""How long finding, connecting and the handshake may take together."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

_DROPPED = frozenset({"READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "WRONGPASS"})
"""Errors of a node that is none to count on: it is looked for anew."""

_LOG = logging.getLogger("authsvc.counters")

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """Where the store is, and who asks. With `master_name` the addresses are Sentinels."""

    addresses: tuple[Address, ...]
    master_name: str = ""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    deadline_s: float = DEADLINE_S
    stall_s: float = STALL_S


def parse_url(url: str, *, password: str = "", tls: ssl.SSLContext | None = None) -> RedisTarget:
    """Read `redis://[USER@]HOST[:PORT][/DB]` or `redis+sentinel://[USER@]HOST,HOST/MASTER[/DB]`; `rediss` is TLS.

    Passwords do not stand in URLs. Without `tls` certificates are verified by the system's authorities. Raises
    ValueError with what is wrong.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in {"redis", "rediss"} or kind not in {"", "sentinel"}:
        raise ValueError("is not a URL of redis, rediss, redis+sentinel or rediss+sentinel")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment, which mean nothing here")
    user, _, hosts = parts.netloc.rpartition("@")
    if ":" in user:
        raise ValueError("holds a password: put it into a file")
    port = SENTINEL_PORT if kind else PORT
    addresses = tuple(_address(host, port) for host in hosts.split(","))
    path = [part for part in parts.path.split("/") if part]
    master = unquote(path.pop(0)) if kind and path else ""
    if bool(kind) != bool(master) or (not kind and len(addresses) > 1):
        raise ValueError("names several hosts only for Sentinels, and then the master: redis+sentinel://A,B/NAME")
    if len(path) > 1 or not all(part.isascii() and part.isdigit() for part in path):
        raise ValueError("has a path that is not the number of a database")
    return RedisTarget(
        addresses=addresses,
        master_name=master,
        database=int(path[0]) if path else 0,
        username=unquote(user),
        password=password,
        tls=(tls or ssl.create_default_context()) if scheme == "rediss" else None,
    )


def _address(text: str, port: int) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("names no host")
    return parts.hostname, parts.port or port


class RedisNode:
    """The node, as one connection that is made anew whenever it is lost. Bound to the loop that starts it."""

    def __init__(self, target: RedisTarget) -> None:
        self._target = target
        self._connection: RedisConnection | None = None
        self._breaker = CircuitBreaker()
        self._keeper: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Begin to connect, and return after the first try, whatever it came to."""
        self._loop = asyncio.get_running_loop()
        tried = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep_connected(tried))
        await tried.wait()

    async def stop(self) -> None:
        """Give the connection up, for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._connection is not None:
            self._connection.close("the service stops")
            await self._connection.gone
            self._connection = None

    @property
    def available(self) -> bool:
        """Whether calls go out."""
        return self._connection is not None and not self._breaker.is_open

    async def call(self, parts: Sequence[Part]) -> Any:
        """The reply to one command, sent at most once; raises StoreFault, at once where there is no connection."""
        connection, loop = self._connection, self._loop
        if connection is None or loop is None:
            raise StoreFault(CONNECTION_LOST)
        if not self._breaker.admits(loop.time()):
            raise StoreFault("CIRCUIT_OPEN")
        try:
            reply = await connection.call(parts)
        except StoreFault as fault:
            if fault.code == "NOSCRIPT":
                # An answer like another: the caller sends the script's text, since nothing was done.
                self._breaker.succeeded()
                raise
            was_open = self._breaker.is_open
            self._breaker.failed(loop.time())
            if self._breaker.is_open and not was_open:
                _LOG.warning("the counter store does not count: %s", _said(fault))
            if fault.code in _DROPPED:
                connection.close(str(fault))
            raise
        self._breaker.succeeded()
        return reply

    async def _keep_connected(self, tried: asyncio.Event) -> None:
        pause, told = FIRST_PAUSE_S, False
        while True:
            try:
                async with asyncio.timeout(CONNECT_S):
                    connection = await self._connect()
            except Exception as fault:  # noqa: BLE001 - whatever keeps it from connecting, it is tried again
                if not told:
                    _LOG.warning("the counter store is out of reach: %s", _said(fault))
                told = True
                tried.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            if told:
                _LOG.warning("the counter store is back")
            pause, told = FIRST_PAUSE_S, False
            self._breaker.succeeded()
            self._connection = connection
            tried.set()
            why = await asyncio.shield(connection.closed)
            self._connection = None
            _LOG.warning("the connection to the counter store is lost: %s", why)
            told = True

    async def _connect(self) -> RedisConnection:
        target, loop = self._target, asyncio.get_running_loop()
        host, port = await self._master() if target.master_name else target.addresses[0]
        _, connection = await loop.create_connection(
            lambda: RedisConnection(loop), host, port, ssl=target.tls, server_hostname=host if target.tls else None
        )
        try:
            await self._shake_hands(connection)
        except BaseException:
            connection.close("the handshake failed")
            await connection.gone
            raise
        connection.limit_time(target.deadline_s, target.stall_s)
        return connection

    async def _shake_hands(self, connection: RedisConnection) -> None:
        target = self._target
        if target.password:
            await connection.call(("AUTH", *((target.username,) if target.username else ()), target.password))
        if target.database:
            await connection.call(("SELECT", target.database))
        await connection.call(("PING",))
        if target.master_name and (await connection.call(("ROLE",)))[0] != b"master":
            # Sentinels that have not agreed yet name the old one.
            raise StoreFault("READONLY", "the node that Sentinels name is not a master")
        await self._warn_of_eviction(connection)

    @staticmethod
    async def _warn_of_eviction(connection: RedisConnection) -> None:
        try:
            told = await connection.call(("INFO", "memory"))
        except StoreFault:
            return  # its ACL does not let us see
        policy = next((line[17:].decode() for line in told.splitlines() if line.startswith(b"maxmemory_policy:")), "")
        if policy not in {"", "noeviction"}:
            _LOG.warning("the counter store evicts keys (maxmemory-policy %s): counters will be lost", policy)

    async def _master(self) -> Address:
        from redis.asyncio.sentinel import Sentinel  # noqa: PLC0415 - a quarter of a second, for Sentinels only

        target = self._target
        options: dict[str, Any] = {"socket_timeout": CONNECT_S / 2, "socket_connect_timeout": CONNECT_S / 2}
        if target.sentinel_password:
            options["password"] = target.sentinel_password
        sentinel = Sentinel(list(target.addresses), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        try:
            host, port = await sentinel.discover_master(target.master_name)
        finally:
            await asyncio.gather(*(client.aclose() for client in sentinel.sentinels), return_exceptions=True)
        return str(host), int(port)


def _said(fault: BaseException) -> str:
    return str(fault) or type(fault).__name__
