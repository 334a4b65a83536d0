"""Which schema the database has, and bringing it to this release's.

Owns: the list of schema versions. May import: SQLAlchemy; Alembic only where the schema differs, because the
import costs a third of a second of every start.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Column, MetaData, Table, Text, inspect, select

from authsvc.core.errors import InvalidRequest

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERSIONS = ("0001",)
"""Every version of the schema, oldest first; a test compares it with the migrations."""

MIGRATIONS = Path(__file__).parent / "migrations"

_version = Table("alembic_version", MetaData(), Column("version_num", Text, primary_key=True))


def bring_up(connection: Connection) -> None:
    """Run the migrations that are missing, in the caller's write transaction: all of them or none.

    Raises InvalidRequest naming `record.url` where the schema is newer than this release.
    """
    found = version(connection)
    if found is not None and found not in VERSIONS:
        raise InvalidRequest.of(
            "record.url", f"names a record of a newer release: its schema is {found}, this one knows {VERSIONS[-1]}"
        )
    if found != VERSIONS[-1]:
        _migrate(connection)


def version(connection: Connection) -> str | None:
    """The schema's version, None in an empty database."""
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.scalar(select(_version.c.version_num))


def _migrate(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - see the module's docstring
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
