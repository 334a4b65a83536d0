"""Measure this service beside a peer, and write docs/performance.md: `python -m tests.bench.suite`.

Owns: rounds, medians, ratios, the curve, what is written. A program, never a timed test. Server and load have
processors of their own; each round starts every contender anew and measures it right after the others, so that a
ratio compares what happened within minutes on one machine.
"""

# ruff: noqa: T201 -- it speaks to a person

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from authsvc.cli.bench_measure import BenchFault, Plan, Result, measure
from tests.bench import servers
from tests.bench.picture import Point, draw
from tests.bench.report import PAGE, circumstances, median, put_block, spread, table, whole
from tests.bench.servers import LOAD_CPUS, SERVER_CPU, Contender, Skipped, contenders

CALLS, CONNECTIONS = 64, 4
SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 0.97)
"""Of what a contender reached in the rounds: the loads of the curve."""
PEER = "cerbos"
PEER_ROW = servers.CHECK_CONTEXT
TARGETS = {
    "authsvc pyvoy": {
        servers.CHECK: "4 x",
        servers.CHECK_CONTEXT: "4 x",
        servers.VERIFY: "4 x",
        servers.EXT_AUTHZ: "4 x",
        servers.BATCH_CHECK: "8 x checks",
        servers.ISSUE: "4,000/s",
    },
    "authsvc grpcio": {
        servers.CHECK: "1 x",
        servers.CHECK_CONTEXT: "1 x",
        servers.VERIFY: "1 x",
        servers.EXT_AUTHZ: "1 x",
    },
}

HOW = """\
One processor for the server ({server}), another for the load ({load}): closed loop, {connections} connections, \
{calls} calls in flight, {seconds:g} s a row after {warm_up:g} s of warm-up. Median of {rounds} rounds in turn, in \
brackets the least and the greatest. Full product path: caller authenticated, snapshot, decision, metrics, audit of \
all denials and 1 % of the allows; tracing off. All contenders are batch work to Linux. Every answer was compared by \
its bytes; only right ones count. The \
ratio is to Cerbos's unary call of the same round, of the batch to its batch. p99 of a closed loop is mostly the \
queue that the load itself holds; what a caller waits for is the curve below."""


@dataclass
class Measured:
    """What was seen of one contender: a result a round and row, seconds to ready, memory after the load."""

    results: dict[str, list[Result]] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    ready_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)

    def items_per_s(self, row: str) -> list[float]:
        """Answers a second, a round: of a batch each of its answers."""
        return [result.calls_per_s * self.items[row] for result in self.results.get(row, ())]


def main() -> None:
    """Measure, tell, write."""
    options = _options()
    plan = Plan(options.seconds, options.warm_up, CALLS, CONNECTIONS, cpus=LOAD_CPUS)
    seen: dict[str, Measured] = {}
    skipped: dict[str, str] = {}
    chosen = [each for each in contenders() if options.only in each.name or each.name == PEER]
    for number in range(options.rounds):
        for contender in chosen:
            if contender.name not in skipped:
                print(f"round {number + 1} of {options.rounds}: {contender.name}", flush=True)
                _round(contender, plan, seen, skipped)
    for contender in chosen:
        if contender.name in seen:
            print(f"curve: {contender.name}", flush=True)
            _curve(contender, replace(plan, seconds=options.curve_seconds), seen[contender.name])
    lines = _written(seen, skipped, options)
    print("\n".join(lines))
    if options.write:
        _picture(seen, options.write.with_suffix(".svg"))
        put_block("suite", lines, options.write)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.suite", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a row is measured in each round")
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--curve-seconds", type=float, default=5.0, help="how long each load of the curve lasts")
    parser.add_argument("--only", default="", help="contenders whose name holds this, and the peer")
    parser.add_argument("--write", type=Path, nargs="?", const=PAGE, help="write the page and its picture")
    return parser.parse_args()


def _round(contender: Contender, plan: Plan, seen: dict[str, Measured], skipped: dict[str, str]) -> None:
    try:
        with contender.start() as running:
            measured = seen.setdefault(contender.name, Measured())
            for row in running.rows.values():
                result = measure(running.address, row, plan, running.processes())
                measured.results.setdefault(row.name, []).append(result)
                measured.items[row.name] = row.items
                print(f"  {result}", flush=True)
            measured.memory_mb.append(running.memory_mb())
            measured.ready_s.append(running.ready_s)
    except Skipped as why:
        skipped[contender.name] = str(why)
        print(f"  skipped: {why}")


