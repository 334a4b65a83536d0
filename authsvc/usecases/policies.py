"""The policy and the role bindings.

Owns: what makes a policy or a grant acceptable to the record it goes into. May import: `core`, `state`,
`ports`, `config`, `usecases`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from authsvc.core import policy_document
from authsvc.core.bindings import Binding, make_binding
from authsvc.core.errors import (
    Conflict,
    FieldViolation,
    InvalidRequest,
    PermissionDenied,
    Reason,
    Unavailable,
)
from authsvc.core.policy import CompiledPolicy, Question, check_binding, compile_policy, decide
from authsvc.core.policy_questions import run_tests
from authsvc.core.policy_tables import Effect
from authsvc.core.roles_builtin import ADMIN, BUILTIN_ROLES, PROXY
from authsvc.usecases.clients import require_holds
from authsvc.usecases.writes import Act, Writer

if TYPE_CHECKING:
    from authsvc.core.audit import AuditDraft
    from authsvc.core.values import Revision
    from authsvc.ports.record import Check, Page, PolicyRecord, PolicyWrite, View
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.principals import Principal


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of an apply, or of a dry run of one."""

    policy_revision: str
    tests_passed: int
    revision: Revision


@dataclass(frozen=True, slots=True)
class Granted:
    """The binding, and the first revision that knows it."""

    binding: Binding
    revision: Revision


def prepare(text: str, *, may_bind_service_roles: bool) -> tuple[CompiledPolicy, int]:
    """Check a policy whole and run its tests; the compiled policy and the number of tests (STANDARDS P9).

    Raises InvalidRequest POLICY_INVALID with every fault by its path.
    """
    document = policy_document.parse(text, service_roles=may_bind_service_roles)
    compiled = compile_policy(document)
    failures = run_tests(compiled)
    if failures:
        raise InvalidRequest([failure.violation for failure in failures], Reason.POLICY_INVALID)
    return compiled, len(document.tests)


class Policies:
    """The administrator's verbs on policy and bindings."""

    def __init__(self, writer: Writer, *, source_path: Path | None, may_bind_service_roles: bool) -> None:
        self._writer = writer
        self._source_path = source_path
        self._may_bind_service_roles = may_bind_service_roles

    async def apply(
        self,
        snapshot: Snapshot,
        principal: Principal,
        text: str,
        *,
        dry_run: bool,
        expected_revision: str,
        now: int,
        deadline: float,
    ) -> Applied:
        """Check, test and put in force; compare-and-set on `expected_revision` where it is given.

        Raises InvalidRequest POLICY_INVALID, Conflict POLICY_REVISION_CONFLICT or POLICY_FROM_FILE,
        PermissionDenied GRANT_EXCEEDS_GRANTER.
        """
        if self._source_path is not None and not dry_run:
            raise Conflict(
                f"the policy comes from the file {self._source_path.name}; change it there and restart",
                Reason.POLICY_FROM_FILE,
                metadata={"path": str(self._source_path)},
            )
        compiled, tests = await asyncio.to_thread(prepare, text, may_bind_service_roles=self._may_bind_service_roles)
        for binding in compiled.bindings:
            if binding.role in BUILTIN_ROLES:
                require_holds(principal, binding.role)
        if dry_run:
            record = await self._writer.read(self._writer.record.policy)
            if expected_revision and expected_revision != record.policy_revision:
                raise Conflict("the policy is at another revision", Reason.POLICY_REVISION_CONFLICT)
            return Applied(record.policy_revision, tests, snapshot.revision)
        act = Act("authsvc.policies:apply", principal.subject, now, detail={"tests": str(tests)})
        verb = partial(self._apply, text, compiled, expected_revision or None)
        write = await self._writer.write(verb, act, deadline)
        return Applied(write.policy.policy_revision, tests, write.revision)

    def apply_file(self, *, now: int) -> PolicyWrite | None:
        """Put the policy of `policy.path` in force where it is not yet; blocks; at start.

        Raises Unavailable where the file cannot be read, InvalidRequest where it is wrong.
        """
        if self._source_path is None:
            return None
        try:
            text = self._source_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise Unavailable(f"policy.path: cannot read {self._source_path}: {reason}") from None
        if self._writer.record.policy().text == text:
            return None
        compiled, tests = prepare(text, may_bind_service_roles=self._may_bind_service_roles)
        act = Act("authsvc.policies:apply", "service:authsvc", now, detail={"tests": str(tests)})
        return self._writer.write_now(partial(self._apply, text, compiled, None), act)

    def _apply(self, text: str, compiled: CompiledPolicy, expected: str | None, draft: AuditDraft) -> PolicyWrite:
        return self._writer.record.apply_policy(
            text,
            compiled.bindings,
            draft,
            expected_revision=expected,
            check=_all_of(_keeps_granted_roles(compiled), _keeps_an_admin),
        )

    async def current(self) -> PolicyRecord:
        """The policy in force, as it was applied."""
        return await self._writer.read(self._writer.record.policy)

    async def grant(
        self,
        snapshot: Snapshot,
        principal: Principal,
        wanted: Binding,
        *,
        now: int,
        deadline: float,
    ) -> Granted:
        """Bind a role to a subject; only what the granter holds, in its tenant (STANDARDS P12).

        Raises InvalidRequest ROLE_UNKNOWN, PermissionDenied GRANT_EXCEEDS_GRANTER.
        """
        self._require_may_give(snapshot, principal, wanted, now)
        act = Act(
            "authsvc.roles:grant",
            principal.subject,
            now,
            subject=wanted.subject,
            detail={"role": wanted.role},
            private=_content(wanted),
        )
        write = await self._writer.write(
            partial(self._writer.record.grant, wanted, check=_role_exists(wanted)), act, deadline
        )
        return Granted(wanted, write.revision)

    async def revoke(self, principal: Principal, binding_id: str, *, now: int, deadline: float) -> Revision:
        """Take a binding away; raises NotFound BINDING_NOT_FOUND, Conflict LAST_ADMIN."""
        act = Act("authsvc.roles:revoke", principal.subject, now, private={"binding_id": binding_id})
        verb = partial(self._writer.record.revoke_binding, binding_id, check=_keeps_an_admin)
        return (await self._writer.write(verb, act, deadline)).revision

    async def page(
        self,
        after: tuple[str, ...] | None,
        limit: int,
        *,
        subject: str,
        role: str,
        tenant: str,
    ) -> Page[Binding]:
        """A page of bindings by subject; empty filters are unset."""
        verb = partial(
            self._writer.record.list_bindings,
            after,
            limit,
            subject=subject or None,
            role=role or None,
            tenant=tenant or None,
        )
        return await self._writer.read(verb)

    @staticmethod
    def _require_may_give(snapshot: Snapshot, principal: Principal, wanted: Binding, now: int) -> None:
        check_binding(snapshot.policy, wanted)
        principal.require_tenant(wanted.tenant)
        if wanted.role in BUILTIN_ROLES:
            if wanted.role == PROXY or wanted.tenant or wanted.resource or wanted.condition:
                raise InvalidRequest.of(
                    "role", "is held by a client as a whole: no tenant, resource or condition; proxies are configured"
                )
            require_holds(principal, wanted.role)
        elif not principal.crosses_boundaries:
            _require_holds_policy_role(snapshot, principal, wanted, now)


