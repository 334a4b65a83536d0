"""Taking plain values apart, gathering faults instead of stopping at the first.

Owns: the shapes that sections of a policy are made of. May import: the standard library and
`core.{errors,values,policy_text}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from authsvc.core.errors import FieldViolation, InvalidRequest
from authsvc.core.policy_text import Plain, member

if TYPE_CHECKING:
    from collections.abc import Collection

Validator = Callable[[str, str], str]
"""A text and its path to the text, or InvalidRequest."""

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})\Z", re.ASCII)


class Reader:
    """Reads values and keeps the faults; what is at fault reads as its empty form."""

    def __init__(self, faults: list[FieldViolation]) -> None:
        self.faults = faults

    def fault(self, path: str, description: str) -> None:
        """Note a fault."""
        self.faults.append(FieldViolation(path, description))

    def checked(self, path: str, validate: Callable[[str, str], object], text: str) -> str:
        """The text if the validator takes it, else empty, its faults noted."""
        try:
            validate(text, path)
        except InvalidRequest as error:
            self.faults.extend(error.violations)
            return ""
        return text

    def mapping(self, value: Plain, path: str, known: Collection[str] | None = None) -> dict[str, Plain]:
        """A mapping, unset as empty; members that are not `known` are faults, unless any name is taken."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.fault(path, "is not a mapping")
            return {}
        if known is None:
            return value
        for name in value:
            if name not in known:
                self.fault(member(path, name), "is not known")
        return {name: inner for name, inner in value.items() if name in known}

    def items(self, value: Plain, path: str) -> Iterator[tuple[str, Plain]]:
        """Each element of a list with its path, unset as empty."""
        if value is None:
            return
        if not isinstance(value, list):
            self.fault(path, "is not a list")
            return
        for index, inner in enumerate(value):
            yield f"{path}[{index}]", inner

    def text(self, value: Plain, path: str, validate: Validator, *, required: bool = False) -> str:
        """A text that the validator takes; unset as empty."""
        if value is None:
            if required:
                self.fault(path, "is required")
            return ""
        if not isinstance(value, str):
            self.fault(path, "is not a text; quote it")
            return ""
        return self.checked(path, validate, value)

    def texts(self, value: Plain, path: str, validate: Validator) -> tuple[str, ...]:
        """A list of texts; one at fault stands as empty, so that places keep their index."""
        return tuple(self.text(inner, at, validate, required=True) for at, inner in self.items(value, path))

    def time(self, value: Plain, path: str) -> int | None:
        """A time as RFC 3339 text, in unix seconds rounded down; unset as None."""
        if value is None:
            return None
        if isinstance(value, str) and _RFC3339.match(value):
            try:
                return int(datetime.fromisoformat(value.upper()).timestamp() // 1)
            except (ValueError, OverflowError):
                pass
        self.fault(path, "is not an RFC 3339 time such as 2099-01-01T00:00:00Z")
        return None
