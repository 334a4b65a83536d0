"""Limit rules: what the policy's `limits:` section says, and which of them a descriptor meets.

Owns: the rules, their revisions, their counters' keys, matching, and the compiling of the section. May
import: the standard library and `core`. Whether hits pass is `core.rates`; several rules at once are
`core.consumption`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Any

from authsvc.core import values
from authsvc.core.errors import FieldViolation, InvalidRequest
from authsvc.core.rates import FixedWindow, Gcra, Meter, Rate, parse_rate

ANY_VALUE = "*"
"""In a rule's match: any value, each with its own counter."""

ROUTE_KEYS = frozenset({"subject", "client_id", "tenant", "route", "method", "path", "remote_address"})
"""What a request through a route can be counted by; Consume may name any key."""

MAX_MATCH_KEYS = 16

_PARTITION_KEYS = ("tenant", "subject")

_LENGTH_BYTES = 4
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_SERVED_KEYS = frozenset({"domain", "match", "rate", "burst", "algorithm", "on_failure"})
_LATER_KEYS = frozenset({"count", "exceeded"})
_LATER_ALGORITHMS = ("sliding_window", "concurrency", "calendar_quota")
_NOT_SERVED = "is not served by this release"


class Algorithm(StrEnum):
    """How a rule counts."""

    GCRA = "gcra"
    FIXED_WINDOW = "fixed_window"


class OnFailure(StrEnum):
    """What a rule does when its counter store is out of reach (STANDARDS R10)."""

    OPEN = "open"
    CLOSED = "closed"
    LOCAL = "local"


def _prefixed(part: str) -> bytes:
    """The text behind its length in bytes, so that no two lists of texts come to the same bytes."""
    # surrogatepass: total and one-to-one also for text that no boundary should have let in.
    encoded = part.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded


