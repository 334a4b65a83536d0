"""The counters that `counters.url` names.

Owns: from settings to an adapter, its start and end, and what monitoring sees of it. May import: everything.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from authsvc.clock import Clock
from authsvc.config import MEMORY, Config
from authsvc.core.addresses import is_loopback_address
from authsvc.core.consumption import DecidedBy
from authsvc.core.errors import InvalidRequest
from authsvc.ports.counters import Counters
from authsvc.storage import secret_files
from authsvc.storage.counters_failure import FailurePolicy
from authsvc.storage.counters_memory import MemoryCounters
from authsvc.storage.counters_redis import RedisCounters
from authsvc.storage.redis_node import RedisNode
from authsvc.storage.redis_target import Password, RedisTarget, no_password, parse_url
from authsvc.storage.store_watch import Tell
from authsvc.telemetry import Gauge, Total


@dataclass(frozen=True, slots=True)
class _Shared:
    """Counters on a node, and who decides without it."""

    node: RedisNode
    counters: RedisCounters
    failure: FailurePolicy

    def decided(self) -> Mapping[str, int]:
        """Outcomes by who decided."""
        return {DecidedBy.STORE.value: self.counters.decided, **self.failure.decided()}


@dataclass(frozen=True, slots=True)
class Counting:
    """Counters; those of this process have nothing to start."""

    counters: Counters
    _shared: _Shared | None = None

    async def start(self) -> None:
        """Connect, or begin to try: a store out of reach holds up no start, since each rule says what it does then."""
        if self._shared is not None:
            await self._shared.node.start()

    async def stop(self) -> None:
        """Let go."""
        if self._shared is not None:
            await self._shared.node.stop()

    def gauges(self) -> tuple[Gauge | Total, ...]:
        """What monitoring sees of the store."""
        shared = self._shared
        if shared is None:
            return ()
        node = shared.node
        return (
            Gauge("authsvc_counters_store_up", "1 while calls go to the counter store.", lambda: int(node.available)),
            Gauge(
                "authsvc_counters_circuit_open",
                "1 while calls are kept from the counter store, because those before failed.",
                lambda: int(node.circuit_is_open),
            ),
            Total("authsvc_counters_faults", "Calls that the counter store did not answer.", "fault", node.faults),
            Total("authsvc_counters_decisions", "Outcomes of limits by who decided.", "decided_by", shared.decided),
        )


def count_by(config: Config, clock: Clock, pseudonym_key: bytes, tell: Tell, processes: Callable[[], int]) -> Counting:
    """What the settings say; raises InvalidRequest naming the setting at fault.

    `processes` is how many share a limit while no store counts for all; `tell` writes an event.
    """
    if config.counters.url == MEMORY:
        return Counting(MemoryCounters(clock))
    node = RedisNode(_target(config), tell)
    failure = FailurePolicy(clock, processes, config.counters.on_failure)
    counters = RedisCounters(node, failure, pseudonym_key=pseudonym_key)
    return Counting(counters, _Shared(node, counters, failure))


def in_plaintext(url: str) -> bool:
    """Whether calls to the store of this URL leave the machine without TLS."""
    if url == MEMORY:
        return False
    try:
        target = parse_url(url, password=lambda: "")
    except ValueError:
        return False
    hosts = (host for host, _ in target.addresses)
    return target.tls is None and not all(host == "localhost" or is_loopback_address(host) for host in hosts)


def _target(config: Config) -> RedisTarget:
    counters = config.counters
    tls = None
    if counters.ca is not None or counters.certificate is not None:
        tls = partial(_tls, counters.ca, counters.certificate, counters.key)
        tls()  # what is at fault now is refused now
    try:
        return parse_url(
            counters.url,
            password=_password(counters.password_file, "counters.password_file"),
            sentinel_password=_password(counters.sentinel_password_file, "counters.sentinel_password_file"),
            tls=tls,
            deadline_s=counters.deadline / 1_000,
        )
    except ValueError as fault:
        raise InvalidRequest.of("counters.url", str(fault)) from None


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Read from the files anew, so that none of them needs a restart when it is renewed."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError:  # ssl.SSLError is one
        raise InvalidRequest.of("counters.ca", "cannot be read as certificates in PEM") from None
    if certificate is not None and key is not None:
        secret_files.read_secret(key, "counters.key")
        try:
            # An empty password: a key that is encrypted would ask the terminal for one.
            context.load_cert_chain(certificate, key, password="")
        except OSError:
            raise InvalidRequest.of(
                "counters.certificate", "and counters.key cannot be read as a certificate and its key in PEM"
            ) from None
    return context


def _password(file: Path | None, setting: str) -> Password:
    """Reads the file; a file that is at fault now is refused now."""
    if file is None:
        return no_password
    read = partial(_read, file, setting)
    read()
    return read


def _read(file: Path, setting: str) -> str:
    try:
        return secret_files.read_secret(file, setting).decode().strip()
    except UnicodeDecodeError:
        raise InvalidRequest.of(setting, f"{file} is not text") from None
