"""The fake's stream of revocations and keys.

Owns: what a watcher of the fake hears, and what it acknowledged. May import: grpc, `authsvc.v1`, `state`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from authsvc.v1 import sync_pb2
from authsvc_client.testing.state import State


@dataclass
class Watchers:
    """Everybody who follows. Each hears of a change at once, and every `heartbeat` seconds that nothing changed.

    `max_stale` is for how many seconds it may decide by what it heard. While `mute` it hears nothing.
    """

    state: State
    heartbeat: float = 10.0
    max_stale: float = 30.0
    mute: bool = False
    acknowledged: set[str] = field(default_factory=set)
    """Revisions that some watcher said it holds."""
    _told: threading.Condition = field(default_factory=threading.Condition)

    def watch(self, requests: Iterator[sync_pb2.WatchRequest], context: Any) -> Iterator[sync_pb2.WatchResponse]:
        """One of them, until it goes."""
        opening = next(requests, sync_pb2.WatchRequest()).open
        if not context.add_callback(self.state.wake):
            return
        threading.Thread(target=self._read, args=(requests,), name="fake-acknowledgements", daemon=True).start()
        number = self.state.number_of(opening.known_revision)
        number, response = self.state.whole() if number is None else self.state.changes(number)
        while context.is_active():
            if not self.mute:
                response.max_stale.FromMilliseconds(round(self.max_stale * 1000))
                yield response
            self.state.wait_above(number, self.heartbeat, lambda: not context.is_active())
            if not self.mute:
                number, response = self.state.changes(number)

    def wait_acknowledged(self, revision: str, seconds: float) -> bool:
        """Whether some watcher says within so many seconds that it holds a revision."""
        with self._told:
            return self._told.wait_for(lambda: revision in self.acknowledged, seconds)

    def _read(self, requests: Iterator[sync_pb2.WatchRequest]) -> None:
        try:
            for request in requests:
                with self._told:
                    self.acknowledged.add(request.acknowledgement.revision)
                    self._told.notify_all()
        except Exception:  # noqa: BLE001 - grpc raises a bare Exception here when the watcher has gone
            return
