"""CEL's standard functions.

Owns: which functions are served and what they do. May import: the standard library, google-re2 and `core.cel`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import re2

from authsvc.core.cel.numbers import (
    INT_MAX,
    INT_MIN,
    NANOSECONDS,
    UINT_MAX,
    Budget,
    Duration,
    EvaluationError,
    Timestamp,
    Uint,
)
from authsvc.core.cel.operators import CHARS_A_STEP, LISTS, duration, no_overload, timestamp, whole

MAX_PARSED = 64
"""The longest text that is read as a number or a time."""

MAX_PATTERN_SIZE = 1_000
"""Instructions of a regular expression's program."""

_SEARCHED_A_STEP = 64
_MATCH_STEPS = 20
_PLACES_A_STEP = 24
_CONVERSION_STEPS = 10
_TIME_STEPS = 30

_INT = re.compile(r"[-+]?[0-9]{1,20}\Z")
_UINT = re.compile(r"[0-9]{1,20}\Z")
_DOUBLE = re.compile(r"[-+]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]{1,4})?|inf|nan)\Z", re.IGNORECASE)
_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d{2}):(\d{2}))\Z", re.ASCII
)
_OFFSET = re.compile(r"([+-]?)(\d{2}):(\d{2})\Z", re.ASCII)
_DURATION = re.compile(r"[-+]?(?:0|(?:(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})(?:h|ms|m|us|ns|s))+)\Z")
_DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(h|ms|m|us|ns|s)")
_UNITS = {"h": 3600 * NANOSECONDS, "m": 60 * NANOSECONDS, "s": NANOSECONDS, "ms": 1_000_000, "us": 1_000, "ns": 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Function:
    """A function: how it may be called, with how many arguments (the receiver is the first), and what a call costs."""

    call: Callable[..., object]
    counts: frozenset[int]
    as_method: bool
    as_function: bool
    gives_bool: bool = False
    steps: int = 2


def pattern(text: str) -> Callable[[Budget, Any], bool]:
    """A compiled regular expression, searched anywhere in a text, in time linear in it.

    Raises ValueError where RE2 does not take it or its program is too large.
    """
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        compiled = re2.compile(text, options)
    except re2.error as error:
        raise ValueError(f"RE2 does not take the regular expression: {error}") from None
    size = compiled.programsize
    if size > MAX_PATTERN_SIZE:
        raise ValueError(f"the regular expression's program is larger than {MAX_PATTERN_SIZE}")

    def matches(budget: Budget, value: Any) -> bool:
        if type(value) is not str:
            raise no_overload("matches", value)
        # Measured: a hostile pattern makes RE2 build a new state of up to `size` places at every byte.
        bytes_at_most = len(value) if value.isascii() else 4 * len(value)
        budget.take(_MATCH_STEPS + bytes_at_most * size // _PLACES_A_STEP)
        try:
            return compiled.search(value) is not None
        except UnicodeEncodeError:
            raise EvaluationError("the text holds a lone surrogate") from None

    return matches


def _size(_: Budget, value: Any) -> int:
    if type(value) in LISTS or type(value) in {str, bytes, dict}:
        return len(value)
    raise no_overload("size", value)


def _of_texts(name: str, ask: Callable[[str, str], bool]) -> Callable[..., object]:
    def call(budget: Budget, text: Any, part: Any) -> bool:
        if type(text) is not str or type(part) is not str:
            raise no_overload(name, text, part)
        budget.take((len(text) + len(part)) // _SEARCHED_A_STEP)
        return ask(text, part)

    return call


def _int(_: Budget, value: Any) -> int:
    kind = type(value)
    if kind is int or kind is Uint:
        return whole(int(value), int)
    if kind is float:
        if not -(2.0**63) < value < 2.0**63:
            raise EvaluationError("the number is out of range")
        return int(value)
    if kind is str and _INT.match(value):
        return whole(int(value), int)
    if kind is Timestamp:
        return int(value.nanoseconds) // NANOSECONDS
    raise no_overload("int", value)


def _uint(_: Budget, value: Any) -> int:
    kind = type(value)
    if kind is int or kind is Uint:
        return whole(int(value), Uint)
    if kind is float:
        if not 0 <= value < 2.0**64:
            raise EvaluationError("the number is out of range")
        return Uint(value)
    if kind is str and _UINT.match(value):
        return whole(int(value), Uint)
    raise no_overload("uint", value)


def _double(_: Budget, value: Any) -> float:
    kind = type(value)
    if kind is float:
        return float(value)
    if (kind is int and INT_MIN <= value <= INT_MAX) or (kind is Uint and value <= UINT_MAX):
        return float(value)
    if kind is str and len(value) <= MAX_PARSED and _DOUBLE.match(value):
        return float(value)
    raise no_overload("double", value)


def _bool(_: Budget, value: Any) -> bool:
    if type(value) is bool:
        return value
    if type(value) is str and value in {"true", "false"}:
        return value == "true"
    raise no_overload("bool", value)


def _string(budget: Budget, value: Any) -> str:
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is Uint:
        return str(int(whole(int(value), kind)))
    if kind is float:
        return str(int(value)) if value.is_integer() and abs(value) < 2.0**53 else repr(value)
    if kind is bytes:
        budget.take(len(value) // CHARS_A_STEP)
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError:
            raise EvaluationError("the bytes are not UTF-8") from None
    if kind is Timestamp:
        return _rfc3339(value)
    if kind is Duration:
        return f"{_decimal(value.nanoseconds)}s"
    raise no_overload("string", value)


def _bytes(budget: Budget, value: Any) -> bytes:
    if type(value) is bytes:
        return value
    if type(value) is str:
        budget.take(len(value) // CHARS_A_STEP)
        return value.encode("utf-8", "surrogatepass")
    raise no_overload("bytes", value)


def _dyn(_: Budget, value: Any) -> object:
    return value


def _timestamp(_: Budget, value: Any) -> Timestamp:
    if type(value) is Timestamp:
        return value
    if type(value) is int:
        return timestamp(value * NANOSECONDS)
    match = _RFC3339.match(value) if type(value) is str else None
    if match is None:
        raise no_overload("timestamp", value)
    date, time, fraction, _zulu, sign, hours, minutes = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{time}+00:00")
    except ValueError:
        raise EvaluationError("the timestamp does not exist") from None
    offset = _offset(sign, hours, minutes) if sign else timedelta()
    seconds = (moment - _EPOCH - offset) // timedelta(seconds=1)
    return timestamp(seconds * NANOSECONDS + int((fraction or "").ljust(9, "0")))


def _offset(sign: str, hours: str, minutes: str) -> timedelta:
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    if int(minutes) > 59 or offset >= timedelta(days=1):
        raise EvaluationError("the offset of the time zone is out of range")
    return -offset if sign == "-" else offset


def _duration(_: Budget, value: Any) -> Duration:
    if type(value) is Duration:
        return value
    if type(value) is not str or len(value) > MAX_PARSED or not _DURATION.match(value):
        raise no_overload("duration", value)
    total = 0
    for digits, fraction, unit in _DURATION_PART.findall(value):
        total += int(digits or 0) * _UNITS[unit]
        if fraction:
            total += int(fraction) * _UNITS[unit] // 10 ** len(fraction)
    return duration(-total if value[0] == "-" else total)


def _decimal(nanoseconds: int) -> str:
    seconds, rest = divmod(abs(nanoseconds), NANOSECONDS)
    sign = "-" if nanoseconds < 0 else ""
    return f"{sign}{seconds}.{rest:09d}".rstrip("0").rstrip(".")


def _moment(value: Timestamp, zone: Any) -> datetime:
    tz = UTC if zone in {"", "UTC", "Z"} else _zone(zone)
    try:
        return (_EPOCH + timedelta(seconds=value.nanoseconds // NANOSECONDS)).astimezone(tz)
    except OverflowError:
        raise EvaluationError("the timestamp is out of range in this time zone") from None


def _zone(zone: Any) -> timezone:
    match = _OFFSET.match(zone) if type(zone) is str else None
    if match is None:
        # Named zones need a data base that changes: not a function of the question.
        raise EvaluationError("a time zone is `UTC` or an offset such as `+02:00`")
    return timezone(_offset(match[1], match[2], match[3]))


def _rfc3339(value: Timestamp) -> str:
    moment = _moment(value, "UTC")
    rest = value.nanoseconds % NANOSECONDS
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + f"{fraction}Z"


def _part(
    name: str, of_moment: Callable[[datetime, int], int], of_duration: Callable[[int], int] | None = None
) -> Function:
    def call(_: Budget, value: Any, *zone: Any) -> int:
        if type(value) is Timestamp:
            moment = _moment(value, zone[0] if zone else "UTC")
            return of_moment(moment, value.nanoseconds % NANOSECONDS)
        if type(value) is Duration and of_duration is not None and not zone:
            whole_units = of_duration(abs(value.nanoseconds))
            return -whole_units if value.nanoseconds < 0 else whole_units
        raise no_overload(name, value)

    return Function(call, frozenset({1, 2}), as_method=True, as_function=False, steps=_TIME_STEPS)


def _converts(call: Callable[..., object], *, gives_bool: bool = False, steps: int = _CONVERSION_STEPS) -> Function:
    return Function(call, frozenset({1}), as_method=False, as_function=True, gives_bool=gives_bool, steps=steps)


def _asks(name: str, ask: Callable[[str, str], bool]) -> Function:
    return Function(_of_texts(name, ask), frozenset({2}), as_method=True, as_function=False, gives_bool=True)


FUNCTIONS: dict[str, Function] = {
    "size": Function(_size, frozenset({1}), as_method=True, as_function=True),
    "contains": _asks("contains", lambda text, part: part in text),
    "startsWith": _asks("startsWith", lambda text, part: text.startswith(part)),
    "endsWith": _asks("endsWith", lambda text, part: text.endswith(part)),
    "int": _converts(_int),
    "uint": _converts(_uint),
    "double": _converts(_double),
    "bool": _converts(_bool, gives_bool=True),
    "string": _converts(_string, steps=_TIME_STEPS),
    "bytes": _converts(_bytes),
    "dyn": _converts(_dyn, gives_bool=True),
    "timestamp": _converts(_timestamp, steps=_TIME_STEPS),
    "duration": _converts(_duration, steps=2 * _TIME_STEPS),
    "getFullYear": _part("getFullYear", lambda moment, _: moment.year),
    "getMonth": _part("getMonth", lambda moment, _: moment.month - 1),
    "getDate": _part("getDate", lambda moment, _: moment.day),
    "getDayOfMonth": _part("getDayOfMonth", lambda moment, _: moment.day - 1),
    "getDayOfWeek": _part("getDayOfWeek", lambda moment, _: moment.isoweekday() % 7),
    "getDayOfYear": _part("getDayOfYear", lambda moment, _: moment.timetuple().tm_yday - 1),
    "getHours": _part("getHours", lambda moment, _: moment.hour, lambda ns: ns // _UNITS["h"]),
    "getMinutes": _part("getMinutes", lambda moment, _: moment.minute, lambda ns: ns // _UNITS["m"]),
    "getSeconds": _part("getSeconds", lambda moment, _: moment.second, lambda ns: ns // NANOSECONDS),
    "getMilliseconds": _part(
        "getMilliseconds", lambda _, ns: ns // 1_000_000, lambda ns: ns % NANOSECONDS // 1_000_000
    ),
}
"""By name. `matches` is not here: its pattern is compiled with the expression."""
