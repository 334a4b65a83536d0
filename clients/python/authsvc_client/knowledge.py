"""What a watcher of the service knows, and how fresh it is.

Owns: the state that `SyncService.Watch` tells, verification by it, and when it may not be used any more. May import:
`core`, `authsvc.v1`, `keyset`. No I/O and no clock: what is read comes with the time at which it was read, so that
every rule can be tried out. One thread takes answers; any thread may decide by what is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf.duration_pb2 import Duration

from authsvc.core import claims
from authsvc.core.claims import VerifiedToken
from authsvc.core.errors import Internal, InvalidRequest, Reason, TokenRefused
from authsvc.core.revocations import RevocationKind, refuses
from authsvc.v1 import sync_pb2
from authsvc_client.answers import BearerToken
from authsvc_client.keyset import LEEWAY, KeySet, bearer_token

MAX_STALE: Final = 30.0
"""Seconds for which a state counts that does not say so itself."""

PROMISED: Final = 12.0
"""Seconds within which an answer comes (10 s by the contract), with what the way may take."""

WAITED: Final = 0.25
"""Seconds of a wait that no answer causes that is here already, however busy the other threads are."""

_SHOWN: Final = 200
_SWEEP: Final = 300
"""Seconds between two looks for what has expired."""

Order = tuple[int, int]

_KINDS = {
    sync_pb2.REVOCATION_KIND_TOKEN: RevocationKind.TOKEN,
    sync_pb2.REVOCATION_KIND_SUBJECT: RevocationKind.SUBJECT,
    sync_pb2.REVOCATION_KIND_CLIENT: RevocationKind.CLIENT,
    sync_pb2.REVOCATION_KIND_ISSUER: RevocationKind.ISSUER,
}


class Revoked:
    """Everything revoked that has not expired: digest -> (tokens minted below this, unix seconds of its end)."""

    def __init__(self) -> None:
        self._entries: dict[RevocationKind, dict[bytes, tuple[Order, int]]] = {kind: {} for kind in RevocationKind}

    def __len__(self) -> int:
        """How many there are."""
        return sum(map(len, self._entries.values()))

    def put(self, revocations: Iterable[sync_pb2.Revocation]) -> bool:
        """Add them; whether every kind is known here."""
        understood = True
        for each in revocations:
            kind = _KINDS.get(each.kind)
            if kind is None:
                understood = False
            else:
                order = (each.before_epoch, each.before_number)
                self._entries[kind][each.digest] = (order, each.expire_seconds)
        return understood

    def refuses(self, token: VerifiedToken) -> bool:
        """See `core.revocations.refuses`."""
        by_kind = self._entries
        return refuses(
            token,
            by_kind[RevocationKind.TOKEN],
            by_kind[RevocationKind.SUBJECT],
            by_kind[RevocationKind.CLIENT],
            by_kind[RevocationKind.ISSUER],
        )

    def sweep(self, now: int) -> None:
        """Forget what concerns expired tokens only; a minute later, since clocks differ."""
        for entries in self._entries.values():
            for digest, (_, end) in list(entries.items()):
                if end + claims.MAX_LEEWAY <= now:
                    entries.pop(digest, None)


@dataclass(frozen=True, slots=True)
class Known:
    """A whole state. `revoked` grows while it is in use. `max_token_age` in seconds, 0 where the service names none."""

    keys: KeySet
    revoked: Revoked
    max_token_age: float = 0.0

    def verify(self, token: str, audience: frozenset[str], required_scope: Sequence[str], now: int) -> BearerToken:
        """All rules of verification, revocation included; raises TokenRefused."""
        verified = self.keys.verify(token)
        claims.check_now(verified, now=now, leeway=LEEWAY, audience=audience, required_scope=frozenset(required_scope))
        if self.max_token_age and now >= verified.issue_time + self.max_token_age:
            # Minted under a longer `tokens.max_ttl`: what was revoked of it is not remembered any more.
            raise TokenRefused("the token is older than any token may be", Reason.TOKEN_EXPIRED)
        if self.revoked.refuses(verified):
            raise TokenRefused("the token is revoked", Reason.TOKEN_REVOKED)
        return bearer_token(verified)


@dataclass(frozen=True, slots=True)
class _Held:
    """What is held at one moment, as one value, so that no thread sees parts of two states."""

    revision: str = ""
    digest: bytes = b""
    known: Known | None = None
    fresh_until: float = float("-inf")


class Watched:
    """What the answers of one stream after another add up to. Times are seconds of one clock that never goes back."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._held = _Held()
        self._building: Revoked | None = None
        self._understood = True
        self._proven = float("-inf")
        self._acknowledged = ""
        self._swept = 0
        self.heard = 0.0
        """When the last answer was read."""

    @property
    def revision(self) -> str:
        """The state that is held; empty where there is none."""
        return self._held.revision

    @property
    def last(self) -> Known | None:
        """The last state, however old; None where the service has to be asked about every token."""
        return self._held.known

    def unproven(self, now: float) -> float:
        """For how many seconds nothing has shown how old the answers are; 0 where no whole state is held anyway.

        A stream without a pause shows nothing, since this reader may lag behind it; the first answer of another does.
        """
        return now - self._proven if self._held.known is not None and self._building is None else 0.0

    def usable(self, now: float) -> Known | None:
        """The state, where it may be decided by; None: ask the service, or refuse (STANDARDS U12)."""
        held = self._held
        return held.known if now < held.fresh_until else None

    def begin(self, now: float) -> sync_pb2.WatchOpen:
        """What to ask for on a new stream: what changed since, where something is held whole and understood."""
        held = self._held if self._held.known is not None else _Held()
        self._building = None
        self._acknowledged = ""
        # Whatever comes answers this, so it will be no older.
        self._proven = self.heard = now
        return sync_pb2.WatchOpen(keys=True, revocations=True, known_revision=held.revision, known_digest=held.digest)

    def again(self) -> Watched:
        """Another one that begins with what is held here, for another thread.

        Revocations are only ever added, so that it does no harm where the first thread still adds one.
        """
        other = Watched(self._issuer)
        other._held = self._held
        return other

    def forget(self) -> None:
        """Begin with a whole state the next time; nothing is known until then."""
        self._held = _Held()

    def take(self, response: sync_pb2.WatchResponse, begun: float, read: float, now: int) -> str:
        """Hold what an answer says; the revision to acknowledge, empty where there is none.

        `begun`, `read`: when it began to be waited for, and was read; `now` in unix seconds. Raises Internal where the
        answer cannot be: then everything is forgotten.
        """
        self.heard = read
        self._prove(begun, read)
        kind, held = response.WhichOneof("response"), self._held
        fresh_until = self._proven - _seconds(response.age, 0.0) + _seconds(response.max_stale, MAX_STALE)
        if kind == "state":
            revoked = self._put_together(response.state)
            if revoked is None:
                return ""
            known = self._whole(response.state, revoked)
        elif kind is None:
            # An answer of a later release: what it says is not known, so nothing is.
            known = None
        elif self._building is None:
            known = self._changed(response, kind)
            fresh_until = max(held.fresh_until, fresh_until)
        else:
            return ""
        if known is not None:
            known = replace(known, max_token_age=_seconds(response.max_token_age, 0.0))
        self._held = _Held(response.revision, response.digest, known, fresh_until)
        self._sweep(now)
        if response.revision == self._acknowledged:
            return ""
        self._acknowledged = response.revision
        return response.revision

    def _prove(self, begun: float, read: float) -> None:
        """Move the moment before which what is read now was not sent.

        An answer that was here already may have lain in the socket for as long as this reader lagged behind, or was
        frozen. One that had to be waited for came after `begun`; and just now, unless the wait was longer than the
        service lets anybody wait: then this process may have been frozen in it.
        """
        waited = read - begun
        if waited >= WAITED:
            self._proven = max(self._proven, read if waited <= PROMISED else begun)

    def _put_together(self, state: sync_pb2.WatchState) -> Revoked | None:
        """Add a part; what all of them revoke where it was the last."""
        if self._building is None:
            self._building, self._understood = Revoked(), True
        self._understood &= self._building.put(state.revocations)
        if state.partial:
            return None
        revoked, self._building = self._building, None
        return revoked

    def _whole(self, state: sync_pb2.WatchState, revoked: Revoked) -> Known | None:
        keys = self._key_set(state.keys)
        return Known(keys, revoked) if self._understood and not state.remote else None

    def _changed(self, response: sync_pb2.WatchResponse, kind: str) -> Known | None:
        """What is known after a change or a heartbeat. Revocations are added where they are, for every thread."""
        held, known = self._held.revision, self._held.known
        if not held or response.revision.rpartition(".")[0] != held.rpartition(".")[0]:
            self.forget()
            raise Internal("Watch: a change of a state that is not held")
        if kind != "delta" or known is None:
            return known
        if not known.revoked.put(response.delta.revocations):
            return None
        return replace(known, keys=self._key_set(response.delta.keys)) if response.delta.HasField("keys") else known

    def _key_set(self, keys: sync_pb2.KeySet) -> KeySet:
        try:
            if keys.issuer != self._issuer:
                raise InvalidRequest.of(
                    "issuer", f"is {keys.issuer[:_SHOWN]!r}, but AUTHSVC_ISSUER is {self._issuer!r}"
                )
            return KeySet(keys.issuer, keys.jwks, frozenset(keys.revoked_kids))
        except InvalidRequest as fault:
            self.forget()
            raise Internal(f"Watch: {fault.message}") from fault

    def _sweep(self, now: int) -> None:
        known = self._held.known
        if known is not None and now - self._swept >= _SWEEP:
            self._swept = now
            known.revoked.sweep(now)


def _seconds(duration: Duration, unset: float) -> float:
    return duration.seconds + duration.nanos / 1e9 if duration.ByteSize() else unset
