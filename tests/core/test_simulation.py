"""The simulation: the service's own arithmetic behind one JSON object a line."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.errors import InvalidRequest
from authsvc.core.limits import compile_limits
from authsvc.core.simulation import simulate_lines

RULES = compile_limits(
    {
        "per_user": {"domain": "api", "match": {"subject": "*"}, "rate": "2/1s"},
        "all": {"domain": "api", "match": {"method": "*"}, "rate": "3/1m", "algorithm": "fixed_window"},
        "tick": {"domain": "fine", "match": {"subject": "*"}, "rate": "1/1us"},
    },
    [],
)
ANN = {"entries": [{"key": "subject", "value": "user:ann"}]}
GET = {"entries": [{"key": "method", "value": "GET"}]}


def line(at: object, *descriptors: object, domain: object = "api") -> dict[str, Any]:
    return {"at": at, "domain": domain, "descriptors": list(descriptors)}


def test_hits_pass_until_the_limit_and_the_refusal_tells_how_long_to_wait() -> None:
    simulate = simulate_lines(RULES)
    assert simulate(line(100, ANN | {"hits": 2}))["allowed"]
    assert simulate(line(100.125, ANN)) == {
        "allowed": False,
        "results": [
            {
                "rule": "per_user",
                "limit": 2,
                "remaining": 0,
                "reset_after": 0.875,
                "retry_after": 0.375,
                "decided_by": "store",
                "allowed": False,
            }
        ],
    }
    assert simulate(line(100.5, ANN))["allowed"]


def test_a_refusal_debits_none_and_what_meets_no_rule_passes() -> None:
    simulate = simulate_lines(RULES)
    simulate(line(0, ANN | {"hits": 2}))
    both = simulate(line(0, GET, ANN))
    assert [(each["rule"], each["allowed"], each["remaining"]) for each in both["results"]] == [
        ("all", True, 3),
        ("per_user", False, 0),
    ]
    assert not both["allowed"]
    assert simulate(line(0, ANN, domain="other")) == {"allowed": True, "results": []}


@pytest.mark.standard("R6")
@given(second=st.integers(0, 2 * 10**9), us=st.integers(1, 999_999), form=st.sampled_from([float, Decimal]))
def test_no_microsecond_is_lost(second: int, us: int, form: type[float | Decimal]) -> None:
    simulate = simulate_lines(RULES)
    before, at = (form(f"{second}.{part:06d}") for part in (us - 1, us))
    assert simulate(line(before, ANN, domain="fine"))["allowed"]
    assert not simulate(line(before, ANN, domain="fine"))["allowed"]
    assert simulate(line(at, ANN, domain="fine"))["allowed"]


@pytest.mark.parametrize(
    ("given_line", "path"),
    [
        ({}, "at"),
        (line(None), "at"),
        (line("1"), "at"),
        (line(True), "at"),
        (line(-1, ANN), "at"),
        (line(float("nan"), ANN), "at"),
        (line(float("inf"), ANN), "at"),
        (line(1e300, ANN), "at"),
        (line(1, ANN, domain=None), "domain"),
        (line(1, ANN, domain=""), "domain"),
        ({"at": 1, "domain": "api"}, "descriptors"),
        (line(1), "descriptors"),
        (line(1, ANN, 7), "descriptors[1]"),
        (line(1, {}), "descriptors[0].entries"),
        (line(1, {"entries": {"subject": "user:ann"}}), "descriptors[0].entries"),
        (line(1, {"entries": ["subject"]}), "descriptors[0].entries[0]"),
        (line(1, {"entries": [{"value": "x"}]}), "descriptors[0].entries[0].key"),
        (line(1, {"entries": [{"key": "k", "value": 1}]}), "descriptors[0].entries[0].value"),
        (line(1, ANN | {"hits": "1"}), "descriptors[0].hits"),
        (line(1, ANN | {"hits": True}), "descriptors[0].hits"),
        (line(1, ANN | {"hits": -1}), "descriptors[0].hits"),
    ],
)
def test_a_line_at_fault_names_the_field(given_line: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        simulate_lines(RULES)(given_line)
    assert [fault.field for fault in refused.value.violations] == [path]


def test_the_answer_is_json() -> None:
    answer = simulate_lines(RULES)(line(1, ANN, GET))
    assert json.loads(json.dumps(answer)) == answer
