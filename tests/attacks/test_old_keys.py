"""Rows of signing keys that were ours once, put back in the database to undo a revocation or a rotation.

Each is as broken as a forged one: not published, not accepted, and loud (STANDARDS K12).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from authsvc.core.keys import KeyState
from authsvc.v1 import key_admin_pb2, key_pb2, token_pb2
from tests.support.embedded import Embedded, embedded

KEY_TABLES = {"signing_key": "kid, body", "setting": "name, value"}


@dataclass
class Stolen:
    """A token of a key that was revoked since, and the database as it was before."""

    data: Path
    token: str
    kid: str
    standby: str
    before: dict[str, list[tuple[str, object]]]


@contextmanager
def database(data: Path) -> Iterator[sqlite3.Connection]:
    """The record, as its thief opens it."""
    with closing(sqlite3.connect(data / "authsvc.db")) as connection, connection:
        yield connection


@pytest.fixture
def stolen(tmp_path: Path) -> Stolen:
    """The first key signed, and was revoked; the service has stopped."""
    data = tmp_path / "data"
    with embedded(data) as service:
        token = service.token("shop", service.create_client("shop", audience=["orders"]))
        states = {key.state: kid for kid, key in service.foundation.tail.current.keys.items()}
        with database(data) as connection:
            before = {
                table: connection.execute(f"select {columns} from {table}").fetchall()
                for table, columns in KEY_TABLES.items()
            }
        wanted = key_admin_pb2.RevokeKeyRequest(kid=states[KeyState.ACTIVE], reason="leaked")
        service.call("KeyAdminService/RevokeKey", wanted, service.admin())
    return Stolen(data, token, states[KeyState.ACTIVE], states[KeyState.PENDING], before)


def put_back(stolen: Stolen, kid: str) -> None:
    """One row of a key as it was."""
    body = dict(stolen.before["signing_key"])[kid]
    with database(stolen.data) as connection:
        connection.execute("insert or replace into signing_key (kid, body) values (?, ?)", (kid, body))


def refused_and_loud(service: Embedded, stolen: Stolen, *broken: str) -> None:
    """The token does not verify, and no key that was put back is published."""
    asked = token_pb2.VerifyTokenRequest(token=stolen.token, audience=["orders"])
    assert not service.call("TokenService/VerifyToken", asked, service.admin()).valid
    assert service.foundation.tail.current.broken_kids == set(broken)
    published = json.loads(service.call("KeyService/GetJwks", key_pb2.GetJwksRequest()).jwks)["keys"]
    assert published
    assert not {key["kid"] for key in published} & set(broken)


@pytest.mark.standard("K12", "K9")
def test_a_revoked_key_that_is_put_back_stays_refused(stolen: Stolen) -> None:
    put_back(stolen, stolen.kid)
    with embedded(stolen.data) as service:
        refused_and_loud(service, stolen, stolen.kid)


@pytest.mark.standard("K12", "K9")
def test_a_revoked_key_put_back_with_its_old_standby_stays_refused(stolen: Stolen) -> None:
    put_back(stolen, stolen.kid)
    put_back(stolen, stolen.standby)
    with embedded(stolen.data) as service:
        refused_and_loud(service, stolen, stolen.kid, stolen.standby)


@pytest.mark.standard("K12", "K9")
def test_all_keys_put_back_with_their_old_manifest_stay_refused(stolen: Stolen) -> None:
    with database(stolen.data) as connection:
        newer = {kid for (kid,) in connection.execute("select kid from signing_key")}
        connection.execute("delete from signing_key")
        connection.executemany("insert into signing_key (kid, body) values (?, ?)", stolen.before["signing_key"])
        connection.execute("delete from setting")
        connection.executemany("insert into setting (name, value) values (?, ?)", stolen.before["setting"])
    with embedded(stolen.data) as service:
        old = {kid for kid, _ in stolen.before["signing_key"]}
        assert newer - old, "there was a newer key, which is gone"
        refused_and_loud(service, stolen, *old)


@pytest.mark.standard("K12")
def test_without_their_manifest_no_key_is_trusted_and_new_ones_are_made(stolen: Stolen) -> None:
    with database(stolen.data) as connection:
        kids = {kid for (kid,) in connection.execute("select kid from signing_key")}
        connection.execute("delete from setting where name = 'key_manifest'")
    with embedded(stolen.data) as service:
        refused_and_loud(service, stolen, *kids)


@pytest.mark.standard("K12")
def test_a_row_that_was_removed_is_loud(stolen: Stolen) -> None:
    with database(stolen.data) as connection:
        connection.execute("delete from signing_key where kid = ?", (stolen.kid,))
    with embedded(stolen.data) as service:
        refused_and_loud(service, stolen, stolen.kid)


@pytest.mark.standard("K12", "K9")
def test_an_old_change_row_replayed_at_the_end_of_the_log_brings_no_key_back(stolen: Stolen) -> None:
    with embedded(stolen.data) as service:
        with database(stolen.data) as connection:
            replay(connection)
        service.foundation.tail.advance()
        assert stolen.kid not in service.foundation.tail.held.keys
        assert stolen.kid in service.foundation.tail.held.broken_kids


def replay(connection: sqlite3.Connection) -> None:
    """Append the change that made the first keys once more, with right digests, and move the head as a write does."""
    from authsvc.storage.sql.codec import change_digest  # noqa: PLC0415 - what a thief would write himself

    (body,) = connection.execute("select body from change where body like '%active%' order by number").fetchone()
    epoch, number, digest = connection.execute("select epoch, number, digest from head").fetchone()
    order = (epoch, number + 1)
    new = change_digest(digest, *order, body)
    connection.execute(
        "insert into change (epoch, number, previous, digest, audit_sequence, create_time, body) "
        "values (?, ?, ?, ?, 0, 0, ?)",
        (*order, digest, new, body),
    )
    connection.execute("update head set number = ?, digest = ?, keys_number = ?", (order[1], new, order[1]))
