"""Routes of ext_authz: which permission, resource, audience and limits an HTTP request means.

Owns: path cleaning (STANDARDS E5) and route matching. May import: the standard library and
`core.{errors,patterns,values}`. A path is refused wherever Envoy and the service behind it might read it differently;
what is left is compared percent-decoded, so that no spelling slips to a later route.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from authsvc.core import values
from authsvc.core.errors import InvalidRequest
from authsvc.core.patterns import MANY, Matcher, resource_matcher, resource_pattern_fault

MAX_PATH = 8192

_RAW = re.compile(r"/[\x21-\x7e]*\Z")
_HEX = re.compile(r"[0-9A-Fa-f]{2}\Z")
_REFUSED_BYTES = frozenset({*range(0x20), 0x7F, *b"/\\.%;"})
_DOTS = frozenset({".", ".."})
_CAPTURE = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}")
_METHOD = re.compile(r"[A-Z]{1,32}\Z")


class RouteRefused(Exception):
    """The request's path cannot be read safely; `str()` says why, without the path."""


class RequestLine(NamedTuple):
    """What a route looks at: `path` raw and with its query, as Envoy gives it; `destination` is Envoy's word."""

    method: str
    path: str
    host: str = ""
    destination: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """A route as the policy states it; an empty member of its match is not looked at.

    `resource` is a template over the path's captures, `limits` name rules of the policy.
    """

    name: str
    permission: str
    method: str = ""
    path: str = ""
    host: str = ""
    destination: str = ""
    resource: str = ""
    audience: str = ""
    limits: tuple[str, ...] = ()


class RouteMatch(NamedTuple):
    """The route that decides, its captures, and the resource they make."""

    route: Route
    params: Mapping[str, str]
    resource: str


@dataclass(frozen=True, slots=True)
class _Compiled:
    route: Route
    path: tuple[tuple[str | None, str], ...]
    """Its segments: a literal, or None and what it is captured as; empty for `*`."""
    is_open: bool
    resource: str
    """The template as a format of the path's captures, where it has any; else as it is."""
    is_filled: bool
    host: Matcher | None
    destination: Matcher | None


