"""Watchers of this replica, and the row that tells the others of them.

Owns: how SyncService and the report of this replica are put together. May import: everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from authsvc.api.handlers_sync import SyncHandlers
from authsvc.api.method_table import Service
from authsvc.api.sync_encoding import SyncEncoding
from authsvc.bootstrap.foundation import Foundation
from authsvc.telemetry import Gauge
from authsvc.usecases.key_sets import KeySets
from authsvc.usecases.propagation import Reporter
from authsvc.usecases.sync import Watchers
from authsvc.v1 import sync_pb2


class Syncing:
    """SyncService of a replica. It is started on the loop before anybody can call, and stopped after the drain."""

    def __init__(
        self,
        found: Foundation,
        replica_id: str,
        key_sets: KeySets,
        tell: Callable[[str, Mapping[str, object]], None],
    ) -> None:
        config = found.config
        self._watchers = Watchers(found.tail)
        self._reporter = Reporter(
            found.record,
            found.tail,
            self._watchers,
            replica_id,
            configured=config.processes,
            may_answer=config.record.max_age,
            tell=tell,
        )
        encoding = SyncEncoding(
            found.tail.history,
            key_sets,
            found.issuer,
            found.clock.now,
            max_bytes=config.sync.max_bytes,
            max_stale=config.sync.max_stale,
        )
        descriptor = sync_pb2.DESCRIPTOR.services_by_name["SyncService"]
        self.service = Service(descriptor, SyncHandlers(self._watchers, encoding, found.tail))
        """The row of the method table."""

    def live_replicas(self) -> int:
        """How many replicas there are now; see `Reporter.live_replicas`."""
        return self._reporter.live_replicas

    async def start(self) -> None:
        """Follow the state, and report."""
        await self._reporter.start()

    async def stop(self) -> None:
        """Follow and report no more."""
        await self._reporter.stop()

    def gauges(self) -> tuple[Gauge, ...]:
        """What operators see."""
        return (
            Gauge("authsvc_watchers", "Watchers that are connected.", lambda: len(self._watchers)),
            Gauge("authsvc_replicas", "Replicas seen in the last minute, or configured.", self.live_replicas),
        )
