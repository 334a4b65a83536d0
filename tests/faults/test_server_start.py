"""Starts on a data directory that somebody damaged: refused in one line, nothing overwritten, or served without it."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from authsvc.bootstrap.first_start import DATABASE_FILE, KEK_FILE
from authsvc.storage.data_directory import ADMIN_FILE
from authsvc.v1 import error_reason_pb2, key_admin_pb2, key_pb2, token_pb2
from tests.support.process import Serving, command, page, refused_start, serving
from tests.support.scale import scale
from tests.support.waiting import wait_for


def refused(directory: Path) -> str:
    """The one line of a start that is refused."""
    code, lines = refused_start(directory)
    assert code == 2, lines
    (line,) = lines
    return line.removeprefix("authsvc: ")


def contents(directory: Path) -> dict[str, bytes]:
    """Every file but the lock, whose content says nothing."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"}


@contextmanager
def database(directory: Path) -> Iterator[sqlite3.Connection]:
    """The record, for whoever can write its file."""
    with closing(sqlite3.connect(directory / DATABASE_FILE)) as connection, connection:
        yield connection


def header(directory: Path) -> None:
    path = directory / DATABASE_FILE
    path.write_bytes(b"no database at all" + path.read_bytes()[18:])


def pages(directory: Path) -> None:
    path = directory / DATABASE_FILE
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(len(content) - 4096))


def truncated(directory: Path) -> None:
    path = directory / DATABASE_FILE
    path.write_bytes(path.read_bytes()[:10_000])


def foreign(directory: Path) -> None:
    (directory / DATABASE_FILE).unlink()
    with database(directory) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE invoices (id INTEGER)")


@pytest.mark.standard("U5", "U14")
def test_a_record_that_is_damaged_or_not_ours_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with serving(whole):
        pass
    damaged = "record.url: the record's file is damaged"
    cases = (
        (header, "record.url: the record's file is not a database"),
        (pages, damaged),
        (truncated, damaged),
        (foreign, "record.url: names a database that holds something else than a record of authsvc"),
    )
    for damage, said in cases:
        directory = tmp_path / damage.__name__
        shutil.copytree(whole, directory)
        damage(directory)
        before = contents(directory)
        assert refused(directory) == said
        assert contents(directory) == before, damage.__name__


@pytest.mark.standard("U14")
def test_a_missing_key_encryption_key_beside_a_record_is_not_made_anew(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with serving(directory):
        pass
    kek = directory / KEK_FILE
    kept = kek.read_bytes()
    kek.unlink()
    before = contents(directory)
    assert refused(directory) == f"keys.kek: {kek} is gone, but the record that it sealed is there; put it back"
    assert contents(directory) == before
    kek.touch(mode=0o600)
    kek.write_bytes(kept)
    with serving(directory) as service:
        assert service.admin()


def kids(service: Serving) -> set[str]:
    """The keys that are published, over gRPC and over HTTP."""
    over_grpc = json.loads(service.call("KeyService/GetJwks", key_pb2.GetJwksRequest()).jwks)
    assert json.loads(page(f"http://{service.http}/.well-known/jwks.json")[1]) == over_grpc
    return {key["kid"] for key in over_grpc["keys"]}


@pytest.mark.standard("K12")
def test_a_key_row_that_was_altered_is_not_published_is_loud_and_the_others_go_on(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with serving(directory) as service:
        secret = service.create_client("shop", audience=["orders"])
        rotate = key_admin_pb2.RotateKeyRequest(force=True)
        retiring = service.call("KeyAdminService/RotateKey", rotate, service.admin()).retiring.kid
        token = service.token("shop", secret)
        good = kids(service) - {retiring}
    with database(directory) as record:
        (body,) = record.execute("SELECT body FROM signing_key WHERE kid = ?", (retiring,)).fetchone()
        row = json.loads(body)
        longer = json.dumps({**row, "expire_time": row["expire_time"] + 86_400})
        record.execute("UPDATE signing_key SET body = ? WHERE kid = ?", (longer, retiring))
    with serving(directory) as service:
        assert kids(service) == good
        wait_for(lambda: any(retiring in str(event) for event in service.events()), 5.0, "the event")
        (told,) = [event for event in service.events() if retiring in str(event)]
        assert told["level"] == "critical"
        assert "authsvc_keys_broken 1.0" in service.operations("/metrics")[1]
        wanted = token_pb2.VerifyTokenRequest(token=token, audience=["orders"])
        assert service.call("TokenService/VerifyToken", wanted, service.admin()).valid
        assert service.token("shop", secret)


@pytest.mark.standard("K12")
def test_a_signing_key_that_was_altered_signs_nothing_and_its_tokens_are_unknown(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with serving(directory) as service:
        secret = service.create_client("shop", audience=["orders"])
        token = service.token("shop", secret)
        keys = service.call("KeyAdminService/ListKeys", key_admin_pb2.ListKeysRequest(), service.admin()).keys
        (active,) = [key.kid for key in keys if key.state == key_admin_pb2.KEY_STATE_ACTIVE]
    with database(directory) as record:
        (body,) = record.execute("SELECT body FROM signing_key WHERE kid = ?", (active,)).fetchone()
        row = json.loads(body)
        other = json.dumps({**row, "create_time": row["create_time"] - 1})
        record.execute("UPDATE signing_key SET body = ? WHERE kid = ?", (other, active))
    with serving(directory) as service:
        assert active not in kids(service)
        fresh = service.token("shop", secret)
        verify = [token_pb2.VerifyTokenRequest(token=one, audience=["orders"]) for one in (token, fresh)]
        answers = [service.call("TokenService/VerifyToken", one, service.admin()) for one in verify]
        assert answers[0].reason == error_reason_pb2.REASON_TOKEN_KEY_UNKNOWN
        assert answers[1].valid


@pytest.mark.standard("U5")
def test_an_administrator_whose_file_cannot_be_written_is_not_made(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    in_the_way = directory / ADMIN_FILE
    in_the_way.mkdir()
    assert refused(directory) == f"AUTHSVC_DATA_DIR: cannot write {in_the_way}: Is a directory"
    in_the_way.rmdir()
    with serving(directory) as service:
        assert service.admin()


@pytest.mark.standard("U5")
@pytest.mark.timeout(1_200)
def test_kill_9_at_random_moments_of_the_first_start_leaves_what_the_next_one_completes(tmp_path: Path) -> None:
    chance = random.Random()
    with serving(tmp_path / "whole") as service:
        usual = service.seconds
    for turn in range(scale(40)):
        directory = tmp_path / f"data-{turn}"
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "AUTHSVC_DATA_DIR": str(directory)}
        with subprocess.Popen(command(), env=environment, stderr=subprocess.DEVNULL) as first:
            # Not a wait for anything: the moment of the kill, mostly after the imports.
            threading.Event().wait(chance.uniform(usual / 3, usual * 1.2))
            first.kill()
        with serving(directory) as service:
            assert service.admin()
            assert len(kids(service)) == 2
