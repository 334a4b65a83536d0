"""Keys, clients, policies and bindings.

Owns: the conversion of the administrative services' messages. May import: `core`, `ports`, `usecases`, `v1`,
`api.convert`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from authsvc.api import convert
from authsvc.core import values
from authsvc.core.bindings import Binding, BindingSource
from authsvc.core.clients import Client
from authsvc.core.errors import InvalidRequest
from authsvc.core.jose import Algorithm
from authsvc.core.keys import KeyRecord, KeyState
from authsvc.core.values import Revision
from authsvc.ports.replicas import Replica
from authsvc.usecases.clients import DEFAULT_OVERLAP, MAX_OVERLAP, NewSecret
from authsvc.usecases.policies import wanted_grant
from authsvc.v1 import client_admin_pb2, key_admin_pb2, policy_admin_pb2, types_pb2

MAX_DISPLAY_NAME = 128
MAX_REASON = 256
MAX_CONDITION = 4_096
MAX_TOKEN_TTL = 10 * 365 * 86_400

_ALGORITHMS: Mapping[int, Algorithm | None] = MappingProxyType(
    {
        types_pb2.ALGORITHM_UNSPECIFIED: None,
        types_pb2.ALGORITHM_ES256: Algorithm.ES256,
        types_pb2.ALGORITHM_EDDSA: Algorithm.EDDSA,
        types_pb2.ALGORITHM_RS256: Algorithm.RS256,
    }
)
_ALGORITHM_NUMBERS: Mapping[Algorithm | None, types_pb2.Algorithm] = MappingProxyType(
    {algorithm: cast("types_pb2.Algorithm", number) for number, algorithm in _ALGORITHMS.items()}
)
_KEY_STATES: Mapping[KeyState, key_admin_pb2.KeyState] = MappingProxyType(
    {
        KeyState.PENDING: key_admin_pb2.KEY_STATE_PENDING,
        KeyState.ACTIVE: key_admin_pb2.KEY_STATE_ACTIVE,
        KeyState.RETIRING: key_admin_pb2.KEY_STATE_RETIRING,
        KeyState.RETIRED: key_admin_pb2.KEY_STATE_RETIRED,
        KeyState.REVOKED: key_admin_pb2.KEY_STATE_REVOKED,
    }
)
_SOURCES: Mapping[BindingSource, policy_admin_pb2.BindingSource] = MappingProxyType(
    {
        BindingSource.FILE: policy_admin_pb2.BINDING_SOURCE_FILE,
        BindingSource.GRANT: policy_admin_pb2.BINDING_SOURCE_GRANT,
    }
)


@dataclass(frozen=True, slots=True)
class KeyRevocation:
    """What RevokeKey names."""

    kid: str
    reason: str
    all_keys: bool
    all_tokens: bool
    dry_run: bool


def algorithm(number: int, field: str = "algorithm") -> Algorithm | None:
    """An algorithm of ours, None where unset; a number that is not known is refused."""
    try:
        return _ALGORITHMS[number]
    except KeyError:
        raise InvalidRequest.of(field, "is not an algorithm of this release") from None


def key_revocation(request: key_admin_pb2.RevokeKeyRequest) -> KeyRevocation:
    """What is to be withdrawn, and why."""
    if bool(request.kid) == request.all_keys:
        raise InvalidRequest.of("kid", "is required, unless all_keys is set; not both")
    return KeyRevocation(
        kid=values.kid(request.kid) if request.kid else "",
        reason=values.plain(request.reason, "reason", most=MAX_REASON),
        all_keys=request.all_keys,
        all_tokens=request.all_tokens,
        dry_run=request.dry_run,
    )


def key_message(key: KeyRecord) -> key_admin_pb2.Key:
    """The public side of a key."""
    message = key_admin_pb2.Key(
        kid=key.kid,
        algorithm=_ALGORITHM_NUMBERS[key.algorithm],
        state=_KEY_STATES[key.state],
        revoke_reason=key.revoke_reason,
    )
    convert.put_time(message, "create_time", key.create_time)
    convert.put_time(message, "activate_after", key.activate_after)
    convert.put_time(message, "activate_time", key.activate_time)
    convert.put_time(message, "retire_time", key.retire_time)
    convert.put_time(message, "expire_time", key.expire_time)
    convert.put_time(message, "revoke_time", key.revoke_time)
    return message


def replica_message(replica: Replica, holding: Revision) -> key_admin_pb2.Replica:
    """A replica, with how many of its watchers hold a revision of the same record."""
    message = key_admin_pb2.Replica(
        replica_id=replica.replica_id,
        revision=str(Revision(holding.record, *replica.revision)),
        watchers=replica.watchers,
        acknowledged=replica.holding(holding.order),
    )
    convert.put_microseconds(message.age, round(replica.age * 1_000_000))
    return message


def new_client(request: client_admin_pb2.CreateClientRequest, now: int) -> tuple[Client, tuple[str, ...]]:
    """The client that is wanted, without secrets, and its roles; `authsvc` is added to its audiences."""
    audience = convert.names(request.audience, "audience", values.audience)
    ttl = None
    if request.HasField("token_ttl"):
        ttl = convert.seconds(request.token_ttl, "token_ttl", least=1, most=MAX_TOKEN_TTL)
    client = Client(
        client_id=values.client_id(request.client_id),
        display_name=values.plain(request.display_name, "display_name", most=MAX_DISPLAY_NAME, empty=True),
        audience=tuple(dict.fromkeys((*audience, values.SERVICE_AUDIENCE))),
        own_audience=convert.names(request.own_audience, "own_audience", values.audience),
        scope=convert.names(request.scope, "scope", values.scope),
        tenants=convert.names(request.tenants, "tenants", convert.tenant_or_any),
        domains=convert.names(request.domains, "domains", convert.domain_or_any),
        token_ttl=ttl,
        create_time=now,
    )
    return client, convert.names(request.roles, "roles", values.role)


def client_message(client: Client, roles: Iterable[str], now: int) -> client_admin_pb2.Client:
    """A client with its live secrets' ids, never a secret."""
    message = client_admin_pb2.Client(
        client_id=client.client_id,
        display_name=client.display_name,
        roles=roles,
        audience=client.audience,
        own_audience=client.own_audience,
        scope=client.scope,
        tenants=client.tenants,
        domains=client.domains,
    )
    if client.token_ttl is not None:
        message.token_ttl.seconds = client.token_ttl
    convert.put_time(message, "create_time", client.create_time)
    convert.put_time(message, "expire_time", client.expire_time)
    for secret in client.secrets:
        if secret.live(now):
            added = message.secrets.add(secret_id=secret.secret_id)
            convert.put_time(added, "create_time", secret.create_time)
            convert.put_time(added, "expire_time", secret.expire_time)
    return message


