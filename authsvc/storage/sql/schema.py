"""Which schema a record has, which releases can use it, and bringing it to this release's.

Owns: the list of schemas and the two marks of a record. May import: SQLAlchemy; Alembic only where a migration is
missing, because the import costs a third of a second of every start.

A record tells its schema (the setting `schema`) and the oldest schema whose releases can still use it (the table
`alembic_version`). The second stands where release 0.1.0 looks for the first, and refuses what it does not know: so an
additive migration leaves the record open to 0.1.0 too, and one that is not shuts out every release before it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Column, MetaData, Table, Text, inspect, select, update

from authsvc.core.errors import InvalidRequest
from authsvc.storage.sql import secret_rows, tables

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Schema(NamedTuple):
    """A schema, and the oldest whose releases can use a record of it.

    `usable_from` is an earlier version where the migration only adds: a table, an index, a column that is nullable or
    has a default. It is the version itself where it takes away or changes what earlier releases read or write.
    """

    version: str
    usable_from: str


SCHEMAS = (Schema("0001", "0001"), Schema("0002", "0001"))
"""Every schema, oldest first, one a migration; tests compare it with the migrations and try what it claims."""

NEWEST = SCHEMAS[-1].version
"""The schema of this release."""

FLOOR = max(schema.usable_from for schema in SCHEMAS)
"""The oldest schema whose releases can use a record that this release has migrated."""

MIGRATIONS = Path(__file__).parent / "migrations"

_SETTING = "schema"
_floor = Table("alembic_version", MetaData(), Column("version_num", Text, primary_key=True))


def prepare(found: Schema | None) -> None:
    """Import what a migration needs, if what was found needs one: outside of any transaction, for it takes long."""
    if found is None or found.version < NEWEST:
        import_module("alembic.command")


def bring_up(connection: Connection) -> Schema | None:
    """Run the migrations that are missing, in the caller's write transaction: all of them or none.

    The answer is what was found, None in an empty database. A newer schema that this release can use is left as it is.
    Raises InvalidRequest naming `record.url` where it cannot be used by this release, or is somebody else's.
    """
    found = marks(connection)
    names = set(inspect(connection).get_table_names()) - {_floor.name}
    if names and (found is None or tables.head.name not in names):
        raise InvalidRequest.of("record.url", "names a database that holds something else than a record of authsvc")
    if found is not None and found.usable_from > NEWEST:
        raise InvalidRequest.of(
            "record.url",
            f"names a record of a newer release: its schema is {found.version}, and a release must know schema "
            f"{found.usable_from} to use it; this one knows {NEWEST}",
        )
    if found is None or found.version < NEWEST:
        _upgrade(connection, found)
    return found


def marks(connection: Connection) -> Schema | None:
    """The schema of a record and the oldest that can use it; None in a database without either."""
    if not inspect(connection).has_table(_floor.name):
        return None
    usable_from = connection.scalar(select(_floor.c.version_num))
    if usable_from is None:
        return None
    # Release 0.1.0 made its records without the setting; the two were one.
    named = secret_rows.setting(connection, _SETTING) if inspect(connection).has_table(tables.setting.name) else None
    return Schema(usable_from if named is None else named.decode(), usable_from)


def floor(connection: Connection) -> str:
    """The oldest schema whose releases can use this record as it stands."""
    found: str = connection.scalars(select(_floor.c.version_num)).one()
    return found


def _upgrade(connection: Connection, found: Schema | None) -> None:
    if found is not None:
        # Alembic goes on from what it finds here.
        connection.execute(update(_floor).values(version_num=found.version))
    command, config = import_module("alembic.command"), import_module("alembic.config").Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    secret_rows.remember(connection, _SETTING, NEWEST.encode())
    connection.execute(update(_floor).values(version_num=FLOOR))
