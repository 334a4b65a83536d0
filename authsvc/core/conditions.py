"""Conditions of bindings: CEL over the question.

Owns: when a condition is well formed, and asking one. May import: the standard library and `core.{errors,values}`;
`core.cel` is imported when the first condition is met, so that a policy without conditions never pays for it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

from authsvc.core.errors import InvalidRequest

MAX_BYTES = 4096
VARIABLES = frozenset({"subject", "groups", "resource", "tenant", "scope", "context"})


class ConditionFailed(Exception):
    """The condition did not come to a bool."""


class Condition(Protocol):
    """A compiled condition."""

    @property
    def names(self) -> frozenset[str]:
        """The variables that it may read."""

    def holds(self, variables: dict[str, Any], /) -> bool:
        """Whether it is true of `VARIABLES`. Raises ConditionFailed."""


class _Broken:
    """Stands for a text that does not compile: it always fails."""

    names: frozenset[str] = frozenset()

    def holds(self, _: dict[str, Any]) -> bool:
        raise ConditionFailed("the condition does not compile")


def check_condition(text: str, field: str = "condition") -> str:
    """The text unchanged if it is a condition; raises InvalidRequest that says what and where."""
    if text:
        _compile(text, field)
    return text


@lru_cache(maxsize=4096)
def condition_of(text: str) -> Condition:
    """The compiled form; of a text that does not compile, one that always fails."""
    try:
        return _compile(text, "condition")
    except InvalidRequest:
        return _Broken()


def _compile(text: str, field: str) -> Condition:
    from authsvc.core.cel import CelSyntaxError, compile_expression  # noqa: PLC0415 -- on need: see above

    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidRequest.of(field, f"is longer than {MAX_BYTES} bytes")
    try:
        return compile_expression(text, VARIABLES)
    except CelSyntaxError as error:
        raise InvalidRequest.of(field, str(error)) from None
