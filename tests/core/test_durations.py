"""Durations are whole numbers with one unit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [("0s", 0), ("7us", 7), ("250ms", 250_000), ("30s", 30_000_000), ("15m", 900_000_000), ("1d", 86_400_000_000)],
)
def test_a_duration_has_one_unit(text: str, microseconds: int) -> None:
    assert parse_duration(text) == microseconds
    assert format_duration(microseconds) == text


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-1s", "1.5s", "1 s", "01s", "1S", "1w", "1h30m", "1s\n", "1" * 13 + "s"]
)
def test_anything_else_is_refused_with_what_is_taken(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as"):
        parse_duration(text)


@given(st.integers(0, 10**11))
def test_a_duration_survives_its_text(microseconds: int) -> None:
    assert parse_duration(format_duration(microseconds)) == microseconds
