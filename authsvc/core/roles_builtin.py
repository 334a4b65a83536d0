"""The built-in roles and the service's own permissions.

Owns: who may call which row. May import: the standard library. No policy can remove or widen them
(STANDARDS P12); a row of the method table names one of these permissions.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

RESERVED = "authsvc"
"""The first segment of what is the service's own, alone or before a dot."""

CALLER = "authsvc.caller"
PROXY = "authsvc.proxy"
OPERATOR = "authsvc.operator"
AUDITOR = "authsvc.auditor"
ADMIN = "authsvc.admin"

NAME_GROUPS = "authsvc.authz:name_groups"
EXPLAIN = "authsvc.authz:explain"
CROSS_BOUNDARY = "authsvc.boundary:cross"
"""May name audiences, tenants and domains other than its own."""
ENVOY_CHECK = "authsvc.envoy:check"

_CALLER = frozenset(
    {
        "authsvc.tokens:verify",
        "authsvc.authz:check",
        "authsvc.authz:authorize",
        "authsvc.limits:consume",
        "authsvc.sync:watch",
    }
)
_AUDITOR = frozenset(
    {
        "authsvc.keys:list",
        "authsvc.clients:list",
        "authsvc.policies:get",
        "authsvc.roles:list",
        EXPLAIN,
    }
)
_OPERATOR = (
    _CALLER
    | _AUDITOR
    | {
        "authsvc.keys:rotate",
        "authsvc.keys:revoke",
        "authsvc.tokens:revoke",
        NAME_GROUPS,
        CROSS_BOUNDARY,
    }
)
# An admin holds every permission, Envoy's too: a granter gives only what it holds itself.
_ADMIN = _OPERATOR | {
    ENVOY_CHECK,
    "authsvc.clients:create",
    # Whoever gets a client's new secret can be that client, whatever roles a policy gives it.
    "authsvc.clients:rotate_secret",
    "authsvc.policies:apply",
    "authsvc.roles:grant",
    "authsvc.roles:revoke",
}

BUILTIN_ROLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        CALLER: _CALLER,
        PROXY: frozenset({ENVOY_CHECK}),
        OPERATOR: _OPERATOR,
        AUDITOR: _AUDITOR,
        ADMIN: _ADMIN,
    }
)
"""Role to the permissions it gives."""

SERVICE_PERMISSIONS = frozenset().union(*BUILTIN_ROLES.values())
"""Every permission of the service itself."""


def is_reserved(name: str) -> bool:
    """Whether a role, permission or pattern names what is the service's own."""
    first = name.partition(":")[0]
    return first == RESERVED or first.startswith(RESERVED + ".")
