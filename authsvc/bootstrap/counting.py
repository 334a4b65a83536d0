"""The counters that `counters.url` names.

Owns: from settings to an adapter, and its start and end. May import: everything.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from authsvc.clock import Clock
from authsvc.config import MEMORY, Config
from authsvc.core.errors import InvalidRequest
from authsvc.ports.counters import Counters
from authsvc.storage.counters_failure import FailurePolicy
from authsvc.storage.counters_memory import MemoryCounters
from authsvc.storage.counters_redis import RedisCounters
from authsvc.storage.redis_node import RedisNode, RedisTarget, parse_url


@dataclass(frozen=True, slots=True)
class Counting:
    """Counters, and the node that they are kept on; None where they are kept in this process."""

    counters: Counters
    node: RedisNode | None = None

    async def start(self) -> None:
        """Connect, or begin to try: a store out of reach holds up no start, since each rule says what it does then."""
        if self.node is not None:
            await self.node.start()

    async def stop(self) -> None:
        """Let go."""
        if self.node is not None:
            await self.node.stop()


def count_by(config: Config, clock: Clock, pseudonym_key: bytes) -> Counting:
    """What the settings say; raises InvalidRequest naming the setting at fault."""
    if config.counters.url == MEMORY:
        return Counting(MemoryCounters(clock))
    node = RedisNode(_target(config))
    failure = FailurePolicy(clock, lambda: config.processes)
    return Counting(RedisCounters(node, failure, pseudonym_key=pseudonym_key), node)


def _target(config: Config) -> RedisTarget:
    counters = config.counters
    try:
        password = counters.password_file.read_text().strip() if counters.password_file is not None else ""
    except (OSError, UnicodeDecodeError):
        raise InvalidRequest.of("counters.password_file", "cannot be read") from None
    try:
        tls = ssl.create_default_context(cafile=counters.ca) if counters.ca is not None else None
    except OSError:  # ssl.SSLError is one
        raise InvalidRequest.of("counters.ca", "cannot be read as certificates in PEM") from None
    try:
        return parse_url(counters.url, password=password, tls=tls)
    except ValueError as fault:
        raise InvalidRequest.of("counters.url", str(fault)) from None
