"""A syntax tree to closures.

Owns: evaluation and its budget (STANDARDS P13). May import: the standard library and `core`. A straight expression
costs one step a node and what its functions cost, taken at once;
a loop takes its body's nodes again at each turn; long values cost by length.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from authsvc.core.cel.functions import FUNCTIONS, pattern
from authsvc.core.cel.lexer import CelSyntaxError
from authsvc.core.cel.numbers import Budget, BudgetSpent, EvaluationError
from authsvc.core.cel.operators import BINARY, COMPARISONS, LISTS, kind_of, map_key, negate, no_overload
from authsvc.core.cel.parser import MAX_DEPTH, TOO_DEEP, parse
from authsvc.core.cel.syntax import (
    Call,
    Choice,
    Has,
    ListOf,
    Literal,
    Logic,
    Loop,
    MapOf,
    Member,
    Name,
    Node,
    Operation,
)
from authsvc.core.conditions import ConditionFailed

BUDGET = 1_500
"""Steps of one evaluation; measured to stay under a millisecond (docs/decisions/0002-cel.md)."""


class Frame(Budget):
    """One evaluation: its variables and the steps left."""

    __slots__ = ("variables",)

    def __init__(self, steps: int, variables: dict[str, Any]) -> None:
        self.left = steps
        self.variables = variables


Evaluate = Callable[[Frame], Any]


class Expression:
    """A compiled condition; it reads the variables of `names`. A loop binds its own in the mapping while it runs."""

    __slots__ = ("_cost", "_evaluate", "names")

    def __init__(self, evaluate: Evaluate, cost: int, names: frozenset[str]) -> None:
        self._evaluate = evaluate
        self._cost = cost
        self.names = names

    def holds(self, variables: dict[str, Any]) -> bool:
        """Whether it is true. Raises ConditionFailed where it fails, spends its budget, or is no bool."""
        try:
            value = self._evaluate(Frame(BUDGET - self._cost, variables))
        except EvaluationError as error:
            raise ConditionFailed(str(error)) from None
        except BudgetSpent:
            raise ConditionFailed(f"the condition takes more than {BUDGET} steps") from None
        if type(value) is not bool:
            raise ConditionFailed(f"the condition is a {kind_of(value)}, not a bool")
        return value

    def value(self, variables: Mapping[str, object]) -> object:
        """What it comes to. Raises EvaluationError or BudgetSpent."""
        return self._evaluate(Frame(BUDGET - self._cost, dict(variables)))


def compile_expression(text: str, variables: Collection[str]) -> Expression:
    """Compile a condition over these variables.

    Raises CelSyntaxError for what is no CEL, an unknown variable or function, an expression too deep or costlier
    than the budget, and one that can never be a bool.
    """
    node = parse(text)
    if _never_bool(node):
        raise CelSyntaxError("the condition is not a bool", 0)
    compiler = _Compiler(variables)
    evaluate = compiler.node(node, 1)
    if compiler.cost > BUDGET:
        raise CelSyntaxError(f"the condition takes more than {BUDGET} steps", 0)
    return Expression(evaluate, compiler.cost, frozenset(compiler.read))


def _never_bool(node: Node) -> bool:
    """Whether it is plain from the text alone that the value is no bool."""
    if isinstance(node, Literal):
        return type(node.value) is not bool
    if isinstance(node, Operation):
        return node.operator not in COMPARISONS and node.operator not in {"!", "[]"}
    if isinstance(node, Call):
        return node.name in FUNCTIONS and not FUNCTIONS[node.name].gives_bool
    if isinstance(node, Choice):
        return _never_bool(node.yes) and _never_bool(node.no)
    if isinstance(node, Loop):
        return node.macro in {"map", "filter"}
    return isinstance(node, ListOf | MapOf)


class _Compiler:
    """Compiles nodes; `cost` counts those outside loops' bodies, `read` holds the names that are looked at."""

    def __init__(self, variables: Collection[str]) -> None:
        self._names = list(variables)
        self.cost = 0
        self.read: set[str] = set()

    def node(self, node: Node, depth: int) -> Evaluate:
        if depth > MAX_DEPTH:
            raise CelSyntaxError(TOO_DEEP, 0)
        self.cost += 1
        if isinstance(node, Literal):
            return _constant(node.value)
        if isinstance(node, Name):
            return self._name(node)
        if isinstance(node, Member):
            return _member(self.node(node.target, depth + 1), node.name)
        if isinstance(node, Has):
            return _has(self.node(node.target, depth + 1), node.name)
        if isinstance(node, Call):
            return self._call(node, depth)
        if isinstance(node, Loop):
            return self._loop(node, depth)
        if isinstance(node, Choice):
            condition, yes, no = self._all((node.condition, node.yes, node.no), depth)
            return _choice(condition, yes, no)
        if isinstance(node, Logic):
            return _logic(self._all(node.terms, depth), until=node.until)
        if isinstance(node, ListOf):
            return _list(self._all(node.items, depth))
        if isinstance(node, MapOf):
            keys = self._all(tuple(key for key, _ in node.entries), depth)
            return _map(list(zip(keys, self._all(tuple(value for _, value in node.entries), depth), strict=True)))
        return _operation(node.operator, self._all(node.operands, depth))

    def _all(self, nodes: tuple[Node, ...], depth: int) -> list[Evaluate]:
        return [self.node(node, depth + 1) for node in nodes]

    def _name(self, node: Name) -> Evaluate:
        name = node.name
        if name not in self._names:
            raise CelSyntaxError(f"the variable `{name}` is not known", node.at)
        self.read.add(name)

        def evaluate(frame: Frame) -> Any:
            return frame.variables[name]

        return evaluate

    def _call(self, node: Call, depth: int) -> Evaluate:
        if node.name == "matches" and len(node.arguments) == 2:
            return self._matches(node, depth)
        function = FUNCTIONS.get(node.name)
        if function is None or not (function.as_method if node.is_method else function.as_function):
            raise CelSyntaxError(f"the function `{node.name}` is not known", node.at)
        if len(node.arguments) not in function.counts:
            raise CelSyntaxError(f"`{node.name}` does not take {len(node.arguments)} arguments", node.at)
        self.cost += function.steps
        return _apply(function.call, self._all(node.arguments, depth))

    def _matches(self, node: Call, depth: int) -> Evaluate:
        text, expression = node.arguments
        if not isinstance(expression, Literal) or not isinstance(expression.value, str):
            raise CelSyntaxError("the pattern of `matches` is not a literal text", node.at)
        try:
            compiled = pattern(expression.value)
        except ValueError as error:
            raise CelSyntaxError(str(error), node.at) from None
        return _apply(compiled, [self.node(text, depth + 1)])

    def _loop(self, node: Loop, depth: int) -> Evaluate:
        target = self.node(node.target, depth + 1)
        outside = self.cost
        self._names.append(node.variable)
        chosen = None if node.filter is None else self.node(node.filter, depth + 1)
        body = self.node(node.body, depth + 1)
        self._names.remove(node.variable)
        turn, self.cost = self.cost - outside + 1, outside
        return _loop(node, target, chosen, body, turn)


