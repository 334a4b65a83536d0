"""How keys, clients, bindings and revocations are written as text.

Owns: the JSON of row bodies and of the values in the change log, and the digest of a change row. May import: `core` and
`ports`. Releases beside each other read each other's bodies, so a body of another form is a form of its own
(`change_forms`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from authsvc.core.bindings import Binding, BindingSource
from authsvc.core.clients import Client, ClientSecret
from authsvc.core.jose import Algorithm
from authsvc.core.key_manifest import KeyManifest
from authsvc.core.keys import KeyRecord, KeyState
from authsvc.core.revocations import RevocationKind
from authsvc.ports.record import PolicyRecord, RevocationMark

_DOMAIN = b"authsvc change 1"


def change_digest(previous: bytes, epoch: int, number: int, body: str) -> bytes:
    """SHA-256 over a change row and the digest of the row before."""
    place = epoch.to_bytes(8, "big") + number.to_bytes(8, "big")
    return hashlib.sha256(_DOMAIN + previous + place + body.encode()).digest()


def encode_key(key: KeyRecord) -> str:
    """The body of a signing key's row."""
    return dump(key_values(key))


def decode_key(body: str) -> KeyRecord:
    """The key of a row's body; unauthenticated until its MAC was checked (STANDARDS K12)."""
    return key_of(json.loads(body))


def encode_manifest(manifest: KeyManifest) -> bytes:
    """The manifest of all keys as the record keeps it."""
    return dump(manifest_values(manifest)).encode()


def decode_manifest(value: bytes) -> KeyManifest | None:
    """The manifest of a value; None where it is none, which vouches for no key (STANDARDS K12)."""
    try:
        return manifest_of(json.loads(value))
    except (AttributeError, TypeError, ValueError):
        return None


def encode_client(client: Client) -> str:
    """The body of a client's row."""
    return dump(client_values(client))


def decode_client(body: str) -> Client:
    """The client of a row's body."""
    return client_of(json.loads(body))


def dump(value: object) -> str:
    """One value as text, always the same."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def key_values(key: KeyRecord) -> dict[str, Any]:
    """A signing key as plain values."""
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


def key_of(value: Mapping[str, Any]) -> KeyRecord:
    """The key of `key_values`; unauthenticated until its MAC was checked (STANDARDS K12)."""
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


def manifest_values(manifest: KeyManifest) -> list[Any]:
    """A manifest as plain values."""
    return [*manifest.order, {kid: _b64(mac) for kid, mac in manifest.macs.items()}, _b64(manifest.mac)]


def manifest_of(value: Sequence[Any]) -> KeyManifest:
    """The manifest of `manifest_values`."""
    epoch, number, macs, mac = value
    return KeyManifest(
        (epoch, number), {kid: base64.b64decode(row) for kid, row in macs.items()}, base64.b64decode(mac)
    )


def client_values(client: Client) -> dict[str, Any]:
    """A client as plain values."""
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


def client_of(value: Mapping[str, Any]) -> Client:
    """The client of `client_values`."""
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


def binding_values(binding: Binding) -> list[Any]:
    """A binding as plain values."""
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


def binding_of(value: Sequence[Any]) -> Binding:
    """The binding of `binding_values`."""
    binding_id, subject, role, tenant, resource, expire_time, condition, source = value
    return Binding(binding_id, subject, role, tenant, resource, expire_time, condition, BindingSource(source))


def mark_values(mark: RevocationMark) -> list[Any]:
    """A revocation as plain values."""
    return [mark.kind.value, _b64(mark.digest), *mark.at, mark.expire_time]


def mark_of(value: Sequence[Any]) -> RevocationMark:
    """The revocation of `mark_values`."""
    kind, digest, epoch, number, expire_time = value
    return RevocationMark(RevocationKind(kind), base64.b64decode(digest), (epoch, number), expire_time)


def policy_values(policy: PolicyRecord) -> list[Any]:
    """A policy as plain values."""
    return [policy.text, policy.policy_revision, policy.apply_time]
