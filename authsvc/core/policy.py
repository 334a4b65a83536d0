"""Policies compiled, and the decision.

Owns: what a check means (docs/semantics.md). May import: the standard library and `core`. A decision is a function
of policy, bindings, question and `now`; there is no cache of decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from authsvc.core import values
from authsvc.core.bindings import Binding, BindingIndex, Entry, binding_id
from authsvc.core.conditions import Condition, ConditionFailed, check_condition
from authsvc.core.errors import FieldViolation, InvalidRequest, Reason
from authsvc.core.limits import LimitRules
from authsvc.core.patterns import resource_matcher
from authsvc.core.policy_check import binding_fault
from authsvc.core.policy_document import PolicyDocument
from authsvc.core.policy_tables import Effect, effects_of, group_tables, scope_table
from authsvc.core.roles_builtin import BUILTIN_ROLES, SERVICE_PERMISSIONS
from authsvc.core.routes import CompiledRoutes, compile_routes, pattern_of

GROUP = "group:"
RESERVED_CONTEXT = frozenset({"token", "request"})
"""Members of `context` that only the service sets."""


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy's tables. Immutable; swapped as a whole (STANDARDS P3).

    `effects` is permission to role to effect, `groups_of` a subject to every `group:` that holds it, itself excluded,
    `scopes` a scope to what it covers, `bindings` the file's own.
    """

    document: PolicyDocument
    effects: Mapping[str, Mapping[str, Effect]] = field(repr=False)
    groups_of: Mapping[str, frozenset[str]] = field(repr=False)
    scopes: Mapping[str, frozenset[str]] = field(repr=False)
    routes: CompiledRoutes = field(repr=False)
    limits: LimitRules = field(repr=False)
    bindings: tuple[Binding, ...] = field(repr=False)

    @property
    def permissions(self) -> tuple[str, ...]:
        """Every permission that a check may name: the policy's and the service's own, sorted."""
        return tuple(sorted(self.effects))

    def has_role(self, role: str) -> bool:
        """Whether a binding may give this role."""
        return role in self.document.roles or role in BUILTIN_ROLES


NOTHING: Mapping[str, Any] = MappingProxyType({})
"""The context of a question without one."""


class Question(NamedTuple):
    """One question. An empty or absent member is unset, and unset never means any.

    `groups` are bare names by the caller's or issuer's word; a `scope` of None does not bound, an empty one is a token
    without scope; `token` are a verified token's members (its `tenant` must be the question's), `request` is what
    Envoy says of the request. A named tuple, as a Decision is: one of each is made a call, and a frozen dataclass takes
    2.5 times as long to make.
    """

    subject: str
    permission: str
    resource: str = ""
    tenant: str = ""
    groups: tuple[str, ...] = ()
    scope: frozenset[str] | None = None
    context: Mapping[str, Any] = NOTHING
    token: Mapping[str, Any] | None = None
    request: Mapping[str, Any] | None = None


class Decision(NamedTuple):
    """The answer. `holder` and `entry` are one binding that decided, unset where none did."""

    allowed: bool
    reason: Reason
    holder: str = ""
    entry: Entry | None = None

    @property
    def role(self) -> str:
        """The role that decided, or empty."""
        return "" if self.entry is None else self.entry[0].role

    @property
    def binding_id(self) -> str:
        """The id of the binding that decided, or empty; hashed when it is asked for."""
        if self.entry is None:
            return ""
        kind, resource, expire_time = self.entry
        return binding_id(self.holder, kind.role, kind.tenant, resource, expire_time, kind.condition)


_NO_GROUPS: frozenset[str] = frozenset()
# A member of an enum costs a look-up in Python each time, and a decision looks at these in its loop.
_ALLOW: Final = Effect.ALLOW
_DENY: Final = Effect.DENY

_INVALID = Decision(allowed=False, reason=Reason.QUESTION_INVALID)
_UNDECLARED = Decision(allowed=False, reason=Reason.PERMISSION_UNDECLARED)
_TENANT = Decision(allowed=False, reason=Reason.TENANT_MISMATCH)
_SCOPE = Decision(allowed=False, reason=Reason.SCOPE_INSUFFICIENT)
_NO_BINDING = Decision(allowed=False, reason=Reason.NO_BINDING)


