"""Role bindings as rows: who owns a binding, and when it is in effect.

Owns: the tables `binding` and `revoked_file_binding`. May import: SQLAlchemy, `core`, `ports`. A binding's id is
a hash of its content, so the policy file and a grant may own the same one, each with a row of its own. A row is
in effect unless it is revoked, which only a file's can be. Every function that writes answers the edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)

from authsvc.core.bindings import MAX_PATTERNS, Binding, BindingIndex, BindingSource
from authsvc.core.errors import NotFound, Reason
from authsvc.ports.change_log import BindingPut, BindingRemoved, Edit
from authsvc.storage.sql import tables

_table = tables.binding
_revoked = tables.revoked_file_binding
_SLICE = 500
"""How many ids one statement names."""

_ADD = insert(_table)
_held = _table.alias("held")
_one = select(literal(1).label("one")).subquery("one")
_BEFORE_GRANT = select(
    _table,
    exists().where(_revoked.c.binding_id == bindparam("id")).label("withdrawn"),
    select(func.count())
    .select_from(_held)
    .where(_held.c.subject == bindparam("of"), _held.c.revoked.is_(False))
    .scalar_subquery()
    .label("held"),
).select_from(_one.outerjoin(_table, _table.c.binding_id == bindparam("id")))
"""The rows of an id, or one of nulls; whether it was revoked as the file's; how many bindings its subject holds."""


def grant(connection: Connection, binding: Binding) -> list[Edit]:
    """Add a grant's row unless it is there, and lift the revocation of an equal binding of the file.

    Raises InvalidRequest where the subject would hold more than an index takes.
    """
    found = connection.execute(_BEFORE_GRANT, {"id": binding.binding_id, "of": binding.subject}).all()
    rows = [_binding(row[:-2]) for row in found if row.binding_id is not None]
    if any(row.source is BindingSource.GRANT for row in rows):
        return []
    granted = replace(binding, source=BindingSource.GRANT, revoked=False)
    connection.execute(_ADD, _values(granted))
    lifted = [replace(row, revoked=False) for row in rows if row.revoked]
    if found[0].withdrawn:
        connection.execute(delete(_revoked).where(_revoked.c.binding_id == binding.binding_id))
        connection.execute(update(_table).where(_table.c.binding_id == binding.binding_id).values(revoked=False))
    if found[0].held + 1 + len(lifted) > MAX_PATTERNS:
        check_room(connection, subject=binding.subject)
    return [BindingPut(granted), *(BindingPut(row) for row in lifted)]


def revoke(connection: Connection, binding_id: str, now: int) -> list[BindingRemoved]:
    """Remove the grant's row, mark the file's. Raises `NotFound`."""
    rows = _rows(connection, binding_id)
    if not rows:
        raise NotFound("no such binding", Reason.BINDING_NOT_FOUND, metadata={"binding_id": binding_id})
    in_effect = [row for row in rows if not row.revoked]
    for row in in_effect:
        if row.source is BindingSource.GRANT:
            connection.execute(delete(_table).where(*_is(row)))
        else:
            connection.execute(insert(_revoked).values(binding_id=binding_id, revoke_time=now))
            connection.execute(update(_table).where(*_is(row)).values(revoked=True))
    return [BindingRemoved(row) for row in in_effect]


def replace_file(connection: Connection, bindings: Sequence[Binding]) -> list[Edit]:
    """Make these the file's bindings, leaving grants; those revoked before come in as revoked."""
    revoked = frozenset(connection.scalars(select(_revoked.c.binding_id)))
    wanted = {b.binding_id: replace(b, source=BindingSource.FILE, revoked=b.binding_id in revoked) for b in bindings}
    of_file = {
        row.binding_id: row
        for row in _all(connection, select(_table).where(_table.c.source == BindingSource.FILE.value))
    }
    gone = sorted(of_file.keys() - wanted.keys())
    new = sorted(wanted.keys() - of_file.keys())
    for first in range(0, len(gone), _SLICE):
        some = _table.c.binding_id.in_(gone[first : first + _SLICE])
        connection.execute(delete(_table).where(_table.c.source == BindingSource.FILE.value, some))
    if new:
        connection.execute(_ADD, [_values(wanted[binding_id]) for binding_id in new])
    return [
        *(BindingRemoved(of_file[i]) for i in gone if not of_file[i].revoked),
        *(BindingPut(wanted[i]) for i in new if not wanted[i].revoked),
    ]


