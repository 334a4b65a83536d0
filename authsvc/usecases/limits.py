"""Consume from the limits of the policy, or look.

Owns: how a request's descriptors become hits of several domains in one all-or-nothing call. May import:
`core`, `state`, `ports`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from authsvc.core.consumption import DecidedBy, Descriptor, Hit, hits_of
from authsvc.core.errors import Reason

if TYPE_CHECKING:
    from authsvc.ports.counters import Counters, LimitOutcome
    from authsvc.state.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to consume in one domain."""

    domain: str
    descriptors: tuple[Descriptor, ...]


class Consumed(NamedTuple):
    """The answer of every rule that matched; allowed where none matched."""

    outcomes: tuple[LimitOutcome, ...]

    @property
    def allowed(self) -> bool:
        """Whether every rule admits."""
        return all(outcome.allowed for outcome in self.outcomes)


def refusal_reason(outcomes: Sequence[LimitOutcome]) -> Reason:
    """Why a call is refused: a limit that is reached is the caller's matter, one that could not be counted is ours."""
    reached = any(not o.allowed and o.decided_by is not DecidedBy.FAILED_CLOSED for o in outcomes)
    return Reason.LIMIT_EXCEEDED if reached else Reason.COUNTERS_UNAVAILABLE


class Limits:
    """Counts against the rules of a snapshot."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    async def consume(self, snapshot: Snapshot, wanted: Sequence[Wanted], *, peek: bool = False) -> Consumed:
        """Take from every rule that matches, all or nothing over all domains; with `peek` take nothing."""
        rules = snapshot.policy.limits
        hits: list[Hit] = []
        for part in wanted:
            hits += hits_of(rules, part.domain, part.descriptors)
        return await self.take(hits, peek=peek)

    async def take(self, hits: Sequence[Hit], *, peek: bool = False) -> Consumed:
        """Take hits that were matched already, for example those of a route."""
        if not hits:
            return Consumed(())
        return Consumed(tuple(await self._counters.consume(hits, peek=peek)))
