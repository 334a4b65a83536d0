"""Signing keys: make, rotate, revoke, and let them retire when their time comes.

Owns: the order of effects around the key life cycle of `core.keys`. May import: `core`, `state`, `ports`,
`usecases`. Key material is made before the record's transaction opens and thrown away where another writer
was first, so that a rotation of three replicas at once gives one new key (STANDARDS K4).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

from authsvc.core import key_manifest
from authsvc.core import keys as key_rules
from authsvc.core.envelopes import PRIVATE_KEY, seal
from authsvc.core.errors import Conflict, InvalidRequest, NotFound, Reason
from authsvc.core.jose import Algorithm, PrivateKey
from authsvc.core.keys import SERVICE_ACTOR, KeyRecord, KeySchedule, KeyState
from authsvc.core.revocations import RevocationKind
from authsvc.ports.record import KeyChange, KeyRows, KeyWrite, Order, Revocation
from authsvc.usecases.propagation import PROMPT_SECONDS, Propagation, Spread
from authsvc.usecases.writes import Act, Writer

if TYPE_CHECKING:
    from authsvc.core.envelopes import Kek
    from authsvc.core.values import Revision
    from authsvc.state.snapshot import Snapshot

_ANSWER_SECONDS = 0.2
"""What is left of a deadline for the way back."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Rotated:
    """The outcome of a rotation."""

    active: KeyRecord
    standby: KeyRecord | None
    retiring: KeyRecord | None
    revision: Revision


@dataclass(frozen=True, slots=True)
class Revoked:
    """The outcome of a revocation; times in unix seconds. `active_kid` is empty for a key yet to be made.

    `spread` tells how many watchers hold it. Caches of the key set that nobody can reach forget the keys by
    `offline_until`.
    """

    kids: tuple[str, ...]
    active_kid: str
    not_before: int
    offline_until: int
    spread: Spread
    revision: Revision


class KeyFactory:
    """Makes sealed, authenticated key records."""

    def __init__(self, kek: Kek, mac_key: bytes, schedule: KeySchedule, nonce: Callable[[], bytes]) -> None:
        self._kek = kek
        self._mac_key = mac_key
        self.schedule = schedule
        self._nonce = nonce

    def make(self, algorithm: Algorithm, *, now: int, actor: str, lead: bool = True) -> KeyRecord:
        """A new PENDING key; without `lead` it may be activated at once (the first key, or an emergency)."""
        private = PrivateKey.generate(algorithm)
        envelope = seal(
            self._kek,
            private.to_der(),
            purpose=PRIVATE_KEY,
            name=private.kid,
            algorithm=algorithm,
            nonce=self._nonce(),
        )
        return key_rules.new_key(
            kid=private.kid,
            algorithm=algorithm,
            public_jwk=private.public_jwk(),
            envelope=envelope,
            now=now,
            activate_after=now + (self.schedule.publish_lead if lead else 0),
            actor=actor,
        )

    def authentic(self, rows: KeyRows) -> tuple[KeyRecord, ...]:
        """Those that are as we left them: a row forged in the database must not be moved on, or it would get a MAC."""
        return key_manifest.authentic(self._mac_key, rows.keys, rows.manifest, rows.version)

    def sign(self, change: key_rules.KeyTransition, order: Order) -> KeyChange:
        """Put the MAC on every record that a transition changed, and make the manifest as of `order` (STANDARDS K12).

        The event names each by its state.
        """
        if not change.changed and not change.forgotten:
            return KeyChange(())
        kids: dict[str, list[str]] = {}
        for record in change.changed:
            kids.setdefault(record.state.value, []).append(record.kid)
        signed = {record.kid: key_rules.with_mac(self._mac_key, record) for record in change.changed}
        after = (signed.get(record.kid, record) for record in change.after)
        return KeyChange(
            changed=tuple(signed.values()),
            forgotten=change.forgotten,
            manifest=key_manifest.make_manifest(self._mac_key, after, order),
            detail={state: " ".join(found) for state, found in kids.items()},
        )


