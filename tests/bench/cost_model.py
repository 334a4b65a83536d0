"""Where the microseconds of a call go: `python -m tests.bench.cost_model [--write]`.

Owns: the stages of the hot rows, each measured by calling the service's own pieces in a loop, and what a transport
adds, measured as the server's processor time a call under load. A program, never a timed test. The pieces are real:
a service with a record, a snapshot, keys and clients, in this process.
"""

# ruff: noqa: T201 -- it speaks to a person

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from authsvc.api import convert_authz, convert_tokens
from authsvc.api import engine as engine_module
from authsvc.api.calls import Call, Context
from authsvc.api.engine import Engine, Surroundings
from authsvc.api.errors import Code
from authsvc.api.method_table import PROXY, PUBLIC, Row
from authsvc.cli.bench_measure import Plan, Subject, measure
from authsvc.cli.session import Session, find_target
from authsvc.core.errors import Reason
from authsvc.usecases import authz
from tests.bench import servers
from tests.bench.report import circumstances, put_block, table
from tests.bench.servers import LOAD_CPUS, Skipped
from tests.support.embedded import Embedded, embedded

ROWS = (servers.CHECK, servers.CHECK_CONTEXT, servers.VERIFY, servers.EXT_AUTHZ, servers.ISSUE)
ROUNDS, ROUND_S = 7, 0.05
STAGES = ("authenticate", "decode", "work", "encode", "metrics", "audit", "around")

Stage = Callable[[], object]


class _NoWait:
    """The rows measured here wait for nothing."""

    async def run(self, work: Any, call: Call, deadline: float) -> Any:
        raise NotImplementedError

    async def reach(self, state: Any, revision: Any, caller: str, deadline: float) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Costs:
    """Microseconds of one row: all that the engine does, and its parts."""

    whole: float
    parts: dict[str, float]
    detail: dict[str, float]


def main() -> None:
    """Measure, tell, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cost_model", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each transport is loaded for a row")
    parser.add_argument("--engine-only", action="store_true", help="leave the transports out")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    options = parser.parse_args()
    costs = _engine_costs()
    lines = [circumstances(), "", HOW, "", *_stages(costs)]
    if not options.engine_only:
        lines += ["", TRANSPORTS, "", *_transports(costs, options.seconds)]
    print("\n".join(lines))
    if options.write:
        put_block("cost model", lines)


HOW = (
    "Microseconds a call inside the engine, from received to answered bytes, the same on every transport: processor "
    f"time, the best of {ROUNDS} loops over the service's own pieces. `authenticate` is that of a caller seen in this "
    "second, `work` is convert and decide, `audit` one call in a hundred. An answer that was ready costs nothing to "
    "encode. `around` is what is left: the call's context, deadline, the second look at it, the order of the rows, "
    "and what the whole costs more than its parts do alone, because less of it is in the processor's cache."
)
TRANSPORTS = (
    "Microseconds of the server's processor a call at full load, and what of it is not the engine's: HTTP/2, threads "
    "or event loop, metadata, building the call. `echo` is a grpcio server that does nothing else."
)


def _engine_costs() -> dict[str, Costs]:
    with tempfile.TemporaryDirectory(prefix="cost-") as folder, embedded(Path(folder)) as service:
        target = find_target("", service.directory / "admin.json")
        with Session(replace(target, address=service.addresses.grpc)) as session:
            subjects = servers.rows_of(session)
        gc.collect()
        gc.freeze()
        return {name: _costs(service, subjects[name]) for name in ROWS}


def _costs(service: Embedded, asked: Subject) -> Costs:
    engine = service.service.engine
    row = engine.table.by_name()[asked.method.removeprefix("/")]
    call = Call(
        row.name,
        peer_address="127.0.0.1",
        authorization=(f"Bearer {asked.token}",) if asked.token else (),
        metadata={"user-agent": "authsvc-bench"},
        deadline=time.monotonic() + 86_400,
    )
    runner = _NoWait()
    assert isinstance(engine.serve(row, call, asked.request, runner), bytes)
    parts, detail = _pieces(engine, row, call, asked.request)
    whole = _microseconds(lambda: engine.serve(row, call, asked.request, runner))
    return Costs(whole, {**parts, "around": whole - sum(parts.values())}, detail)


def _pieces(engine: Engine, row: Row, call: Call, request: bytes) -> tuple[dict[str, float], dict[str, float]]:
    around = engine._around
    context = Context(call, around.clock.now(), time.monotonic() + 86_400)
    context.snapshot = around.state.current
    authenticate = _authentication(row, context, around)
    decode = row.request_type.FromString
    answered = row.handler(decode(request), context)

    def encoded() -> object:
        # A message is made anew each time: what it holds is unpacked when it is first looked at.
        answer = row.handler(decode(request), context)
        return answer if isinstance(answer, bytes) else engine_module._encoded(row, context, answer)

    decoding = _microseconds(lambda: decode(request))
    worked = _microseconds(lambda: row.handler(decode(request), context))
    encoding = 0.0 if isinstance(answered, bytes) else _microseconds(encoded) - worked
    parts = {
        "authenticate": _microseconds(authenticate),
        "decode": decoding,
        "work": worked - decoding,
        "encode": encoding,
        "metrics": _microseconds(lambda: around.metrics.observe(row.name, Code.OK, Reason.ALLOWED, 0.0001)),
        "audit": _microseconds(lambda: engine_module._draft(row, context, Reason.ALLOWED)) * around.allow_sample,
    }
    return parts, _within_work(row, request, context)


def _authentication(row: Row, context: Context, around: Surroundings) -> Stage:
    """The caller, as the row asks for one; sets it once, for the stages after it."""
    call, who = context.call, around.authenticator
    if row.permission == PUBLIC:
        return lambda: None
    if row.permission == PROXY:
        context.proxy = who.proxy(call.peer_address, call.peer_identities)
        return lambda: who.proxy(call.peer_address, call.peer_identities)
    context.principal = who.principal(call.authorization, (), context.snapshot, context.now)
    return lambda: who.principal(call.authorization, (), context.snapshot, context.now)


def _within_work(row: Row, request: bytes, context: Context) -> dict[str, float]:
    """What of a handler is conversion and what decision, where the two can be called alone."""
    decode = row.request_type.FromString
    decoding = _microseconds(lambda: decode(request))

    def converting(convert: Callable[[Any], object]) -> float:
        return _microseconds(lambda: convert(decode(request))) - decoding

    name = row.name.partition(".v1.")[2]
    if name == "AuthzService/Check":
        message: Any = decode(request)
        question = convert_authz.question(message)
        caller, snapshot, now = context.caller, context.snapshot, context.now
        decide = _microseconds(lambda: authz.check(snapshot, caller, question, now=now))
        return {"convert": converting(convert_authz.question), "decide": decide}
    if name == "TokenService/VerifyToken":
        return {"convert": converting(convert_tokens.verification)}
    if name == "TokenService/IssueToken":
        return {"convert": converting(convert_tokens.token_request)}
    return {}


def _microseconds(work: Stage) -> float:
    """How long one call takes: the best of the rounds, the loop's own cost taken off."""
    repeats = 1
    while _loop(work, repeats) < ROUND_S:
        repeats *= 2
    took = min(_loop(work, repeats) for _ in range(ROUNDS)) / repeats
    empty = min(_loop(_nothing, 100_000) for _ in range(ROUNDS)) / 100_000
    return max(0.0, took - empty) * 1e6


