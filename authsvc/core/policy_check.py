"""What the sections of a policy say about each other.

Owns: the faults that show only across sections. May import: the standard library and `core`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from authsvc.core.closures import ordered
from authsvc.core.limits import ROUTE_KEYS
from authsvc.core.policy_text import member
from authsvc.core.roles_builtin import BUILTIN_ROLES, is_reserved

if TYPE_CHECKING:
    from authsvc.core.policy_document import PolicyDocument
    from authsvc.core.policy_reader import Reader

MAX_PERMISSIONS = 10_000
MAX_ROLES = 5_000
_RESERVED = "is reserved: `authsvc` is the service's own"


def check_document(document: PolicyDocument, reader: Reader, *, service_roles: bool) -> None:
    """Note every fault between sections. A text that is empty was at fault already and is passed over."""
    check = _Check(document, reader)
    check.permissions()
    check.roles()
    check.groups()
    check.bindings(service_roles=service_roles)
    check.scopes()
    check.routes()


def binding_fault(role: str, subject: str) -> tuple[str, str] | None:
    """What is wrong with giving a built-in role: member and description, or None.

    A group never holds one: whoever changes the group would hold what it holds.
    """
    if not is_reserved(role):
        return None
    if role not in BUILTIN_ROLES:
        return "role", "is not a built-in role"
    if subject.startswith("group:"):
        return "subject", "is a group; built-in roles are given to subjects themselves"
    return None


class _Check:
    def __init__(self, document: PolicyDocument, reader: Reader) -> None:
        self._document = document
        self._fault = reader.fault
        self._declared = frozenset(document.permissions)

    def permissions(self) -> None:
        if len(self._declared) > MAX_PERMISSIONS:
            self._fault("permissions", f"are more than {MAX_PERMISSIONS}")
        for name in self._document.permissions:
            if is_reserved(name):
                self._fault(member("permissions", name), _RESERVED)

    def roles(self) -> None:
        roles = self._document.roles
        if len(roles) > MAX_ROLES:
            self._fault("roles", f"are more than {MAX_ROLES}")
        for name, spec in roles.items():
            path = member("roles", name)
            if is_reserved(name):
                self._fault(path, _RESERVED)
            for index, parent in enumerate(spec.inherits):
                if is_reserved(parent):
                    self._fault(f"{path}.inherits[{index}]", _RESERVED)
                elif parent and parent not in roles:
                    self._fault(f"{path}.inherits[{index}]", f"`{parent}` is not a role of this policy")
            self._patterns(f"{path}.allow", spec.allow)
            self._patterns(f"{path}.deny", spec.deny)
        self._cycles("roles", {name: spec.inherits for name, spec in roles.items()})

    def groups(self) -> None:
        prefix = "group:"
        edges = {
            name: tuple(m.removeprefix(prefix) for m in members if m.startswith(prefix))
            for name, members in self._document.groups.items()
        }
        self._cycles("groups", edges)

    def bindings(self, *, service_roles: bool) -> None:
        for index, binding in enumerate(self._document.bindings):
            role, path = binding.role, f"bindings[{index}]"
            if is_reserved(role) and not service_roles:
                self._fault(f"{path}.role", f"{_RESERVED}; the configuration does not let a policy give it")
            elif (fault := binding_fault(role, binding.subject)) is not None:
                self._fault(f"{path}.{fault[0]}", fault[1])
            elif role and role not in self._document.roles and role not in BUILTIN_ROLES:
                self._fault(f"{path}.role", f"`{role}` is not a role of this policy")

    def scopes(self) -> None:
        for name, patterns in self._document.scopes.items():
            self._patterns(member("scopes", name), patterns)

    def routes(self) -> None:
        rules = self._document.limits.by_name
        for index, route in enumerate(self._document.routes):
            path = f"routes[{index}]"
            if route.permission and route.permission not in self._declared:
                self._fault(f"{path}.permission", f"`{route.permission}` is not declared")
            for place, name in enumerate(route.limits):
                if name and name not in rules:
                    self._fault(f"{path}.limits[{place}]", f"`{name}` is not a limit of this policy")
                elif name and (extra := rules[name].keys - ROUTE_KEYS):
                    keys = ", ".join(sorted(extra))
                    self._fault(f"{path}.limits[{place}]", f"`{name}` matches keys that no route has: {keys}")

    def _patterns(self, path: str, patterns: tuple[str, ...]) -> None:
        for index, pattern in enumerate(patterns):
            if is_reserved(pattern):
                self._fault(f"{path}[{index}]", _RESERVED)
            elif pattern and "*" not in pattern and pattern not in self._declared:
                self._fault(f"{path}[{index}]", f"`{pattern}` is not declared")

    def _cycles(self, section: str, edges: Mapping[str, tuple[str, ...]]) -> None:
        for cycle in ordered(edges)[1]:
            self._fault(member(section, cycle[0]), f"is a cycle: {' -> '.join(cycle)}")