def _require_holds_policy_role(snapshot: Snapshot, principal: Principal, wanted: Binding, now: int) -> None:
    """A granter within bounds gives only what it holds itself, in that tenant, for every resource."""
    for permission, effects in snapshot.policy.effects.items():
        if effects.get(wanted.role) is not Effect.ALLOW:
            continue
        own = Question(principal.subject, permission, tenant=wanted.tenant)
        if not decide(snapshot.policy, snapshot.bindings, own, now=now).allowed:
            raise PermissionDenied(
                f"the caller does not hold all that `{wanted.role}` gives there",
                Reason.GRANT_EXCEEDS_GRANTER,
                metadata={"role": wanted.role, "permission": permission},
            )


def _content(binding: Binding) -> dict[str, str]:
    """What else a grant says, for the sealed part of its event: a binding's id is a hash that tells who holds it."""
    content = {
        "binding_id": binding.binding_id,
        "tenant": binding.tenant,
        "resource": binding.resource,
        "condition": binding.condition,
        "expire_time": "" if binding.expire_time is None else str(binding.expire_time),
    }
    return {name: text for name, text in content.items() if text}


def wanted_grant(
    *,
    subject: str,
    role: str,
    tenant: str,
    resource: str,
    expire_time: int | None,
    condition: str,
) -> Binding:
    """A grant as a value, with its id."""
    return make_binding(subject, role, tenant, resource, expire_time, condition)


def _all_of(*checks: Check) -> Check:
    def check(view: View) -> None:
        for one in checks:
            one(view)

    return check


def _keeps_granted_roles(compiled: CompiledPolicy) -> Check:
    def check(view: View) -> None:
        dropped = sorted(role for role in view.granted_roles() if not compiled.has_role(role))
        if dropped:
            raise InvalidRequest(
                [FieldViolation(f"roles.{role}", "is dropped, but a grant uses it") for role in dropped],
                Reason.POLICY_INVALID,
            )

    return check


def _role_exists(wanted: Binding) -> Check:
    """The snapshot may be older than the record: look again inside the transaction."""

    def check(view: View) -> None:
        if wanted.role in BUILTIN_ROLES:
            return
        text = view.policy().text
        if not text or wanted.role not in policy_document.parse(text, service_roles=True).roles:
            raise InvalidRequest.of("role", "is not a role of the policy", Reason.ROLE_UNKNOWN)

    return check


def _keeps_an_admin(view: View) -> None:
    """Somebody must be left who can administer, whatever is asked and whenever (STANDARDS P11).

    Only a client can: no other subject authenticates here, whatever its name is.
    """
    kind = "client:"
    holders = {
        binding.subject.removeprefix(kind)
        for binding in view.bindings(role=ADMIN)
        if binding.subject.startswith(kind)
        and binding.expire_time is None
        and not (binding.tenant or binding.resource or binding.condition)
    }
    if all(client.expire_time is not None for client in view.clients(holders)):
        raise Conflict("nobody would be left who can administer this service", Reason.LAST_ADMIN)
