"""Tokens to a syntax tree. Owns: CEL's grammar and macros. May import: the standard library and `core.cel`."""

from __future__ import annotations

from collections.abc import Callable

from authsvc.core.cel.lexer import RESERVED, CelSyntaxError, Sort, Token, tokens
from authsvc.core.cel.numbers import INT_MAX
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

MAX_DEPTH = 32
TOO_DEEP = f"the expression is deeper than {MAX_DEPTH}"

_RELATIONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})
_LEVELS: tuple[frozenset[str], ...] = (_RELATIONS, frozenset("+-"), frozenset("*/%"))
_LOOPS = frozenset({"all", "exists", "exists_one", "map", "filter"})


def parse(text: str) -> Node:
    """The tree of an expression. Raises CelSyntaxError, also where it nests deeper than MAX_DEPTH.

    A chain such as `a + b + c` nests the tree, not the parser: the compiler looks at the tree's depth.
    """
    parser = _Parser(tokens(text))
    node = parser.expression()
    parser.end()
    return node


class _Parser:
    def __init__(self, found: list[Token]) -> None:
        self._tokens = found
        self._place = 0
        self._depth = 0

    def end(self) -> None:
        if self._peek.sort is not Sort.END:
            raise self._unexpected()

    def expression(self) -> Node:
        """A choice. Every nesting passes here, so depth is counted here, before Python's own stack grows."""
        self._deeper(self._peek.at)
        node = self._logic("||", lambda: self._logic("&&", lambda: self._binary(0)))
        if self._take("?"):
            yes = self.expression()
            self._expect(":")
            node = Choice(node, yes, self.expression())
        self._depth -= 1
        return node

    @property
    def _peek(self) -> Token:
        return self._tokens[self._place]

    def _next(self) -> Token:
        token = self._tokens[self._place]
        self._place += token.sort is not Sort.END
        return token

    def _sees(self, mark: str) -> bool:
        # A text literal may equal a mark, so the sort is compared too; `in` is a name.
        return self._peek.value == mark and self._peek.sort in {Sort.MARK, Sort.NAME}

    def _take(self, mark: str) -> bool:
        seen = self._sees(mark)
        self._place += seen
        return seen

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise CelSyntaxError(f"`{mark}` is missing before {self._shown()}", self._peek.at)

    def _shown(self) -> str:
        value = self._peek.value
        return str(value) if self._peek.sort is Sort.END else f"`{value}`"

    def _unexpected(self) -> CelSyntaxError:
        return CelSyntaxError(f"{self._shown()} does not fit here", self._peek.at)

    def _logic(self, mark: str, inner: Callable[[], Node]) -> Node:
        terms = [inner()]
        while self._take(mark):
            terms.append(inner())
        return terms[0] if len(terms) == 1 else Logic(mark == "||", tuple(terms))

    def _binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        node = self._binary(level + 1)
        while (mark := self._mark_of(_LEVELS[level])) is not None:
            node = Operation(mark, (node, self._binary(level + 1)))
        return node

    def _mark_of(self, marks: frozenset[str]) -> str | None:
        return next((mark for mark in marks if self._take(mark)), None)

    def _unary(self) -> Node:
        at = self._peek.at
        if self._take("!"):
            return Operation("!", (self._nested(at),))
        if not self._take("-"):
            return self._postfix(self._primary())
        value = self._peek.value
        if type(value) is int or type(value) is float:
            self._next()
            return self._postfix(Literal(-value))
        return Operation("neg", (self._nested(at),))

    def _nested(self, at: int) -> Node:
        self._deeper(at)
        node = self._unary()
        self._depth -= 1
        return node

    def _deeper(self, at: int) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CelSyntaxError(TOO_DEEP, at)

    def _primary(self) -> Node:
        token = self._next()
        if token.sort is Sort.LITERAL:
            if type(token.value) is int and token.value > INT_MAX:
                raise CelSyntaxError("the number is out of range", token.at)
            return Literal(token.value)
        if token.sort is Sort.NAME and token.value != "in":
            return self._named(str(token.value), token.at)
        if token.value == "(" and token.sort is Sort.MARK:
            node = self.expression()
            self._expect(")")
            return node
        if token.value == "[" and token.sort is Sort.MARK:
            return ListOf(self._list("]"))
        if token.value == "{" and token.sort is Sort.MARK:
            return MapOf(self._entries())
        self._place -= token.sort is not Sort.END
        raise self._unexpected()

    def _named(self, name: str, at: int) -> Node:
        if name in RESERVED:
            raise CelSyntaxError(f"`{name}` is a reserved word", at)
        if not self._take("("):
            return Name(name, at)
        arguments = self._list(")")
        if name == "has":
            if len(arguments) != 1 or not isinstance(arguments[0], Member):
                raise CelSyntaxError("`has` takes one member, `has(a.b)`", at)
            return Has(arguments[0].target, arguments[0].name)
        return Call(name, arguments, is_method=False, at=at)

    def _postfix(self, node: Node) -> Node:
        while True:
            if self._take("."):
                node = self._member(node)
            elif self._take("["):
                node = Operation("[]", (node, self.expression()))
                self._expect("]")
            else:
                return node

    def _member(self, target: Node) -> Node:
        token = self._next()
        if token.sort is not Sort.NAME or token.value == "in":
            raise CelSyntaxError("a member's name is missing behind `.`", token.at)
        name = str(token.value)
        if not self._take("("):
            return Member(target, name)
        arguments = self._list(")")
        if name in _LOOPS:
            return self._loop(name, target, arguments, token.at)
        return Call(name, (target, *arguments), is_method=True, at=token.at)

    def _loop(self, macro: str, target: Node, arguments: tuple[Node, ...], at: int) -> Node:
        counts = (2, 3) if macro == "map" else (2,)
        if len(arguments) not in counts or not isinstance(arguments[0], Name):
            raise CelSyntaxError(f"`{macro}` takes a variable and an expression", at)
        chosen = arguments[1] if len(arguments) == 3 else None
        return Loop(macro, target, arguments[0].name, chosen, arguments[-1])

    def _list(self, closing: str) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self._take(closing):
            items.append(self.expression())
            if not self._take(","):
                self._expect(closing)
                break
        return tuple(items)

    def _entries(self) -> tuple[tuple[Node, Node], ...]:
        entries: list[tuple[Node, Node]] = []
        while not self._take("}"):
            key = self.expression()
            self._expect(":")
            entries.append((key, self.expression()))
            if not self._take(","):
                self._expect("}")
                break
        return tuple(entries)
