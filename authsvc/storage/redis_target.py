"""Where a counter store is, and who asks it.

Owns: how that is written as a URL. May import: the standard library.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

PORT = 6379
SENTINEL_PORT = 26379

DEADLINE_S = 0.010
"""How long a call waits for its reply."""
STALLS = 5
"""After so many deadlines without the oldest reply a connection is given up."""

Address = tuple[str, int]
Password = Callable[[], str]
"""Gives the password; asked at each connection, so that it changes without a restart. Empty: none is sent."""
Tls = Callable[[], ssl.SSLContext]
"""Gives what TLS is spoken with; asked at each connection likewise."""


def no_password() -> str:
    """None is sent."""
    return ""


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """Where the store is, and who asks. With `master_name` the addresses are Sentinels.

    `tls` is for the store and for Sentinels. `deadline_s` is that of a call.
    """

    addresses: tuple[Address, ...]
    master_name: str = ""
    database: int = 0
    username: str = ""
    password: Password = no_password
    sentinel_password: Password = no_password
    tls: Tls | None = None
    deadline_s: float = DEADLINE_S

    @property
    def stall_s(self) -> float:
        """How long the oldest reply may be owed before the connection is given up."""
        return STALLS * self.deadline_s


def parse_url(
    url: str,
    *,
    password: Password = no_password,
    sentinel_password: Password = no_password,
    tls: Tls | None = None,
    deadline_s: float = DEADLINE_S,
) -> RedisTarget:
    """Read `redis://[USER@]HOST[:PORT][/DB]` or `redis+sentinel://[USER@]HOST,HOST/MASTER[/DB]`; `rediss` is TLS.

    Passwords do not stand in URLs, and a user without one would be another user. Without `tls` certificates are
    verified by the system's authorities. Raises ValueError with what is wrong.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in {"redis", "rediss"} or kind not in {"", "sentinel"}:
        raise ValueError("is not a URL of redis, rediss, redis+sentinel or rediss+sentinel")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment, which mean nothing here")
    user, _, hosts = parts.netloc.rpartition("@")
    if ":" in user:
        raise ValueError("holds a password: put it into a file, and name it in counters.password_file")
    if user and password is no_password:
        raise ValueError("names a user, who needs counters.password_file")
    if tls is not None and scheme == "redis":
        raise ValueError("is not of rediss, and so nothing is verified by counters.ca or proved by a certificate")
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
        sentinel_password=sentinel_password,
        tls=(tls or ssl.create_default_context) if scheme == "rediss" else None,
        deadline_s=deadline_s,
    )


def _address(text: str, port: int) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        chosen = parts.port or port
    except ValueError:
        # Not the library's own words: what stands where a port should may be a piece of a password.
        raise ValueError("has a host or a port that is none") from None
    if not parts.hostname:
        raise ValueError("names no host")
    return parts.hostname, chosen
