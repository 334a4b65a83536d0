"""What watchers ask for, and what they are told.

Owns: the conversion of SyncService's messages. May import: `core`, `ports`, `state`, `usecases`, `v1`, `api.convert`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from authsvc.core.errors import InvalidRequest
from authsvc.core.keys import KeyState
from authsvc.core.revocations import RevocationKind
from authsvc.core.values import Revision
from authsvc.ports.record import RevocationMark
from authsvc.usecases.sync import Interest
from authsvc.v1 import sync_pb2

if TYPE_CHECKING:
    from authsvc.state.revocations import Revocations
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.key_sets import KeySets

_MAX_DIGEST = 64
_MINUTE = 60

_KINDS: Mapping[RevocationKind, sync_pb2.RevocationKind] = MappingProxyType(
    {
        RevocationKind.TOKEN: sync_pb2.REVOCATION_KIND_TOKEN,
        RevocationKind.SUBJECT: sync_pb2.REVOCATION_KIND_SUBJECT,
        RevocationKind.CLIENT: sync_pb2.REVOCATION_KIND_CLIENT,
        RevocationKind.ISSUER: sync_pb2.REVOCATION_KIND_ISSUER,
    }
)


class Opening(NamedTuple):
    """How a watcher begins: what it asks for, what it holds already, and how new a state it needs."""

    interest: Interest
    known: Revision | None
    known_digest: bytes
    least: Revision | None


def opening(request: sync_pb2.WatchRequest) -> Opening:
    """The first request; raises InvalidRequest."""
    if request.WhichOneof("request") != "open":
        raise InvalidRequest.of("open", "is required in the first request")
    wanted = request.open
    if len(wanted.known_digest) > _MAX_DIGEST:
        raise InvalidRequest.of("open.known_digest", f"is longer than {_MAX_DIGEST} bytes")
    return Opening(
        Interest(wanted.keys, wanted.revocations),
        Revision.parse(wanted.known_revision, "open.known_revision") if wanted.known_revision else None,
        wanted.known_digest,
        Revision.parse(wanted.min_revision, "open.min_revision") if wanted.min_revision else None,
    )


def acknowledged(request: sync_pb2.WatchRequest) -> str:
    """The revision that a later request acknowledges; raises InvalidRequest."""
    if request.WhichOneof("request") != "acknowledgement":
        raise InvalidRequest.of("acknowledgement", "is required in every request but the first")
    return request.acknowledgement.revision


def key_set(snapshot: Snapshot, key_sets: KeySets, issuer: str, now: int) -> sync_pb2.KeySet:
    """What verifies tokens now."""
    return sync_pb2.KeySet(
        issuer=issuer,
        jwks=key_sets.of(snapshot, now).text,
        revoked_kids=sorted(kid for kid, key in snapshot.keys.items() if key.state is KeyState.REVOKED),
    )


def revocation(mark: RevocationMark) -> sync_pb2.Revocation:
    """One revocation."""
    epoch, number = (0, 0) if mark.kind is RevocationKind.TOKEN else mark.at
    return sync_pb2.Revocation(
        kind=_KINDS[mark.kind],
        digest=mark.digest,
        before_epoch=epoch,
        before_number=number,
        expire_seconds=mark.expire_time,
    )


def marks(revocations: Revocations) -> Iterator[RevocationMark]:
    """All of them, the fewest and widest first."""
    since = (
        (RevocationKind.ISSUER, revocations.issuers),
        (RevocationKind.CLIENT, revocations.clients),
        (RevocationKind.SUBJECT, revocations.subjects),
    )
    for kind, found in since:
        for digest, (at, minute) in found.items():
            yield RevocationMark(kind, digest, at, minute * _MINUTE)
    for digest, minute in revocations.tokens.items():
        yield RevocationMark(RevocationKind.TOKEN, digest, (0, 0), minute * _MINUTE)


def count(revocations: Revocations) -> int:
    """How many there are."""
    parts: Iterable[int] = map(
        len, (revocations.tokens, revocations.subjects, revocations.clients, revocations.issuers)
    )
    return sum(parts)