def remove_subject(connection: Connection, subject: str) -> list[Edit]:
    """Remove every binding of a subject that is deleted."""
    in_effect = effective(connection, subject=subject)
    connection.execute(delete(_table).where(_table.c.subject == subject))
    return [BindingRemoved(binding) for binding in in_effect]


def check_room(connection: Connection, *, subject: str | None = None) -> None:
    """Raise InvalidRequest where a subject, by default any, holds more bindings than an index takes.

    Inside the transaction, because a record that no snapshot can be built from would stop every replica.
    """
    large = (
        select(_table.c.subject)
        .where(_table.c.revoked.is_(False))
        .group_by(_table.c.subject)
        .having(func.count() > MAX_PATTERNS)
    )
    for found in connection.scalars(_filtered(large, subject=subject)).all():
        BindingIndex.from_bindings(effective(connection, subject=found))


def effective(connection: Connection, *, subject: str | None = None, role: str | None = None) -> tuple[Binding, ...]:
    """The bindings in effect; one that file and grant both own comes twice."""
    query = select(_table).where(_table.c.revoked.is_(False))
    return tuple(_all(connection, _filtered(query, subject=subject, role=role)))


def granted_roles(connection: Connection) -> frozenset[str]:
    """The roles that grants use."""
    return frozenset(
        connection.scalars(select(_table.c.role).where(_table.c.source == BindingSource.GRANT.value).distinct())
    )


def page(
    connection: Connection,
    after: tuple[str, ...] | None,
    limit: int,
    *,
    subject: str | None,
    role: str | None,
    tenant: str | None,
) -> list[Binding]:
    """Rows after a key (subject, id, source), revoked ones too, at most `limit`."""
    key = (_table.c.subject, _table.c.binding_id, _table.c.source)
    query = _filtered(select(_table), subject=subject, role=role, tenant=tenant).order_by(*key).limit(limit)
    if after is not None:
        query = query.where(tuple_(*key) > tuple_(*after))
    return _all(connection, query)


def page_key(binding: Binding) -> tuple[str, ...]:
    """Where a page that ends with this binding goes on."""
    return (binding.subject, binding.binding_id, binding.source.value)


def _filtered(query: Select[Any], **exact: str | None) -> Select[Any]:
    for name, value in exact.items():
        if value is not None:
            query = query.where(_table.c[name] == value)
    return query


def _rows(connection: Connection, binding_id: str) -> list[Binding]:
    return _all(connection, select(_table).where(_table.c.binding_id == binding_id))


def _all(connection: Connection, query: Select[Any]) -> list[Binding]:
    return [_binding(row) for row in connection.execute(query)]


def _is(binding: Binding) -> tuple[ColumnElement[bool], ...]:
    return (_table.c.binding_id == binding.binding_id, _table.c.source == binding.source.value)


def _values(binding: Binding) -> dict[str, Any]:
    return {
        "binding_id": binding.binding_id,
        "source": binding.source.value,
        "subject": binding.subject,
        "role": binding.role,
        "tenant": binding.tenant,
        "resource": binding.resource,
        "expire_time": binding.expire_time,
        "condition": binding.condition,
        "revoked": binding.revoked,
    }


def _binding(row: Sequence[Any]) -> Binding:
    # The table's columns in order, unpacked: a load reads a million of these.
    binding_id, source, subject, role, tenant, resource, expire_time, condition, revoked = row
    return Binding(binding_id, subject, role, tenant, resource, expire_time, condition, _SOURCES[source], revoked)


_SOURCES = {source.value: source for source in BindingSource}
