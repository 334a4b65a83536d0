"""The policy file as values.

Owns: the sections of a policy, read and checked whole. May import: the standard library and `core`. What is read
here is right in itself: `core.policy.compile_policy` only builds tables from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from authsvc.core import routes as route_rules
from authsvc.core import values
from authsvc.core.bindings import Binding, BindingSource, make_binding
from authsvc.core.conditions import check_condition
from authsvc.core.errors import InvalidRequest, Reason
from authsvc.core.limits import LimitRules, compile_limits
from authsvc.core.policy_check import check_document
from authsvc.core.policy_reader import Reader
from authsvc.core.policy_text import Plain, load_yaml, member
from authsvc.core.routes import Route

VERSION = 1

SECTIONS = (
    "version",
    "permissions",
    "roles",
    "groups",
    "bindings",
    "scopes",
    "routes",
    "limits",
    "tests",
)
ROLE = ("inherits", "allow", "deny")
BINDING = ("subject", "role", "tenant", "resource", "expire_time", "condition")
ROUTE = ("name", "match", "permission", "resource", "audience", "limits")
MATCH = ("destination", "host", "method", "path")
TEST = ("subject", "groups", "permission", "tenant", "resource", "scope", "context", "now", "expect")


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """A role as the file states it; `allow` and `deny` are permission patterns."""

    inherits: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """A test of the file: a question and whether it is allowed. Without `now` expiry is not looked at."""

    path: str
    subject: str
    groups: tuple[str, ...]
    permission: str
    tenant: str
    resource: str
    scope: frozenset[str] | None
    context: Mapping[str, Any]
    now: int | None
    allowed: bool


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A policy. `parse` gives only what was read whole and found right."""

    permissions: tuple[str, ...] = ()
    roles: Mapping[str, RoleSpec] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bindings: tuple[Binding, ...] = ()
    scopes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    limits: LimitRules = field(default_factory=lambda: LimitRules.of(()))
    tests: tuple[PolicyTest, ...] = ()


def parse(text: str, *, service_roles: bool = False) -> PolicyDocument:
    """Read a policy's YAML (or JSON), at most 1 MiB.

    Raises InvalidRequest (POLICY_INVALID) that names every fault by its path. Only with `service_roles` may the file
    bind `authsvc.*` roles (STANDARDS P12).
    """
    plain, faults = load_yaml(text)
    sections = _Sections(Reader(faults))
    document = sections.document(plain)
    check_document(document, sections.reader, service_roles=service_roles)
    if faults:
        raise InvalidRequest(faults, Reason.POLICY_INVALID)
    return document


