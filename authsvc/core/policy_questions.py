"""Questions asked of a policy alone: its own tests, and JSON lines.

Owns: `tests:` and `policy decide`. May import: the standard library and `core`. Only the file's bindings are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from authsvc.core.bindings import Binding, BindingIndex
from authsvc.core.errors import FieldViolation, Reason
from authsvc.core.policy import CompiledPolicy, Question, decide

_TEXTS = ("subject", "permission", "resource", "tenant")
_MEMBERS = frozenset({*_TEXTS, "groups", "scope", "context"})


@dataclass(frozen=True, slots=True)
class TestFailure:
    """A test of the policy that did not come out as expected."""

    __test__ = False  # its name is the domain's; pytest need not collect it

    path: str
    expected_allowed: bool
    reason: Reason

    @property
    def violation(self) -> FieldViolation:
        """As a fault of the policy."""
        expected = "allow" if self.expected_allowed else "deny"
        return FieldViolation(self.path, f"expected {expected}, got {self.reason.text}")


def run_tests(policy: CompiledPolicy, file_bindings: Iterable[Binding] | None = None) -> list[TestFailure]:
    """Run the policy's tests against its file's bindings, or those given (what is revoked taken out).

    Each test is asked at its own `now`; without one expiry is not looked at.
    """
    bindings = BindingIndex.from_bindings(policy.bindings if file_bindings is None else file_bindings)
    failures = []
    for test in policy.document.tests:
        question = Question(
            test.subject,
            test.permission,
            test.resource,
            test.tenant,
            test.groups,
            test.scope,
            test.context,
        )
        decision = decide(policy, bindings, question, now=EXPIRY_IGNORED if test.now is None else test.now)
        if decision.allowed != test.allowed:
            failures.append(TestFailure(test.path, test.allowed, decision.reason))
    return failures


EXPIRY_IGNORED = -(1 << 62)
"""A `now` before every expiry."""


def decide_lines(policy: CompiledPolicy, now: int) -> Callable[[object], dict[str, Any]]:
    """A function from one decoded JSON line to its answer, at `now` (unix seconds).

    The line has `subject`, `permission` and, where set, `groups`, `resource`, `tenant`, `scope`, `context`; a `scope`
    bounds, an absent one does not. What is no such line is denied as `question_invalid` with a `detail`, never raised.
    """
    bindings = BindingIndex.from_bindings(policy.bindings)

    def answer(line: object) -> dict[str, Any]:
        question = _question(line)
        if isinstance(question, str):
            return {"decision": "deny", "reason": Reason.QUESTION_INVALID.text, "detail": question}
        decision = decide(policy, bindings, question, now=now)
        answered: dict[str, Any] = {
            "decision": "allow" if decision.allowed else "deny",
            "reason": decision.reason.text,
        }
        if decision.entry is not None:
            answered["role"] = decision.role
            answered["binding_id"] = decision.binding_id
        return answered

    return answer


def _question(line: object) -> Question | str:
    """The question, or what is wrong with the line. Null is unset."""
    if not isinstance(line, Mapping):
        return "the line is not a JSON object"
    given = {name: value for name, value in line.items() if value is not None}
    if unknown := given.keys() - _MEMBERS:
        return f"`{min(map(str, unknown))}` is not a member of a question"
    for name in _TEXTS:
        if not isinstance(given.get(name, ""), str):
            return f"`{name}` is not a text"
    for name in ("groups", "scope"):
        value = given.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            return f"`{name}` is not a list of texts"
    context = given.get("context", {})
    if not isinstance(context, dict):
        return "`context` is not an object"
    scope = cast("list[str] | None", given.get("scope"))
    return Question(
        given.get("subject", ""),
        given.get("permission", ""),
        given.get("resource", ""),
        given.get("tenant", ""),
        tuple(given.get("groups", ())),
        None if scope is None else frozenset(scope),
        context,
    )
