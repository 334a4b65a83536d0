"""One process of load for `authsvc bench` and `tests/bench`.

Owns: when a call is sent, and how it is measured. May import: the standard library, `cli.bench_wire`. It reads its
orders as one JSON line, says `warm` when it begins to count, and ends with one JSON line.

Without a rate the loop is closed: as many calls are in flight as ordered. With a rate it is open: a call is due at
its time whatever became of those before, and its latency runs from then, so that a server that stalls is not
measured less for it.
"""

from __future__ import annotations

import base64
import json
import os
import select
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from itertools import chain

from authsvc.cli.bench_wire import Connection, Expected, WireFault

MOST_STREAMS = 100
"""Calls in flight on a connection; servers allow no fewer by default."""
_SECOND = 1_000_000_000
_FINISH_NS = 2 * _SECOND


@dataclass(frozen=True, slots=True)
class Orders:
    """What to send; `request` and `start` are base64. `calls` in flight, or `rate` a second where it is not 0."""

    address: str
    method: str
    request: str
    start: str
    length: int
    token: str
    connections: int
    calls: int
    rate: float
    rest_s: float
    """In a closed loop: how long a caller rests after an error, as one that obeys RetryInfo does."""
    warm_up_s: float
    seconds: float
    cpus: list[int]


@dataclass(slots=True)
class Measured:
    """What came of it. `latencies_us` is microseconds, to three digits, to how many right answers took as long.

    In an open loop it holds what was due and never answered too, with the time that it has waited.
    """

    right: int = 0
    wrong: int = 0
    errors: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    fault: str = ""
    latencies_us: dict[int, int] = field(default_factory=dict)


class Load:
    """The connections, the calls that are due, and what was seen."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._connections = [
            Connection(
                orders.address,
                _headers(orders),
                base64.b64decode(orders.request),
                Expected(base64.b64decode(orders.start), orders.length),
                self._ended,
            )
            for _ in range(orders.connections)
        ]
        self._poll = select.epoll()
        self._by_number = {connection.socket.fileno(): connection for connection in self._connections}
        for number in self._by_number:
            self._poll.register(number, select.EPOLLIN)
        self._cap = MOST_STREAMS if orders.rate else max(1, orders.calls // orders.connections)
        self._due: deque[int] = deque()
        self._resting: deque[int] = deque()
        """Until when; each is a call less in flight."""
        self._now = time.perf_counter_ns()
        self._counted_from = 0
        self._seen = Measured()
        self._latencies: Counter[int] = Counter()

    def run(self) -> Measured:
        """Warm up, measure, let what is in flight finish."""
        orders, seen = self._orders, self._seen
        try:
            self._until(self._now + int(orders.warm_up_s * _SECOND))
            print("warm", flush=True)
            cpu, began = time.process_time(), time.perf_counter_ns()
            self._counted_from = began
            self._until(began + int(orders.seconds * _SECOND))
        except WireFault as fault:
            seen.fault = str(fault)
            return seen
        seen.seconds = (time.perf_counter_ns() - began) / _SECOND
        seen.cpu_seconds = time.process_time() - cpu
        if orders.rate:
            open_calls = chain(self._due, *(connection.in_flight.values() for connection in self._connections))
            self._latencies.update(_three_digits(self._now - due) for due in open_calls)
        seen.latencies_us = dict(self._latencies)
        self._finish()
        return seen

    def _until(self, end: int) -> None:
        """Send and receive until then."""
        rate = self._orders.rate
        # An open loop must not sleep past a time when a call is due, and epoll counts in milliseconds.
        timeout = 0.0 if rate else 0.05
        apart = int(_SECOND / rate) if rate else 0
        due = self._now
        while self._now < end:
            while rate and due <= self._now:
                self._due.append(due)
                due += apart
            self._send()
            self._turn(timeout)

    def _turn(self, timeout: float) -> None:
        events = self._poll.poll(timeout)
        self._now = time.perf_counter_ns()
        for number, _ in events:
            self._by_number[number].receive()

    def _send(self) -> None:
        while self._resting and self._resting[0] <= self._now:
            self._resting.popleft()
        resting = len(self._resting)
        for connection in self._connections:
            free = self._cap - len(connection.in_flight)
            if resting:
                held = min(free, resting)
                free, resting = free - held, resting - held
            if self._orders.rate:
                while free > 0 and self._due and connection.call(self._due[0]):
                    self._due.popleft()
                    free -= 1
            else:
                while free > 0 and connection.call(self._now):
                    free -= 1
            connection.flush()

    def _finish(self) -> None:
        end = self._now + _FINISH_NS
        self._counted_from = end * 2
        while self._now < end and any(connection.in_flight for connection in self._connections):
            try:
                self._turn(0.05)
            except WireFault:
                break
        for connection in self._connections:
            connection.socket.close()
        self._poll.close()

    def _ended(self, due: int, right: bool | None) -> None:
        if right is None and self._orders.rest_s:
            self._resting.append(self._now + int(self._orders.rest_s * _SECOND))
        if not self._counted_from or self._counted_from > self._now:
            return
        if right:
            self._seen.right += 1
            self._latencies[_three_digits(self._now - due)] += 1
        elif right is None:
            self._seen.errors += 1
        else:
            self._seen.wrong += 1


def _headers(orders: Orders) -> list[tuple[str, str]]:
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", orders.method),
        (":authority", orders.address),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "authsvc-bench"),
        ("grpc-timeout", "5S"),
    ]
    return [*headers, ("authorization", f"Bearer {orders.token}")] if orders.token else headers


def _three_digits(nanoseconds: int) -> int:
    """Microseconds, to three digits."""
    value, unit = nanoseconds // 1_000, 1
    while value // unit >= 1_000:
        unit *= 10
    return value // unit * unit


def main() -> None:
    """Run the orders on standard input."""
    orders = Orders(**json.loads(sys.stdin.readline()))
    if orders.cpus:
        os.sched_setaffinity(0, orders.cpus)
    try:
        seen = Load(orders).run()
    except (WireFault, OSError) as fault:
        print("warm", flush=True)
        seen = Measured(fault=str(fault))
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
