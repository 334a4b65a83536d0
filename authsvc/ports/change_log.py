"""The change log: what replicas follow the record by.

Owns: the kinds of edits, and a row of the log. May import: the standard library, `core`, `ports.record`. One row is
one revision: a list of edits, each with the new value, never a pointer to a table that has moved on since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from authsvc.core.bindings import Binding
from authsvc.core.clients import Client
from authsvc.core.key_manifest import KeyManifest
from authsvc.core.keys import KeyRecord
from authsvc.ports.record import Order, PolicyRecord, RevocationMark


@dataclass(frozen=True, slots=True)
class KeyPut:
    """A signing key is new or changed."""

    key: KeyRecord


@dataclass(frozen=True, slots=True)
class KeyForgotten:
    """A signing key left the inventory."""

    kid: str


@dataclass(frozen=True, slots=True)
class KeyManifestPut:
    """Which rows of signing keys hold from now on; it comes after the edits of the keys."""

    manifest: KeyManifest


@dataclass(frozen=True, slots=True)
class ClientPut:
    """A client is new or changed."""

    client: Client


@dataclass(frozen=True, slots=True)
class ClientDeleted:
    """A client is gone; its id is never used again."""

    client_id: str


@dataclass(frozen=True, slots=True)
class BindingPut:
    """A binding gives its role from now on."""

    binding: Binding


@dataclass(frozen=True, slots=True)
class BindingRemoved:
    """A binding gives nothing any more; the whole of it, because the index finds it by its content."""

    binding: Binding


@dataclass(frozen=True, slots=True)
class PolicyPut:
    """Another policy is in force; its bindings follow as edits of their own."""

    policy: PolicyRecord


@dataclass(frozen=True, slots=True)
class RevocationPut:
    """Something is revoked."""

    mark: RevocationMark


@dataclass(frozen=True, slots=True)
class UnknownEdit:
    """A kind of edit that this release does not know: whoever applies it must stop."""

    kind: str


Edit: TypeAlias = (
    KeyPut
    | KeyForgotten
    | KeyManifestPut
    | ClientPut
    | ClientDeleted
    | BindingPut
    | BindingRemoved
    | PolicyPut
    | RevocationPut
    | UnknownEdit
)


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the change log. `digest` covers the row and `previous`, the digest of the row before."""

    epoch: int
    number: int
    previous: bytes
    digest: bytes
    edits: tuple[Edit, ...]

    @property
    def order(self) -> Order:
        """See `Revision.order`."""
        return (self.epoch, self.number)