def compile_policy(document: PolicyDocument) -> CompiledPolicy:
    """Build the tables of a policy.

    Raises InvalidRequest (POLICY_INVALID) where the tables would be larger than a snapshot may hold.
    """
    try:
        return CompiledPolicy(
            document=document,
            effects=effects_of(document),
            groups_of=group_tables(document.groups),
            scopes=scope_table(document),
            routes=compile_routes(document.routes),
            limits=document.limits,
            bindings=document.bindings,
        )
    except InvalidRequest as error:
        raise InvalidRequest(error.violations, Reason.POLICY_INVALID) from None


def check_binding(policy: CompiledPolicy, binding: Binding) -> None:
    """Whether a grant is well formed under this policy. Raises InvalidRequest naming each fault; an unknown role
    alone has the reason ROLE_UNKNOWN.
    """
    faults: list[FieldViolation] = []
    checks = (
        (values.subject, "subject", binding.subject),
        (values.role, "role", binding.role),
        (values.tenant, "tenant", binding.tenant),
        (_resource, "resource", binding.resource),
        (check_condition, "condition", binding.condition),
    )
    for validate, name, text in checks:
        try:
            validate(text, name)
        except InvalidRequest as error:
            faults.extend(error.violations)
    if (fault := binding_fault(binding.role, binding.subject)) is not None:
        faults.append(FieldViolation(*fault))
    if faults:
        raise InvalidRequest(faults)
    if not policy.has_role(binding.role):
        raise InvalidRequest.of("role", "is not a role of the policy", Reason.ROLE_UNKNOWN)


def _resource(text: str, path: str) -> str:
    return pattern_of(text, path) if text else text


class Together:
    """What questions that come one after another have in common, for one policy and one `now`.

    A question like the last one, but for its permission and resource, finds what was found for that one.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: _Asked | None = None

    def asked(self, policy: CompiledPolicy, question: Question, now: int) -> _Asked:
        """The question as it is decided."""
        last = self._last
        if last is None or not last.again(question):
            last = self._last = _Asked(policy, question, now)
        return last


def decide(
    policy: CompiledPolicy, bindings: BindingIndex, question: Question, *, now: int, together: Together | None = None
) -> Decision:
    """Answer one question at `now` (unix seconds). Never raises: a question that asks nothing is denied."""
    subject, permission, resource, tenant, _, scope, _, token, _ = question
    effects = policy.effects.get(permission)
    if not _is_well_formed(question, declared=effects is not None):
        return _INVALID
    if effects is None:
        return _UNDECLARED
    if token is not None and tenant != token.get("tenant", ""):
        return _TENANT
    is_service = permission in SERVICE_PERMISSIONS
    if scope is not None and not is_service and not _covers(policy, question):
        return _SCOPE
    asked = _Asked(policy, question, now) if together is None else together.asked(policy, question, now)
    allowed: tuple[str, Entry] | None = None
    # The service's own permissions are held by the subject itself, never by its groups.
    for holder in (subject,) if is_service else (subject, *asked.groups):
        for entry in bindings.candidates(holder, tenant, resource):
            effect = effects.get(entry[0].role)
            if effect is None or (effect is _ALLOW and allowed is not None):
                continue
            if asked.matches(entry, effect):
                if effect is _DENY:
                    return Decision(allowed=False, reason=Reason.DENIED_BY_ROLE, holder=holder, entry=entry)
                allowed = (holder, entry)
    return _NO_BINDING if allowed is None else Decision(True, Reason.ALLOWED, *allowed)


def list_permissions(
    policy: CompiledPolicy, bindings: BindingIndex, question: Question, *, now: int
) -> tuple[str, ...]:
    """Every permission that `decide` allows for this question, whose own permission is not looked at; sorted."""
    asked = (
        Question(
            question.subject,
            permission,
            question.resource,
            question.tenant,
            question.groups,
            question.scope,
            question.context,
            question.token,
            question.request,
        )
        for permission in policy.permissions
    )
    return tuple(q.permission for q in asked if decide(policy, bindings, q, now=now).allowed)


def service_permissions(
    policy: CompiledPolicy, bindings: BindingIndex, subject: str, *, now: int, tenant: str = ""
) -> frozenset[str]:
    """The `authsvc.*` permissions that a subject holds, by its own bindings; a binding with a resource gives none.

    Equal to asking `decide` for each: what a method table's row asks, in one look.
    """
    asked = _Asked(policy, Question(subject, "", tenant=tenant), now)
    held: frozenset[str] = frozenset()
    for entry in bindings.candidates(subject, tenant, ""):
        given = BUILTIN_ROLES.get(entry[0].role)
        if given is not None and not given <= held and asked.matches(entry, Effect.ALLOW):
            held |= given
    return held


class _Asked:
    """One question while it is decided: its holders and the outcome of each condition, found once."""

    __slots__ = ("_now", "_of_resource", "_outcomes", "_question", "_variables", "groups")

    def __init__(self, policy: CompiledPolicy, question: Question, now: int) -> None:
        self.groups = _groups(policy, question)
        self._now = now
        self._question = question
        self._variables: dict[str, object] | None = None
        self._outcomes: dict[str, bool | None] = {}
        self._of_resource: list[str] = []

    def again(self, question: Question) -> bool:
        """Go over to a question that differs from this one in permission and resource alone; False where it does not.

        Contexts are the same only where they are one object: `1` and `true` are equal in Python, not in a condition.
        """
        subject, _, resource, tenant, groups, scope, context, token, request = question
        held = self._question
        if (
            context is not held.context
            or token is not held.token
            or request is not held.request
            or subject != held.subject
            or tenant != held.tenant
            or groups != held.groups
            or scope != held.scope
        ):
            return False
        self._question = question
        if self._variables is not None and resource != held.resource:
            self._variables["resource"] = resource
            for condition in self._of_resource:
                self._outcomes.pop(condition, None)
            self._of_resource = []
        return True

    def matches(self, entry: Entry, effect: Effect) -> bool:
        """Whether a binding with this effect counts: tenant, expiry, resource, then condition."""
        kind, pattern, expire_time = entry
        tenant = kind.tenant
        if tenant and tenant != self._question.tenant:
            return False
        if expire_time is not None and expire_time <= self._now:
            return False
        if pattern:
            resource = self._question.resource
            # A binding with a resource never matches a question without one.
            if not resource or not (resource_matcher(pattern)(resource) if "*" in pattern else pattern == resource):
                return False
        if kind.program is None:
            return True
        condition = kind.condition
        if condition not in self._outcomes:
            self._outcomes[condition] = self._outcome(kind.program)
            if "resource" in kind.program.names:
                self._of_resource.append(condition)
        outcome = self._outcomes[condition]
        # A condition that fails gives nothing, and its denies apply (STANDARDS P5).
        return effect is Effect.DENY if outcome is None else outcome

    def _outcome(self, program: Condition) -> bool | None:
        """What the condition comes to, None where it fails."""
        if self._variables is None:
            self._variables = _variables(self._question, self.groups)
        try:
            return program.holds(self._variables)
        except ConditionFailed:
            return None


def _groups(policy: CompiledPolicy, question: Question) -> frozenset[str]:
    """Every group that holds the subject, by the policy and by the question's word."""
    of = policy.groups_of
    groups = of.get(question.subject, _NO_GROUPS)
    for name in question.groups:
        group = name if name.startswith(GROUP) else GROUP + name
        groups |= of.get(group, _NO_GROUPS) | {group}
    return groups


