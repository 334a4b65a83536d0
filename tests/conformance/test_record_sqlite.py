"""The SQL record on SQLite: the port's suite, and what is its own: opening, refusals, sealed rows."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event

from authsvc.core.audit import RECORD_CHAIN, check_chain
from authsvc.core.clients import Client
from authsvc.core.envelopes import Kek
from authsvc.core.errors import Internal, InvalidRequest, Unavailable
from authsvc.storage.sql import dialects, schema, tables
from authsvc.storage.sql.directory_lock import DataDirectoryLock
from authsvc.storage.sql.opening import Opening, open_engine, open_record
from authsvc.storage.sql.record import KEPT_CHANGES, KEPT_SECONDS, SqlRecord
from tests.conformance.record import RecordSuite, all_changes, is_whole, together
from tests.conformance.replicas import ReplicasSuite
from tests.support.record_values import NOW, client, draft, granted

KEK = Kek(b"k" * 32)
ISSUER = "https://auth.example"


class SqliteBench:
    """A database file, opened as often as asked."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "record.db"
        self._opened: list[SqlRecord] = []

    @property
    def opening(self) -> Opening:
        """What it is opened with."""
        return Opening(f"sqlite:///{self.path}", KEK, ISSUER)

    def open(self) -> SqlRecord:
        """Another instance."""
        record = open_record(self.opening)
        self._opened.append(record)
        return record

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Go behind the record's back."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Close every instance."""
        for record in self._opened:
            record.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteBench]:
    """A fresh database file."""
    bench = SqliteBench(tmp_path)
    yield bench
    bench.close()


class TestSqlRecordOnSqlite(RecordSuite):
    """The port's laws."""

    @pytest.fixture
    def bench(self, sqlite: SqliteBench) -> SqliteBench:
        return sqlite


class TestReplicasOnSqlite(ReplicasSuite):
    """The laws of the rows of replicas."""

    @pytest.fixture
    def bench(self, sqlite: SqliteBench) -> SqliteBench:
        return sqlite


def fault(opening: Opening) -> str:
    """The setting that opening complains of."""
    with pytest.raises(InvalidRequest) as refused:
        open_record(opening)
    assert "\n" not in refused.value.message
    (violation,) = refused.value.violations
    return violation.field


# Opening.


def test_a_record_opens_again_as_it_was(sqlite: SqliteBench) -> None:
    written = sqlite.open().grant(granted(), draft())
    assert sqlite.open().head().revision == written.revision


def test_instances_that_open_an_empty_database_at_once_make_one_record(sqlite: SqliteBench) -> None:
    heads = together(3, lambda _: sqlite.open().head())
    assert len({repr(head) for head in heads}) == 1


def test_a_wrong_key_encryption_key_is_refused(sqlite: SqliteBench) -> None:
    sqlite.open()
    assert fault(Opening(sqlite.opening.url, Kek(b"x" * 32), ISSUER)) == "keys.kek"


def test_a_changed_issuer_is_refused_until_accepted(sqlite: SqliteBench) -> None:
    sqlite.open()
    other = Opening(sqlite.opening.url, KEK, "https://other.example")
    assert fault(other) == "issuer"
    open_record(Opening(other.url, KEK, other.issuer, accept_new_issuer=True)).close()
    open_record(other).close()
    assert fault(sqlite.opening) == "issuer"


def test_an_unset_issuer_is_the_remembered_one_and_at_first_the_default(sqlite: SqliteBench) -> None:
    for default in ("https://first.example", "https://later.example"):
        with closing(open_record(Opening(sqlite.opening.url, KEK, "", default_issuer=default))) as record:
            assert record.issuer == "https://first.example"


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "sqlite://", "sqlite:///:memory:", "sqlite:////nowhere/at/all/r.db"],
)
def test_a_url_that_cannot_be_a_record_is_refused(url: str) -> None:
    assert fault(Opening(url, KEK, ISSUER)) == "record.url"


def test_a_file_that_is_no_database_is_refused_and_left_alone(sqlite: SqliteBench) -> None:
    sqlite.path.write_bytes(b"not a database, but somebody's work\n" * 100)
    before = sqlite.path.read_bytes()
    assert fault(sqlite.opening) == "record.url"
    assert sqlite.path.read_bytes() == before


def test_a_directory_that_cannot_be_written_is_refused() -> None:
    # Not a mode of a folder of ours: root may write everywhere but here.
    assert fault(Opening("sqlite:////proc/self/r.db", KEK, ISSUER)) == "record.url"


# The schema.


def test_the_migrations_make_exactly_the_tables(sqlite: SqliteBench) -> None:
    sqlite.open()
    engine = dialects.make_engine(sqlite.opening.url)
    with dialects.reading(engine) as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_the_known_schemas_are_those_of_the_migrations() -> None:
    scripts = ScriptDirectory(str(schema.MIGRATIONS))
    found = [script.revision for script in scripts.walk_revisions()]
    assert [known.version for known in schema.SCHEMAS] == list(reversed(found))


# Durability and faults.


@pytest.mark.standard("U5")
def test_commits_are_forced_to_the_disk(sqlite: SqliteBench) -> None:
    sqlite.open()
    engine = dialects.make_engine(sqlite.opening.url)
    with dialects.reading(engine) as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        assert [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas] == ["wal", 2, 1]
    engine.dispose()


