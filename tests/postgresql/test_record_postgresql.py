"""The SQL record on PostgreSQL: the port's suite, and what is its own: opening, deadlines, TLS, refusals."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import trustme
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import make_url

from authsvc.core.audit import RECORD_CHAIN
from authsvc.core.envelopes import Kek
from authsvc.core.errors import InvalidRequest, Unavailable
from authsvc.ports.replicas import Replica
from authsvc.storage.sql import dialects, postgresql, tables
from authsvc.storage.sql.opening import Opening, open_engine, open_record
from tests.conformance.record import RecordSuite, all_changes, is_whole, together
from tests.conformance.replicas import ReplicasSuite
from tests.postgresql.conftest import ISSUER, KEK, PostgresqlBench
from tests.support.postgresql import PASSWORD, USER, Postgres, is_debian, postgres
from tests.support.record_values import draft, granted
from tests.support.waiting import wait_for


class TestSqlRecordOnPostgresql(RecordSuite):
    """The port's laws."""

    @pytest.fixture
    def bench(self, postgresql: PostgresqlBench) -> PostgresqlBench:
        return postgresql


class TestReplicasOnPostgresql(ReplicasSuite):
    """The laws of the rows of replicas."""

    @pytest.fixture
    def bench(self, postgresql: PostgresqlBench) -> PostgresqlBench:
        return postgresql


def fault(opening: Opening) -> str:
    """What opening says is wrong with `record.url`, which names neither host, user nor password."""
    with pytest.raises(InvalidRequest) as refused:
        open_record(opening).close()
    (violation,) = refused.value.violations
    assert violation.field == "record.url"
    for part in ("\n", PASSWORD, USER, "127.0.0.1"):
        assert part not in refused.value.message
    return violation.description


# Opening.


def test_instances_that_open_an_empty_database_at_once_make_one_record(postgresql: PostgresqlBench) -> None:
    heads = together(6, lambda _: postgresql.open().head())
    assert len({repr(head) for head in heads}) == 1
    assert postgresql.sql("SELECT count(*) FROM change") == [(1,)]


def test_an_opening_waits_for_a_migration_longer_than_a_write_waits_for_a_lock(postgresql: PostgresqlBench) -> None:
    engine = dialects.make_engine(postgresql.opening.url, postgresql.opening.password_file)
    opened = threading.Event()

    def open_late() -> None:
        postgresql.open()
        opened.set()

    late = threading.Thread(target=open_late)
    with dialects.migrating(engine) as connection:
        late.start()
        wait_for(lambda: postgresql.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        start = time.monotonic()
        wait_for(lambda: time.monotonic() - start > 2.5)
        assert not opened.is_set()
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    late.join()
    assert opened.is_set()
    engine.dispose()


def test_a_wrong_key_encryption_key_is_refused(postgresql: PostgresqlBench) -> None:
    postgresql.open()
    with pytest.raises(InvalidRequest, match=r"keys\.kek"):
        open_record(replace(postgresql.opening, kek=Kek(b"x" * 32)))


def test_a_database_of_somebody_elses_is_refused_and_left_alone(postgresql: PostgresqlBench) -> None:
    postgresql.sql("CREATE TABLE orders (id int)")
    assert "something else" in fault(postgresql.opening)
    assert postgresql.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("orders",)]


def test_a_database_of_another_encoding_is_refused(server: Postgres) -> None:
    server.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'")
    assert "UTF8" in fault(Opening(server.url("latin"), KEK, ISSUER, password_file=server.password))
    server.sql("DROP DATABASE latin WITH (FORCE)")


