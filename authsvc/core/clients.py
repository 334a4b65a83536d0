"""OAuth clients as values.

Owns: what a client is and what it may ask for. May import: the standard library and `core`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A live secret as the record keeps it: a keyed hash (STANDARDS S9), never the secret."""

    secret_id: str
    keyed_hash: bytes
    create_time: int
    expire_time: int | None = None

    def live(self, now: int) -> bool:
        """Whether it still authenticates."""
        return self.expire_time is None or now < self.expire_time


@dataclass(frozen=True, slots=True)
class Client:
    """An OAuth client. Times are unix seconds, `token_ttl` seconds; empty tenants and domains mean none."""

    client_id: str
    display_name: str = ""
    audience: tuple[str, ...] = ()
    own_audience: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    token_ttl: int | None = None
    create_time: int = 0
    expire_time: int | None = None
    secrets: tuple[ClientSecret, ...] = ()

    @property
    def subject(self) -> str:
        """`client:ID` (RFC 9068 section 2.2, STANDARDS A2)."""
        return f"client:{self.client_id}"

    def live(self, now: int) -> bool:
        """Whether it may still authenticate."""
        return self.expire_time is None or now < self.expire_time