class Keys:
    """The administrator's verbs on signing keys, and the service's own upkeep of them."""

    def __init__(
        self, writer: Writer, factory: KeyFactory, algorithm: Algorithm, issuer: str, propagation: Propagation
    ) -> None:
        self._writer = writer
        self._propagation = propagation
        self._factory = factory
        self._algorithm = algorithm
        self._issuer = issuer

    def ensure(self, *, now: int) -> KeyWrite:
        """Make the first active key and its standby in a record that has none; blocks. Safe to race."""
        first = self._factory.make(self._algorithm, now=now, actor=SERVICE_ACTOR, lead=False)
        standby = self._factory.make(self._algorithm, now=now, actor=SERVICE_ACTOR)

        def change(rows: KeyRows, order: Order) -> KeyChange:
            keys = self._factory.authentic(rows)
            return self._factory.sign(key_rules.ensure(keys, first, standby, now=now, actor=SERVICE_ACTOR), order)

        act = Act("authsvc.keys:ensure", SERVICE_ACTOR, now)
        return self._writer.write_now(partial(self._writer.record.change_keys, change, expected=None), act)

    async def rotate(
        self,
        snapshot: Snapshot,
        *,
        algorithm: Algorithm | None,
        force: bool,
        actor: str,
        now: int,
        deadline: float,
    ) -> Rotated:
        """Activate the standby and publish another (STANDARDS K1, K2).

        Raises Conflict KEY_LEAD_NOT_PASSED unless `force` where the standby was made less than its lead time ago, or
        where a live replica does not publish it yet, after a second at most; that one began late makes no longer lead.
        Of several at once one wins; the others answer with its result.
        """
        if not force:
            await self._require_spread(snapshot.keys_version)
        standby = await self._make(algorithm or self._algorithm, now=now, actor=actor)

        def transition(keys: tuple[KeyRecord, ...]) -> key_rules.KeyTransition:
            return key_rules.rotate(keys, standby, now=now, schedule=self._factory.schedule, force=force, actor=actor)

        act = Act("authsvc.keys:rotate", actor, now, detail={"force": str(force).lower()})
        revision, keys = await self._change(transition, act, snapshot.keys_version, deadline)
        return _rotated(revision, keys)

    async def revoke(
        self,
        snapshot: Snapshot,
        *,
        kid: str,
        reason: str,
        all_keys: bool,
        all_tokens: bool,
        dry_run: bool,
        actor: str,
        now: int,
        deadline: float,
    ) -> Revoked:
        """Withdraw a key, or all of them, at once (STANDARDS K9); `dry_run` tells what would happen.

        Raises NotFound KEY_NOT_FOUND and InvalidRequest where neither or both of kid and all_keys are set.
        """
        if bool(kid) == all_keys:
            raise InvalidRequest.of("kid", "is required, unless all_keys is set; not both")
        if kid and kid not in snapshot.keys:
            raise NotFound("no key has this `kid`", Reason.KEY_NOT_FOUND, metadata={"kid": kid})
        spare = await self._make(self._algorithm, now=now, actor=actor, lead=False)
        standby = await self._make(self._algorithm, now=now, actor=actor)

        def transition(keys: tuple[KeyRecord, ...]) -> key_rules.KeyTransition:
            kids = frozenset(k.kid for k in keys) if all_keys else frozenset({kid})
            return key_rules.revoke(keys, kids, replacements=(spare, standby), now=now, reason=reason, actor=actor)

        if dry_run:
            after = transition(tuple(snapshot.keys.values())).after
            spread = await self._propagation.spread(snapshot.revision.order)
            planned = self._revoked(snapshot.keys, after, snapshot.revision, now, spread._replace(acknowledged=0))
            # A key that would be made for it never will be.
            return planned if planned.active_kid in snapshot.keys else replace(planned, active_kid="")

        detail = {"kid": kid or "all", "all_tokens": str(all_tokens).lower()}
        act = Act("authsvc.keys:revoke", actor, now, detail=detail, private={"reason": reason})
        before = snapshot.keys
        revocations = (self._everything(now),) if all_tokens else ()
        started = time.monotonic()
        revision, keys = await self._change(transition, act, None, deadline, revocations)
        # The keys are revoked: who waits for the answer must get it.
        left = deadline - time.monotonic() - _ANSWER_SECONDS
        spread = await self._propagation.spread(revision.order, within=max(0.0, min(PROMPT_SECONDS, left)))
        reached = now + ceil(time.monotonic() - started)
        return replace(self._revoked(before, keys, revision, reached, spread), not_before=now)

    async def upkeep(self, snapshot: Snapshot, *, now: int, deadline: float) -> bool:
        """Rotate when the active key is due, retire and forget what has had its time; True if it changed."""
        schedule = self._factory.schedule
        current = tuple(snapshot.keys.values())
        if key_rules.due_for_rotation(current, now, schedule):
            await self.rotate(snapshot, algorithm=None, force=False, actor=SERVICE_ACTOR, now=now, deadline=deadline)
            return True
        if not key_rules.retire_due(current, now).changed:
            return False

        act = Act("authsvc.keys:retire", SERVICE_ACTOR, now)
        await self._change(partial(key_rules.retire_due, now=now), act, snapshot.keys_version, deadline)
        return True

    async def _require_spread(self, order: Order) -> None:
        lacking = await self._propagation.lacking(order)
        if lacking:
            raise Conflict(
                f"{len(lacking)} live replicas do not publish the newest keys yet; wait, or use force",
                Reason.KEY_LEAD_NOT_PASSED,
                metadata={"replicas": " ".join(lacking[:_NAMED])},
            )

    async def _make(self, algorithm: Algorithm, *, now: int, actor: str, lead: bool = True) -> KeyRecord:
        """In a thread: an RSA key takes a good part of a second."""
        return await asyncio.to_thread(self._factory.make, algorithm, now=now, actor=actor, lead=lead)

    async def _change(
        self,
        transition: Callable[[tuple[KeyRecord, ...]], key_rules.KeyTransition],
        act: Act,
        expected: Order | None,
        deadline: float,
        revocations: tuple[Revocation, ...] = (),
    ) -> tuple[Revision, tuple[KeyRecord, ...]]:
        """The first revision that holds it, and all keys then."""

        def change(rows: KeyRows, order: Order) -> KeyChange:
            signed = self._factory.sign(transition(self._factory.authentic(rows)), order)
            return replace(signed, revocations=revocations)

        verb = partial(self._writer.record.change_keys, change, expected=expected)
        write = await self._writer.write(verb, act, deadline)
        return write.revision, self._factory.authentic(write.rows)

    def _everything(self, now: int) -> Revocation:
        schedule = self._factory.schedule
        return Revocation(RevocationKind.ISSUER, self._issuer, now + schedule.max_token_ttl + schedule.leeway + 1)

    def _revoked(
        self,
        before: Mapping[str, KeyRecord],
        after: tuple[KeyRecord, ...],
        revision: Revision,
        now: int,
        spread: Spread,
    ) -> Revoked:
        gone = tuple(
            key.kid
            for key in after
            if key.state is KeyState.REVOKED
            and (key.kid not in before or before[key.kid].state is not KeyState.REVOKED)
        )
        active = next(key.kid for key in after if key.state is KeyState.ACTIVE)
        cached = self._factory.schedule.jwks_max_age
        # A replica that does not know of it may give the old key set out until its state is too old to answer from.
        unknown = 0 if spread.everywhere else self._propagation.may_answer
        return Revoked(gone, active, now, now + cached + ceil(unknown), spread, revision)


def _rotated(revision: Revision, keys: tuple[KeyRecord, ...]) -> Rotated:
    def newest(state: KeyState, stamp: Callable[[KeyRecord], int]) -> KeyRecord | None:
        found = [key for key in keys if key.state is state]
        return max(found, key=stamp, default=None)

    active = newest(KeyState.ACTIVE, lambda key: key.activate_time or 0)
    if active is None:
        raise NotFound("no key is active", Reason.KEY_NOT_FOUND)
    return Rotated(
        active,
        newest(KeyState.PENDING, lambda key: key.create_time),
        newest(KeyState.RETIRING, lambda key: key.retire_time or 0),
        revision,
    )
