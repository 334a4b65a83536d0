"""The life cycle of signing keys.

Owns: the states of a key and their legal changes, the schedule, the published key set, and what of a key's row is
authenticated (STANDARDS K1 to K3, K9, K12). May import: the standard library, `core`. Every function is pure: it
takes all keys and returns a `KeyTransition`; that a transition is one compare-and-set is the record's promise (K4).

PENDING (published, does not sign) -> ACTIVE (signs) -> RETIRING (verifies only, private part gone) -> RETIRED (not
published); REVOKED from any. From `ensure` on there are always one ACTIVE and one PENDING key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from authsvc.core.claims import MAX_LEEWAY
from authsvc.core.errors import Conflict, Internal, NotFound, Reason
from authsvc.core.framing import length_prefixed
from authsvc.core.jose import SIGNING, Algorithm

MAX_PUBLISHED = 16
"""Keys in the JWKS at most: a rotation that would exceed it is refused until a retiring key has left."""

MAX_PAST = 256
"""Retired and revoked keys that are remembered; the oldest are forgotten first (their tokens stay refused)."""

SIGNER_LAG = 60
"""Seconds that a replica may go on signing with a key after its rotation: it has not seen it yet."""

SERVICE_ACTOR = "service:authsvc"


class KeyState(StrEnum):
    """Where a key is in its life."""

    PENDING = "pending"
    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"
    REVOKED = "revoked"


LEGAL_CHANGES: Mapping[KeyState, frozenset[KeyState]] = MappingProxyType(
    {
        KeyState.PENDING: frozenset({KeyState.ACTIVE, KeyState.REVOKED}),
        KeyState.ACTIVE: frozenset({KeyState.RETIRING, KeyState.REVOKED}),
        KeyState.RETIRING: frozenset({KeyState.RETIRED, KeyState.REVOKED}),
        KeyState.RETIRED: frozenset({KeyState.REVOKED}),
        KeyState.REVOKED: frozenset(),
    }
)
"""Every change of state that exists (STANDARDS K1)."""

PUBLISHED = frozenset({KeyState.PENDING, KeyState.ACTIVE, KeyState.RETIRING})
"""The states in which a key stands in the JWKS and verifies."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A signing key as the record keeps it. Times are unix seconds; `actor` made the last change.

    `expire_time` is when it leaves, or left, the JWKS. `envelope` holds the private part while the key is PENDING or
    ACTIVE and never afterwards. `mac` authenticates the rest (`with_mac`).
    """

    kid: str
    algorithm: Algorithm
    state: KeyState
    public_jwk: Mapping[str, str]
    create_time: int
    activate_after: int
    activate_time: int | None = None
    retire_time: int | None = None
    expire_time: int | None = None
    revoke_time: int | None = None
    revoke_reason: str = ""
    actor: str = ""
    envelope: bytes | None = None
    mac: bytes = b""


@dataclass(frozen=True, slots=True)
class KeySchedule:
    """The times of a key's life, in seconds; what follows from them is computed, never asked."""

    key_ttl: int
    publish_lead: int
    max_token_ttl: int
    leeway: int
    jwks_max_age: int

    @property
    def retiring_period(self) -> int:
        """How long a key verifies after it stopped signing: no token of it lives longer (STANDARDS K3)."""
        return SIGNER_LAG + self.max_token_ttl + self.leeway

    def faults(self) -> list[str]:
        """What must not be, each a line that names the setting; empty where the schedule holds (STANDARDS K3)."""
        rules = (
            (self.key_ttl > 0, "keys.ttl: must be above 0"),
            (self.publish_lead > 0, "keys.publish_lead: must be above 0"),
            (self.max_token_ttl > 0, "tokens.max_ttl: must be above 0"),
            (0 <= self.leeway <= MAX_LEEWAY, f"tokens.leeway: must be 0s to {MAX_LEEWAY}s"),
            (
                0 < self.jwks_max_age <= self.publish_lead,
                f"keys.publish_lead: is below {self.jwks_max_age}s, for which verifiers may cache the JWKS",
            ),
            (
                self.publish_lead <= self.key_ttl,
                "keys.ttl: is below keys.publish_lead: the standby could not be activated when the key is due",
            ),
            (
                self.retiring_period <= self.key_ttl,
                f"keys.ttl: is below {self.retiring_period}s, which is tokens.max_ttl, tokens.leeway and {SIGNER_LAG}s",
            ),
        )
        return [text for holds, text in rules if not holds]


@dataclass(frozen=True, slots=True)
class KeyTransition:
    """What a function changes: records to put (their MACs are stale), kids to forget, and all keys afterwards."""

    changed: tuple[KeyRecord, ...]
    forgotten: tuple[str, ...]
    after: tuple[KeyRecord, ...]


