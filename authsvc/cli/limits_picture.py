"""The picture of `limits simulate --svg FILE`.

Owns: one self-contained SVG from a simulation's lines and answers. May import: the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from math import ceil, floor, log10
from typing import Any

Record = tuple[Mapping[str, Any], Mapping[str, Any]]
"""A line that `simulate_lines` took, and what it answered."""

MAX_RULES = 8
"""Rules that get a panel of their own: those that refused most."""

_BINS = 100
_LEFT, _WIDTH, _RIGHT = 72, 800, 40
_TOP, _CALLS_HEIGHT, _RULE_HEIGHT, _RULE_STEP = 104, 200, 56, 104
_EARLIEST_DATE = 10**8
"""Times above are taken for unix times and get a date; below they count from zero."""

_UNITS = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6))
_MINUTES, _HOURS, _DAYS = 60, 3_600, 86_400
_ROUND_STEPS = (
    *(1, 2, 5, 10, 15, 30),
    *(n * _MINUTES for n in (1, 2, 5, 10, 15, 30)),
    *(n * _HOURS for n in (1, 2, 3, 6, 12)),
    *(n * _DAYS for n in (1, 2, 7, 14, 30, 90)),
)
"""Seconds between ticks, where they are at least one."""

_INK, _SOFT, _LINE, _TRACK = "#1c2733", "#66758a", "#dfe5ec", "#f1f4f8"
_ADMITTED, _REFUSED, _LOW = "#2a9d8f", "#e4572e", "#f2b134"
_FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


@dataclass(slots=True)
class _Rule:
    """What a rule showed: its limit, its refusals, and for each bin the least that remained."""

    limit: int = 0
    refused: int = 0
    least: dict[int, int] = field(default_factory=dict)
    refused_in: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Simulation:
    """The records, gathered into bins of equal time."""

    start: float = 0.0
    span: float = 1.0
    admitted: list[int] = field(default_factory=lambda: [0] * _BINS)
    refused: list[int] = field(default_factory=lambda: [0] * _BINS)
    rules: dict[str, _Rule] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> _Simulation:
        calls = [(float(line["at"]), answer) for line, answer in records]
        if not calls:
            return cls()
        start = min(at for at, _ in calls)
        gathered = cls(start, max(at for at, _ in calls) - start or 1.0)
        for at, answer in calls:
            place = min(_BINS - 1, int((at - start) / gathered.span * _BINS))
            (gathered.admitted if answer["allowed"] else gathered.refused)[place] += 1
            for result in answer["results"]:
                gathered._add(place, result)
        return gathered

    def _add(self, place: int, result: Mapping[str, Any]) -> None:
        rule = self.rules.setdefault(result["rule"], _Rule())
        rule.limit = result["limit"]
        rule.least[place] = min(rule.least.get(place, rule.limit), result["remaining"])
        if not result["allowed"]:
            rule.refused += 1
            rule.refused_in.add(place)

    def shown(self) -> list[tuple[str, _Rule]]:
        return sorted(self.rules.items(), key=lambda item: (-item[1].refused, item[0]))[:MAX_RULES]


def draw_svg(records: Iterable[Record]) -> str:
    """Draw calls admitted and refused over time, and what remained of each rule (the least of its counters)."""
    simulation = _Simulation.of(records)
    shown = simulation.shown()
    height = _TOP + _CALLS_HEIGHT + 76 + len(shown) * _RULE_STEP
    width = _LEFT + _WIDTH + _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="{_FONT}" role="img">',
        "<title>Limits, simulated</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_heading(simulation),
        *_calls(simulation),
        *_time_axis(simulation, _TOP + _CALLS_HEIGHT),
    ]
    for place, (name, rule) in enumerate(shown):
        parts += _rule(name, rule, _TOP + _CALLS_HEIGHT + 92 + place * _RULE_STEP)
    hidden = len(simulation.rules) - len(shown)
    if hidden:
        parts.append(_text(_LEFT, height - 10, f"and {hidden} rules that refused less", colour=_SOFT))
    return "\n".join([*parts, "</svg>", ""])


def _heading(simulation: _Simulation) -> Iterator[str]:
    admitted, refused = sum(simulation.admitted), sum(simulation.refused)
    total = admitted + refused
    yield _text(_LEFT, 38, "Limits, simulated", size=21, weight=600)
    name, size = _unit(simulation.span)
    told = f"{total:,} call{'s' * (total != 1)} within {round(simulation.span / size, 1):,g} {name}"
    yield _text(_LEFT, 60, told if total else "no calls", colour=_SOFT)
    share = refused / total if total else 0.0
    for x, colour, label in (
        (_LEFT, _ADMITTED, f"{admitted:,} admitted"),
        (_LEFT + 150, _REFUSED, f"{refused:,} refused ({share:.1%})"),
    ):
        yield _bar(x, 75, 11, 11, colour)
        yield _text(x + 18, 85, label)


def _calls(simulation: _Simulation) -> Iterator[str]:
    both = list(zip(simulation.admitted, simulation.refused, strict=True))
    step = _nice(max(sum(pair) for pair in both) / 4, whole=True)
    top = step * max(1, ceil(max(sum(pair) for pair in both) / step))
    base, scale = _TOP + _CALLS_HEIGHT, _CALLS_HEIGHT / top
    for count in range(0, int(top) + 1, int(step)):
        y = base - count * scale
        yield f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="{_LINE}"/>'
        yield _text(_LEFT - 10, y + 4, f"{count:,}", colour=_SOFT, anchor="end", size=12)
    each = _WIDTH / _BINS
    for place, (admitted, refused) in enumerate(both):
        x, y = _LEFT + place * each + 0.75, base - admitted * scale
        if admitted:
            yield _bar(x, y, each - 1.5, admitted * scale, _ADMITTED)
        if refused:
            yield _bar(x, y - refused * scale, each - 1.5, refused * scale, _REFUSED)


def _time_axis(simulation: _Simulation, base: int) -> Iterator[str]:
    yield f'<path d="M{_LEFT} {base}h{_WIDTH}" stroke="{_SOFT}"/>'
    rough = simulation.span / 8
    if rough < 1:
        step = _nice(rough)
    else:
        step = next((each for each in _ROUND_STEPS if each >= rough), _nice(rough / _DAYS) * _DAYS)
    name, size = _unit(step)
    for tick in range(floor(simulation.span / step) + 1):
        x = _LEFT + tick * step / simulation.span * _WIDTH
        label = f"{tick * step / size:.6g} {name}" if tick else "0"
        yield f'<path d="M{x:.1f} {base}v5" stroke="{_SOFT}"/>'
        yield _text(x, base + 20, label, colour=_SOFT, anchor="middle", size=12)
    if simulation.start > _EARLIEST_DATE:
        begin = datetime.fromtimestamp(simulation.start, UTC).isoformat(" ", "seconds")
        yield _text(_LEFT, base + 42, f"from {begin}", colour=_SOFT, size=12)


def _rule(name: str, rule: _Rule, top: int) -> Iterator[str]:
    yield _text(_LEFT, top - 10, name, weight=600)
    told = f"least remaining of {rule.limit:,} · refused {rule.refused:,}"
    yield _text(_LEFT + _WIDTH, top - 10, told, colour=_SOFT, anchor="end")
    yield _bar(_LEFT, top, _WIDTH, _RULE_HEIGHT, _TRACK)
    yield _text(_LEFT - 10, top + 11, f"{rule.limit:,}", colour=_SOFT, anchor="end", size=12)
    yield _text(_LEFT - 10, top + _RULE_HEIGHT, "0", colour=_SOFT, anchor="end", size=12)
    each = _WIDTH / _BINS
    for place, least in sorted(rule.least.items()):
        share = least / rule.limit
        tall = max(share * _RULE_HEIGHT, 2.0)
        refused = place in rule.refused_in
        colour = _REFUSED if refused else _LOW if share < 0.25 else _ADMITTED
        yield _bar(_LEFT + place * each + 0.75, top + _RULE_HEIGHT - tall, each - 1.5, tall, colour)


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" rx="1.5" fill="{colour}"/>'


def _text(
    x: float, y: float, text: str, *, colour: str = _INK, anchor: str = "start", size: int = 13, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )


def _nice(rough: float, *, whole: bool = False) -> float:
    """The next of 1, 2, 5, 10 .. (no fractions where `whole`) that is not below `rough`."""
    if whole and rough <= 1:
        return 1
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def _unit(seconds: float) -> tuple[str, float]:
    """The largest unit that is not longer, and its seconds."""
    return next((unit for unit in _UNITS if seconds >= unit[1]), _UNITS[-1])
