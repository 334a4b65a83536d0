"""Applying a change row to a snapshot.

Owns: what each kind of edit does. May import: `core`, `ports`. Applying the log to an old snapshot equals building
from the record, which a property test proves.
"""

from __future__ import annotations

from dataclasses import replace

from authsvc.core.values import Revision
from authsvc.ports.change_log import (
    BindingPut,
    BindingRemoved,
    Change,
    ClientDeleted,
    ClientPut,
    Edit,
    KeyForgotten,
    KeyManifestPut,
    KeyPut,
    PolicyPut,
    RevocationPut,
    UnknownEdit,
)
from authsvc.ports.record import KeyRows
from authsvc.state.snapshot import KeyVerifier, Snapshot, compiled, sorted_out


class UnknownChangeError(Exception):
    """A change that this release does not understand: going on without it would make every answer a guess."""


def apply(snapshot: Snapshot, change: Change, verify_keys: KeyVerifier) -> Snapshot:
    """The snapshot after one change row. Raises `UnknownChangeError`."""
    for edit in change.edits:
        snapshot = _apply(snapshot, edit)
    snapshot = _with_keys(snapshot, change, verify_keys)
    return replace(snapshot, revision=Revision(snapshot.revision.record, *change.order), digest=change.digest)


def _apply(snapshot: Snapshot, edit: Edit) -> Snapshot:
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
        case KeyPut() | KeyForgotten() | KeyManifestPut():
            # Which keys hold is judged once for the whole change, see `_with_keys`.
            return snapshot
        case UnknownEdit(kind):
            raise UnknownChangeError(kind)


def _with_keys(snapshot: Snapshot, change: Change, verify_keys: KeyVerifier) -> Snapshot:
    rows = dict(snapshot.keys)
    broken = snapshot.broken_kids
    manifest = None
    version = snapshot.keys_version
    for edit in change.edits:
        match edit:
            case KeyPut(key):
                rows[key.kid] = key
                version = change.order
            case KeyForgotten(kid):
                rows.pop(kid, None)
                broken -= {kid}
                version = change.order
            case KeyManifestPut(put):
                manifest = put
            case _:
                continue
    if manifest is None and version == snapshot.keys_version:
        return snapshot
    keys, broken = sorted_out(KeyRows(tuple(rows.values()), manifest, version), verify_keys, broken)
    return replace(snapshot, keys=keys, broken_kids=broken, keys_version=version)
