"""From text, environment and flags to the configuration.

Owns: how a setting is written. May import: the standard library and `core`. `load` is a pure function; later
sources win. All faults are listed at once, each with the setting's name. Durations are strings with a unit.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from authsvc.config.judging import judge
from authsvc.config.settings import Config, Milliseconds, Seconds
from authsvc.core.durations import parse_duration
from authsvc.core.errors import FieldViolation, InvalidRequest

ENVIRONMENT_PREFIX = "AUTHSVC_"


def load(
    text: str,
    environment: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
    *,
    file: str = "authsvc.toml",
) -> Config:
    """Read the file's text, then the environment, then flags (`server.listen` -> text).

    Raises InvalidRequest with every fault, each under the setting's name; a text that is not TOML under `file`.
    """
    faults: list[FieldViolation] = []
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest.of(file, f"is not TOML: {error}") from None
    for path, value in {**_from_environment(environment), **(flags or {})}.items():
        _put(tree, path.split("."), value, faults)
    config: Config = _section(Config, tree, "", faults)
    if not faults:
        judge(config, faults)
    if faults:
        raise InvalidRequest(faults)
    return config


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Names with a double underscore, and `AUTHSVC_ISSUER`-like top-level ones written `AUTHSVC__ISSUER`.

    Others are ignored: Kubernetes injects `AUTHSVC_PORT` and its like for a Service of that name.
    """
    found = {}
    for name, value in environment.items():
        rest = name.removeprefix(ENVIRONMENT_PREFIX)
        if rest != name and "__" in name:
            found[rest.lower().removeprefix("_").replace("__", ".")] = value
    return found


def _put(tree: dict[str, Any], path: list[str], value: str, faults: list[FieldViolation]) -> None:
    node: Any = tree
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            faults.append(FieldViolation(".".join(path), "is not a section"))
            return
    node[path[-1]] = value


def _section(kind: type[Any], tree: Mapping[str, Any], path: str, faults: list[FieldViolation]) -> Any:
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    faults.extend(
        FieldViolation(f"{path}{name}", "is not a setting of this release") for name in tree if name not in known
    )
    values = {}
    for name in known & tree.keys():
        try:
            values[name] = _value(hints[name], tree[name], f"{path}{name}", faults)
        except ValueError as error:
            faults.append(FieldViolation(f"{path}{name}", str(error)))
    return kind(**values)


def _value(kind: Any, raw: Any, path: str, faults: list[FieldViolation]) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(raw, Mapping):
            raise ValueError("is a section, not a value")
        return _section(kind, raw, f"{path}.", faults)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        entries = [part.strip() for part in raw.split(",")] if isinstance(raw, str) and item is str else raw
        if not isinstance(entries, list):
            raise ValueError("is not a list")
        return tuple(_value(item, entry, f"{path}[{i}]", faults) for i, entry in enumerate(entries))
    if kind in (Seconds, Milliseconds):
        if not isinstance(raw, str):
            raise ValueError('is not a duration such as "15m"')
        microseconds = parse_duration(raw)
        return Seconds(microseconds // 1_000_000) if kind is Seconds else Milliseconds(microseconds // 1_000)
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if raw not in choices:
            raise ValueError(f"`{raw}` is not served by this release; it takes {' or '.join(choices)}")
        return raw
    return _scalar(kind, raw)


def _scalar(kind: Any, raw: Any) -> Any:
    if kind is bool:
        if isinstance(raw, bool):
            return raw
        if raw in ("true", "false"):
            return raw == "true"
        raise ValueError("is not true or false")
    if kind is int:
        return _whole(raw)
    if kind is float:
        if isinstance(raw, bool):
            raise ValueError("is not a number")
        try:
            return float(raw)
        except (TypeError, ValueError):
            raise ValueError("is not a number") from None
    if not isinstance(raw, str):
        raise ValueError("is not a text")  # noqa: TRY004 - a fault of the setting, collected as the others are
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(raw)
        except ValueError:
            choices = ", ".join(part.value or "unset" for part in kind)
            raise ValueError(f"`{raw}` is not served by this release; it takes {choices}") from None
    return kind(raw)


def _whole(raw: Any) -> int:
    if type(raw) is int:
        return raw
    if isinstance(raw, str) and raw.isascii() and raw.isdigit():
        return int(raw)
    raise ValueError("is not a whole number")
