"""What a check sees inside a write's transaction.

Owns: the adapter of `ports.record.View` over one connection. May import: SQLAlchemy, `core`, `ports`.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from authsvc.storage.sql import binding_rows, rows

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from authsvc.core.bindings import Binding
    from authsvc.core.clients import Client
    from authsvc.ports.record import PolicyRecord


class SqlView:
    """The state as it will be once the write commits: its rows are written before its check runs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def client(self, client_id: str) -> Client | None:
        """The client, or None."""
        return rows.client(self._connection, client_id)

    def clients(self, client_ids: AbstractSet[str]) -> tuple[Client, ...]:
        """Those of the clients that exist."""
        found = (rows.client(self._connection, client_id) for client_id in sorted(client_ids))
        return tuple(client for client in found if client is not None)

    def bindings(self, *, role: str | None = None, subject: str | None = None) -> tuple[Binding, ...]:
        """The bindings in effect."""
        return binding_rows.effective(self._connection, role=role, subject=subject)

    def granted_roles(self) -> frozenset[str]:
        """The roles that grants use."""
        return binding_rows.granted_roles(self._connection)

    def policy(self) -> PolicyRecord:
        """The policy in force."""
        return rows.policy(self._connection)
