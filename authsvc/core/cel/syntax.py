"""The syntax tree. Owns: its nodes. May import: the standard library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Literal:
    """A value."""

    value: object


@dataclass(frozen=True, slots=True)
class Name:
    """A variable."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Member:
    """`target.name`; inside `has()` whether it is there."""

    target: Node
    name: str


@dataclass(frozen=True, slots=True)
class Has:
    """`has(target.name)`."""

    target: Node
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function; what a method is called on is the first argument."""

    name: str
    arguments: tuple[Node, ...]
    is_method: bool
    at: int


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator of one or two operands, `[]` and `in` among them."""

    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Logic:
    """`&&` (until False) or `||` (until True) of two or more terms."""

    until: bool
    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """`condition ? yes : no`."""

    condition: Node
    yes: Node
    no: Node


@dataclass(frozen=True, slots=True)
class ListOf:
    """`[a, b]`."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapOf:
    """`{a: b}`."""

    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """A macro over a list's elements or a map's keys; `filter` is only in a map of three arguments."""

    macro: str
    target: Node
    variable: str
    filter: Node | None
    body: Node


Node = Literal | Name | Member | Has | Call | Operation | Logic | Choice | ListOf | MapOf | Loop