def _constant(value: object) -> Evaluate:
    def evaluate(_: Frame) -> Any:
        return value

    return evaluate


def _member(target: Evaluate, name: str) -> Evaluate:
    def evaluate(frame: Frame) -> Any:
        held = target(frame)
        if type(held) is not dict:
            raise no_overload(".", held)
        if name not in held:
            raise EvaluationError(f"there is no member `{name}`")
        return held[name]

    return evaluate


def _has(target: Evaluate, name: str) -> Evaluate:
    def evaluate(frame: Frame) -> Any:
        held = target(frame)
        if type(held) is not dict:
            raise no_overload("has", held)
        return name in held

    return evaluate


def _apply(call: Callable[..., object], arguments: list[Evaluate]) -> Evaluate:
    if len(arguments) == 1:
        (only,) = arguments

        def evaluate_one(frame: Frame) -> Any:
            return call(frame, only(frame))

        return evaluate_one

    def evaluate(frame: Frame) -> Any:
        return call(frame, *(argument(frame) for argument in arguments))

    return evaluate


def _operation(operator: str, operands: list[Evaluate]) -> Evaluate:
    if operator == "!":
        return _not(operands[0])
    if operator == "neg":
        return _apply(lambda _, value: negate(value), operands)
    apply = BINARY[operator]
    left, right = operands

    def evaluate(frame: Frame) -> Any:
        return apply(frame, left(frame), right(frame))

    return evaluate