class _Sections:
    """Reads each section; a part at fault reads as empty and its fault is noted."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def document(self, plain: Plain) -> PolicyDocument:
        reader = self.reader
        root = reader.mapping(plain, "", SECTIONS)
        version = root.get("version")
        if type(version) is not int or version != VERSION:
            reader.fault("version", f"is required and must be {VERSION}")
        limits = root.get("limits")
        return PolicyDocument(
            permissions=self._permissions(root.get("permissions")),
            roles=self._roles(root.get("roles")),
            groups=self._groups(root.get("groups")),
            bindings=tuple(self._binding(v, at) for at, v in reader.items(root.get("bindings"), "bindings")),
            scopes=self._scopes(root.get("scopes")),
            routes=tuple(self._route(v, at) for at, v in reader.items(root.get("routes"), "routes")),
            limits=compile_limits({} if limits is None else limits, reader.faults),
            tests=tuple(self._test(v, at) for at, v in reader.items(root.get("tests"), "tests")),
        )

    def _permissions(self, value: Plain) -> tuple[str, ...]:
        found = self.reader.mapping(value, "permissions")
        for name, body in found.items():
            path = member("permissions", name)
            self.reader.mapping(body, path, ())
            self.reader.checked(path, values.permission, name)
        return tuple(found)

    def _roles(self, value: Plain) -> dict[str, RoleSpec]:
        reader, roles = self.reader, {}
        for name, body in reader.mapping(value, "roles").items():
            path = member("roles", name)
            reader.checked(path, values.role, name)
            spec = reader.mapping(body, path, ROLE)
            roles[name] = RoleSpec(
                reader.texts(spec.get("inherits"), f"{path}.inherits", values.role),
                reader.texts(spec.get("allow"), f"{path}.allow", values.permission_pattern),
                reader.texts(spec.get("deny"), f"{path}.deny", values.permission_pattern),
            )
        return roles

    def _groups(self, value: Plain) -> dict[str, tuple[str, ...]]:
        reader, groups = self.reader, {}
        for name, members in reader.mapping(value, "groups").items():
            path = member("groups", name)
            reader.checked(path, values.subject, f"group:{name}")
            if name.startswith("group:"):
                reader.fault(path, "is a bare name, without `group:`")
            groups[name] = reader.texts(members, path, values.subject)
        return groups

    def _binding(self, value: Plain, path: str) -> Binding:
        reader = self.reader
        body = reader.mapping(value, path, BINDING)
        return make_binding(
            reader.text(body.get("subject"), f"{path}.subject", values.subject, required=True),
            reader.text(body.get("role"), f"{path}.role", values.role, required=True),
            reader.text(body.get("tenant"), f"{path}.tenant", values.tenant),
            reader.text(body.get("resource"), f"{path}.resource", route_rules.pattern_of),
            reader.time(body.get("expire_time"), f"{path}.expire_time"),
            reader.text(body.get("condition"), f"{path}.condition", check_condition),
            BindingSource.FILE,
        )

    def _scopes(self, value: Plain) -> dict[str, tuple[str, ...]]:
        reader, scopes = self.reader, {}
        for name, patterns in reader.mapping(value, "scopes").items():
            path = member("scopes", name)
            reader.checked(path, values.scope, name)
            scopes[name] = reader.texts(patterns, path, values.permission_pattern)
        return scopes

    def _route(self, value: Plain, path: str) -> Route:
        reader = self.reader
        if isinstance(value, dict) and "deprecated" in value:
            reader.fault(f"{path}.deprecated", "is not served by this release")
            value = {name: inner for name, inner in value.items() if name != "deprecated"}
        body = reader.mapping(value, path, ROUTE)
        at = f"{path}.match"
        if "match" not in body:
            reader.fault(at, "is required; `{}` matches every request")
        match = reader.mapping(body.get("match"), at, MATCH)
        method = reader.text(match.get("method"), f"{at}.method", route_rules.method_of)
        template = reader.text(match.get("path"), f"{at}.path", route_rules.template_of)
        name = reader.text(body.get("name"), f"{path}.name", values.audience)
        resource = reader.text(body.get("resource"), f"{path}.resource", values.resource)
        if (fault := route_rules.resource_fault(resource, template)) is not None:
            reader.fault(f"{path}.resource", fault)
        return Route(
            name=name or f"{method or 'ANY'} {template or '/**'}",
            permission=reader.text(body.get("permission"), f"{path}.permission", values.permission, required=True),
            method=method,
            path=template,
            host=reader.text(match.get("host"), f"{at}.host", route_rules.host_of),
            destination=reader.text(match.get("destination"), f"{at}.destination", route_rules.pattern_of),
            resource=resource,
            audience=reader.text(body.get("audience"), f"{path}.audience", values.audience),
            limits=reader.texts(body.get("limits"), f"{path}.limits", values.plain),
        )

    def _test(self, value: Plain, path: str) -> PolicyTest:
        reader = self.reader
        body = reader.mapping(value, path, TEST)
        scope = body.get("scope")
        expect = body.get("expect")
        if expect not in ("allow", "deny"):
            reader.fault(f"{path}.expect", "is required: allow or deny")
        context = reader.mapping(body.get("context"), f"{path}.context")
        for name in ("token", "request"):
            if name in context:
                reader.fault(f"{path}.context.{name}", "is the service's own")
        return PolicyTest(
            path=path,
            subject=reader.text(body.get("subject"), f"{path}.subject", values.subject, required=True),
            groups=reader.texts(body.get("groups"), f"{path}.groups", values.plain),
            permission=reader.text(body.get("permission"), f"{path}.permission", values.permission, required=True),
            tenant=reader.text(body.get("tenant"), f"{path}.tenant", values.tenant),
            resource=reader.text(body.get("resource"), f"{path}.resource", values.resource),
            scope=None if scope is None else frozenset(reader.texts(scope, f"{path}.scope", values.scope)),
            context=context,
            now=reader.time(body.get("now"), f"{path}.now"),
            allowed=expect == "allow",
        )
