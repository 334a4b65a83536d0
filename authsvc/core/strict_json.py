"""JSON read strictly, for texts that strangers send.

Owns: the one strict reader of JSON objects (STANDARDS J14). May import: the standard library. It refuses what
parsers disagree about, because what two parsers read differently an attacker can use: duplicate members, another
encoding than UTF-8, a byte order mark, NaN and Infinity, lone surrogates, numbers beyond a double, deep nesting.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

MAX_DEPTH = 16
_MAX_DIGITS = 19
_WHITE_SPACE = " \t\n\r"

_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object (RFC 8259) that the bytes hold; raises ValueError for anything else."""
    text = data.decode("utf-8").strip(_WHITE_SPACE)
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _refuse_depth(text)
    value, end = _DECODER.raw_decode(text)
    if end != len(text) or type(value) is not dict:
        raise ValueError("is not a JSON object")
    if "\\u" in text and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise ValueError("holds a lone surrogate")
    return value


def _refuse_depth(text: str) -> None:
    depth = 0
    for match in _STRUCTURE.finditer(text):
        first = text[match.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"is nested deeper than {MAX_DEPTH}")
        elif first in "]}":
            depth -= 1


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("holds a duplicate member")
    return members


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError("holds a huge number")
    return int(digits)


def _fraction(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("holds a huge number")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)
