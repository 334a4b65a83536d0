"""Decide what a proxy's rate-limit request comes to: the meaning of RLS, without its messages.

Owns: which rules a descriptor meets, overrides, looks and what is given back (STANDARDS R2, R3). May import: `core`,
`state`, `ports`, `usecases`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from authsvc.core.consumption import Hit, LimitOutcome
from authsvc.core.limits import ANY_VALUE, Algorithm, LimitRule
from authsvc.core.rates import Rate

if TYPE_CHECKING:
    from authsvc.core.limits import LimitRules, RuleMatch
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.limits import Limits

OVERRIDE = "@override"
"""The rule of a limit that came with its descriptor; no rule of a policy is called so."""


class ProxyDescriptor(NamedTuple):
    """What a proxy counts. Entries may name a key twice; such a descriptor meets no rule.

    `hits` of 0 ask whether one would pass and take none; fewer give back. `override` stands in for the rules.
    """

    entries: tuple[tuple[str, str], ...]
    hits: int = 1
    override: Rate | None = None


class ProxyLimits(NamedTuple):
    """The outcomes of each descriptor, in order; none where it met no rule."""

    descriptors: Sequence[Sequence[LimitOutcome]]

    @property
    def outcomes(self) -> Sequence[LimitOutcome]:
        """Of all descriptors together."""
        if len(self.descriptors) == 1:
            return self.descriptors[0]
        return [outcome for outcomes in self.descriptors for outcome in outcomes]


_Placed = list[tuple[int, Hit]]
"""Hits, each with the place of its descriptor."""


class ProxyQuotas:
    """Counts for proxies, against the rules of a snapshot."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def decide(
        self, snapshot: Snapshot, domain: str, descriptors: Sequence[ProxyDescriptor]
    ) -> ProxyLimits | Coroutine[Any, Any, ProxyLimits]:
        """All descriptors, all or nothing: an answer where none meets a rule, else a coroutine that gives it."""
        matched = [_matches(snapshot.policy.limits, domain, descriptor) for descriptor in descriptors]
        if not any(matched):
            return ProxyLimits(matched)  # type: ignore[arg-type]  # nothing, as often as there are descriptors
        if min([descriptor.hits for descriptor in descriptors]) > 0:
            return self._taken(descriptors, matched)
        return self._counted(descriptors, matched)

    async def _counted(
        self, descriptors: Sequence[ProxyDescriptor], matched: Sequence[Sequence[RuleMatch]]
    ) -> ProxyLimits:
        """Giving back never fails; taking is all or nothing, and nothing where a look fails."""
        backs: _Placed = []
        looks: _Placed = []
        takes: _Placed = []
        for place, (descriptor, rules) in enumerate(zip(descriptors, matched, strict=True)):
            hits = descriptor.hits
            group = takes if hits > 0 else backs if hits < 0 else looks
            group += [(place, Hit(rule, key, hits or 1)) for rule, key in rules]
        found: dict[int, list[LimitOutcome]] = {place: [] for place in range(len(descriptors))}
        if backs:
            await self._ask(backs, found)
        if looks and await self._ask(looks + takes, found, peek=True) and takes:
            for place, _ in takes:
                found[place] = []
            await self._ask(takes, found)
        elif takes and not looks:
            await self._ask(takes, found)
        return ProxyLimits(tuple(map(tuple, found.values())))

    async def _taken(
        self, descriptors: Sequence[ProxyDescriptor], matched: Sequence[Sequence[RuleMatch]]
    ) -> ProxyLimits:
        """What nearly every call is: hits of all descriptors, in one go."""
        hits = [
            Hit(rule, key, descriptor.hits)
            for descriptor, rules in zip(descriptors, matched, strict=True)
            for rule, key in rules
        ]
        outcomes = (await self._limits.take(hits)).outcomes
        if len(matched) == 1:
            return ProxyLimits((outcomes,))
        rest = iter(outcomes)
        return ProxyLimits([tuple(islice(rest, len(rules))) for rules in matched])

    async def _ask(self, placed: _Placed, found: dict[int, list[LimitOutcome]], *, peek: bool = False) -> bool:
        consumed = await self._limits.take([hit for _, hit in placed], peek=peek)
        for (place, _), outcome in zip(placed, consumed.outcomes, strict=True):
            found[place].append(outcome)
        return consumed.allowed


def _matches(rules: LimitRules, domain: str, descriptor: ProxyDescriptor) -> Sequence[RuleMatch]:
    values = dict(descriptor.entries)
    if len(values) < len(descriptor.entries):
        return ()
    if descriptor.override is None:
        return rules.match_values(domain, values)
    if not rules.knows(domain):
        return ()
    rule = _override(domain, tuple(sorted(values)), descriptor.override)
    return ((rule, rule.counter_key(values)),)


@lru_cache(maxsize=1024)
def _override(domain: str, keys: tuple[str, ...], rate: Rate) -> LimitRule:
    """A window as Envoy means it; a new count goes on with the counters, another unit has its own."""
    match = tuple((key, ANY_VALUE) for key in keys)
    return LimitRule(OVERRIDE, domain, match, rate, rate.count, Algorithm.FIXED_WINDOW)
