"""Applying a change row to a snapshot.

Owns: what each kind of edit does. May import: `core`, `ports`. Applying the log to an old snapshot equals building
from the record, which a property test proves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from authsvc.core.keys import LEGAL_CHANGES
from authsvc.core.values import Revision
from authsvc.ports.change_log import (
    BindingPut,
    BindingRemoved,
    Change,
    ClientDeleted,
    ClientPut,
    Edit,
    KeyForgotten,
    KeyPut,
    PolicyPut,
    RevocationPut,
    UnknownEdit,
)
from authsvc.state.snapshot import KeyVerifier, Snapshot, compiled

if TYPE_CHECKING:
    from authsvc.core.keys import KeyRecord


class UnknownChangeError(Exception):
    """A change that this release does not understand: going on without it would make every answer a guess."""


def apply(snapshot: Snapshot, change: Change, verify_key: KeyVerifier) -> Snapshot:
    """The snapshot after one change row. Raises `UnknownChangeError`."""
    for edit in change.edits:
        snapshot = _apply(snapshot, edit, change, verify_key)
    return replace(snapshot, revision=Revision(snapshot.revision.record, *change.order), digest=change.digest)


def _apply(snapshot: Snapshot, edit: Edit, change: Change, verify_key: KeyVerifier) -> Snapshot:
    match edit:
        case BindingPut(binding):
            return replace(snapshot, bindings=snapshot.bindings.add(binding))
        case BindingRemoved(binding):
            return replace(snapshot, bindings=snapshot.bindings.remove(binding))
        case RevocationPut(mark):
            return replace(snapshot, revocations=snapshot.revocations.put(mark))
        case ClientPut(client):
            return replace(snapshot, clients=snapshot.clients.set(client.client_id, client))
        case ClientDeleted(client_id):
            return replace(snapshot, clients=snapshot.clients.delete(client_id))
        case PolicyPut(policy):
            return replace(snapshot, policy_record=policy, policy=compiled(policy))
        case KeyPut(key):
            authentic = verify_key(key) and _may_follow(snapshot.keys.get(key.kid), key)
            return replace(_with(_without(snapshot, key.kid), key, authentic=authentic), keys_version=change.order)
        case KeyForgotten(kid):
            return replace(_without(snapshot, kid), keys_version=change.order)
        case UnknownEdit(kind):
            raise UnknownChangeError(kind)


def _may_follow(before: KeyRecord | None, after: KeyRecord) -> bool:
    """Whether a key may have come from one state to the other: an old row that was put back may not."""
    return before is None or before.state is after.state or after.state in LEGAL_CHANGES[before.state]


def _without(snapshot: Snapshot, kid: str) -> Snapshot:
    keys = snapshot.keys.delete(kid) if kid in snapshot.keys else snapshot.keys
    return replace(snapshot, keys=keys, broken_kids=snapshot.broken_kids - {kid})


def _with(snapshot: Snapshot, key: KeyRecord, *, authentic: bool) -> Snapshot:
    if authentic:
        return replace(snapshot, keys=snapshot.keys.set(key.kid, key))
    return replace(snapshot, broken_kids=snapshot.broken_kids | {key.kid})
