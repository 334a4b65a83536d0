"""Reading a policy's YAML into plain values, strictly.

Owns: which YAML is taken. May import: the standard library, PyYAML and `core.errors`. JSON is taken as it is
YAML. Scalars follow YAML 1.2's core schema: `no` and `2099-01-01` are texts. Every fault carries its member's path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from authsvc.core.errors import FieldViolation, InvalidRequest, Reason

MAX_BYTES = 1 << 20
MAX_DEPTH = 32

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_INT = re.compile(r"[-+]?[0-9]{1,18}\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?\Z")
_WORDS: dict[str, bool | None] = {
    "": None,
    "~": None,
    "null": None,
    "true": True,
    "false": False,
}


class _Stop(Exception):
    """Nothing after this can be read."""


def member(path: str, name: str) -> str:
    """The path of a member: `roles.viewer`, or `roles["a.b"]` where the name is not a plain word."""
    if not _NAME.match(name):
        return f"{path}[{json.dumps(name)}]"
    return f"{path}.{name}" if path else name


def load_yaml(text: str) -> tuple[Plain, list[FieldViolation]]:
    """One YAML document as plain values, and its faults; with faults the value is what could still be read.

    Raises InvalidRequest (POLICY_INVALID) where nothing can be read: too long, not YAML, an alias, a tag, too deep.
    """
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InvalidRequest.of("", f"is longer than {MAX_BYTES} bytes", Reason.POLICY_INVALID)
    try:
        builder = _Builder(iter(yaml.parse(text, Loader=yaml.CSafeLoader)))
        return builder.document(), builder.faults
    except UnicodeEncodeError:
        fault = "is not Unicode text"
    except yaml.MarkedYAMLError as error:
        fault = f"is not YAML: {_line(error.problem_mark)}: {error.problem}"
    except yaml.YAMLError:
        fault = "is not YAML: it holds a character that YAML does not take"
    except _Stop as stop:
        fault = str(stop)
    raise InvalidRequest.of("", fault, Reason.POLICY_INVALID)


class _Builder:
    """Values from parser events, so that aliases are seen and never expanded."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self.faults: list[FieldViolation] = []

    def document(self) -> Plain:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), "", 1)
        next(self._events)  # the document's end
        if not isinstance(next(self._events), yaml.StreamEndEvent):
            raise _Stop("holds more than one document")
        return value

    def _value(self, event: yaml.Event, path: str, depth: int) -> Plain:
        _refuse_marks(event)
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.implicit[0] else event.value
        if depth > MAX_DEPTH:
            raise _Stop(f"is nested deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path, depth)
        return self._mapping(path, depth)

    def _list(self, path: str, depth: int) -> Plain:
        values: list[Plain] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._value(event, f"{path}[{len(values)}]", depth + 1))
        return values

    def _mapping(self, path: str, depth: int) -> Plain:
        values: dict[str, Plain] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            _refuse_marks(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise _Stop(f"{_line(event.start_mark)}: a member's name is not a text")
            name = event.value
            if name in values:
                self.faults.append(FieldViolation(member(path, name), "is given twice"))
            values[name] = self._value(next(self._events), member(path, name), depth + 1)
        return values


def _refuse_marks(event: yaml.Event) -> None:
    if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
        raise _Stop(f"{_line(event.start_mark)}: anchors and aliases are not taken")
    if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
        raise _Stop(f"{_line(event.start_mark)}: tags are not taken")


def _line(mark: Any) -> str:
    """Where a mark is; PyYAML gives every event and every fault of a text one."""
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _scalar(text: str) -> Plain:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text
