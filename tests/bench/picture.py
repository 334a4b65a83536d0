"""The picture of docs/performance.md: what a caller waits for, at rising load.

Owns: one self-contained SVG with a line a contender, throughput against p99 on two logarithmic axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import ceil, floor, log10

Point = tuple[float, float]
"""Right answers a second, and p99 in milliseconds."""

_LEFT, _TOP, _WIDTH, _HEIGHT, _RIGHT, _BOTTOM = 84, 112, 760, 380, 176, 84
_INK, _SOFT, _LINE = "#1c2733", "#66758a", "#dfe5ec"
_COLOURS = ("#8a94a6", "#2a6fdb", "#2a9d8f", "#e4572e", "#f2b134")
_FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


def draw(title: str, told: str, lines: Mapping[str, Sequence[Point]]) -> str:
    """Draw the lines; `told` says how and where it was measured."""
    points = [point for line in lines.values() for point in line]
    axes = _Axes(_scale([x for x, _ in points]), _scale([y for _, y in points]))
    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="{_FONT}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(_LEFT, 42, title, size=21, weight=600),
        _text(_LEFT, 66, told, colour=_SOFT),
        *axes.drawn(),
    ]
    places = _label_places(axes, lines)
    for colour, (name, line) in zip(_COLOURS, lines.items(), strict=False):
        parts += _drawn(axes, colour, name, line, places[name])
    return "\n".join([*parts, "</svg>", ""])


class _Axes:
    """From a measured point to a place on the paper."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        self._across, self._up = across, up

    def place(self, point: Point) -> Point:
        return (
            _LEFT + _share(point[0], self._across) * _WIDTH,
            _TOP + _HEIGHT - _share(point[1], self._up) * _HEIGHT,
        )

    def drawn(self) -> Iterator[str]:
        base = _TOP + _HEIGHT
        for value in _ticks(self._across):
            x = self.place((value, self._up[0]))[0]
            yield f'<path d="M{x:.1f} {_TOP}v{_HEIGHT}" stroke="{_LINE}"/>'
            yield _text(x, base + 22, f"{value:,.0f}", colour=_SOFT, anchor="middle", size=12)
        for value in _ticks(self._up):
            y = self.place((self._across[0], value))[1]
            yield f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="{_LINE}"/>'
            yield _text(_LEFT - 10, y + 4, f"{value:g}", colour=_SOFT, anchor="end", size=12)
        yield f'<path d="M{_LEFT} {_TOP}V{base}H{_LEFT + _WIDTH}" fill="none" stroke="{_SOFT}"/>'
        yield _text(_LEFT + _WIDTH, base + 48, "right answers a second", colour=_SOFT, anchor="end")
        yield _text(_LEFT - 10, _TOP - 16, "p99, ms", colour=_SOFT, anchor="end")


def _drawn(axes: _Axes, colour: str, name: str, line: Sequence[Point], label_y: float) -> Iterator[str]:
    places = [axes.place(point) for point in line]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-linejoin="round"/>'
    for (x, y), (rate, p99) in zip(places, line, strict=True):
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#fff" stroke="{colour}" stroke-width="2">'
            f"<title>{escape(name)}: {rate:,.0f}/s, p99 {p99:g} ms</title></circle>"
        )
    yield f'<path d="M{_LEFT + _WIDTH + 12} {label_y - 4:.1f}h14" stroke="{colour}" stroke-width="4"/>'
    yield _text(_LEFT + _WIDTH + 34, label_y, name, weight=600)
    best = max(rate for rate, _ in line)
    yield _text(_LEFT + _WIDTH + 34, label_y + 17, f"up to {best:,.0f}/s", colour=_SOFT, size=12)


def _label_places(axes: _Axes, lines: Mapping[str, Sequence[Point]]) -> dict[str, float]:
    """Labels from top to bottom in the order in which the lines end, none over another."""
    ends = sorted((axes.place(line[-1])[1], name) for name, line in lines.items())
    places: dict[str, float] = {}
    free = _TOP + 12.0
    for y, name in ends:
        places[name] = max(y, free)
        free = places[name] + 46
    return places


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """The part of a logarithmic axis that holds the values, ending at a 1, 2 or 5."""
    least, most = min(values), max(values)
    ticks = _steps(floor(log10(least)), ceil(log10(most)))
    return max(tick for tick in ticks if tick <= least), min(tick for tick in ticks if tick >= most)


def _ticks(scale: tuple[float, float]) -> list[float]:
    return [tick for tick in _steps(floor(log10(scale[0])), ceil(log10(scale[1]))) if scale[0] <= tick <= scale[1]]


def _steps(first: int, last: int) -> list[float]:
    return [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]


def _share(value: float, scale: tuple[float, float]) -> float:
    low, high = log10(scale[0]), log10(scale[1])
    return (log10(value) - low) / (high - low)


def _text(
    x: float, y: float, text: str, *, colour: str = _INK, anchor: str = "start", size: int = 13, weight: int = 400
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