def _variables(question: Question, groups: frozenset[str]) -> dict[str, object]:
    """What a condition sees."""
    subject, _, resource, tenant, _, scope, given, token, request = question
    context = given if type(given) is dict and token is None and request is None else dict(given)
    if token is not None:
        context["token"] = dict(token)
    if request is not None:
        context["request"] = dict(request)
    return {
        "subject": subject,
        "groups": sorted(group.removeprefix(GROUP) for group in groups) if groups else [],
        "resource": resource,
        "tenant": tenant,
        "scope": sorted(scope) if scope else [],
        "context": context,
    }


def _is_well_formed(question: Question, *, declared: bool) -> bool:
    """Whether the question asks something: no wildcard, no control character, a subject of the form kind:name."""
    subject, permission, resource, tenant, groups, scope, context, _, _ = question
    kind, _, name = subject.partition(":")
    if not kind or not name:
        return False
    text = f"{subject}{resource}{tenant}"
    if not declared or groups or scope:
        text = "".join((text, permission, *groups, *(scope or ())))
    if "*" in text or (not text.isprintable() and values.has_control(text)):
        return False
    return not context or context.keys().isdisjoint(RESERVED_CONTEXT)


def _covers(policy: CompiledPolicy, question: Question) -> bool:
    """Whether one of the question's scopes covers its permission."""
    scope = question.scope
    if not scope:
        return not policy.scopes
    permission, covered = question.permission, policy.scopes
    return any(permission in covered.get(name, ()) for name in scope)
