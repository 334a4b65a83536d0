"""Two releases on one record: during an update, after it, and back again (issue 4, CONTRACT "Compatibility").

The release before this one comes from the repository's history, where that reaches back to it; the one after is made
from this source, with a schema and a form of the change log that this release does not know.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from authsvc.storage.sql import schema
from tests.support import releases
from tests.support.fleet import Fleet, Member
from tests.support.postgresql import Postgres
from tests.support.process import refused_start
from tests.support.releases import Release, this
from tests.support.waiting import wait_for

BEFORE = "0.1.0"
COMMIT = releases.commit_of("v0.1.0", "Authorize and Consume say why a limit refuses as Envoy's row does")


@pytest.fixture(scope="module", params=["this-to-next", *([f"{BEFORE}-to-this"] if COMMIT else [])])
def update(
    request: pytest.FixtureRequest, next_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Release, Release]:
    """A release and its successor."""
    if request.param == "this-to-next":
        return this(), next_release
    return releases.of_commit(BEFORE, COMMIT, tmp_path_factory.mktemp("before")), this()


def migrated(release: Release, fleet: Fleet) -> dict[str, object]:
    """What `authsvc migrate` of a release tells, in a container that has no key."""
    flags = [f"--{name}={value}" for name, value in fleet.record.items()]
    directory = fleet.folder / "init"
    done = release.run("migrate", "--output", "json", *flags, environment={"AUTHSVC_DATA_DIR": str(directory)})
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def each_follows_the_other(one: Member, other: Member, name: str) -> None:
    """Whatever one writes the other holds: a role, a client and its token, a revocation."""
    for writer, reader in ((one, other), (other, one)):
        subject = f"{name}-{writer.service.directory.name}"
        assert reader.allows(f"user:{subject}", revision=writer.grant(f"user:{subject}"))
        secret = writer.create_client(subject, audience=["orders"])
        token = writer.service.token(subject, secret, audience=["orders"])
        assert reader.verifies(token, "orders")
        revision = writer.revoke_subject(f"client:{subject}")
        assert not reader.verifies(token, "orders", revision=revision)


@pytest.mark.standard("U5")
def test_a_release_and_its_successor_work_on_one_record_during_an_update_and_back(
    fleet: Fleet, update: tuple[Release, Release]
) -> None:
    old, new = update
    with fleet.replica("old-1", old) as first:
        first.apply()
        with ThreadPoolExecutor(2) as pool:
            told = list(pool.map(lambda _: migrated(new, fleet), range(2)))
        # One init container worked, the other waited and found it done; the running release went on.
        assert sorted(bool(one["migrated"]) for one in told) == [False, True]
        first.grant("user:meanwhile")
        with fleet.replica("new-1", new) as second:
            assert second.allows("user:meanwhile")
            each_follows_the_other(first, second, "during")
            # The update is taken back: the release before starts on what its successor has made of the record.
            with fleet.replica("old-2", old) as third:
                assert third.allows("user:during-new-1")
                each_follows_the_other(third, second, "back")


@pytest.mark.standard("U5")
def test_on_sqlite_a_release_and_its_successor_take_turns_on_one_record(
    tmp_path: Path, update: tuple[Release, Release]
) -> None:
    old, new = update
    fleet = Fleet(tmp_path, {})
    for turn, release in enumerate((old, new, old)):
        with fleet.replica("alone", release) as member:
            if turn == 0:
                member.apply()
            assert all(member.allows(f"user:{before}") for before in range(turn))
            assert member.allows(f"user:{turn}", revision=member.grant(f"user:{turn}"))


def test_a_rollbacks_init_container_leaves_the_newer_schema_as_it_is(fleet: Fleet, next_release: Release) -> None:
    assert migrated(next_release, fleet) == {"schema": releases.NEXT, "before": "", "migrated": True}
    assert migrated(this(), fleet) == {"schema": releases.NEXT, "before": releases.NEXT, "migrated": False}


def bodies(server: Postgres, database: str) -> str:
    """All of the change log."""
    return "\n".join(str(body) for (body,) in server.sql("SELECT body FROM change ORDER BY number", database=database))


@pytest.mark.standard("U5")
def test_another_form_of_a_change_is_written_one_release_after_it_is_read_and_shuts_out_who_cannot_read_it(
    fleet: Fleet, server: Postgres, database: str, next_release: Release, release_after_next: Release
) -> None:
    with fleet.replica("this", this()) as now, fleet.replica("next", next_release) as following:
        now.apply()
        assert now.allows("user:a", revision=following.grant("user:a"))
    assert "binding_2" not in bodies(server, database)
    with fleet.replica("next", next_release) as following, fleet.replica("after", release_after_next) as after:
        assert following.allows("user:b", revision=after.grant("user:b"))
        assert "binding_2" in bodies(server, database)
        assert after.allows("user:c", revision=following.grant("user:c"))
    # Back by one release is a rollback; back by two would read what it does not know.
    with fleet.replica("next", next_release) as following:
        assert following.allows("user:b")
    code, lines = refused_start(fleet.folder / "this", settings=fleet.shared)
    assert code == 2
    (line,) = [found for found in lines if "warning" not in found]
    assert "record.url" in line
    for part in (releases.AFTER_NEXT, releases.NEXT, schema.NEWEST):
        assert part in line


@pytest.mark.standard("U2")
def test_serve_on_a_migrated_record_needs_no_right_to_make_tables(
    fleet: Fleet, server: Postgres, database: str, tmp_path: Path
) -> None:
    migrated(this(), fleet)
    for statement in (
        f"CREATE ROLE {database}_app LOGIN PASSWORD 'correct horse'",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {database}_app",
    ):
        server.sql(statement, database=database)
    url = fleet.record["record.url"].replace("//owner@", f"//{database}_app@")
    limited = Fleet(tmp_path, {**fleet.record, "record.url": url})
    with limited.replica("limited") as member:
        member.apply()
        assert member.allows("user:a", revision=member.grant("user:a"))
    server.sql(f"DROP OWNED BY {database}_app", database=database)
    server.sql(f"DROP ROLE {database}_app")


def test_a_migration_gives_way_to_a_statement_in_progress_and_makes_nobody_wait_behind_it(
    fleet: Fleet, server: Postgres, database: str, next_release: Release
) -> None:
    waiting_lock = "SELECT 1 FROM pg_locks WHERE relation = 'client'::regclass AND NOT granted"
    with fleet.replica("this") as member, ThreadPoolExecutor(1) as pool:
        member.apply()
        with server.transaction(database, "SELECT * FROM client"):
            migrating = pool.submit(migrated, next_release, fleet)
            for turn in range(2):
                wait_for(lambda: server.sql(waiting_lock, database=database), 20.0, "the migration waiting")
                begun = time.monotonic()
                member.create_client(f"shop-{turn}")
                assert time.monotonic() - begun < 1.5
        assert migrating.result()["migrated"]
        member.create_client("shop-after")