@dataclass(frozen=True, slots=True)
class LimitRule:
    """One rule of the policy.

    `match` is sorted by key; a value is text that must be equal, or `ANY_VALUE`. `burst` hits pass at once
    from rest. `on_failure` is None where the policy leaves it to the service's setting. `revision` changes only
    with algorithm, window or what is matched (domain and match), so that a new count or burst keeps the counters
    (STANDARDS R5, R14).
    """

    name: str
    domain: str
    match: tuple[tuple[str, str], ...]
    rate: Rate
    burst: int
    algorithm: Algorithm = Algorithm.GCRA
    on_failure: OnFailure | None = None
    revision: str = field(init=False)
    meter: Meter = field(init=False, repr=False, compare=False)
    _key_head: bytes = field(init=False, repr=False, compare=False)
    _domain: bytes = field(init=False, repr=False, compare=False)
    _to_partition: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _key_names: tuple[tuple[str, bytes], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        entries = [text for entry in self.match for text in entry]
        described = [self.domain, self.algorithm, str(self.rate.window_us), *entries]
        revision = blake2b(b"".join(map(_prefixed, described)), digest_size=8).hexdigest()
        meter: Meter = (
            Gcra.of(self.rate, self.burst)
            if self.algorithm is Algorithm.GCRA
            else FixedWindow(self.rate.window_us, self.burst)
        )
        object.__setattr__(self, "revision", revision)
        object.__setattr__(self, "meter", meter)
        object.__setattr__(self, "_key_head", _prefixed(self.name) + _prefixed(revision))
        object.__setattr__(self, "_key_names", tuple((key, _prefixed(key)) for key, _ in self.match))
        object.__setattr__(self, "_domain", _prefixed(self.domain))
        names = [key for key, _ in self.match]
        last = next((names.index(key) for key in _PARTITION_KEYS if key in names), 0)
        object.__setattr__(self, "_to_partition", tuple(len(_prefixed(key)) for key in names[: last + 1]))

    @property
    def keys(self) -> frozenset[str]:
        """The keys that a descriptor must have, no more and no fewer."""
        return frozenset(key for key, _ in self.match)

    def counter_key(self, descriptor: Mapping[str, str]) -> bytes:
        """The key of the counter of these values: rule, its revision, then each entry, length-prefixed."""
        key = self._key_head
        for name, prefixed in self._key_names:
            key += prefixed + _prefixed(descriptor[name])
        return key

    def partition(self, key: bytes) -> bytes:
        """What counters have in common that one node of a store must hold together, of a key that this rule made.

        Domain, and value of `tenant`, else `subject`, else the first key; the domain alone for the shared counter.
        """
        value, end = len(self._key_head), len(self._key_head)
        if end == len(key):
            return self._domain
        for name_bytes in self._to_partition:
            value = end + name_bytes
            end = value + _LENGTH_BYTES + int.from_bytes(key[value : value + _LENGTH_BYTES], "big")
        return self._domain + key[value:end]

    def shared_key(self) -> bytes:
        """The key of the one counter that values share which a store has no room for (STANDARDS R15)."""
        return self._key_head


RuleMatch = tuple[LimitRule, bytes]
"""A rule that was met, and the key of the counter that it debits."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """Rules of one domain and one set of keys that name the same keys explicitly."""

    explicit: tuple[str, ...]
    rules: dict[tuple[str, ...], list[LimitRule]]


@dataclass(frozen=True, slots=True)
class LimitRules:
    """All rules of a policy, indexed so that matching costs as many look-ups as there are shapes of rules."""

    by_name: Mapping[str, LimitRule]
    _shapes: Mapping[str, Mapping[frozenset[str], tuple[_Shape, ...]]] = field(repr=False, compare=False)

    @classmethod
    def of(cls, rules: Iterable[LimitRule]) -> LimitRules:
        """Index the rules; of two with one name the later counts."""
        by_name = {rule.name: rule for rule in rules}
        domains: dict[str, dict[frozenset[str], dict[tuple[str, ...], _Shape]]] = {}
        for rule in by_name.values():
            named = {key: value for key, value in rule.match if value != ANY_VALUE}
            explicit = tuple(named)
            of_keys = domains.setdefault(rule.domain, {}).setdefault(rule.keys, {})
            shape = of_keys.setdefault(explicit, _Shape(explicit, {}))
            shape.rules.setdefault(tuple(named.values()), []).append(rule)
        return cls(
            by_name,
            {
                domain: {keys: tuple(shapes.values()) for keys, shapes in found.items()}
                for domain, found in domains.items()
            },
        )

    def knows(self, domain: str) -> bool:
        """Whether any rule is of that domain."""
        return domain in self._shapes

    def match(self, domain: str, entries: Sequence[tuple[str, str]]) -> Sequence[RuleMatch]:
        """Every rule that a descriptor meets: its keys equal the descriptor's, its named values are equal.

        A key stands at most once in `entries`; their order does not matter.
        """
        return self.match_values(domain, dict(entries))

    def match_values(self, domain: str, descriptor: Mapping[str, str]) -> Sequence[RuleMatch]:
        """As `match`, of a descriptor as a mapping."""
        known = self._shapes.get(domain)
        shapes = () if known is None else known.get(frozenset(descriptor), ())
        met = []
        for shape in shapes:
            values = tuple([descriptor[key] for key in shape.explicit]) if shape.explicit else ()
            met += [(rule, rule.counter_key(descriptor)) for rule in shape.rules.get(values, ())]
        return met

    def match_route(self, names: Sequence[str], request: Mapping[str, str]) -> tuple[RuleMatch, ...]:
        """The counters of the rules that a route names, keyed by what the request is (`ROUTE_KEYS`).

        The policy's compiler has seen to it that each name is a rule and its keys are `ROUTE_KEYS`.

        Without a subject the remote address stands in for it, so that strangers are counted too (R15). Any
        other part that is missing counts as empty. A rule whose named value differs is not met.
        """
        parts = dict.fromkeys(ROUTE_KEYS, "") | dict(request)
        if not parts["subject"]:
            # No subject begins with "@": an address never shares a subject's counter.
            parts["subject"] = "@" + parts["remote_address"]
        return tuple(
            (rule, rule.counter_key(parts))
            for rule in map(self.by_name.__getitem__, names)
            if all(value in {ANY_VALUE, parts[key]} for key, value in rule.match)
        )


def compile_limits(section: object, faults: list[FieldViolation]) -> LimitRules:
    """Compile the `limits:` section of a policy; every fault is added to `faults`, with its path.

    The rules are complete only where no fault was added.
    """
    if not isinstance(section, Mapping):
        faults.append(FieldViolation("limits", "is not a mapping"))
        return LimitRules.of(())
    rules = []
    for name, body in section.items():
        before = len(faults)
        rule = _compile_rule(name, body, faults)
        if rule is not None and len(faults) == before:
            rules.append(rule)
    return LimitRules.of(rules)


def _compile_rule(name: object, body: object, faults: list[FieldViolation]) -> LimitRule | None:
    """One rule, or None and its faults."""
    path = f"limits.{name}"
    if not isinstance(name, str) or not _NAME.match(name):
        faults.append(FieldViolation(path, "is not a rule name: letters, digits, `_`, `.`, `-`"))
        return None
    if not isinstance(body, Mapping):
        faults.append(FieldViolation(path, "is not a mapping"))
        return None
    for key in body:
        if key in _LATER_KEYS:
            faults.append(FieldViolation(f"{path}.{key}", _NOT_SERVED))
        elif key not in _SERVED_KEYS:
            faults.append(FieldViolation(f"{path}.{key}", "is unknown"))
    reader = _RuleReader(path, body, faults)
    domain, match, rate = reader.domain(), reader.match(), reader.rate()
    algorithm, on_failure = reader.algorithm(), reader.on_failure()
    if rate is None:
        return None
    burst = reader.burst(rate)
    rule = LimitRule(name, domain, match, rate, burst, algorithm, on_failure)
    if algorithm is Algorithm.FIXED_WINDOW and burst > rate.count:
        faults.append(FieldViolation(f"{path}.burst", "is above the rate's count, which a fixed window cannot pass"))
    if not rule.meter.exact:
        faults.append(
            FieldViolation(f"{path}.rate", "is beyond exact arithmetic: burst x window / gcd(window, count) > 2^52")
        )
    return rule


@dataclass(frozen=True, slots=True)
class _RuleReader:
    """Reads the parts of one rule; a part at fault is reported and replaced by a harmless one."""

    path: str
    body: Mapping[Any, Any]
    faults: list[FieldViolation]

    def domain(self) -> str:
        return self._text("domain", self.body.get("domain"))

    def match(self) -> tuple[tuple[str, str], ...]:
        section = self.body.get("match")
        if not isinstance(section, Mapping) or not section:
            self._fault("match", "is required: a mapping from keys to a value or `*`")
            return ()
        if len(section) > MAX_MATCH_KEYS:
            self._fault("match", f"has more than {MAX_MATCH_KEYS} keys")
        entries = []
        for key, value in section.items():
            place = f"match.{key}"
            text = self._text(place, value, empty=True)
            if ANY_VALUE in text and text != ANY_VALUE:
                self._fault(place, "is no pattern: `*` stands alone for any value")
            entries.append((self._text("match", key), text))
        return tuple(sorted(entries))

    def rate(self) -> Rate | None:
        text = self._text("rate", self.body.get("rate"))
        try:
            return parse_rate(text, f"{self.path}.rate") if text else None
        except InvalidRequest as refused:
            self.faults.extend(refused.violations)
            return None

    def burst(self, rate: Rate) -> int:
        burst = self.body.get("burst", rate.count)
        if type(burst) is not int or burst < 1:
            self._fault("burst", "is not a whole number of at least 1")
            return 1
        return burst

    def algorithm(self) -> Algorithm:
        text = self.body.get("algorithm", Algorithm.GCRA)
        if text in _LATER_ALGORITHMS:
            self._fault("algorithm", f"{text} {_NOT_SERVED}")
        elif text not in tuple(Algorithm):
            self._fault("algorithm", f"is not one of {', '.join(Algorithm)}")
        else:
            return Algorithm(text)
        return Algorithm.GCRA

    def on_failure(self) -> OnFailure | None:
        if "on_failure" not in self.body:
            return None
        text = self.body["on_failure"]
        if text not in tuple(OnFailure):
            self._fault("on_failure", f"is not one of {', '.join(OnFailure)}")
            return None
        return OnFailure(text)

    def _text(self, part: str, value: object, *, empty: bool = False) -> str:
        if value is None:
            self._fault(part, "is required")
        elif not isinstance(value, str):
            self._fault(part, "is not text; put it in quotes")
        else:
            try:
                return values.plain(value, f"{self.path}.{part}", empty=empty)
            except InvalidRequest as refused:
                self.faults.extend(refused.violations)
        return ""

    def _fault(self, part: str, description: str) -> None:
        self.faults.append(FieldViolation(f"{self.path}.{part}", description))