def _curve(contender: Contender, plan: Plan, measured: Measured) -> None:
    """Throughput and p99 in an open loop at rising load, up to where it answers no more in time."""
    most = median([result.calls_per_s for result in measured.results[PEER_ROW]])
    with contender.start() as running:
        for share in SHARES:
            result = measure(running.address, running.rows[PEER_ROW], replace(plan, rate=most * share))
            print(f"  {share:.0%}: {result}", flush=True)
            if result.calls_per_s and result.p99_ms:
                measured.curve.append((result.calls_per_s, result.p99_ms))


def _written(seen: dict[str, Measured], skipped: dict[str, str], options: argparse.Namespace) -> list[str]:
    wrong = sum(r.wrong + r.errors for m in seen.values() for results in m.results.values() for r in results)
    return [
        circumstances(),
        "",
        HOW.format(
            server=SERVER_CPU,
            load=", ".join(map(str, LOAD_CPUS)),
            connections=CONNECTIONS,
            calls=CALLS,
            seconds=options.seconds,
            warm_up=options.warm_up,
            rounds=options.rounds,
        ),
        "",
        *_rates(seen),
        "",
        *_footprint(seen),
        *(f"\n{name} was not measured: {why}." for name, why in skipped.items()),
        "",
        f"Wrong answers and errors over all rounds: {wrong}.",
        "",
        "![throughput against p99](performance.svg)",
        "",
        *_curves(seen),
    ]


def _rates(seen: dict[str, Measured]) -> list[str]:
    rows = []
    for name, measured in seen.items():
        for row, results in measured.results.items():
            items = measured.items[row]
            rate = spread([result.calls_per_s for result in results])
            rows.append(
                [
                    f"{name}: {row}",
                    rate,
                    whole(median(measured.items_per_s(row))) if items > 1 else "",
                    _ratio(seen, name, row),
                    TARGETS.get(name, {}).get(row, ""),
                    f"{median([result.p50_ms for result in results]):.1f}",
                    f"{median([result.p99_ms for result in results]):.1f}",
                    f"{median([result.server_cpu or 0.0 for result in results]):.2f}",
                ]
            )
    head = ["contender and row", "calls/s", "checks/s", "x Cerbos", "target", "p50 ms", "p99 ms", "server CPU"]
    return table(head, rows)


def _ratio(seen: dict[str, Measured], name: str, row: str) -> str:
    """The median of the ratios of the rounds."""
    peer = seen.get(PEER)
    if peer is None or name == PEER or row == servers.ISSUE:
        return ""
    batch = row == servers.BATCH_CHECK
    theirs = peer.items_per_s(servers.BATCH_CHECK if batch else PEER_ROW)
    ours = seen[name].items_per_s(row)
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=False) if other]
    return f"{median(ratios):.2f}" if ratios else ""


def _footprint(seen: dict[str, Measured]) -> list[str]:
    rows = [
        [
            name,
            f"{median(measured.ready_s):.2f}" if any(measured.ready_s) else "",
            whole(median(measured.memory_mb)),
        ]
        for name, measured in seen.items()
    ]
    return table(["contender", "start to ready, s (new data directory)", "RSS after the load, MB"], rows)


def _curves(seen: dict[str, Measured]) -> list[str]:
    """The points of the picture, as numbers."""
    rows: list[Sequence[str]] = []
    for name, measured in seen.items():
        points = ", ".join(f"{whole(rate)}/s: {p99:g}" for rate, p99 in measured.curve)
        rows.append([name, points])
    return [
        f"Open loop, {PEER_ROW}: right answers a second, and p99 in ms from the moment a call was due.",
        "",
        *table(["contender", "load: p99 ms"], rows),
    ]


def _picture(seen: dict[str, Measured], path: Path) -> None:
    lines = {name: measured.curve for name, measured in seen.items() if measured.curve}
    if lines:
        told = f"{PEER_ROW} (authsvc: with caller authentication, metrics, audit), open loop, one core"
        path.write_text(draw("What a caller waits for, at rising load", told, lines), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except BenchFault as fault:
        raise SystemExit(f"suite: {fault}") from None
