"""The picture of a simulation: well-formed, self-contained, and true to the records."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from authsvc.cli.limits_picture import MAX_RULES, Record, draw_svg
from authsvc.core.limits import compile_limits
from authsvc.core.simulation import simulate_lines


def records(count: int, every: float, *, start: float = 0.0, rules: int = 1) -> list[Record]:
    section: dict[str, Any] = {
        f"rule{n}": {"domain": "api", "match": {"subject": "*"}, "rate": "5/1d"} for n in range(rules)
    }
    simulate = simulate_lines(compile_limits(section, []))
    entries = [{"key": "subject", "value": "user:ann"}]
    lines = [{"at": start + n * every, "domain": "api", "descriptors": [{"entries": entries}]} for n in range(count)]
    return [(line, simulate(line)) for line in lines]


def texts(svg: str) -> list[str]:
    # The document is our own, made a line above.
    root = ET.fromstring(svg)
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_it_tells_how_many_passed_and_how_many_each_rule_refused() -> None:
    told = texts(draw_svg(records(8, 60, start=1_764_000_000)))
    assert "8 calls within 7 min" in told
    assert "5 admitted" in told
    assert "3 refused (37.5%)" in told
    assert "least remaining of 5 · refused 3" in told
    assert "from 2025-11-24 16:00:00+00:00" in told


@pytest.mark.parametrize(
    ("every", "tick"),
    [(1e-6, "2 us"), (0.001, "2 ms"), (1, "2 s"), (60, "2 min"), (86_400, "2 d"), (10**7, "200 d")],
)
def test_the_time_axis_has_round_ticks_at_every_scale(every: float, tick: str) -> None:
    assert tick in texts(draw_svg(records(11, every)))


@pytest.mark.parametrize("count", [0, 1])
def test_no_call_and_one_call_make_a_picture_too(count: int) -> None:
    told = texts(draw_svg(records(count, 1)))
    assert ("1 call within 1 s" if count else "no calls") in told


def test_only_the_rules_that_refused_most_get_a_panel() -> None:
    told = texts(draw_svg(records(6, 1, rules=MAX_RULES + 2)))
    assert sum(text.startswith("rule") for text in told) == MAX_RULES
    assert "and 2 rules that refused less" in told


def test_it_is_self_contained_and_holds_names_as_text() -> None:
    svg = draw_svg(
        [
            (
                {"at": 1},
                {"allowed": True, "results": [{"rule": "<a&b>", "limit": 3, "remaining": 0, "allowed": True}]},
            )
        ]
    )
    assert "<a&b>" in texts(svg)
    assert "href" not in svg
    assert svg.count("http") == 1
