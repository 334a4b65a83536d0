"""Revocations as a snapshot holds them.

Owns: the maps from a 16-byte digest to what is refused and until when. May import: immutables, `core`, `ports`.
Expired entries are swept by each replica alone, without a revision: whether one is still there changes no answer,
since every token that it refuses has expired.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from immutables import Map

from authsvc.core.revocations import RevocationKind, refuses
from authsvc.ports.record import Order, RevocationMark

if TYPE_CHECKING:
    from authsvc.core.claims import VerifiedToken

_MINUTE = 60
_V = TypeVar("_V", int, tuple[Order, int])

Since = Map[bytes, tuple[Order, int]]
"""Digest -> (tokens minted below this are refused, expiry minute)."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """Everything refused. `tokens` maps a digest to its expiry minute."""

    tokens: Map[bytes, int]
    subjects: Since
    clients: Since
    issuers: Since

    @classmethod
    def of(cls, marks: Iterable[RevocationMark]) -> Revocations:
        """The revocations of a record."""
        tokens: dict[bytes, int] = {}
        since: dict[RevocationKind, dict[bytes, tuple[Order, int]]] = {kind: {} for kind in RevocationKind}
        for mark in marks:
            if mark.kind is RevocationKind.TOKEN:
                tokens[mark.digest] = _minute(mark.expire_time)
            else:
                since[mark.kind][mark.digest] = (mark.at, _minute(mark.expire_time))
        return cls(
            Map(tokens),
            Map(since[RevocationKind.SUBJECT]),
            Map(since[RevocationKind.CLIENT]),
            Map(since[RevocationKind.ISSUER]),
        )

    def put(self, mark: RevocationMark) -> Revocations:
        """With one more; it replaces an earlier one of the same thing."""
        entry = (mark.at, _minute(mark.expire_time))
        match mark.kind:
            case RevocationKind.TOKEN:
                return replace(self, tokens=self.tokens.set(mark.digest, entry[1]))
            case RevocationKind.SUBJECT:
                return replace(self, subjects=self.subjects.set(mark.digest, entry))
            case RevocationKind.CLIENT:
                return replace(self, clients=self.clients.set(mark.digest, entry))
            case RevocationKind.ISSUER:
                return replace(self, issuers=self.issuers.set(mark.digest, entry))

    def swept(self, now: int) -> Revocations:
        """Without those whose last minute has passed."""
        return Revocations(
            _kept(self.tokens, {d for d, minute in self.tokens.items() if minute * _MINUTE <= now}),
            *(
                _kept(since, {d for d, (_, minute) in since.items() if minute * _MINUTE <= now})
                for since in (self.subjects, self.clients, self.issuers)
            ),
        )

    def refuse(self, token: VerifiedToken) -> bool:
        """Whether the token is revoked; see `core.revocations.refuses`."""
        return refuses(token, self.tokens, self.subjects, self.clients, self.issuers)


def _minute(expire_time: int) -> int:
    return -(-expire_time // _MINUTE)


def _kept(entries: Map[bytes, _V], gone: set[bytes]) -> Map[bytes, _V]:
    if not gone:
        return entries
    left = entries.mutate()
    for digest in gone:
        del left[digest]
    return left.finish()