def _loop(work: Stage, repeats: int) -> float:
    begun = time.thread_time_ns()
    for _ in range(repeats):
        work()
    return (time.thread_time_ns() - begun) / 1e9


def _nothing() -> None:
    return None


def _stages(costs: dict[str, Costs]) -> list[str]:
    rows = []
    for name, cost in costs.items():
        inner = ", ".join(f"{part} {value:.1f}" for part, value in cost.detail.items())
        parts = [f"{cost.parts[stage]:.1f}" for stage in STAGES]
        parts[STAGES.index("work")] += f" ({inner})" if inner else ""
        rows.append([name, *parts, f"{cost.whole:.1f}"])
    return table(["row", *STAGES, "engine"], rows)


def _transports(costs: dict[str, Costs], seconds: float) -> list[str]:
    rows = [["grpcio echo", *_loaded(servers.echo, [servers.ECHO], {}, seconds)]]
    for transport in ("grpcio", "pyvoy"):
        try:
            loaded = _loaded(partial(servers.authsvc, transport), ROWS, costs, seconds)
        except Skipped:
            continue
        rows.append([transport, *loaded])
    return table(["transport", *ROWS], [[*row, *[""] * (len(ROWS) + 1 - len(row))] for row in rows])


def _loaded(
    start: Callable[[], AbstractContextManager[servers.Running]],
    names: tuple[str, ...] | list[str],
    costs: dict[str, Costs],
    seconds: float,
) -> list[str]:
    told = []
    with start() as running:
        for name in names:
            plan = Plan(seconds, 0.5, 64, cpus=LOAD_CPUS)
            result = measure(running.address, running.rows[name], plan, running.processes())
            each = (result.server_cpu or 0.0) / max(1.0, result.calls_per_s) * 1e6
            told.append(f"{each:.0f}" + (f" ({each - costs[name].whole:.0f})" if name in costs else ""))
    return told


if __name__ == "__main__":
    main()