@pytest.mark.standard("U6")
def test_a_locked_database_is_unavailable_within_two_seconds_and_readable(sqlite: SqliteBench) -> None:
    record = sqlite.open()
    before = record.head()
    with closing(sqlite3.connect(sqlite.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        outcomes = together(2, lambda i: record.grant(granted(f"user:{i}"), draft()))
        assert time.monotonic() - start < 2.0
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert record.head() == before
        other.execute("ROLLBACK")
    assert record.grant(granted(), draft()).changed


@pytest.mark.standard("U5")
def test_a_full_disk_is_unavailable_and_nothing_is_half_written(sqlite: SqliteBench) -> None:
    sqlite.open()
    engine = dialects.make_engine(sqlite.opening.url)

    @event.listens_for(engine, "connect")
    def small(connection: sqlite3.Connection, _record: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 10}")

    record = open_engine(engine, sqlite.opening)
    made: list[Client] = []

    def fill() -> None:
        while True:
            made.append(record.create_client(client(f"c{len(made)}", display_name="x" * 2_000), [], draft()).client)

    with pytest.raises(Unavailable, match="full"):
        fill()
    record.close()
    again = sqlite.open()
    assert is_whole(again)
    assert len(again.load().clients) == len(made) > 0
    assert again.grant(granted(), draft()).changed


def test_a_database_that_lost_commits_gets_a_new_epoch_with_the_next_write(sqlite: SqliteBench) -> None:
    record = sqlite.open()
    record.grant(granted("user:a"), draft())
    kept = sqlite3.connect(":memory:")
    with closing(sqlite3.connect(sqlite.path)) as now, closing(kept):
        now.backup(kept)
        lost = record.grant(granted("user:b"), draft())
        kept.backup(now)
    written = record.grant(granted("user:c"), draft())
    assert written.revision.order == (2, 2) > lost.revision.order
    assert is_whole(record)


def test_old_change_rows_are_dropped_only_when_old_in_both_ways(sqlite: SqliteBench) -> None:
    record = sqlite.open()
    for name in "abc":
        record.grant(granted(f"user:{name}"), draft())
    record.forget_expired(NOW + 2 * KEPT_SECONDS)
    assert len(all_changes(record)) == 4
    sqlite.sql("UPDATE head SET number = ?", KEPT_CHANGES + 1)
    record.forget_expired(NOW)
    assert [row.number for row in all_changes(record)] == [1, 2, 3]
    record.forget_expired(NOW + 2 * KEPT_SECONDS)
    assert [row.number for row in all_changes(record)] == [2, 3]


# What is sealed.


@pytest.mark.standard("K6", "U8")
def test_the_file_holds_neither_secrets_nor_the_identifiers_of_events(sqlite: SqliteBench) -> None:
    record = sqlite.open()
    secret = record.secret("clients.hash")
    record.append_audit("r", [draft(actor="user:hidden-actor", subject="user:hidden-subject")])
    record.close()
    stored = b"".join(path.read_bytes() for path in sqlite.path.parent.glob("record.db*"))
    assert secret not in stored
    assert b"hidden" not in stored


@pytest.mark.standard("K6")
def test_a_swapped_or_cut_secret_fails_closed(sqlite: SqliteBench) -> None:
    record = sqlite.open()
    record.secret("one")
    record.secret("two")
    sqlite.sql(
        "UPDATE wrapped_secret SET envelope = (SELECT envelope FROM wrapped_secret WHERE name = 'two')"
        " WHERE name = 'one'"
    )
    with pytest.raises(Internal):
        record.secret("one")
    sqlite.sql("UPDATE wrapped_secret SET envelope = substr(envelope, 1, 20) WHERE name = 'two'")
    with pytest.raises(Internal):
        record.secret("two")


@pytest.mark.standard("U8")
def test_destroying_a_subjects_key_erases_it_and_the_chain_still_verifies(sqlite: SqliteBench) -> None:
    record = sqlite.open()
    record.grant(granted("user:ann"), draft(subject="user:ann"))
    record.grant(granted("user:bob"), draft(subject="user:bob"))
    ann, bob = (event.subject for event in record.audit_events(RECORD_CHAIN, 0, 9))
    assert ann is not None
    assert bob is not None
    sqlite.sql("DELETE FROM subject_key WHERE key_id = ?", ann.key_id)
    assert record.open_identifier(ann) is None
    assert record.open_identifier(bob) == "user:bob"
    assert check_chain(record.audit_events(RECORD_CHAIN, 0, 9), end=record.head().audit) is None


@pytest.mark.standard("U7")
@pytest.mark.parametrize(
    "edit",
    [
        'UPDATE audit_event SET detail = \'{"a":"b"}\' WHERE sequence = 2',
        "UPDATE audit_event SET subject = actor WHERE sequence = 2",
        "DELETE FROM audit_event WHERE sequence = 2",
        "DELETE FROM audit_event WHERE sequence = 3",
        "UPDATE audit_event SET sequence = 5 - sequence + 100 WHERE sequence IN (2, 3)",
    ],
)
def test_any_edit_removal_reorder_or_truncation_of_events_is_found(sqlite: SqliteBench, edit: str) -> None:
    record = sqlite.open()
    for name in "abc":
        record.grant(granted(f"user:{name}"), draft(subject=f"user:{name}"))
    end = record.head().audit
    assert check_chain(record.audit_events(RECORD_CHAIN, 0, 9), end=end) is None
    sqlite.sql(edit)
    assert check_chain(record.audit_events(RECORD_CHAIN, 0, 9), end=end) is not None


# The data directory.


def test_a_data_directory_has_one_holder(tmp_path: Path) -> None:
    with DataDirectoryLock(tmp_path):
        with pytest.raises(InvalidRequest), DataDirectoryLock(tmp_path):
            pass
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    with DataDirectoryLock(tmp_path):
        pass


def test_a_data_directory_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused, DataDirectoryLock(tmp_path / "none"):
        pass
    assert refused.value.violations[0].field == "AUTHSVC_DATA_DIR"
