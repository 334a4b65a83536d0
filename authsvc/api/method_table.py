"""The method table: one row per RPC; what is not in it is refused.

Owns: `METHODS` (who may call what, under which caps), `Row`, and the building of the table from descriptors
and handler objects. May import: `core`, `api.calls`, protobuf. A method of a served service without a line in
`METHODS`, or without a handler, refuses to build; a call to a method without a row is UNIMPLEMENTED.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from authsvc.api.errors import denial_status
from authsvc.core.errors import Reason

KIB = 1024
ROW_BYTES = 256 * KIB
BATCH_BYTES = 16 * KIB * KIB
"""The caps of CONTRACT, in bytes of the received message."""

READ_SECONDS = 5.0
WRITE_SECONDS = 15.0
STREAM_SECONDS = float("inf")
"""How long a row may take where the caller gave no deadline."""
LONGEST_SECONDS = 60.0
"""The longest deadline that counts; a row that may take longer by itself has its own."""

PUBLIC = "public"
"""Needs no principal."""
PROXY = "authsvc.envoy:check"
"""Needs a peer named in `server.proxies` (STANDARDS E10)."""

Handler = Callable[[Any, Any], Any]
Deny = Callable[[Reason, int], bytes]
"""Envoy's explicit denial as bytes, for a reason and an HTTP status."""


class AuditClass(StrEnum):
    """What of a row's answers is audited; a refused caller is audited on every row."""

    NONE = "none"
    DECISION = "decision"
    """Every denial, and a sample of the allows."""
    READ = "read"
    """Every call: an administrator looked."""
    WRITE = "write"
    """Nothing here: the event commits with the change (STANDARDS U7)."""


class Kind(Enum):
    """How messages flow."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    BIDI = "bidi"

    @property
    def is_stream(self) -> bool:
        """Whether answers flow until one side ends it."""
        return self is not Kind.UNARY


@dataclass(frozen=True, slots=True)
class Method:
    """A line of the table, before it has a handler."""

    name: str
    permission: str
    audit_class: AuditClass
    deadline_s: float = READ_SECONDS
    max_bytes: int = ROW_BYTES


@dataclass(frozen=True, slots=True)
class Row:
    """One RPC as it is served."""

    name: str
    request_type: type[Message]
    handler: Handler
    permission: str
    audit_class: AuditClass
    deadline_s: float
    longest_s: float
    """How long it may take whatever deadline the caller gave; a stream for ever."""
    max_bytes: int
    kind: Kind
    is_async: bool
    denials: Mapping[Reason, bytes] | None
    """How Envoy's rows refuse, ready made so that refusing cannot fail; None: by an RPC error."""
    errors: frozenset[Reason]
    """What a proxy of ours is told by an RPC error nevertheless; anybody else is denied."""
    takes_min_revision: bool
    gives_revision: bool
    always_admitted: bool
    """Whether it is answered however many calls wait: health must stay known under overload."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service to serve: its descriptor, and an object with one method an RPC, in snake case."""

    descriptor: ServiceDescriptor
    handlers: object
    deny: Deny | None = None
    errors: frozenset[Reason] = frozenset()
    """See `Row.errors`."""


class TableFault(Exception):
    """The table has a gap; the service does not start."""


_NONE, _DECISION, _READ, _WRITE = AuditClass.NONE, AuditClass.DECISION, AuditClass.READ, AuditClass.WRITE
_V1 = "authsvc.v1"
_HEALTH = "grpc.health.v1.Health/"