def rotation(request: client_admin_pb2.RotateClientSecretRequest) -> tuple[str, int]:
    """The client and the overlap in seconds."""
    overlap = DEFAULT_OVERLAP
    if request.HasField("overlap"):
        overlap = convert.seconds(request.overlap, "overlap", least=0, most=MAX_OVERLAP)
    return values.client_id(request.client_id), overlap


def new_secret(secret: NewSecret) -> client_admin_pb2.RotateClientSecretResponse:
    """The answer of RotateClientSecret."""
    message = client_admin_pb2.RotateClientSecretResponse(
        secret_id=secret.secret_id, client_secret=secret.client_secret, revision=str(secret.revision)
    )
    convert.put_time(message, "previous_expire_time", secret.previous_expire_time)
    return message


def grant(request: policy_admin_pb2.GrantRoleRequest) -> Binding:
    """The binding that is wanted; its condition is compiled by the use case."""
    expire_time = None
    if request.HasField("expire_time"):
        expire_time = convert.time_of(request.expire_time, "expire_time")
    return wanted_grant(
        subject=values.subject(request.subject),
        role=values.role(request.role),
        tenant=values.tenant(request.tenant),
        resource=values.plain(request.resource, "resource", most=values.MAX_RESOURCE, empty=True),
        expire_time=expire_time,
        condition=_condition(request.condition),
    )


def _condition(text: str) -> str:
    if len(text.encode()) > MAX_CONDITION:
        raise InvalidRequest.of("condition", f"is longer than {MAX_CONDITION} bytes")
    return text


def binding_filters(request: policy_admin_pb2.ListRoleBindingsRequest) -> tuple[str, str, str]:
    """Subject, role and tenant to list; empty where unset."""
    return (
        values.subject(request.subject) if request.subject else "",
        values.role(request.role) if request.role else "",
        values.tenant(request.tenant),
    )


def binding_id(text: str) -> str:
    """A binding's id, as it was given out."""
    return values.plain(text, "binding_id", most=64)


def binding_message(binding: Binding) -> policy_admin_pb2.RoleBinding:
    """A binding as callers see it."""
    message = policy_admin_pb2.RoleBinding(
        binding_id=binding.binding_id,
        subject=binding.subject,
        role=binding.role,
        tenant=binding.tenant,
        resource=binding.resource,
        condition=binding.condition,
        source=_SOURCES[binding.source],
        revoked=binding.revoked,
    )
    convert.put_time(message, "expire_time", binding.expire_time)
    return message