def test_a_user_that_may_make_no_tables_is_refused(postgresql: PostgresqlBench) -> None:
    postgresql.sql(f"CREATE ROLE {postgresql.database} LOGIN PASSWORD '{PASSWORD}'")
    url = postgresql.opening.url.replace(f"//{USER}@", f"//{postgresql.database}@")
    assert "lets this user not" in fault(replace(postgresql.opening, url=url))
    postgresql.sql(f"DROP ROLE {postgresql.database}")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("postgresql://db.example", "names no database"),
        ("postgresql://db.example/authsvc?sslmode=disable", "only sslmode=verify-full"),
        ("postgresql://db.example/authsvc?sslmode=require", "only sslmode=verify-full"),
        ("postgresql:///authsvc?host=db.example&sslmode=prefer", "only sslmode=verify-full"),
        ("postgresql://127.0.0.1/authsvc?host=127.0.0.1,db.example&sslmode=disable", "only sslmode=verify-full"),
        ("postgresql://127.0.0.1/authsvc?sslmode=never", "takes as sslmode"),
        ("postgresql://127.0.0.1/authsvc?password=x", "holds a parameter other than"),
        ("postgresql://127.0.0.1/authsvc?options=-cfsync%3Doff", "holds a parameter other than"),
        ("mysql://127.0.0.1/authsvc", "is not served"),
        ("postgresql://owner:correct horse@127.0.0.1:x/authsvc", "is not a database URL"),
    ],
)
def test_a_url_that_cannot_or_must_not_be_a_record_is_refused_before_anything_is_sent(url: str, what: str) -> None:
    assert what in fault(Opening(url, KEK, ISSUER))


