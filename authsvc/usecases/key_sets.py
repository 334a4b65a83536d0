"""The key set that is published, by gRPC and by HTTP alike.

Owns: the JWKS text of a snapshot, its ETag and how long it may be cached. May import: `core`, `state`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authsvc.core import keys as key_rules

if TYPE_CHECKING:
    from authsvc.core.keys import KeySchedule
    from authsvc.state.snapshot import Snapshot

_FOREVER = 2**62


@dataclass(frozen=True, slots=True)
class KeySet:
    """The JWKS (RFC 7517) as text, its entity tag, and for how many seconds it may be cached."""

    text: str
    etag: str
    max_age: int


class KeySets:
    """Key sets of snapshots; the text is made once a set of keys."""

    def __init__(self, schedule: KeySchedule, jitter: Callable[[], float]) -> None:
        self._schedule = schedule
        self._jitter = jitter
        self._last: tuple[object, int, str, str] = (None, 0, "", "")
        """The keys it was made from, when the next key leaves, text, entity tag."""

    @property
    def max_token_age(self) -> int:
        """Seconds after its issue from which no token is taken, whatever it says."""
        return self._schedule.max_token_ttl + self._schedule.leeway

    def of(self, snapshot: Snapshot, now: int) -> KeySet:
        """What is published now; `max_age` is jittered, so that verifiers do not come back all at once."""
        keys, until, text, etag = self._last
        if keys is not snapshot.keys or now >= until:
            records = tuple(snapshot.keys.values())
            text = json.dumps(key_rules.jwks(records, now), separators=(",", ":"), sort_keys=True)
            etag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
            leaving = [key.expire_time for key in records if key.expire_time and key.expire_time > now]
            self._last = (snapshot.keys, min(leaving, default=_FOREVER), text, etag)
        return KeySet(text, etag, key_rules.jwks_max_age(self._schedule, self._jitter()))