def _not(operand: Evaluate) -> Evaluate:
    def evaluate(frame: Frame) -> Any:
        value = operand(frame)
        if type(value) is not bool:
            raise no_overload("!", value)
        return not value

    return evaluate


def _choice(condition: Evaluate, yes: Evaluate, no: Evaluate) -> Evaluate:
    def evaluate(frame: Frame) -> Any:
        value = condition(frame)
        if type(value) is not bool:
            raise no_overload("?:", value)
        return yes(frame) if value else no(frame)

    return evaluate


def _logic(terms: list[Evaluate], *, until: bool) -> Evaluate:
    """`&&` and `||`: one term that decides absorbs the others' errors, whatever their order."""

    def evaluate(frame: Frame) -> Any:
        failed: EvaluationError | None = None
        for term in terms:
            try:
                value = term(frame)
            except EvaluationError as error:
                failed = error
                continue
            if value is until:
                return until
            if type(value) is not bool:
                failed = no_overload("||" if until else "&&", value)
        if failed is not None:
            raise failed
        return not until

    return evaluate


def _list(items: list[Evaluate]) -> Evaluate:
    def evaluate(frame: Frame) -> Any:
        return [item(frame) for item in items]

    return evaluate


def _map(entries: list[tuple[Evaluate, Evaluate]]) -> Evaluate:
    def evaluate(frame: Frame) -> Any:
        made: dict[object, object] = {}
        for key, value in entries:
            name = map_key(key(frame))
            if name in made:
                raise EvaluationError("a map has one key twice")
            made[name] = value(frame)
        return made

    return evaluate


def _loop(node: Loop, target: Evaluate, chosen: Evaluate | None, body: Evaluate, turn: int) -> Evaluate:
    gather = _GATHER[node.macro]
    variable = node.variable

    def evaluate(frame: Frame) -> Any:
        held = target(frame)
        if type(held) is dict:
            items: Any = [key[0] if type(key) is tuple else key for key in held]
            frame.take(len(items))
        elif type(held) in LISTS:
            items = held
        else:
            raise no_overload(node.macro, held)
        variables = frame.variables
        outer = variables.get(variable, _UNSET)

        def value_of(evaluated: Evaluate, item: object) -> Any:
            # What a loop inside bound under the same name is gone again by now.
            variables[variable] = item
            return evaluated(frame)

        def turns(item: object) -> bool:
            frame.take(turn)
            return chosen is None or _as_bool(value_of(chosen, item))

        try:
            return gather(items, turns, lambda item: value_of(body, item))
        finally:
            if outer is _UNSET:
                variables.pop(variable, None)
            else:
                variables[variable] = outer

    return evaluate


_UNSET = object()
_Turns = Callable[[object], bool]
_Body = Callable[[object], Any]


def _as_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise no_overload("a loop's condition", value)
    return value


def _any_until(items: Any, turns: _Turns, body: _Body, *, until: bool) -> bool:
    """`exists` and `all`: `||` and `&&` over the elements, errors absorbed likewise."""
    failed: EvaluationError | None = None
    for item in items:
        turns(item)
        try:
            if _as_bool(body(item)) is until:
                return until
        except EvaluationError as error:
            failed = error
    if failed is not None:
        raise failed
    return not until


def _all_of(items: Any, turns: _Turns, body: _Body) -> bool:
    return _any_until(items, turns, body, until=False)


def _exists(items: Any, turns: _Turns, body: _Body) -> bool:
    return _any_until(items, turns, body, until=True)


def _exists_one(items: Any, turns: _Turns, body: _Body) -> bool:
    """No error is absorbed: every element counts."""
    return sum(_as_bool(body(item)) for item in items if turns(item)) == 1


def _mapped(items: Any, turns: _Turns, body: _Body) -> list[object]:
    return [body(item) for item in items if turns(item)]


def _filtered(items: Any, turns: _Turns, body: _Body) -> list[object]:
    return [item for item in items if turns(item) and _as_bool(body(item))]


_GATHER: Mapping[str, Callable[[Any, _Turns, _Body], object]] = {
    "all": _all_of,
    "exists": _exists,
    "exists_one": _exists_one,
    "map": _mapped,
    "filter": _filtered,
}
