"""The strict reader of JSON objects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.strict_json import MAX_DEPTH, parse_object

SCALARS = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text() | st.floats(allow_nan=False)
VALUES = st.recursive(
    SCALARS.filter(lambda value: value not in {float("inf"), float("-inf")}),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@pytest.mark.standard("J14")
@given(value=st.dictionaries(st.text(), VALUES, max_size=4), ascii_only=st.booleans())
def test_what_a_strict_writer_writes_is_read(value: dict[str, Any], *, ascii_only: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.standard("J14")
@pytest.mark.parametrize(
    "data",
    [
        b"", b" ", b"null", b"[]", b'"a"', b"1", b"{", b"}", b"{}{}", b"{} x", b'{"a":1,}', b"{'a':1}", b'{"a":01}',
        b'{"a":1,"a":1}', b'{"a":1,"\\u0061":2}', b'{"b":{"a":1,"a":2}}', b'{"b":[{"a":1,"a":2}]}',
        b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":-1e999}',
        b'{"a":' + b"1" * 20 + b"}", b'{"a":' + b"1" * 5000 + b"}", b'{"a":"\x01"}', b'{"a":"\n"}',
        b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", "{}".encode("utf-16"), "{}".encode("utf-32"), b'{"a":"\xc0\xaf"}',
        b'{"a":"\xed\xa0\x80"}', b'{"a":"\\ud800"}', b'{"\\udfff":1}', b'{"a":["\\ud800x"]}', b"\x0c{}", b"{}\x00",
        "\u00a0{}".encode(),
    ],
)  # fmt: skip
def test_what_parsers_disagree_about_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_object(data)


@pytest.mark.standard("J14")
def test_depth_is_bounded_before_parsing() -> None:
    def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
        return ('{"a":' + opening * (depth - 1) + closing * (depth - 1) + "}").encode()

    assert parse_object(nested(MAX_DEPTH))
    for data in (nested(MAX_DEPTH + 1), nested(100_000), b'{"a":' * 100_000, nested(40, '[{"b":', "}]")):
        with pytest.raises(ValueError, match=r"nested"):
            parse_object(data)


@pytest.mark.standard("J14")
def test_brackets_in_texts_and_in_width_are_not_depth() -> None:
    wide = {"a": [[] for _ in range(50)], "b": '[{"\\' * 50, "c": [{"d": []}] * 30}
    assert parse_object(json.dumps(wide).encode()) == wide


def test_white_space_of_json_around_the_object_is_allowed() -> None:
    assert parse_object(b' \t\r\n{"a": "\\ud83d\\ude00"}\n') == {"a": "\U0001f600"}
