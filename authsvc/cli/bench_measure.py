"""Measure one kind of call of one server: load in processes of its own, and what came of it.

Owns: what a measurement is told and what it tells. May import: the standard library, grpcio, `cli.bench_load`.
Whatever serves gRPC in plaintext can be measured, peers too: a call is bytes, and how a right answer begins.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from authsvc.cli.bench_load import Orders

ASKED = 20
"""A call is asked so often before it is measured: what its answers have in common is what a right one begins with."""


class BenchFault(Exception):
    """It cannot be measured; one line that says why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A call that is measured. `start` and `length` as in `bench_wire.Expected`, `items` how many answers it holds."""

    name: str
    method: str
    request: bytes
    start: bytes
    length: int = 0
    token: str = ""
    items: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """How it is measured: `calls` in flight all in all, or `rate` calls a second where it is not 0.

    In a closed loop a caller rests for `rest_s` after an error.

    `cpus` are the processors of the load; none leaves it where the system puts it.
    """

    seconds: float = 5.0
    warm_up_s: float = 1.0
    calls: int = 32
    connections: int = 4
    rate: float = 0.0
    rest_s: float = 0.0
    processes: int = 1
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What it came to. Only right answers count as calls; processor shares are of one, None where not known."""

    row: str
    calls_per_s: float
    p50_ms: float
    p99_ms: float
    wrong: int
    errors: int
    server_cpu: float | None
    load_cpu: float


def subject(
    channel: Any,
    name: str,
    method: str,
    request: bytes,
    *,
    right: Callable[[bytes], bool],
    token: str = "",
    items: int = 1,
    until: bytes = b"",
) -> Subject:
    """Ask a call over a grpcio channel, judge its answers, and note what they have in common. Raises BenchFault.

    What stands from `until` on is not compared: a time stands there.
    """
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    ask = channel.unary_unary(method, None, None)
    answers: list[bytes] = [ask(request, timeout=10.0, metadata=metadata) for _ in range(ASKED)]
    if not all(map(right, answers)):
        raise BenchFault(f"{name}: {method} did not answer as it should")
    lengths = {len(answer) for answer in answers}
    start = _common(answers)
    if until:
        start = start.partition(until)[0]
    return Subject(name, method, request, start, lengths.pop() if len(lengths) == 1 else 0, token, items)


def measure(address: str, row: Subject, plan: Plan, server: Sequence[int] = ()) -> Result:
    """Measure a server at `ip:port`, whose processes are `server`. Raises BenchFault where the load broke."""
    processes = max(1, min(plan.processes, plan.calls))
    calls = max(1, plan.calls // processes)
    orders = Orders(
        address=address,
        method=row.method,
        request=base64.b64encode(row.request).decode(),
        start=base64.b64encode(row.start).decode(),
        length=row.length,
        token=row.token,
        connections=max(1, min(plan.connections // processes, calls)),
        calls=calls,
        rate=plan.rate / processes,
        rest_s=plan.rest_s,
        warm_up_s=plan.warm_up_s,
        seconds=plan.seconds,
        cpus=list(plan.cpus),
    )
    with ExitStack() as stack:
        loads = [stack.enter_context(_start(orders)) for _ in range(processes)]
        for load in loads:
            _line(load)
        before = _cpu_seconds(server)
        parts: list[dict[str, Any]] = [json.loads(_line(load)) for load in loads]
        after = _cpu_seconds(server)
    faults = [part["fault"] for part in parts if part["fault"]]
    if faults:
        raise BenchFault(f"{row.name}: {faults[0]}")
    latencies: Counter[int] = Counter()
    for part in parts:
        latencies.update({int(us): count for us, count in part["latencies_us"].items()})
    span = max(part["seconds"] for part in parts)
    return Result(
        row=row.name,
        calls_per_s=round(sum(part["right"] / part["seconds"] for part in parts)),
        p50_ms=_percentile_ms(latencies, 0.50),
        p99_ms=_percentile_ms(latencies, 0.99),
        wrong=sum(part["wrong"] for part in parts),
        errors=sum(part["errors"] for part in parts),
        server_cpu=None if before is None or after is None else round((after - before) / span, 2),
        load_cpu=round(sum(part["cpu_seconds"] for part in parts) / span, 2),
    )


def machine() -> str:
    """What it ran on."""
    import platform

    import grpc

    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        model = next((value.strip() for name, _, value in lines if name.strip() == "model name"), "")
    return (
        f"{model or platform.machine()}, {processors()} processors, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, grpcio {grpc.__version__}"
    )


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def _common(answers: Sequence[bytes]) -> bytes:
    first, last = min(answers), max(answers)
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first if same is None else first[:same]


def _start(orders: Orders) -> subprocess.Popen[str]:
    load = subprocess.Popen(
        [sys.executable, "-m", "authsvc.cli.bench_load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert load.stdin is not None
    load.stdin.write(json.dumps(asdict(orders)) + "\n")
    load.stdin.close()
    return load


def _line(load: subprocess.Popen[str]) -> str:
    assert load.stdout is not None
    line = load.stdout.readline()
    if not line:
        raise BenchFault("a process of load has ended")
    return line


def _percentile_ms(latencies: Counter[int], share: float) -> float:
    left = share * latencies.total()
    for microseconds, count in sorted(latencies.items()):
        left -= count
        if left < 0:
            return microseconds / 1_000
    return 0.0


def _cpu_seconds(pids: Sequence[int]) -> float | None:
    """Processor time that processes have used (proc(5), utime and stime)."""
    if not pids:
        return None
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