@dataclass(frozen=True, slots=True)
class CompiledRoutes:
    """A policy's routes in their order."""

    routes: tuple[_Compiled, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Each route's name, in order."""
        return tuple(compiled.route.name for compiled in self.routes)


def compile_routes(routes: Iterable[Route]) -> CompiledRoutes:
    """Compile routes whose parts the validators below took."""
    compiled = []
    for route in routes:
        segments = tuple(route.path.split("/")[1:])
        is_open = segments[-1:] == (MANY,)
        compiled.append(
            _Compiled(
                route,
                tuple(map(_segment, segments[:-1] if is_open else segments)),
                is_open,
                *_format(route.resource),
                resource_matcher(route.host.lower()) if route.host else None,
                resource_matcher(route.destination) if route.destination else None,
            )
        )
    return CompiledRoutes(tuple(compiled))


def _format(template: str) -> tuple[str, bool]:
    if _CAPTURE.search(template) is None:
        return template, False
    return _CAPTURE.sub(r"%(\1)s", template.replace("%", "%%")), True


def _segment(pattern: str) -> tuple[str | None, str]:
    if pattern == "*":
        return (None, "")
    return (None, pattern[1:-1]) if pattern.startswith("{") else (pattern, "")


def resource_fault(resource: str, path: str) -> str | None:
    """What is wrong with a route's resource template: it may hold what its path captures, and no other brace."""
    known = set(_CAPTURE.findall(path))
    if not known.issuperset(_CAPTURE.findall(resource)):
        return "names what the path does not capture"
    left = _CAPTURE.sub("", resource)
    return "holds a brace that is no capture" if "{" in left or "}" in left else None


def method_of(text: str, field: str) -> str:
    """A route's method: upper-case letters. Raises InvalidRequest."""
    if not _METHOD.match(text):
        raise InvalidRequest.of(field, "is not a method in upper case")
    return text


def host_of(text: str, field: str) -> str:
    """A route's host pattern, without port. Raises InvalidRequest."""
    values.plain(text, field)
    if "/" in text or ":" in text:
        raise InvalidRequest.of(field, "is not a host name or pattern without port")
    return pattern_of(text, field)


def pattern_of(text: str, field: str) -> str:
    """A resource pattern. Raises InvalidRequest."""
    values.plain(text, field, most=values.MAX_RESOURCE)
    if (fault := resource_pattern_fault(text)) is not None:
        raise InvalidRequest.of(field, fault)
    return text


def template_of(text: str, field: str) -> str:
    """A path template: `/`-separated literals, `{name}`, `*`, a last `**`. Raises InvalidRequest."""
    values.plain(text, field, most=values.MAX_RESOURCE)
    first, *segments = text.split("/")
    if first or not segments:
        raise InvalidRequest.of(field, "does not begin with `/`")
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        wild = segment == "*" or (segment == MANY and last) or _CAPTURE.fullmatch(segment)
        if wild or (not segment and last):
            continue
        if not segment or segment in _DOTS or any(char in segment for char in "*{}\\;?#%"):
            raise InvalidRequest.of(field, f"has a segment that can never match: {segment!r}")
    names = _CAPTURE.findall(text)
    if len(names) != len(set(names)):
        raise InvalidRequest.of(field, "captures one name twice")
    return text


def clean_path(raw: str) -> str:
    """The path without its query, percent-decoded.

    Raises RouteRefused for what E5 names, and for anything that is not a path of visible ASCII or decodes to what is
    not UTF-8.
    """
    if len(raw) > MAX_PATH:
        raise RouteRefused(f"the path is longer than {MAX_PATH} characters")
    if not _RAW.match(raw):
        raise RouteRefused("the path does not begin with a slash, or holds what is not visible ASCII")
    if "#" in raw:
        raise RouteRefused("the path holds a fragment")
    path = raw.partition("?")[0]
    if "//" in path or "\\" in path or ";" in path:
        raise RouteRefused("the path holds an empty segment, a backslash or a semicolon")
    if "." in path and not _DOTS.isdisjoint(path.split("/")):
        raise RouteRefused("the path holds a dot segment")
    return _decoded(path) if "%" in path else path


def _decoded(path: str) -> str:
    head, *encoded = path.split("%")
    data = bytearray(head, "ascii")
    for part in encoded:
        if not _HEX.match(part[:2]):
            raise RouteRefused("the path holds a malformed percent-encoding")
        byte = int(part[:2], 16)
        if byte in _REFUSED_BYTES:
            raise RouteRefused("the path hides a slash, backslash, dot, percent, semicolon or control character")
        data.append(byte)
        data += part[2:].encode("ascii")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise RouteRefused("the path does not decode to UTF-8") from None
    if values.has_control(text):
        raise RouteRefused("the path hides a control character")
    return text


def match(compiled: CompiledRoutes, line: RequestLine) -> RouteMatch | None:
    """The first route that matches, or None. Raises RouteRefused where the path cannot be read safely."""
    segments = clean_path(line.path).split("/")[1:]
    host = _host_name(line.host)
    for candidate in compiled.routes:
        route = candidate.route
        if route.method and route.method != line.method:
            continue
        if candidate.host is not None and not candidate.host(host):
            continue
        if candidate.destination is not None and not candidate.destination(line.destination):
            continue
        if route.path:
            params = _captured(candidate, segments)
            if params is None:
                continue
        else:
            params = {}
        return RouteMatch(route, params, _filled(candidate, params))
    return None


@lru_cache(maxsize=1024)
def _host_name(host: str) -> str:
    """A Host or :authority without port, in lower case; a last dot names the same host."""
    name = host.lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].removesuffix(".")


def _captured(candidate: _Compiled, segments: list[str]) -> dict[str, str] | None:
    wanted = candidate.path
    if len(segments) <= len(wanted) if candidate.is_open else len(segments) != len(wanted):
        return None
    params: dict[str, str] = {}
    for (literal, name), segment in zip(wanted, segments, strict=False):
        if literal is not None:
            if literal != segment:
                return None
        elif not segment:
            return None
        elif name:
            params[name] = segment
    return params


def _filled(candidate: _Compiled, params: Mapping[str, str]) -> str:
    if not candidate.is_filled:
        return candidate.resource
    for value in params.values():
        if "*" in value:
            raise RouteRefused("the path names a resource with a wildcard")
    return candidate.resource % params