def test_a_wrong_password_a_missing_one_and_a_missing_database_are_told(server: Postgres, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    wrong.chmod(0o600)
    url = server.url("nowhere")
    assert "refuses this user" in fault(Opening(url, KEK, ISSUER, password_file=wrong))
    assert "none is given" in fault(Opening(url, KEK, ISSUER))
    assert "does not exist" in fault(Opening(url, KEK, ISSUER, password_file=server.password))
    assert "password_file" in fault(Opening(url, KEK, ISSUER, password_file=tmp_path / "none"))
    wrong.chmod(0o604)
    assert "password_file" in fault(Opening(url, KEK, ISSUER, password_file=wrong))


def test_no_error_holds_the_password_a_host_or_a_value(server: Postgres) -> None:
    url = server.url("postgres").replace(f"//{USER}@", f"//{USER}:correct%20hors@")
    with pytest.raises(InvalidRequest) as refused:
        open_record(Opening(url, KEK, ISSUER))
    causes: list[str] = []
    error: BaseException | None = refused.value
    while error is not None:
        causes.append(f"{error} {error!r}")
        error = error.__cause__ or error.__context__
    assert len(causes) > 2
    assert not [text for text in causes if "hors" in text]


def test_a_server_that_is_not_there_is_unavailable_at_once(server: Postgres) -> None:
    url = server.url("postgres").replace(f":{server.port}/", ":1/")
    start = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        open_record(Opening(url, KEK, ISSUER))
    assert time.monotonic() - start < 5


# The schema.


def test_the_migrations_make_exactly_the_tables(postgresql: PostgresqlBench) -> None:
    postgresql.open()
    engine = dialects.make_engine(postgresql.opening.url, postgresql.opening.password_file)
    with dialects.reading(engine) as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    engine.dispose()


@pytest.mark.standard("P8")
def test_every_name_is_ordered_by_code_point_whatever_the_databases_language(postgresql: PostgresqlBench) -> None:
    postgresql.open()
    names = postgresql.sql(
        "SELECT table_name, column_name, collation_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type = 'text'"
    )
    by_language = {(table, column) for table, column, collation in names if collation != "C"}
    assert by_language == {
        ("audit_event", "detail"),
        ("binding", "condition"),
        ("change", "body"),
        ("client", "body"),
        ("policy", "text"),
        ("replica", "acknowledged"),
        ("signing_key", "body"),
    }


# Transactions and deadlines.


def test_a_read_is_of_one_moment_and_can_write_nothing(postgresql: PostgresqlBench) -> None:
    record = postgresql.open()
    engine = dialects.make_engine(postgresql.opening.url, postgresql.opening.password_file)
    with dialects.reading(engine) as connection:
        before = connection.exec_driver_sql("SELECT number FROM head").scalar()
        record.grant(granted(), draft())
        assert connection.exec_driver_sql("SELECT number FROM head").scalar() == before
    with pytest.raises(Unavailable, match="only reads"), dialects.reading(engine) as connection:
        connection.exec_driver_sql("UPDATE head SET number = 9")
    with dialects.writing(engine) as connection:
        connection.exec_driver_sql("UPDATE head SET number = number")
    engine.dispose()


def test_a_session_has_its_deadlines_and_commits_are_forced_to_the_disk(postgresql: PostgresqlBench) -> None:
    postgresql.sql(f"ALTER DATABASE {postgresql.database} SET synchronous_commit = off")
    engine = dialects.make_engine(postgresql.opening.url, postgresql.opening.password_file)
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")
    with dialects.migrating(engine) as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "1min"
    with dialects.reading(engine) as connection:
        assert [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names] == ["2s", "8s", "5s", "on"]
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "repeatable read"
    with dialects.writing(engine) as connection:
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
    engine.dispose()


def test_a_transaction_that_stood_still_is_unavailable_and_the_next_one_goes(postgresql: PostgresqlBench) -> None:
    engine = dialects.make_engine(postgresql.opening.url, postgresql.opening.password_file)

    def stand_still() -> None:
        with dialects.writing(engine) as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '20ms'")
            wait_for(lambda: not postgresql.sql("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid))
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(Unavailable, match="stood still"):
        stand_still()
    with dialects.writing(engine) as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    engine.dispose()


@pytest.mark.standard("U6")
def test_a_locked_head_is_unavailable_within_seconds_and_readable(postgresql: PostgresqlBench) -> None:
    record = postgresql.open()
    before = record.head()
    with psycopg.connect(
        host=str(postgresql.server.folder),
        port=postgresql.server.port,
        user=USER,
        dbname=postgresql.database,
        password=PASSWORD,
    ) as other:
        other.execute("SELECT * FROM head FOR UPDATE")
        start = time.monotonic()
        outcomes = together(2, lambda i: record.grant(granted(f"user:{i}"), draft()))
        assert time.monotonic() - start < 4.0
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert record.head() == before
    assert record.grant(granted(), draft()).changed


@pytest.mark.standard("U6")
def test_a_server_that_falls_silent_is_given_up(own_server: Postgres) -> None:
    bench = PostgresqlBench(own_server)
    url, password = make_url(bench.opening.url), bench.opening.password_file
    record = open_engine(postgresql.make_engine(url, password, silence_seconds=0.5), bench.opening)
    before = record.head()
    with own_server.paused(bench.database):
        # Another connection is asked.
        assert record.head() == before
    own_server.pause()
    start = time.monotonic()
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            record.head()
        assert time.monotonic() - start < 5.0
    finally:
        own_server.go_on()
    assert wait_for(lambda: record.grant(granted(), draft())).changed
    record.close()
    bench.close()


@pytest.mark.standard("U6")
def test_a_report_of_a_replica_that_hangs_holds_up_no_write(postgresql: PostgresqlBench) -> None:
    record = postgresql.open()
    with (
        ThreadPoolExecutor(1) as pool,
        postgresql.server.transaction(postgresql.database, "LOCK TABLE replica IN EXCLUSIVE MODE"),
    ):
        pool.submit(record.report_replica, Replica("one", (1, 0)), forget_after=60)
        wait_for(lambda: postgresql.sql("SELECT 1 FROM pg_locks WHERE relation = 'replica'::regclass AND NOT granted"))
        assert record.grant(granted(), draft()).changed


def test_a_value_that_the_database_cannot_keep_is_an_invalid_request(postgresql: PostgresqlBench) -> None:
    record = postgresql.open()
    before = record.head()
    with pytest.raises(InvalidRequest, match="cannot keep"):
        record.apply_policy("version: 1\0", [], draft(), expected_revision=None)
    assert record.head() == before
    assert record.grant(granted(), draft()).changed


def test_chains_of_several_replicas_meet_a_new_day_at_once(postgresql: PostgresqlBench) -> None:
    instances = [postgresql.open() for _ in range(4)]
    ends = together(4, lambda i: instances[i].append_audit(f"replica-{i}", [draft(actor="user:stranger")]))
    assert not [end for end in ends if isinstance(end, Exception)]
    actors = [instances[0].audit_events(f"replica-{i}", 0, 9)[0].actor for i in range(4)]
    assert len({actor.key_id for actor in actors if actor}) == 1


def test_a_database_that_lost_commits_gets_a_new_epoch_with_the_next_write(postgresql: PostgresqlBench) -> None:
    record = postgresql.open()
    record.grant(granted("user:a"), draft())
    kept = f"{postgresql.database}_kept"
    # A copy needs a database that nobody is connected to.
    postgresql.server.cut(postgresql.database)
    postgresql.server.sql(f"CREATE DATABASE {kept} TEMPLATE {postgresql.database}")
    lost = record.grant(granted("user:b"), draft())
    postgresql.server.sql(f"DROP DATABASE {postgresql.database} WITH (FORCE)")
    postgresql.server.sql(f"ALTER DATABASE {kept} RENAME TO {postgresql.database}")
    written = record.grant(granted("user:c"), draft())
    assert written.revision.order == (2, 2) > lost.revision.order
    assert is_whole(record)
    assert len(all_changes(record)) == 3
    assert record.chain_end(RECORD_CHAIN).sequence == 2


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Whom the URL names as its judge."""
    return trustme.CA()


@pytest.fixture(scope="module")
def secured(authority: trustme.CA) -> Iterator[Postgres]:
    """A server with TLS, whose certificate is of the name `localhost`."""

    def prepare(server: Postgres) -> None:
        certificate = authority.issue_cert("localhost")
        certificate.cert_chain_pems[0].write_to_path(server.folder / "cert.pem")
        certificate.private_key_pem.write_to_path(server.folder / "key.pem")
        authority.cert_pem.write_to_path(server.folder / "ca.pem")
        trustme.CA().cert_pem.write_to_path(server.folder / "other.pem")
        (server.folder / "key.pem").chmod(0o600)
        server.own("key.pem")

    if not is_debian():
        pytest.skip("this PostgreSQL speaks no TLS: apt-get install postgresql")
    with postgres("ssl=on", "ssl_cert_file=../cert.pem", "ssl_key_file=../key.pem", prepare=prepare) as running:
        yield running


def secured_opening(server: Postgres, database: str, host: str, parameters: str) -> Opening:
    """A URL of it with another host and parameters."""
    url = f"postgresql://{USER}@{host}:{server.port}/{database}{parameters}"
    return Opening(url, KEK, ISSUER, password_file=server.password)


def test_tls_is_verified_unless_the_url_says_otherwise_on_loopback(secured: Postgres) -> None:
    database, folder = secured.database(), secured.folder
    good = secured_opening(secured, database, "localhost", f"?sslrootcert={folder}/ca.pem")
    with closing(open_record(good)):
        assert secured.sql(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname = %s", database
        ) == [(True,)]
    refusals = {
        "": "does not verify",
        f"?sslrootcert={folder}/other.pem": "does not verify",
        f"?sslrootcert={folder}/none.pem": "cannot be read",
        f"?sslmode=verify-ca&sslrootcert={folder}/other.pem": "does not verify",
    }
    for parameters, what in refusals.items():
        assert what in fault(secured_opening(secured, database, "localhost", parameters))
    other_name = secured_opening(secured, database, "127.0.0.1", f"?sslrootcert={folder}/ca.pem")
    assert "another name" in fault(other_name)
    for mode in (f"verify-ca&sslrootcert={folder}/ca.pem", "require", "disable"):
        open_record(secured_opening(secured, database, "127.0.0.1", f"?sslmode={mode}")).close()


def test_a_server_without_tls_is_refused_where_it_is_asked(server: Postgres) -> None:
    opening = Opening(server.url("postgres").replace("disable", "verify-full"), KEK, ISSUER)
    assert "speaks no TLS" in fault(opening)
