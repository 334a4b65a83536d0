"""Validated names: what a subject, permission, scope, tenant or id may look like.

Owns: the character sets and lengths of every name that crosses the boundary, and `Revision`.
May import: the standard library and `core.errors`. A validator takes the text and the proto path of its
field, returns the text unchanged, and raises `InvalidRequest` naming the field: names are compared by code
point, never folded or normalised.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from authsvc.core.errors import InvalidRequest

SERVICE_AUDIENCE = "authsvc"
"""The audience of tokens that authenticate a caller of this service."""

ANY = "*"
"""In a client's tenants and domains: any. Never implied by an empty list."""

MAX_NAME = 256
MAX_SUBJECT = 512
MAX_RESOURCE = 1024
MAX_TOKEN = 8192

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
_PERMISSION = re.compile(r"[A-Za-z0-9_.-]+(?::[A-Za-z0-9_.-]+)+\Z")
_PERMISSION_PATTERN = re.compile(r"(?:[A-Za-z0-9_.-]+|\*)(?::(?:[A-Za-z0-9_.-]+|\*))*(?::\*\*)?\Z|\*\*\Z")
_ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}\Z")
_KID = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_REVISION = re.compile(r"([0-9a-f]{8})-([1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,17})\Z")


def has_control(text: str) -> bool:
    """Whether the text holds a control character, a line separator or a lone surrogate."""
    return _CONTROL.search(text) is not None


def plain(text: str, field: str, *, most: int = MAX_NAME, empty: bool = False) -> str:
    """A text without control characters, at most `most` characters; empty only where `empty`."""
    if not text and not empty:
        raise InvalidRequest.of(field, "is required")
    if len(text) > most:
        raise InvalidRequest.of(field, f"is longer than {most} characters")
    if has_control(text):
        raise InvalidRequest.of(field, "holds a control character")
    return text


def subject(text: str, field: str = "subject") -> str:
    """`kind:name`, for example `user:ann`, `client:billing`, `workload:spiffe://...`."""
    plain(text, field, most=MAX_SUBJECT)
    kind, colon, name = text.partition(":")
    if not colon or not name or not _KIND.match(kind):
        raise InvalidRequest.of(field, "is not of the form kind:name")
    if "*" in text:
        raise InvalidRequest.of(field, "holds a wildcard")
    return text


def permission(text: str, field: str = "permission") -> str:
    """`noun:verb` (or more segments), no wildcard: what a check asks for."""
    plain(text, field)
    if not _PERMISSION.match(text):
        raise InvalidRequest.of(field, "is not of the form noun:verb, or holds a wildcard")
    return text


def permission_pattern(text: str, field: str) -> str:
    """A permission of a role: `*` is one whole segment, a last `**` is the rest."""
    plain(text, field)
    if not _PERMISSION_PATTERN.match(text):
        raise InvalidRequest.of(field, "is not a permission pattern: `*` is one whole segment, `**` the last")
    return text


def role(text: str, field: str = "role") -> str:
    """A role's name; `authsvc.` begins the built-in ones."""
    plain(text, field, most=128)
    if not _ROLE.match(text):
        raise InvalidRequest.of(field, "is not a role name: letters, digits, `_`, `.`, `-`")
    return text


def client_id(text: str, field: str = "client_id") -> str:
    """An OAuth client's id: 1 to 64 of `A-Z a-z 0-9 . _ -`, case-sensitive."""
    plain(text, field, most=64)
    if not _CLIENT_ID.match(text):
        raise InvalidRequest.of(field, "is not a client id: 1 to 64 letters, digits, `.`, `_`, `-`")
    return text


def scope(text: str, field: str = "scope") -> str:
    """One scope token (RFC 6749 section 3.3)."""
    if not _SCOPE.match(text):
        raise InvalidRequest.of(field, "is not a scope token (RFC 6749 section 3.3), or longer than 128")
    return text


def tenant(text: str, field: str = "tenant") -> str:
    """A tenant's name; empty means none. No wildcard."""
    plain(text, field, most=128, empty=True)
    if "*" in text:
        raise InvalidRequest.of(field, "holds a wildcard")
    return text


def resource(text: str, field: str = "resource") -> str:
    """A resource's name as a check names it; empty means none. No wildcard."""
    plain(text, field, most=MAX_RESOURCE, empty=True)
    if "*" in text:
        raise InvalidRequest.of(field, "holds a wildcard")
    return text


def audience(text: str, field: str = "audience") -> str:
    """An audience: a name or a URI, compared exactly."""
    plain(text, field)
    if " " in text or "*" in text:
        raise InvalidRequest.of(field, "holds a space or a wildcard")
    return text


def kid(text: str, field: str = "kid") -> str:
    """A key id: base64url characters only, so that it is never a path or a query (STANDARDS J11)."""
    if not _KID.match(text):
        raise InvalidRequest.of(field, "is not a key id: 1 to 128 base64url characters")
    return text


@total_ordering
@dataclass(frozen=True, slots=True)
class Revision:
    """The single consistency token: comparable only within one record, by epoch and then number."""

    record: str
    epoch: int
    number: int

    @classmethod
    def parse(cls, text: str, field: str = "min_revision") -> Revision:
        """Read `<record>-<epoch>.<number>`; to callers the text is opaque."""
        match = _REVISION.match(text)
        if match is None:
            raise InvalidRequest.of(field, "is not a revision of this service")
        return cls(match[1], int(match[2]), int(match[3]))

    @property
    def order(self) -> tuple[int, int]:
        """What tokens carry and revocations compare (STANDARDS J21)."""
        return (self.epoch, self.number)

    def __lt__(self, other: Revision) -> bool:
        if self.record != other.record:
            raise ValueError("revisions of two records have no order")
        return self.order < other.order

    def __str__(self) -> str:
        return f"{self.record}-{self.epoch}.{self.number}"
