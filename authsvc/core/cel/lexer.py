"""Text to tokens. Owns: CEL's lexical grammar. May import: the standard library and `core.cel.numbers`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from authsvc.core.cel.numbers import INT_MAX, UINT_MAX, Uint

RESERVED = frozenset(
    {"as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop"}
    | {"package", "namespace", "return", "var", "void", "while"}
)
WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}

_TOKEN = re.compile(
    r"""
    (?P<space>[\t\n\f\r ]+|//[^\n]*)
  | (?P<number>0x[0-9a-fA-F]+[uU]?|(?:[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?
        |[0-9]+[eE][+-]?[0-9]+)|[0-9]+[uU]?)
  | (?P<text>(?:[rR][bB]?|[bB][rR]?)?(?:'''|\"\"\"|'|"))
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<mark>==|!=|<=|>=|&&|\|\||[-+*/%<>!?:.,()\[\]{}])
    """,
    re.VERBOSE,
)
_SIMPLE = dict(zip("abfnrtv\\?\"'`", "\a\b\f\n\r\t\v\\?\"'`", strict=True))
_ESCAPE = re.compile(r"x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2}")


class CelSyntaxError(Exception):
    """The text is no expression; the message says where."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(f"at {at + 1}: {message}")


class Sort(Enum):
    """What a token is."""

    NAME = auto()
    LITERAL = auto()
    MARK = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it begins; `value` is the name, the mark or the literal's value."""

    sort: Sort
    value: object
    at: int


def tokens(text: str) -> list[Token]:
    """All tokens, the last of sort END. Raises CelSyntaxError."""
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise CelSyntaxError(f"{text[at]!r} begins no token", at)
        begin, at = at, match.end()
        piece = match[0]
        if match.lastgroup == "number":
            found.append(Token(Sort.LITERAL, _number(piece, begin), begin))
        elif match.lastgroup == "text":
            value, at = _text(text, piece, begin, at)
            found.append(Token(Sort.LITERAL, value, begin))
        elif match.lastgroup == "name":
            is_word = piece in WORDS
            found.append(Token(Sort.LITERAL if is_word else Sort.NAME, WORDS.get(piece, piece), begin))
        elif match.lastgroup == "mark":
            found.append(Token(Sort.MARK, piece, begin))
    found.append(Token(Sort.END, "the end", len(text)))
    return found


def _number(piece: str, at: int) -> int | Uint | float:
    is_hex = piece.startswith("0x")
    if not is_hex and any(char in piece for char in ".eE"):
        return float(piece)
    digits = piece.rstrip("uU")
    if len(digits) > 32:
        raise CelSyntaxError("the number is out of range", at)
    value = int(digits, 16 if is_hex else 10)
    if digits != piece:
        if value > UINT_MAX:
            raise CelSyntaxError("the number is out of range", at)
        return Uint(value)
    # One above the largest int is read here for `-9223372036854775808`; the parser takes it only behind a minus.
    if value > INT_MAX + 1:
        raise CelSyntaxError("the number is out of range", at)
    return value


def _text(text: str, opening: str, begin: int, at: int) -> tuple[str | bytes, int]:
    quote = opening.lstrip("rRbB")
    prefix = opening[: -len(quote)].lower()
    raw, as_bytes = "r" in prefix, "b" in prefix
    data = bytearray()
    chars: list[str] = []
    while True:
        if text.startswith(quote, at):
            break
        if at >= len(text) or (len(quote) == 1 and text[at] in "\r\n"):
            raise CelSyntaxError("the text does not end", begin)
        piece: str | int
        if text[at] == "\\" and not raw:
            piece, at = _escape(text, at + 1, as_bytes=as_bytes)
        else:
            piece, at = text[at], at + 1
        if as_bytes:
            data += bytes([piece]) if isinstance(piece, int) else piece.encode("utf-8", "surrogatepass")
        else:
            chars.append(chr(piece) if isinstance(piece, int) else piece)
    return (bytes(data) if as_bytes else "".join(chars)), at + len(quote)


def _escape(text: str, at: int, *, as_bytes: bool) -> tuple[str | int, int]:
    """The character or code behind a backslash. In bytes `x` and octal are a byte, `u` is refused."""
    char = text[at : at + 1]
    if char in _SIMPLE and char:
        return _SIMPLE[char], at + 1
    match = _ESCAPE.match(text, at)
    if match is None or (as_bytes and char in "uU"):
        raise CelSyntaxError("the escape is not known", at)
    piece = match[0]
    code = int(piece, 8) if char.isdigit() else int(piece[1:], 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise CelSyntaxError("the escape is no character", at)
    return code, match.end()
