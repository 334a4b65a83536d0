"""From a target to a connection that is ready: the master found, the handshake made.

Owns: what is said before the first call. May import: the standard library, `storage`.
"""

from __future__ import annotations

import asyncio
import ssl

from authsvc.storage.redis_connection import RedisConnection, StoreFault
from authsvc.storage.redis_target import Address, RedisTarget

_SENTINEL_S = 0.2
"""How long one Sentinel may take, so that one which hangs leaves time for the others."""


async def open_connection(target: RedisTarget, attempt: int = 0) -> RedisConnection:
    """A connection that calls may use; raises StoreFault or OSError where there is none to be had.

    Each `attempt` begins with another Sentinel: the first may be cut off with an old master.
    """
    # Reading authorities takes tens of milliseconds, in which calls are served.
    tls = None if target.tls is None else await asyncio.to_thread(target.tls)
    address = await _master(target, tls, attempt) if target.master_name else target.addresses[0]
    connection = await _dial(address, tls)
    try:
        await _log_in(connection, target.username, target.password())
        if target.database:
            await connection.call(("SELECT", target.database))
        await connection.call(("PING",))
        if target.master_name and (await connection.call(("ROLE",)))[0] != b"master":
            # Sentinels that have not agreed yet name the old one.
            raise StoreFault("READONLY", "the node that Sentinels name is not a master")
    except BaseException:
        await _give_up(connection)
        raise
    connection.limit_time(target.deadline_s, target.stall_s)
    return connection


async def eviction_policy(connection: RedisConnection) -> str:
    """The store's `maxmemory-policy`; empty where its access rules do not let us see."""
    try:
        told: bytes = await connection.call(("INFO", "memory"))
    except StoreFault:
        return ""
    return next((line[17:].decode() for line in told.splitlines() if line.startswith(b"maxmemory_policy:")), "")


async def _dial(address: Address, tls: ssl.SSLContext | None) -> RedisConnection:
    loop = asyncio.get_running_loop()
    host, port = address
    _, connection = await loop.create_connection(
        lambda: RedisConnection(loop), host, port, ssl=tls, server_hostname=host if tls else None
    )
    return connection


async def _give_up(connection: RedisConnection) -> None:
    connection.close("the handshake failed")
    await connection.gone


async def _log_in(connection: RedisConnection, username: str, password: str) -> None:
    if not password:
        return
    try:
        await connection.call(("AUTH", *((username,) if username else ()), password))
    except StoreFault as fault:
        # Not the store's own words: of a command that it does not know they repeat the arguments.
        raise StoreFault(fault.code, f"the store refuses the login: {fault.code}") from None


async def _master(target: RedisTarget, tls: ssl.SSLContext | None, attempt: int) -> Address:
    """What the first Sentinel says that knows the master; they are asked over the same TLS."""
    last: Exception = StoreFault("NO_MASTER", "no Sentinel knows the master")
    first = attempt % len(target.addresses)
    for address in (*target.addresses[first:], *target.addresses[:first]):
        try:
            async with asyncio.timeout(_SENTINEL_S):
                sentinel = await _dial(address, tls)
                try:
                    await _log_in(sentinel, "", target.sentinel_password())
                    named = await sentinel.call(("SENTINEL", "get-master-addr-by-name", target.master_name))
                finally:
                    await _give_up(sentinel)
        except (OSError, StoreFault) as fault:  # TimeoutError is an OSError
            last = fault
        else:
            if named is not None:
                host, port = named
                return host.decode(), int(port)
    raise last
