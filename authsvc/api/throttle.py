"""The limit on failed authentication (STANDARDS S10).

Owns: how many failures an address, or a client that once proved itself from there, may have. May import: `core`.
A failure beyond the limit changes the answer to a failure and nothing else: credentials are always looked at,
so a right secret is never refused for other people's failures, and guessing 256 bits is hopeless anyhow. The
limit keeps floods out of audit and log, and tells the caller to go away.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict
from functools import lru_cache

from authsvc.core.rates import CounterState, Gcra, Rate

MAX_KEYS = 16_384
"""Addresses and clients remembered; the one seen longest ago is forgotten first."""

_MICROSECONDS = 1_000_000


class FailedAuthentications:
    """Counts failures by address, and by client for clients that once proved themselves from that address."""

    def __init__(self, rate: Rate) -> None:
        self._meter = Gcra.of(rate, rate.count)
        self._lock = threading.Lock()
        self._states: OrderedDict[str, CounterState] = OrderedDict()
        self._proven: OrderedDict[str, None] = OrderedDict()

    def failed(self, address: str, client_id: str, now_us: int) -> float | None:
        """Count a failure; None while under the limit, else the seconds until one more is under it again.

        `client_id` is the client that was claimed, empty where none was.
        """
        network = network_of(address)
        with self._lock:
            keys = [f"a {network}"]
            if client_id and f"{network} {client_id}" in self._proven:
                keys.append(f"c {client_id}")
            waits = [self._count(key, now_us) for key in keys]
        longest = max(waits)
        return longest / _MICROSECONDS if longest else None

    def succeeded(self, address: str, client_id: str) -> None:
        """Remember that this client proved itself from this address."""
        key = f"{network_of(address)} {client_id}"
        with self._lock:
            self._proven[key] = None
            self._proven.move_to_end(key)
            if len(self._proven) > MAX_KEYS:
                self._proven.popitem(last=False)

    def _count(self, key: str, now_us: int) -> int:
        """Microseconds to wait, 0 where the failure was still under the limit."""
        verdict = self._meter.decide(self._states.get(key), now_us, 1)
        self._states[key] = verdict.state
        self._states.move_to_end(key)
        if len(self._states) > MAX_KEYS:
            self._states.popitem(last=False)
        return 0 if verdict.allowed else max(1, verdict.retry_after_us or 0)


@lru_cache(MAX_KEYS)
def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, an IPv6 /64, a mapped IPv4 address as that."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "other"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