def new_key(
    *,
    kid: str,
    algorithm: Algorithm,
    public_jwk: Mapping[str, str],
    envelope: bytes,
    now: int,
    activate_after: int,
    actor: str,
) -> KeyRecord:
    """A PENDING key; raises ValueError for an algorithm that our keys do not sign with."""
    if algorithm not in SIGNING:
        raise ValueError("our keys do not sign with this algorithm")
    return KeyRecord(
        kid=kid,
        algorithm=algorithm,
        state=KeyState.PENDING,
        public_jwk=MappingProxyType(dict(public_jwk)),
        create_time=now,
        activate_after=activate_after,
        actor=actor,
        envelope=envelope,
    )


def ensure(keys: Iterable[KeyRecord], first: KeyRecord, standby: KeyRecord, *, now: int, actor: str) -> KeyTransition:
    """Make sure of one ACTIVE and one PENDING key; changes nothing where both are there.

    `first` is activated only where no key can be promoted, `standby` added only where none is left.
    """
    return _complete({key.kid: key for key in keys}, {}, first, standby, now=now, actor=actor)


def rotate(
    keys: Iterable[KeyRecord],
    standby: KeyRecord,
    *,
    now: int,
    schedule: KeySchedule,
    force: bool,
    actor: str,
) -> KeyTransition:
    """Activate the oldest PENDING key, retire the ACTIVE one and publish `standby` (STANDARDS K1, K2).

    Raises Conflict: KEY_LEAD_NOT_PASSED before its lead time has passed unless `force`; KEY_STATE_CONFLICT where no
    key is pending or MAX_PUBLISHED keys are published.
    """
    before = {key.kid: key for key in keys}
    following = _oldest(before.values(), KeyState.PENDING)
    if following is None:
        raise Conflict("no key is pending", Reason.KEY_STATE_CONFLICT)
    if now < following.activate_after and not force:
        raise Conflict(
            f"the standby may be activated at {_utc(following.activate_after)}, or now with force",
            Reason.KEY_LEAD_NOT_PASSED,
            metadata={"kid": following.kid, "activate_after": str(following.activate_after)},
        )
    if sum(key.state in PUBLISHED for key in before.values()) >= MAX_PUBLISHED:
        raise Conflict(
            f"{MAX_PUBLISHED} keys are published; wait until a retiring one has left",
            Reason.KEY_STATE_CONFLICT,
            metadata={"published": str(MAX_PUBLISHED)},
        )
    changed = {following.kid: _activated(following, now, actor)}
    for key in before.values():
        if key.state is KeyState.ACTIVE:
            leaves = now + schedule.retiring_period
            changed[key.kid] = _changed(
                key, KeyState.RETIRING, actor, retire_time=now, expire_time=leaves, envelope=None
            )
    changed[standby.kid] = _unused(before, standby)
    return _transition(before, changed)


def revoke(
    keys: Iterable[KeyRecord],
    kids: AbstractSet[str],
    replacements: tuple[KeyRecord, KeyRecord],
    *,
    now: int,
    reason: str,
    actor: str,
) -> KeyTransition:
    """Withdraw the keys `kids` at once (STANDARDS K9); those revoked already stay as they are.

    Where the ACTIVE key goes, the oldest PENDING one that is left is promoted without regard to its lead, else the
    first of `replacements`; the second one becomes the standby where none is left. Raises NotFound KEY_NOT_FOUND.
    """
    before = {key.kid: key for key in keys}
    unknown = sorted(kids - before.keys())
    if unknown:
        raise NotFound("no key has this `kid`", Reason.KEY_NOT_FOUND, metadata={"kid": unknown[0]})
    revoked = {
        kid: _changed(
            before[kid],
            KeyState.REVOKED,
            actor,
            revoke_time=now,
            revoke_reason=reason,
            expire_time=now if before[kid].state in PUBLISHED else before[kid].expire_time,
            envelope=None,
        )
        for kid in sorted(kids)
        if before[kid].state is not KeyState.REVOKED
    }
    return _complete(before, revoked, *replacements, now=now, actor=actor)


def retire_due(keys: Iterable[KeyRecord], now: int, actor: str = SERVICE_ACTOR) -> KeyTransition:
    """Unpublish the RETIRING keys whose time has come."""
    before = {key.kid: key for key in keys}
    changed = {
        key.kid: _changed(key, KeyState.RETIRED, actor)
        for key in before.values()
        if key.state is KeyState.RETIRING and key.expire_time is not None and key.expire_time <= now
    }
    return _transition(before, changed)


def due_for_rotation(keys: Iterable[KeyRecord], now: int, schedule: KeySchedule) -> bool:
    """Whether the ACTIVE key has signed for its time and the standby's lead has passed."""
    all_keys = tuple(keys)
    active = _oldest(all_keys, KeyState.ACTIVE)
    following = _oldest(all_keys, KeyState.PENDING)
    if active is None or active.activate_time is None or following is None:
        return False
    return now >= active.activate_time + schedule.key_ttl and now >= following.activate_after


