"""What CEL's operators do to values.

Owns: equality, order, arithmetic, membership. May import: the standard library and `core.cel.numbers`. Every function
takes the budget, so that long values cost what they take. Values are None, bool, int, Uint, float, str, bytes, list,
tuple, dict, Timestamp and Duration; anything else fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from authsvc.core.cel.numbers import (
    INT_MAX,
    INT_MIN,
    TIMESTAMP_MAX,
    TIMESTAMP_MIN,
    UINT_MAX,
    Budget,
    Duration,
    EvaluationError,
    Timestamp,
    Uint,
)

Operator = Callable[[Budget, Any, Any], object]

CHARS_A_STEP = 256
MAX_NESTING = 64

NUMBERS = frozenset({int, Uint, float})
LISTS = frozenset({list, tuple})
_ORDERED = frozenset({bool, str, bytes, Timestamp, Duration})


def kind_of(value: object) -> str:
    """A value's type, for messages."""
    return "null" if value is None else type(value).__name__.lower()


def no_overload(operator: str, *operands: object) -> EvaluationError:
    """The operator has no meaning for these types."""
    return EvaluationError(f"`{operator}` has no meaning for {', '.join(map(kind_of, operands))}")


def equal(budget: Budget, left: Any, right: Any, nesting: int = 0) -> bool:
    """Equality: numbers by value across types, other types never equal, lists and maps by their content."""
    kind, other = type(left), type(right)
    if kind in NUMBERS and other in NUMBERS:
        return bool(left == right)
    if kind in LISTS and other in LISTS:
        return _equal_lists(budget, left, right, nesting)
    if kind is not other:
        return False
    if kind is str or kind is bytes:
        budget.take(min(len(left), len(right)) // CHARS_A_STEP)
        return bool(left == right)
    if kind is dict:
        return _equal_maps(budget, left, right, nesting)
    return bool(left == right)


def _equal_lists(budget: Budget, left: Any, right: Any, nesting: int) -> bool:
    if len(left) != len(right):
        return False
    _check_nesting(nesting)
    for one, other in zip(left, right, strict=True):
        budget.take(1)
        if not equal(budget, one, other, nesting + 1):
            return False
    return True


def _equal_maps(budget: Budget, left: Any, right: Any, nesting: int) -> bool:
    if len(left) != len(right):
        return False
    _check_nesting(nesting)
    for key, one in left.items():
        budget.take(1)
        if key not in right or not equal(budget, one, right[key], nesting + 1):
            return False
    return True


def _check_nesting(nesting: int) -> None:
    if nesting > MAX_NESTING:
        raise EvaluationError(f"the value is nested deeper than {MAX_NESTING}")


def not_equal(budget: Budget, left: Any, right: Any) -> bool:
    """The opposite of `equal`."""
    return not equal(budget, left, right)


def _ordering(operator: str, compare: Callable[[Any, Any], bool]) -> Operator:
    def ordered(budget: Budget, left: Any, right: Any) -> bool:
        kind, other = type(left), type(right)
        if kind in NUMBERS and other in NUMBERS:
            return compare(left, right)
        if kind is not other or kind not in _ORDERED:
            raise no_overload(operator, left, right)
        if kind is str or kind is bytes:
            budget.take(min(len(left), len(right)) // CHARS_A_STEP)
        return compare(left, right)

    return ordered


def contains(budget: Budget, item: Any, container: Any) -> bool:
    """`in`: an element of a list, or a key of a map."""
    if type(container) is dict:
        return map_key(item) in container
    if type(container) not in LISTS:
        raise no_overload("in", item, container)
    for element in container:
        budget.take(1)
        if equal(budget, item, element):
            return True
    return False


def map_key(value: Any) -> object:
    """The form under which a map holds a key: whole numbers of every type are one key, a bool never is a number."""
    kind = type(value)
    if kind is str:
        return value
    if kind is bool:
        return (value,)
    if kind is float and value.is_integer():
        return int(value)
    if kind in NUMBERS and kind is not float:
        return int(value)
    raise EvaluationError(f"a {kind_of(value)} is no key of a map")


def index(_: Budget, container: Any, key: Any) -> object:
    """`container[key]`."""
    if type(container) is dict:
        known = map_key(key)
        if known not in container:
            raise EvaluationError("the map has no such key")
        return container[known]
    if type(container) not in LISTS or type(key) not in NUMBERS or key != key // 1:
        raise no_overload("[]", container, key)
    if not 0 <= key < len(container):
        raise EvaluationError("the list has no such element")
    return container[int(key)]


def whole(value: int, kind: type) -> int:
    """The result of arithmetic on whole numbers, in range."""
    if kind is Uint:
        if not 0 <= value <= UINT_MAX:
            raise EvaluationError("the number is out of range")
        return Uint(value)
    if not INT_MIN <= value <= INT_MAX:
        raise EvaluationError("the number is out of range")
    return value


def timestamp(nanoseconds: int) -> Timestamp:
    """A timestamp of the years 1 to 9999."""
    if not TIMESTAMP_MIN <= nanoseconds <= TIMESTAMP_MAX:
        raise EvaluationError("the timestamp is out of range")
    return Timestamp(nanoseconds)


def duration(nanoseconds: int) -> Duration:
    """A duration of 64 bits of nanoseconds."""
    return Duration(whole(nanoseconds, int))


def add(budget: Budget, left: Any, right: Any) -> object:
    """`+`: numbers of one type, texts, bytes, lists, times."""
    kind, other = type(left), type(right)
    if kind is Timestamp and other is Duration:
        return timestamp(left.nanoseconds + right.nanoseconds)
    if kind is Duration and other is Timestamp:
        return timestamp(left.nanoseconds + right.nanoseconds)
    if kind in LISTS and other in LISTS:
        budget.take(len(left) + len(right))
        return [*left, *right]
    if kind is not other:
        raise no_overload("+", left, right)
    if kind is int or kind is Uint:
        return whole(int(left) + int(right), kind)
    if kind is float:
        return left + right
    if kind is str or kind is bytes:
        budget.take((len(left) + len(right)) // CHARS_A_STEP)
        return left + right
    if kind is Duration:
        return duration(left.nanoseconds + right.nanoseconds)
    raise no_overload("+", left, right)


def subtract(_: Budget, left: Any, right: Any) -> object:
    """`-`: numbers of one type, times."""
    kind, other = type(left), type(right)
    if kind is Timestamp and other is Duration:
        return timestamp(left.nanoseconds - right.nanoseconds)
    if kind is not other:
        raise no_overload("-", left, right)
    if kind is int or kind is Uint:
        return whole(int(left) - int(right), kind)
    if kind is float:
        return left - right
    if kind is Timestamp or kind is Duration:
        return duration(left.nanoseconds - right.nanoseconds)
    raise no_overload("-", left, right)


def multiply(_: Budget, left: Any, right: Any) -> object:
    """`*`: numbers of one type."""
    kind = type(left)
    if kind is not type(right) or kind not in NUMBERS:
        raise no_overload("*", left, right)
    return left * right if kind is float else whole(int(left) * int(right), kind)


def divide(_: Budget, left: Any, right: Any) -> object:
    """`/`: whole numbers towards zero; doubles as IEEE 754 says, by zero too."""
    kind = type(left)
    if kind is not type(right) or kind not in NUMBERS:
        raise no_overload("/", left, right)
    if kind is float:
        return _divide_doubles(left, right)
    if right == 0:
        raise EvaluationError("division by zero")
    quotient = abs(int(left)) // abs(int(right))
    return whole(quotient if (left < 0) == (right < 0) else -quotient, kind)


def _divide_doubles(left: float, right: float) -> float:
    if right:
        return left / right
    if not left or math.isnan(left):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


def remainder(_: Budget, left: Any, right: Any) -> object:
    """`%`: whole numbers, with the sign of the left one."""
    kind = type(left)
    if kind is not type(right) or kind not in NUMBERS or kind is float:
        raise no_overload("%", left, right)
    if right == 0:
        raise EvaluationError("division by zero")
    rest = abs(int(left)) % abs(int(right))
    return whole(-rest if left < 0 else rest, kind)


def negate(value: Any) -> object:
    """Unary `-`: an int or a double."""
    kind = type(value)
    if kind is float:
        return -value
    if kind is not int:
        raise no_overload("-", value)
    return whole(-value, int)


BINARY: dict[str, Operator] = {
    "==": equal,
    "!=": not_equal,
    "<": _ordering("<", lambda left, right: bool(left < right)),
    "<=": _ordering("<=", lambda left, right: bool(left <= right)),
    ">": _ordering(">", lambda left, right: bool(left > right)),
    ">=": _ordering(">=", lambda left, right: bool(left >= right)),
    "in": contains,
    "[]": index,
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": remainder,
}
COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})
