"""The tables that a policy compiles to.

Owns: closures of roles, groups and scopes. May import: the standard library and `core`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING

from authsvc.core.closures import closures, ordered
from authsvc.core.errors import InvalidRequest
from authsvc.core.patterns import is_pattern, permission_matches
from authsvc.core.roles_builtin import BUILTIN_ROLES

if TYPE_CHECKING:
    from authsvc.core.policy_document import PolicyDocument

MAX_CELLS = 2_000_000
"""Cells of one table, and comparisons made for it; a policy file of 1 MiB could ask for a thousand times more."""


class Effect(IntEnum):
    """What a role does to a permission; deny where it does both."""

    ALLOW = 1
    DENY = 2


class _Cells:
    """Counts what a policy asks the compiler to build."""

    def __init__(self, section: str) -> None:
        self._section = section
        self._left = MAX_CELLS

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise InvalidRequest.of(self._section, f"make a table of more than {MAX_CELLS} cells")


class _Patterns:
    """Declared permissions under patterns, each distinct pattern compared once."""

    def __init__(self, permissions: Iterable[str], section: str) -> None:
        self._permissions = tuple(permissions)
        self._known: dict[str, frozenset[str]] = {}
        self.cells = _Cells(section)

    def under(self, patterns: Iterable[str]) -> frozenset[str]:
        found: set[str] = set()
        for pattern in patterns:
            covered = self._known.get(pattern)
            if covered is None:
                covered = self._known[pattern] = self._compare(pattern)
            self.cells.take(len(covered))
            found |= covered
        return frozenset(found)

    def _compare(self, pattern: str) -> frozenset[str]:
        if not is_pattern(pattern):
            return frozenset({pattern})
        self.cells.take(len(self._permissions))
        return frozenset(p for p in self._permissions if permission_matches(pattern, p))


def effects_of(document: PolicyDocument) -> dict[str, dict[str, Effect]]:
    """Permission to role to effect; every declared permission and every one of the service's is a key."""
    patterns = _Patterns(document.permissions, "roles")
    roles = document.roles
    allow: dict[str, frozenset[str]] = {}
    deny: dict[str, frozenset[str]] = {}
    for name in ordered({name: spec.inherits for name, spec in roles.items()})[0]:
        spec = roles[name]
        allow[name] = patterns.under(spec.allow).union(*(allow[parent] for parent in spec.inherits))
        deny[name] = patterns.under(spec.deny).union(*(deny[parent] for parent in spec.inherits))
        patterns.cells.take(len(allow[name]) + len(deny[name]))
    table: dict[str, dict[str, Effect]] = {permission: {} for permission in document.permissions}
    for given, effect in ((BUILTIN_ROLES, Effect.ALLOW), (allow, Effect.ALLOW), (deny, Effect.DENY)):
        for role, permissions in given.items():
            for permission in permissions:
                table.setdefault(permission, {})[role] = effect
    return table


def group_tables(groups: Mapping[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    """A subject (a group too) to every group that holds it, directly or through groups."""
    holds: dict[str, list[str]] = {}
    for name, members in groups.items():
        for held in members:
            holds.setdefault(held, []).append(f"group:{name}")
    # A group points to the groups that hold it; what reaches further is that graph's closure.
    cells = _Cells("groups")
    upward = closures({f"group:{name}": holds.get(f"group:{name}", []) for name in groups}, cells.take)
    shared: dict[tuple[str, ...], frozenset[str]] = {}
    table: dict[str, frozenset[str]] = {}
    for held, names in holds.items():
        key = tuple(dict.fromkeys(names))
        if key not in shared:
            shared[key] = frozenset().union(*(upward[name] for name in key))
            cells.take(len(shared[key]))
        table[held] = shared[key]
    return table


def scope_table(document: PolicyDocument) -> dict[str, frozenset[str]]:
    """A scope to the permissions that it covers."""
    patterns = _Patterns(document.permissions, "scopes")
    return {name: patterns.under(found) for name, found in document.scopes.items()}
