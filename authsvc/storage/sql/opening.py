"""Opening a record: is it ours, of a schema that we know, under this key, for this issuer?

Owns: every refusal at open, each an `InvalidRequest` whose field is the setting at fault. May import: SQLAlchemy,
`core`, `ports`. A fresh database becomes a record here; all of it happens in one write transaction, so that
several instances that open at once agree. `migrate` does the part of it that needs the right to make tables.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import insert, select

from authsvc.core.audit import GENESIS
from authsvc.core.errors import Internal, InvalidRequest, Unavailable
from authsvc.storage.sql import dialects, schema, secret_rows, tables
from authsvc.storage.sql.record import SqlRecord
from authsvc.storage.sql.sealing import seal, unseal

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from authsvc.core.envelopes import Kek

_ISSUER = "issuer"
_KEY_CHECK = "key_check"
_PLAIN = b"this record's key-encryption key"
_RECORD_ID_BYTES = 4
_TURN_SECONDS = 60.0
"""How long a migration gives way to the statements of others again and again, before it gives up."""
_PAUSE_SECONDS = 1.0
"""How long those statements have the tables for themselves in between."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a record is opened with.

    `url` is `record.url`. An empty `issuer` is unset: the remembered one holds, in an empty record
    `default_issuer`; where that is empty too, no record is made. A remembered one changes only with
    `accept_new_issuer`.
    `password_file` is PostgreSQL's.
    """

    url: str
    kek: Kek
    issuer: str
    accept_new_issuer: bool = False
    default_issuer: str = ""
    password_file: Path | None = None


def open_record(opening: Opening) -> SqlRecord:
    """The record, created where the database is empty.

    Raises `InvalidRequest` naming the setting at fault, `Unavailable` where the database is locked or full.
    """
    return open_engine(dialects.make_engine(opening.url, opening.password_file), opening)


def open_engine(engine: Engine, opening: Opening) -> SqlRecord:
    """`open_record` over an engine that exists."""

    def found(connection: Connection) -> str:
        schema.bring_up(connection)
        _make(connection)
        _check_key(connection, opening.kek)
        return _check_issuer(connection, opening)

    try:
        with _judged():
            return SqlRecord(engine, opening.kek, _in_turn(engine, found))
    except BaseException:
        engine.dispose()
        raise


def migrate(url: str, password_file: Path | None = None) -> tuple[str, str]:
    """Make the tables, or bring them to this release's schema; the schema before (empty: none) and after.

    Needs neither key nor issuer. A newer schema that this release can use is left as it is. Several at once are safe:
    one works, the others wait for it and find nothing to do. Raises as `open_record`.
    """
    engine = dialects.make_engine(url, password_file)
    try:
        with _judged():
            before = _in_turn(engine, schema.bring_up)
    finally:
        engine.dispose()
    known = "" if before is None else before.version
    return known, max(known, schema.NEWEST)


def _in_turn(engine: Engine, work: Callable[[Connection], _T]) -> _T:
    """Run `work` in the write transaction of a start; again where it had to give way to others' statements."""
    end = time.monotonic() + _TURN_SECONDS
    while True:
        with dialects.reading(engine) as connection:
            marks = schema.marks(connection)
        schema.prepare(marks)
        try:
            with dialects.migrating(engine) as connection:
                return work(connection)
        except Unavailable as error:
            if not dialects.gave_way(error) or time.monotonic() > end:
                raise
        time.sleep(_PAUSE_SECONDS)


@contextlib.contextmanager
def _judged() -> Iterator[None]:
    """What waiting does not mend is a fault of the setting."""
    try:
        yield
    except Unavailable as error:
        if dialects.cannot_open(error):
            raise InvalidRequest.of("record.url", error.message) from error
        raise


def _make(connection: Connection) -> None:
    if connection.scalar(select(tables.head.c.id)) is not None:
        return
    connection.execute(
        insert(tables.head).values(
            id=1,
            record=os.urandom(_RECORD_ID_BYTES).hex(),
            epoch=1,
            number=0,
            digest=GENESIS,
            keys_epoch=0,
            keys_number=0,
            audit_sequence=0,
            audit_hash=GENESIS,
        )
    )
    # The reader looks for the row it holds, so the state before the first change has a row too.
    connection.execute(
        insert(tables.change).values(
            number=0, epoch=1, previous=GENESIS, digest=GENESIS, audit_sequence=0, create_time=0, body="[]"
        )
    )


def _check_key(connection: Connection, kek: Kek) -> None:
    known = secret_rows.setting(connection, _KEY_CHECK)
    if known is None:
        secret_rows.remember(connection, _KEY_CHECK, seal(kek, _PLAIN, _KEY_CHECK, _KEY_CHECK))
        return
    try:
        unseal(kek, known, _KEY_CHECK, _KEY_CHECK)
    except Internal as error:
        raise InvalidRequest.of("keys.kek", "is not the key-encryption key that this record was made with") from error


def _check_issuer(connection: Connection, opening: Opening) -> str:
    known = secret_rows.setting(connection, _ISSUER)
    if known is not None and not opening.issuer:
        return known.decode()
    asked = (opening.issuer or opening.default_issuer).encode()
    if not asked:
        raise InvalidRequest.of("issuer", "is required where the port of server.http_listen is chosen at each start")
    if known == asked:
        return asked.decode()
    if known is not None and not opening.accept_new_issuer:
        raise InvalidRequest.of(
            "issuer",
            f"is {opening.issuer}, but this record issued for {known.decode()}; every token of that issuer would be "
            "refused: start once with --accept-new-issuer if that is meant",
        )
    secret_rows.remember(connection, _ISSUER, asked)
    return asked.decode()
