"""`authsvc bench`: how many calls a second, and how long each takes.

Owns: the rows that are measured and the table. Load comes from processes of their own; where this command starts the
service itself, the service has the first processor and the load the others. Every answer is compared.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authsvc.cli.options import AddressOption, CredentialsOption, FormOption
from authsvc.cli.output import Form, show

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from authsvc.cli.session import Session, Target
    from authsvc.cli.shop import Shop

COLUMNS = ("row", "calls_per_s", "p50_ms", "p99_ms", "wrong", "errors", "server_cpu", "load_cpu")
BATCH = 50
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """A call that is measured, and the answer that it must have."""

    name: str
    method: str
    request: bytes
    expected: bytes
    token: str
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """What a row came to; processor shares are of one processor, None where not known."""

    row: str
    calls_per_s: float
    p50_ms: float
    p99_ms: float
    wrong: int
    errors: int
    server_cpu: float | None
    load_cpu: float


def bench(
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long each row is measured.")] = 5.0,
    warm_up: Annotated[float, typer.Option("--warm-up", min=0.0, help="Seconds before, not counted.")] = 1.0,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Calls in flight, all in all.")] = 8,
    processes: Annotated[
        int, typer.Option("--processes", min=0, help="Processes of load. Unset: the processors but one.")
    ] = 0,
    own: Annotated[bool, typer.Option("--own", help="A throw-away service, even where one is running.")] = False,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Write the table into this Markdown file.", show_default=False),
    ] = None,
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Measure unary Check, BatchCheck of 50, IssueToken and VerifyToken: calls/s, p50, p99.

    It measures the running service, with a client of its own; where none is running a throw-away one, pinned to the
    first processor. Exit code 1 where an answer was wrong.
    """
    from authsvc.cli.faults import Exit
    from authsvc.cli.session import Session

    processes = min(processes or max(1, _processors() - 1), concurrency)
    with _service(address, credentials, own=own) as (target, pid), Session(target) as session:
        cpus = sorted(os.sched_getaffinity(0))[1:] if pid is not None else []
        plan = _Plan(target.address, pid, cpus, processes, max(1, concurrency // processes), warm_up, seconds)
        results = [asdict(plan.measure(row)) for row in _rows(session, own=pid is not None)]
        where = f"{target.address}, {'a throw-away service' if pid is not None else 'the running service'}"
    told = {"machine": machine(), "service": where, "processes": processes, "concurrency": concurrency}
    if form is Form.JSON:
        show(form, {**told, "seconds": seconds, "rows": results})
    else:
        for name, value in told.items():
            print(f"{name}: {value}")
        show(form, {"rows": results}, columns=COLUMNS, rows="rows")
        print(f"A row whose load_cpu is near {processes} is held back by the load, not by the service.")
    if write is not None:
        _write(write, told, results)
    if any(result["wrong"] or result["errors"] for result in results):
        raise typer.Exit(Exit.REFUSED)


@contextmanager
def _service(address: str, credentials: Path | None, *, own: bool) -> Iterator[tuple[Target, int | None]]:
    """The service to measure, and its process where it is ours."""
    from authsvc.cli.session import find_target

    if not own:
        target = find_target(address, credentials)
        if address or credentials is not None or (target.credentials is not None and _answers(target)):
            yield target, None
            return
    from authsvc.cli.child import throw_away_service

    first = min(os.sched_getaffinity(0)) if _processors() > 1 else None
    with throw_away_service(cpu=first) as child:
        yield find_target("", child.credentials), child.process.pid


def _answers(target: Target) -> bool:
    import socket

    host, _, port = target.address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 0.5).close()
    except OSError:
        return False
    return True


def _rows(session: Session, *, own: bool) -> list[Row]:
    """The rows, each asked once: what it answers is what is expected."""
    from authsvc.cli.demo import SHOP, apply_policy
    from authsvc.cli.shop import AUDIENCE, ORDER, READ, Shop
    from authsvc.v1 import authz_pb2, token_pb2

    shop = Shop(session, SHOP if own else f"bench-{secrets.token_hex(4)}")
    if own:
        apply_policy(session)
    shop.create()
    shop.issue()
    question = authz_pb2.CheckRequest(subject=shop.subject, permission=READ, resource=ORDER)
    batch = authz_pb2.BatchCheckRequest(checks=[question] * BATCH)
    token = token_pb2.VerifyTokenRequest(token=shop.access_token)
    issue = token_pb2.IssueTokenRequest(audience=[AUDIENCE])
    issue.client_credentials.client_id, issue.client_credentials.client_secret = shop.client_id, shop.secret
    return [
        _row(shop, "Check", "AuthzService/Check", question),
        _row(shop, f"BatchCheck of {BATCH}", "AuthzService/BatchCheck", batch),
        _row(shop, "IssueToken", "TokenService/IssueToken", issue, exact=False),
        _row(shop, "VerifyToken", "TokenService/VerifyToken", token),
    ]


def _row(shop: Shop, name: str, method: str, request: Message, *, exact: bool = True) -> Row:
    full = f"/authsvc.v1.{method}"
    token = shop.caller_token() if exact else ""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    body = request.SerializeToString()
    expected: bytes = shop.session.channel.unary_unary(full, None, None)(body, timeout=10.0, metadata=metadata)
    return Row(name, full, body, expected, token, exact)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a row is measured."""

    address: str
    server: int | None
    cpus: list[int]
    processes: int
    threads: int
    warm_up_s: float
    seconds: float

    def measure(self, row: Row) -> Result:
        """Start the load, wait for it, add up what its processes saw."""
        orders = {
            "address": self.address,
            "method": row.method,
            "request": base64.b64encode(row.request).decode(),
            "expected": base64.b64encode(row.expected).decode(),
            "exact": row.exact,
            "token": row.token,
            "threads": self.threads,
            "warm_up_s": self.warm_up_s,
            "seconds": self.seconds,
            "cpus": self.cpus,
        }
        with ExitStack() as stack:
            loads = [stack.enter_context(_start(orders)) for _ in range(self.processes)]
            for load in loads:
                _line(load)
            before = _cpu_seconds(self.server)
            parts: list[dict[str, Any]] = [json.loads(_line(load)) for load in loads]
            after = _cpu_seconds(self.server)
        latencies = sorted(latency for part in parts for latency in part["latencies_us"]) or [0]
        span = max(part["seconds"] for part in parts)
        return Result(
            row=row.name,
            calls_per_s=round(sum(part["calls"] / part["seconds"] for part in parts)),
            p50_ms=round(latencies[len(latencies) // 2] / 1000, 2),
            p99_ms=round(latencies[len(latencies) * 99 // 100] / 1000, 2),
            wrong=sum(part["wrong"] for part in parts),
            errors=sum(part["errors"] for part in parts),
            server_cpu=None if before is None or after is None else round(min(1.0, (after - before) / span), 2),
            load_cpu=round(sum(part["cpu_seconds"] for part in parts) / span, 2),
        )


def _start(orders: dict[str, Any]) -> subprocess.Popen[str]:
    load = subprocess.Popen(
        [sys.executable, "-m", "authsvc.cli.bench_load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert load.stdin is not None
    load.stdin.write(json.dumps(orders) + "\n")
    load.stdin.close()
    return load


def _line(load: subprocess.Popen[str]) -> str:
    assert load.stdout is not None
    return load.stdout.readline()


def _cpu_seconds(pid: int | None) -> float | None:
    """Processor time that a process has used (proc(5), utime and stime)."""
    if pid is None:
        return None
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _processors() -> int:
    return len(os.sched_getaffinity(0))


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
        f"{model or platform.machine()}, {_processors()} processors, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, grpcio {grpc.__version__}"
    )


def _write(path: Path, told: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Put the table between its marks, at the end where the file has none."""
    from datetime import UTC, datetime

    from authsvc import __version__
    from authsvc.cli.output import cell

    told = {"authsvc": f"{__version__}, {datetime.now(UTC):%Y-%m-%d}", **told}
    rows = [f"| {' | '.join(cell(result[name]) for name in COLUMNS)} |" for result in results]
    table = [f"| {' | '.join(name.replace('_', ' ') for name in COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", *rows]
    block = "\n".join([BEGIN, "", *(f"- {name}: {value}" for name, value in told.items()), "", *table, "", END])
    text = path.read_text(encoding="utf-8") if path.exists() else "# Performance\n\nMeasured by `authsvc bench`.\n"
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    path.write_text(f"{before.rstrip()}\n\n{block}{after}", encoding="utf-8")
