"""What watchers are sent, as bytes that are made once for all who need the same.

Owns: `SyncEncoding`. May import: `core`, `state`, `usecases`, `v1`, `api`. Serialised messages that are joined are one
message, so what is the same for everybody is encoded once and the age of the moment is added to each.

A state of many revocations is made in a thread, once, in parts; whoever needs a whole state later gets those parts and
one more with what was revoked since, while the history reaches back so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from authsvc.api import convert, convert_sync
from authsvc.state.history import Position
from authsvc.v1 import sync_pb2

if TYPE_CHECKING:
    from authsvc.ports.record import RevocationMark
    from authsvc.state.history import History
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.key_sets import KeySets
    from authsvc.usecases.sync import Interest

MARK_BYTES = 48
"""What a revocation takes at most on the wire."""
PART_MARKS = 1024 * 1024 // MARK_BYTES
"""Revocations in a part: at most 1 MiB."""
FEW_MARKS = 1_000
"""A state of no more needs no parts."""

MOST_MADE = 64
"""Answers that are kept for one state: watchers may begin at as many states as are remembered, few do."""

_MICROSECONDS = 1_000_000


class Parts(NamedTuple):
    """The parts that a whole state begins with: what was revoked at `position`; none where there is no position."""

    generation: int = 0
    number: int = 0
    position: Position | None = None


class SyncEncoding:
    """Bytes of WatchResponses. Runs on the loop; only large states are made in a thread."""

    def __init__(
        self,
        history: History,
        key_sets: KeySets,
        issuer: str,
        now: Callable[[], int],
        *,
        max_bytes: int,
        max_stale: float,
    ) -> None:
        self._history = history
        self._key_sets = key_sets
        self._issuer = issuer
        self._now = now
        self._most_marks = max_bytes // MARK_BYTES
        self._max_stale = max_stale
        self._target: Position | None = None
        self._made: dict[tuple[object, ...], bytes | None] = {}
        self._parts = Parts()
        self._encoded: tuple[bytes, ...] = ()
        self._making = asyncio.Lock()

    def is_remote(self, interest: Interest, target: Snapshot) -> bool:
        """Whether the revocations are too many to be sent: whoever asked for them must ask about each token."""
        return interest.revocations and convert_sync.count(target.revocations) > self._most_marks

    def age(self, seconds: float) -> bytes:
        """What each response is to end with: the age of its state, how stale it may become, how old a token."""
        end = sync_pb2.WatchResponse()
        convert.put_microseconds(end.max_token_age, self._key_sets.max_token_age * _MICROSECONDS)
        convert.put_microseconds(end.max_stale, round(self._max_stale * _MICROSECONDS))
        convert.put_microseconds(end.age, round(seconds * _MICROSECONDS))
        return end.SerializeToString()

    def heartbeat(self, target: Snapshot) -> bytes:
        """Nothing changed."""
        return self._once(target, ("heartbeat",), lambda: _body(target, heartbeat=sync_pb2.WatchHeartbeat())) or b""

    def delta(self, interest: Interest, known: Position, target: Snapshot) -> bytes | None:
        """What changed since `known`; None where that is not remembered, so that a whole state is needed."""
        return self._once(target, ("delta", interest, known), lambda: self._delta(interest, known, target))

    def changes_keys(self, known: Position, target: Snapshot) -> bool:
        """Whether a key changed since `known`, as far as is remembered."""
        moves = self._history.between(known, Position.of(target))
        return moves is not None and moves.keys

    async def parts(self, target: Snapshot) -> Parts:
        """The parts that a whole state with revocations begins with, which may be of an earlier state."""
        if convert_sync.count(target.revocations) > self._most_marks:
            return Parts()
        async with self._making:
            held = self._parts.position
            if held is not None and self._history.between(held, Position.of(target)) is not None:
                return self._parts
            if convert_sync.count(target.revocations) <= FEW_MARKS:
                return Parts()
            encoded = await asyncio.to_thread(_encoded, target)
            self._encoded = encoded
            self._parts = Parts(self._parts.generation + 1, len(encoded), Position.of(target))
            return self._parts

    def part(self, parts: Parts, index: int) -> bytes | None:
        """One of them; None where others took their place, since nobody may hold on to what is out of use."""
        return self._encoded[index] if parts.generation == self._parts.generation else None

    def closing(self, interest: Interest, parts: Parts, target: Snapshot) -> bytes | None:
        """What makes a state whole after its parts; None where too much happened meanwhile: begin again."""
        return self._once(target, ("state", interest, parts), lambda: self._closing(interest, parts, target))

    def _delta(self, interest: Interest, known: Position, target: Snapshot) -> bytes | None:
        moves = self._history.between(known, Position.of(target))
        if moves is None:
            return None
        delta = sync_pb2.WatchDelta(keys=self._keys(target) if interest.keys and moves.keys else None)
        if interest.revocations and not self.is_remote(interest, target):
            delta.revocations.extend(map(convert_sync.revocation, moves.marks))
        return _body(target, delta=delta)

    def _closing(self, interest: Interest, parts: Parts, target: Snapshot) -> bytes | None:
        remote = self.is_remote(interest, target)
        state = sync_pb2.WatchState(keys=self._keys(target) if interest.keys else None, remote=remote)
        if interest.revocations and not remote:
            rest: Iterator[RevocationMark] = convert_sync.marks(target.revocations)
            if parts.position is not None:
                moves = self._history.between(parts.position, Position.of(target))
                if moves is None:
                    return None
                rest = iter(moves.marks)
            elif convert_sync.count(target.revocations) > FEW_MARKS:
                return None
            state.revocations.extend(map(convert_sync.revocation, rest))
        return _body(target, state=state)

    def _keys(self, target: Snapshot) -> sync_pb2.KeySet:
        return convert_sync.key_set(target, self._key_sets, self._issuer, self._now())

    def _once(self, target: Snapshot, what: tuple[object, ...], make: Callable[[], bytes | None]) -> bytes | None:
        """What was made already for this target, else made now."""
        if self._target != Position.of(target):
            self._target, self._made = Position.of(target), {}
        if what in self._made:
            return self._made[what]
        made = make()
        if len(self._made) < MOST_MADE:
            self._made[what] = made
        return made


def _encoded(target: Snapshot) -> tuple[bytes, ...]:
    marks = map(convert_sync.revocation, convert_sync.marks(target.revocations))
    parts = []
    while part := tuple(islice(marks, PART_MARKS)):
        parts.append(_body(target, state=sync_pb2.WatchState(revocations=part, partial=True)))
    return tuple(parts)


def _body(target: Snapshot, **response: object) -> bytes:
    body: bytes = sync_pb2.WatchResponse(
        revision=target.revision_text,
        digest=target.digest,
        **response,  # type: ignore[arg-type]  # one of the oneof's messages
    ).SerializeToString()
    return body
