"""How keys, clients and change rows are written as text.

Owns: the JSON of row bodies and of the change log, and the digest of a change row. May import: `core` and
`ports`. A change body is a list of `[kind, value]`; an old release meets kinds of a newer one, and then
gives `UnknownEdit`, because skipping what it does not know would make its snapshot a lie.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from authsvc.core.bindings import Binding, BindingSource
from authsvc.core.clients import Client, ClientSecret
from authsvc.core.jose import Algorithm
from authsvc.core.key_manifest import KeyManifest
from authsvc.core.keys import KeyRecord, KeyState
from authsvc.core.revocations import RevocationKind
from authsvc.ports.change_log import (
    BindingPut,
    BindingRemoved,
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
from authsvc.ports.record import PolicyRecord, RevocationMark

_DOMAIN = b"authsvc change 1"


def change_digest(previous: bytes, epoch: int, number: int, body: str) -> bytes:
    """SHA-256 over a change row and the digest of the row before."""
    place = epoch.to_bytes(8, "big") + number.to_bytes(8, "big")
    return hashlib.sha256(_DOMAIN + previous + place + body.encode()).digest()


def encode_edits(edits: Sequence[Edit]) -> str:
    """The body of a change row."""
    return _dump([[_KIND_OF[type(edit)], _encode(edit)] for edit in edits])


def decode_edits(body: str) -> tuple[Edit, ...]:
    """The edits of a change row; `UnknownEdit` for a kind that this release does not know."""
    return tuple(_DECODERS[kind](value) if kind in _DECODERS else UnknownEdit(kind) for kind, value in json.loads(body))


def encode_key(key: KeyRecord) -> str:
    """The body of a signing key's row."""
    return _dump(_key_values(key))


def decode_key(body: str) -> KeyRecord:
    """The key of a row's body; unauthenticated until its MAC was checked (STANDARDS K12)."""
    return _key(json.loads(body))


def encode_manifest(manifest: KeyManifest) -> bytes:
    """The manifest of all keys as the record keeps it."""
    return _dump(_manifest_values(manifest)).encode()


def decode_manifest(value: bytes) -> KeyManifest | None:
    """The manifest of a value; None where it is none, which vouches for no key (STANDARDS K12)."""
    try:
        return _manifest(json.loads(value))
    except (AttributeError, TypeError, ValueError):
        return None


def encode_client(client: Client) -> str:
    """The body of a client's row."""
    return _dump(_client_values(client))


def decode_client(body: str) -> Client:
    """The client of a row's body."""
    return _client(json.loads(body))


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _key_values(key: KeyRecord) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "algorithm": key.algorithm.value,
        "state": key.state.value,
        "public_jwk": dict(key.public_jwk),
        "create_time": key.create_time,
        "activate_after": key.activate_after,
        "activate_time": key.activate_time,
        "retire_time": key.retire_time,
        "expire_time": key.expire_time,
        "revoke_time": key.revoke_time,
        "revoke_reason": key.revoke_reason,
        "actor": key.actor,
        "envelope": None if key.envelope is None else _b64(key.envelope),
        "mac": _b64(key.mac),
    }


def _key(value: Mapping[str, Any]) -> KeyRecord:
    envelope = value["envelope"]
    return KeyRecord(
        **{
            **value,
            "algorithm": Algorithm(value["algorithm"]),
            "state": KeyState(value["state"]),
            "envelope": None if envelope is None else base64.b64decode(envelope),
            "mac": base64.b64decode(value["mac"]),
        }
    )


def _manifest_values(manifest: KeyManifest) -> list[Any]:
    return [*manifest.order, {kid: _b64(mac) for kid, mac in manifest.macs.items()}, _b64(manifest.mac)]


def _manifest(value: Sequence[Any]) -> KeyManifest:
    epoch, number, macs, mac = value
    return KeyManifest(
        (epoch, number), {kid: base64.b64decode(row) for kid, row in macs.items()}, base64.b64decode(mac)
    )


def _client_values(client: Client) -> dict[str, Any]:
    return {
        "client_id": client.client_id,
        "display_name": client.display_name,
        "audience": client.audience,
        "own_audience": client.own_audience,
        "scope": client.scope,
        "tenants": client.tenants,
        "domains": client.domains,
        "token_ttl": client.token_ttl,
        "create_time": client.create_time,
        "expire_time": client.expire_time,
        "secrets": [
            [secret.secret_id, _b64(secret.keyed_hash), secret.create_time, secret.expire_time]
            for secret in client.secrets
        ],
    }


def _client(value: Mapping[str, Any]) -> Client:
    lists = ("audience", "own_audience", "scope", "tenants", "domains")
    return Client(
        **{
            **value,
            **{name: tuple(value[name]) for name in lists},
            "secrets": tuple(
                ClientSecret(secret_id, base64.b64decode(keyed_hash), create_time, expire_time)
                for secret_id, keyed_hash, create_time, expire_time in value["secrets"]
            ),
        }
    )


def _binding_values(binding: Binding) -> list[Any]:
    return [
        binding.binding_id,
        binding.subject,
        binding.role,
        binding.tenant,
        binding.resource,
        binding.expire_time,
        binding.condition,
        binding.source.value,
    ]


def _binding(value: Sequence[Any]) -> Binding:
    binding_id, subject, role, tenant, resource, expire_time, condition, source = value
    return Binding(binding_id, subject, role, tenant, resource, expire_time, condition, BindingSource(source))


def _mark_values(mark: RevocationMark) -> list[Any]:
    return [mark.kind.value, _b64(mark.digest), *mark.at, mark.expire_time]


def _mark(value: Sequence[Any]) -> RevocationMark:
    kind, digest, epoch, number, expire_time = value
    return RevocationMark(RevocationKind(kind), base64.b64decode(digest), (epoch, number), expire_time)


def _encode(edit: Edit) -> object:
    match edit:
        case KeyPut(key):
            return _key_values(key)
        case KeyManifestPut(manifest):
            return _manifest_values(manifest)
        case ClientPut(client):
            return _client_values(client)
        case BindingPut(binding) | BindingRemoved(binding):
            return _binding_values(binding)
        case RevocationPut(mark):
            return _mark_values(mark)
        case PolicyPut(policy):
            return [policy.text, policy.policy_revision, policy.apply_time]
        case KeyForgotten(name) | ClientDeleted(name):
            return name
        case UnknownEdit(kind):
            raise ValueError(f"an edit of unknown kind {kind} is only ever read")


_KIND_OF: Mapping[type, str] = {
    KeyPut: "key",
    KeyForgotten: "key_forgotten",
    KeyManifestPut: "key_manifest",
    ClientPut: "client",
    ClientDeleted: "client_deleted",
    BindingPut: "binding",
    BindingRemoved: "binding_removed",
    PolicyPut: "policy",
    RevocationPut: "revocation",
    UnknownEdit: "unknown",
}

_DECODERS: Mapping[str, Callable[[Any], Edit]] = {
    "key": lambda value: KeyPut(_key(value)),
    "key_forgotten": KeyForgotten,
    "key_manifest": lambda value: KeyManifestPut(_manifest(value)),
    "client": lambda value: ClientPut(_client(value)),
    "client_deleted": ClientDeleted,
    "binding": lambda value: BindingPut(_binding(value)),
    "binding_removed": lambda value: BindingRemoved(_binding(value)),
    "policy": lambda value: PolicyPut(PolicyRecord(*value)),
    "revocation": lambda value: RevocationPut(_mark(value)),
}