METHODS: tuple[Method, ...] = (
    Method(f"{_V1}.TokenService/IssueToken", PUBLIC, _DECISION),
    Method(f"{_V1}.TokenService/VerifyToken", "authsvc.tokens:verify", _DECISION),
    Method(f"{_V1}.TokenService/BatchVerifyTokens", "authsvc.tokens:verify", _DECISION, max_bytes=BATCH_BYTES),
    Method(f"{_V1}.TokenService/RevokeToken", "authsvc.tokens:revoke", _WRITE, WRITE_SECONDS),
    Method(f"{_V1}.KeyService/GetJwks", PUBLIC, _NONE),
    Method(f"{_V1}.AuthzService/Check", "authsvc.authz:check", _DECISION),
    Method(f"{_V1}.AuthzService/BatchCheck", "authsvc.authz:check", _DECISION, max_bytes=BATCH_BYTES),
    Method(f"{_V1}.AuthzService/Authorize", "authsvc.authz:authorize", _DECISION),
    Method(f"{_V1}.LimitService/Consume", "authsvc.limits:consume", _DECISION),
    Method(f"{_V1}.LimitService/Peek", "authsvc.limits:consume", _NONE),
    Method(f"{_V1}.SyncService/Watch", "authsvc.sync:watch", _NONE, STREAM_SECONDS),
    Method(f"{_V1}.KeyAdminService/ListKeys", "authsvc.keys:list", _READ),
    Method(f"{_V1}.KeyAdminService/RotateKey", "authsvc.keys:rotate", _WRITE, WRITE_SECONDS),
    Method(f"{_V1}.KeyAdminService/RevokeKey", "authsvc.keys:revoke", _WRITE, WRITE_SECONDS),
    Method(f"{_V1}.KeyAdminService/GetPropagation", "authsvc.keys:list", _READ),
    Method(f"{_V1}.ClientAdminService/CreateClient", "authsvc.clients:create", _WRITE, WRITE_SECONDS),
    Method(f"{_V1}.ClientAdminService/ListClients", "authsvc.clients:list", _READ),
    Method(f"{_V1}.ClientAdminService/RotateClientSecret", "authsvc.clients:rotate_secret", _WRITE, WRITE_SECONDS),
    Method(f"{_V1}.PolicyAdminService/ApplyPolicy", "authsvc.policies:apply", _WRITE, WRITE_SECONDS),
    Method(f"{_V1}.PolicyAdminService/GetPolicy", "authsvc.policies:get", _READ),
    Method(f"{_V1}.PolicyAdminService/GrantRole", "authsvc.roles:grant", _WRITE, WRITE_SECONDS),
    Method(f"{_V1}.PolicyAdminService/RevokeRole", "authsvc.roles:revoke", _WRITE, WRITE_SECONDS),
    Method(f"{_V1}.PolicyAdminService/ListRoleBindings", "authsvc.roles:list", _READ),
    Method("envoy.service.auth.v3.Authorization/Check", PROXY, _DECISION),
    Method("envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", PROXY, _NONE),
    Method("grpc.health.v1.Health/Check", PUBLIC, _NONE),
    Method("grpc.health.v1.Health/List", PUBLIC, _NONE),
    Method("grpc.health.v1.Health/Watch", PUBLIC, _NONE, STREAM_SECONDS),
    Method("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", PUBLIC, _NONE, STREAM_SECONDS),
)


class MethodTable:
    """The rows by name, immutable."""

    def __init__(self, rows: Iterable[Row], services: Iterable[ServiceDescriptor]) -> None:
        self._rows = MappingProxyType({row.name: row for row in rows})
        self.services = tuple(services)

    @classmethod
    def build(cls, services: Iterable[Service], methods: Iterable[Method] = METHODS) -> MethodTable:
        """Join lines, descriptors and handlers; raises TableFault naming every gap."""
        lines = {method.name: method for method in methods}
        served = tuple(services)
        rows: list[Row] = []
        gaps: list[str] = []
        for service in served:
            for descriptor in service.descriptor.methods:
                name = f"{service.descriptor.full_name}/{descriptor.name}"
                handler = getattr(service.handlers, _snake(descriptor.name), None)
                line = lines.get(name)
                if line is None:
                    gaps.append(f"{name} has no line")
                elif handler is None:
                    gaps.append(f"{name} has no handler")
                elif (line.permission == PROXY) != (service.deny is not None):
                    gaps.append(f"{name} must refuse by Envoy's denial, and only Envoy's rows may")
                else:
                    rows.append(_row(line, descriptor, handler, service))
        if gaps:
            raise TableFault("; ".join(gaps))
        return cls(rows, (service.descriptor for service in served))

    def get(self, name: str) -> Row | None:
        """The row of `package.Service/Method`; None: refuse."""
        return self._rows.get(name)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def by_name(self) -> Mapping[str, Row]:
        """All rows."""
        return self._rows


def _row(line: Method, descriptor: MethodDescriptor, handler: Handler, service: Service) -> Row:
    request, deny = descriptor.input_type, service.deny
    return Row(
        name=line.name,
        request_type=message_factory.GetMessageClass(request),
        handler=handler,
        permission=line.permission,
        audit_class=line.audit_class,
        deadline_s=line.deadline_s,
        longest_s=max(line.deadline_s, LONGEST_SECONDS),
        max_bytes=line.max_bytes,
        kind=_kind(descriptor),
        is_async=inspect.iscoroutinefunction(handler),
        denials=None if deny is None else {reason: deny(reason, denial_status(reason)) for reason in Reason},
        errors=service.errors,
        takes_min_revision="min_revision" in request.fields_by_name,
        gives_revision="revision" in descriptor.output_type.fields_by_name,
        always_admitted=line.name.startswith(_HEALTH),
    )


def _kind(descriptor: MethodDescriptor) -> Kind:
    if descriptor.client_streaming and descriptor.server_streaming:
        return Kind.BIDI
    if descriptor.server_streaming:
        return Kind.SERVER_STREAM
    if descriptor.client_streaming:
        raise TableFault(f"{descriptor.full_name}: a stream of requests with one answer is not served")
    return Kind.UNARY


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