def jwks(keys: Iterable[KeyRecord], now: int) -> dict[str, list[dict[str, str]]]:
    """The JWKS (RFC 7517 section 5): every published key, newest first.

    Raises Internal rather than answer an empty set: verifiers would drop every key they know (STANDARDS K4).
    """
    published = sorted(
        (key for key in keys if key.state in PUBLISHED and (key.expire_time is None or now < key.expire_time)),
        key=lambda key: (-key.create_time, key.kid),
    )
    if not published:
        raise Internal("no key is published")
    return {"keys": [dict(key.public_jwk) for key in published]}


def jwks_max_age(schedule: KeySchedule, jitter: float) -> int:
    """Seconds for which a JWKS may be cached: up to a fifth less by `jitter` in [0, 1], so that caches spread."""
    return max(1, int(schedule.jwks_max_age * (1 - 0.2 * jitter)))


def mac_input(key: KeyRecord) -> bytes:
    """The bytes that a key's MAC covers: public half, state, all dates, reason and actor (STANDARDS K12).

    The envelope is not in it: it authenticates itself, and rewrapping must not touch what is authenticated here.
    """
    dates: tuple[int | None, ...] = (
        key.create_time,
        key.activate_after,
        key.activate_time,
        key.retire_time,
        key.expire_time,
        key.revoke_time,
    )
    public = json.dumps(dict(key.public_jwk), sort_keys=True, separators=(",", ":"))
    fields = (key.kid, key.algorithm.value, key.state.value, public, key.revoke_reason, key.actor)
    return length_prefixed(
        b"authsvc key row 1",
        *(field.encode("utf-8", "surrogatepass") for field in fields),
        *(b"" if date is None else b"%d" % date for date in dates),
    )


def with_mac(mac_key: bytes, key: KeyRecord) -> KeyRecord:
    """The record with its MAC, HMAC-SHA-256 under a wrapped secret made for nothing else."""
    return replace(key, mac=hmac.digest(mac_key, mac_input(key), hashlib.sha256))


def is_authentic(mac_key: bytes, key: KeyRecord) -> bool:
    """Whether the MAC is right; a row that fails is not published, and is loud (STANDARDS K12)."""
    return hmac.compare_digest(hmac.digest(mac_key, mac_input(key), hashlib.sha256), key.mac)


def _complete(
    before: Mapping[str, KeyRecord],
    changed: dict[str, KeyRecord],
    first: KeyRecord,
    standby: KeyRecord,
    *,
    now: int,
    actor: str,
) -> KeyTransition:
    current = {**before, **changed}
    if _oldest(current.values(), KeyState.ACTIVE) is None:
        following = _oldest(current.values(), KeyState.PENDING) or _unused(before, first)
        current[following.kid] = changed[following.kid] = _activated(following, now, actor)
    if _oldest(current.values(), KeyState.PENDING) is None:
        changed[standby.kid] = _unused(before, standby)
    return _transition(before, changed)


def _transition(before: Mapping[str, KeyRecord], changed: Mapping[str, KeyRecord]) -> KeyTransition:
    after = {**before, **changed}
    past = sorted(
        (key for key in after.values() if key.state not in PUBLISHED),
        key=lambda key: (key.create_time, key.kid),
    )
    forgotten = tuple(key.kid for key in past[: max(0, len(past) - MAX_PAST)])
    for kid in forgotten:
        del after[kid]
    kept = tuple(key for kid, key in changed.items() if kid in after)
    return KeyTransition(kept, forgotten, tuple(after.values()))


def _activated(key: KeyRecord, now: int, actor: str) -> KeyRecord:
    return _changed(key, KeyState.ACTIVE, actor, activate_time=now)


def _changed(key: KeyRecord, state: KeyState, actor: str, **values: Any) -> KeyRecord:
    if state not in LEGAL_CHANGES[key.state]:
        raise Conflict(
            f"a {key.state.value} key cannot become {state.value}",
            Reason.KEY_STATE_CONFLICT,
            metadata={"kid": key.kid, "state": key.state.value},
        )
    return replace(key, state=state, actor=actor, **values)


def _utc(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unused(before: Mapping[str, KeyRecord], key: KeyRecord) -> KeyRecord:
    if key.state is not KeyState.PENDING or key.kid in before:
        raise Conflict("the new key is not new", Reason.KEY_STATE_CONFLICT, metadata={"kid": key.kid})
    return key


def _oldest(keys: Iterable[KeyRecord], state: KeyState) -> KeyRecord | None:
    found = (key for key in keys if key.state is state)
    return min(found, key=lambda key: (key.create_time, key.kid), default=None)
