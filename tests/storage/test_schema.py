"""Which releases can use a record: its two marks, what they refuse, and that additive migrations only add."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, text

from authsvc.core.envelopes import Kek
from authsvc.core.errors import InvalidRequest
from authsvc.storage.sql import dialects, schema
from authsvc.storage.sql.opening import Opening, migrate, open_record
from tests.support.record_values import draft, granted

OPENING_KEK, ISSUER = Kek(b"k" * 32), "https://auth.example"
NEXT = "9001"
"""A schema of a release that does not exist yet."""


class Database:
    """A file that a record lies in."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'record.db'}"
        self.opening = Opening(self.url, OPENING_KEK, ISSUER)

    def run(self, *statements: str) -> None:
        """Go behind the record's back."""
        engine = dialects.make_engine(self.url)
        with dialects.writing(engine) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()

    def marks(self) -> schema.Schema | None:
        """What the record tells."""
        engine = dialects.make_engine(self.url)
        with dialects.reading(engine) as connection:
            found = schema.marks(connection)
        engine.dispose()
        return found

    def as_the_next_release_leaves_it(self, usable_from: str) -> None:
        """Another table, and the marks of a schema that this release does not know."""
        self.run(
            "CREATE TABLE added (id INTEGER PRIMARY KEY)",
            f"UPDATE setting SET value = CAST('{NEXT}' AS BLOB) WHERE name = 'schema'",
            f"UPDATE alembic_version SET version_num = '{usable_from}'",
        )

    def as_release_0_1_0_left_it(self) -> None:
        """The first schema, which one mark told."""
        scripts = ScriptDirectory(str(schema.MIGRATIONS))
        engine = dialects.make_engine(self.url)
        with dialects.writing(engine) as connection, Operations.context(MigrationContext.configure(connection)):
            scripts.get_revision("0001").module.upgrade()
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
            connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('0001')")
        engine.dispose()


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An empty one."""
    return Database(tmp_path)


def test_a_new_record_tells_the_newest_schema_and_the_oldest_that_can_use_it(database: Database) -> None:
    assert migrate(database.url) == ("", schema.NEWEST)
    assert database.marks() == (schema.NEWEST, schema.FLOOR)
    assert migrate(database.url) == (schema.NEWEST, schema.NEWEST)


def test_a_record_of_release_0_1_0_is_migrated_and_stays_usable_for_it(database: Database) -> None:
    database.as_release_0_1_0_left_it()
    assert database.marks() == ("0001", "0001")
    assert migrate(database.url) == ("0001", schema.NEWEST)
    # What 0.1.0 compares with the one schema that it knows; a release that raises it ends that, and says so here.
    assert database.marks() == (schema.NEWEST, "0001")
    open_record(database.opening).close()


def test_a_newer_schema_that_this_release_can_use_is_used_and_left_as_it_is(database: Database) -> None:
    open_record(database.opening).close()
    database.as_the_next_release_leaves_it(usable_from=schema.NEWEST)
    assert migrate(database.url) == (NEXT, NEXT)
    with closing(open_record(database.opening)) as record:
        assert record.grant(granted(), draft()).changed
        assert len(record.load().bindings) == 1
    assert database.marks() == (NEXT, schema.NEWEST)


@pytest.mark.parametrize("use", [lambda database: open_record(database.opening), lambda found: migrate(found.url)])
def test_a_newer_schema_that_this_release_cannot_use_is_refused_in_one_line_that_names_both(
    database: Database, use: object
) -> None:
    open_record(database.opening).close()
    database.as_the_next_release_leaves_it(usable_from=NEXT)
    assert callable(use)
    with pytest.raises(InvalidRequest) as refused:
        use(database)
    (violation,) = refused.value.violations
    assert violation.field == "record.url"
    assert "\n" not in violation.description
    assert NEXT in violation.description
    assert schema.NEWEST in violation.description


@pytest.mark.parametrize("version", ["0001", "9f3c2a7d1b44"])
def test_a_database_that_somebody_else_migrates_is_refused(database: Database, version: str) -> None:
    database.run(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY)",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)",
        f"INSERT INTO alembic_version VALUES ('{version}')",
    )
    with pytest.raises(InvalidRequest, match="something else"):
        migrate(database.url)


def test_schemas_are_in_order_and_never_usable_from_a_later_one() -> None:
    versions = [known.version for known in schema.SCHEMAS]
    assert versions == sorted(versions)
    assert all(known.usable_from in versions and known.usable_from <= known.version for known in schema.SCHEMAS)


@pytest.fixture
def empty() -> Iterator[Connection]:
    """A connection to an empty database."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_a_migration_that_says_so_only_adds_what_earlier_releases_need_not_know(empty: Connection) -> None:
    scripts = ScriptDirectory(str(schema.MIGRATIONS))
    before = MetaData()
    for known in schema.SCHEMAS:
        with Operations.context(MigrationContext.configure(empty)):
            scripts.get_revision(known.version).module.upgrade()
        after = MetaData()
        after.reflect(empty)
        if known.usable_from < known.version:
            assert only_adds(before, after) == [], known
        before = after


def test_the_judge_of_additive_migrations_finds_what_is_not(empty: Connection) -> None:
    empty.execute(text("CREATE TABLE kept (id INTEGER PRIMARY KEY, gone TEXT)"))
    before = MetaData()
    before.reflect(empty)
    for change, fault in (
        ("ALTER TABLE kept ADD COLUMN harmless TEXT", None),
        ("ALTER TABLE kept ADD COLUMN also TEXT NOT NULL DEFAULT ''", None),
        ("CREATE TABLE more (id INTEGER PRIMARY KEY)", None),
        ("CREATE UNIQUE INDEX narrow ON kept (harmless)", "kept: another unique index"),
        ("ALTER TABLE kept DROP COLUMN gone", "kept.gone is gone or of another kind"),
    ):
        empty.execute(text(change))
        after = MetaData()
        after.reflect(empty)
        assert (fault in only_adds(before, after)) if fault else only_adds(before, after) == []


def only_adds(before: MetaData, after: MetaData) -> list[str]:
    """What releases that know the schema before would trip over; empty where nothing."""
    faults = []
    for name, old in before.tables.items():
        new = after.tables.get(name)
        if new is None:
            faults.append(f"{name} is gone")
            continue
        faults += [
            f"{name}.{column.name} is gone or of another kind"
            for column in old.columns
            if column.name not in new.columns or repr(new.columns[column.name].type) != repr(column.type)
        ]
        faults += [
            f"{name}.{column.name} has to be given"
            for column in new.columns
            if column.name not in old.columns and not column.nullable and column.server_default is None
        ]
        if {index.name for index in new.indexes if index.unique} - {index.name for index in old.indexes}:
            faults.append(f"{name}: another unique index")
    return faults
