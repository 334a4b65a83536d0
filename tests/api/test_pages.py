"""Sealed page tokens."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.api.pages import PageTokens, page_size
from authsvc.core.errors import InvalidRequest

KEY = bytes(range(32))


@given(st.lists(st.text(max_size=20), min_size=1, max_size=3), st.lists(st.text(max_size=5), max_size=3))
def test_a_token_opens_where_it_was_sealed(after: list[str], listing: list[str]) -> None:
    tokens = PageTokens(KEY)
    assert PageTokens(KEY).open(tokens.seal(tuple(after), *listing), *listing) == tuple(after)


def test_the_first_and_the_last_page_have_none() -> None:
    tokens = PageTokens(KEY)
    assert tokens.seal(None, "clients") == ""
    assert tokens.open("", "clients") is None


@pytest.mark.parametrize(
    "token",
    [
        PageTokens(KEY).seal(("a",), "clients", "other filter"),
        PageTokens(KEY).seal(("a",), "clientsfilter"),
        PageTokens(bytes(32)).seal(("a",), "clients", "filter"),
        "AAAA",
        "not base64!",
        "a" * 5_000,
        "é",
    ],
    ids=["other_filter", "shifted_bounds", "other_key", "short", "no_base64", "long", "not_ascii"],
)
def test_a_token_of_elsewhere_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        PageTokens(KEY).open(token, "clients", "filter")
    assert refused.value.violations[0].field == "page_token"


@given(st.binary(max_size=60))
def test_no_forged_token_opens(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        PageTokens(KEY).open(base64.urlsafe_b64encode(raw or b"x").decode(), "clients")


def test_page_size() -> None:
    assert [page_size(0), page_size(1), page_size(1_000)] == [100, 1, 1_000]
    for asked in (-1, 1_001):
        with pytest.raises(InvalidRequest):
            page_size(asked)
