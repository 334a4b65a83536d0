"""Head, keys, clients, policy, revocations and changes as rows.

Owns: reading them, and writing an edit's new value. May import: SQLAlchemy, `core`, `ports`. Bindings and audit
events have modules of their own.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from authsvc.core.audit import ChainPoint
from authsvc.core.clients import Client
from authsvc.core.revocations import RevocationKind
from authsvc.core.values import Revision
from authsvc.ports.change_log import (
    Change,
    ClientDeleted,
    ClientPut,
    Edit,
    KeyForgotten,
    KeyManifestPut,
    KeyPut,
    PolicyPut,
    RevocationPut,
)
from authsvc.ports.record import Head, KeyRows, Order, PolicyRecord, RecordState, RevocationMark
from authsvc.storage.sql import binding_rows, change_forms, codec, dialects, secret_rows, tables

_HEAD = select(tables.head)
_LOCKED_HEAD = _HEAD.with_for_update()
_MOVE_HEAD = update(tables.head)
_ADD_CHANGE = insert(tables.change)
_MANIFEST = "key_manifest"


def head(connection: Connection, *, lock: bool = False) -> Head:
    """The head row; with `lock` no other write begins before this transaction ends."""
    row = connection.execute(_LOCKED_HEAD if lock else _HEAD).one()
    return Head(Revision(row.record, row.epoch, row.number), row.digest, ChainPoint(row.audit_sequence, row.audit_hash))


def move_head(connection: Connection, new: Head) -> None:
    """Write the head row."""
    connection.execute(
        _MOVE_HEAD,
        {
            "epoch": new.revision.epoch,
            "number": new.revision.number,
            "digest": new.digest,
            "audit_sequence": new.audit.sequence,
            "audit_hash": new.audit.hash,
        },
    )


def keys(connection: Connection) -> KeyRows:
    """All keys by kid, with their manifest and the revision that last changed one."""
    table = tables.signing_key
    bodies = connection.scalars(select(table.c.body).order_by(table.c.kid))
    changed = connection.execute(select(tables.head.c.keys_epoch, tables.head.c.keys_number)).one()
    named = secret_rows.setting(connection, _MANIFEST)
    return KeyRows(
        keys=tuple(codec.decode_key(body) for body in bodies),
        manifest=None if named is None else codec.decode_manifest(named),
        version=(changed.keys_epoch, changed.keys_number),
    )


def client(connection: Connection, client_id: str) -> Client | None:
    """The client, or None."""
    table = tables.client
    body = connection.scalar(select(table.c.body).where(table.c.client_id == client_id))
    return None if body is None else codec.decode_client(body)


def client_id_used(connection: Connection, client_id: str) -> bool:
    """Whether the id is, or ever was, a client's."""
    tombstone = tables.deleted_client
    used = select(tombstone.c.client_id).where(tombstone.c.client_id == client_id)
    return client(connection, client_id) is not None or connection.scalar(used) is not None


def bury_client(connection: Connection, client_id: str, now: int) -> None:
    """Keep the id of a client that is deleted, so that nobody gets it again."""
    connection.execute(insert(tables.deleted_client).values(client_id=client_id, delete_time=now))


def clients(connection: Connection, after: str = "", limit: int | None = None) -> tuple[Client, ...]:
    """Clients by id."""
    table = tables.client
    query = select(table.c.body).where(table.c.client_id > after).order_by(table.c.client_id).limit(limit)
    return tuple(codec.decode_client(body) for body in connection.scalars(query))


def policy(connection: Connection) -> PolicyRecord:
    """The policy in force; an empty one where none was applied."""
    row = connection.execute(select(tables.policy)).one_or_none()
    return PolicyRecord() if row is None else PolicyRecord(row.text, row.policy_revision, row.apply_time)


def state(connection: Connection) -> RecordState:
    """Everything that a snapshot holds; consistent because the caller's transaction is."""
    return RecordState(
        head=head(connection),
        keys=keys(connection),
        clients=clients(connection),
        policy=policy(connection),
        bindings=binding_rows.effective(connection),
        revocations=tuple(_mark(row) for row in connection.execute(select(tables.revocation))),
    )


def changes(connection: Connection, number: int, limit: int) -> tuple[Change, ...]:
    """Change rows from a number on."""
    table = tables.change
    query = select(table).where(table.c.number >= number).order_by(table.c.number).limit(limit)
    return tuple(
        Change(row.epoch, row.number, row.previous, row.digest, change_forms.decode_edits(row.body))
        for row in connection.execute(query)
    )


def add_change(connection: Connection, change: Change, body: str, audit_sequence: int, now: int) -> None:
    """Append a row to the change log."""
    connection.execute(
        _ADD_CHANGE,
        {
            "number": change.number,
            "epoch": change.epoch,
            "previous": change.previous,
            "digest": change.digest,
            "audit_sequence": audit_sequence,
            "create_time": now,
            "body": body,
        },
    )


def write(connection: Connection, edit: Edit, order: Order) -> None:
    """Bring the rows in step with an edit; those of bindings were written when the edit was made."""
    match edit:
        case KeyPut(key):
            dialects.put(connection, tables.signing_key, {"kid": key.kid, "body": codec.encode_key(key)})
            _keys_changed(connection, order)
        case KeyForgotten(kid):
            connection.execute(delete(tables.signing_key).where(tables.signing_key.c.kid == kid))
            _keys_changed(connection, order)
        case KeyManifestPut(manifest):
            secret_rows.remember(connection, _MANIFEST, codec.encode_manifest(manifest))
        case ClientPut(value):
            row = {"client_id": value.client_id, "body": codec.encode_client(value)}
            dialects.put(connection, tables.client, row)
        case ClientDeleted(client_id):
            connection.execute(delete(tables.client).where(tables.client.c.client_id == client_id))
        case PolicyPut(value):
            fields = {"text": value.text, "policy_revision": value.policy_revision, "apply_time": value.apply_time}
            dialects.put(connection, tables.policy, {"id": 1, **fields})
        case RevocationPut(mark):
            place = {"epoch": mark.at[0], "number": mark.at[1], "expire_time": mark.expire_time}
            dialects.put(connection, tables.revocation, {"kind": mark.kind.value, "digest": mark.digest, **place})
        case _:
            pass


def forget_expired(connection: Connection, now: int, changes_before: tuple[int, int]) -> None:
    """Drop expired revocations, and change rows at most as new as a number and older than a time."""
    number, create_time = changes_before
    connection.execute(delete(tables.revocation).where(tables.revocation.c.expire_time <= now))
    table = tables.change
    connection.execute(delete(table).where(table.c.number <= number, table.c.create_time < create_time))


def revocation(connection: Connection, kind: RevocationKind, digest: bytes) -> RevocationMark | None:
    """What is revoked under a digest, or None."""
    table = tables.revocation
    row = connection.execute(select(table).where(table.c.kind == kind.value, table.c.digest == digest)).one_or_none()
    return None if row is None else _mark(row)


def _keys_changed(connection: Connection, order: Order) -> None:
    connection.execute(update(tables.head).values(keys_epoch=order[0], keys_number=order[1]))


def _mark(row: Row[Any]) -> RevocationMark:
    return RevocationMark(RevocationKind(row.kind), row.digest, (row.epoch, row.number), row.expire_time)
