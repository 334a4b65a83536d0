"""One process of load for `authsvc bench`.

Owns: the calls, and how they are measured. May import: grpcio and the standard library. It reads its orders as one
JSON line, says `warm` when it begins to count, and ends with one JSON line. Messages are bytes that were made before,
so that the load costs as little as it can.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

import grpc


@dataclass(frozen=True, slots=True)
class Orders:
    """What to send; `request` and `expected` are base64. Not `exact`: only the answers' length is compared."""

    address: str
    method: str
    request: str
    expected: str
    exact: bool
    token: str
    threads: int
    warm_up_s: float
    seconds: float
    cpus: list[int]


@dataclass(slots=True)
class Measured:
    """What came of it: latencies in microseconds, and how much of a processor this process used."""

    calls: int = 0
    wrong: int = 0
    errors: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    latencies_us: list[int] = field(default_factory=list)


def run(orders: Orders) -> Measured:
    """Warm up, measure, stop."""
    if orders.cpus:
        os.sched_setaffinity(0, orders.cpus)
    request, expected = base64.b64decode(orders.request), base64.b64decode(orders.expected)
    metadata = (("authorization", f"Bearer {orders.token}"),) if orders.token else ()
    begin, end = threading.Event(), threading.Event()
    parts = [Measured() for _ in range(orders.threads)]

    def call_on(part: Measured) -> None:
        with grpc.insecure_channel(orders.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            row = channel.unary_unary(orders.method, None, None)
            while not end.is_set():
                counted, begun = begin.is_set(), time.perf_counter_ns()
                try:
                    answer = row(request, timeout=5.0, metadata=metadata)
                except grpc.RpcError:
                    part.errors += counted
                    continue
                if counted:
                    part.latencies_us.append((time.perf_counter_ns() - begun) // 1000)
                    right = answer == expected if orders.exact else len(answer) == len(expected)
                    part.wrong += not right

    threads = [threading.Thread(target=call_on, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    end.wait(orders.warm_up_s)
    print("warm", flush=True)
    cpu, began = time.process_time(), time.perf_counter()
    begin.set()
    end.wait(orders.seconds)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    end.set()
    for thread in threads:
        thread.join()
    latencies = sorted(latency for part in parts for latency in part.latencies_us)
    return Measured(
        calls=len(latencies),
        wrong=sum(part.wrong for part in parts),
        errors=sum(part.errors for part in parts),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        latencies_us=latencies,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(run(Orders(**json.loads(sys.stdin.readline()))))))
