"""Which schema the database has, and bringing it to this release's.

Owns: the list of schema versions. May import: SQLAlchemy; Alembic only where the schema differs, because the
import costs a third of a second of every start.
"""

from __future__ import annotations

from importlib import import_module
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


def prepare(connection: Connection) -> None:
    """Import what a migration needs, if one is needed, so that the write transaction does not hold others up."""
    if version(connection) != VERSIONS[-1]:
        import_module("alembic.command")


def bring_up(connection: Connection) -> None:
    """Run the migrations that are missing, in the caller's write transaction: all of them or none.

    Raises InvalidRequest naming `record.url` where the schema is newer than this release, or somebody else's.
    """
    found = version(connection)
    if found is None and set(inspect(connection).get_table_names()) - {_version.name}:
        raise InvalidRequest.of("record.url", "names a database that holds something else than a record of authsvc")
    if found is not None and found not in VERSIONS:
        raise InvalidRequest.of(
            "record.url", f"names a record of a newer release: its schema is {found}, this one knows {VERSIONS[-1]}"
        )
    if found == VERSIONS[-1]:
        return
    command, config = import_module("alembic.command"), import_module("alembic.config").Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def version(connection: Connection) -> str | None:
    """The schema's version, None in an empty database."""
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.scalar(select(_version.c.version_num))
