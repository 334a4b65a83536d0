"""The short benchmark of CI: `python -m tests.bench.smoke [--store]`.

Owns: what may not get slower unnoticed. A call of each row is compared with one of a bare grpcio server that echoes
bytes, by the processor time they cost, measured in the same run on the same machine; a row fails only where that ratio
is a third below the one in `baseline.json`. An absolute number of one machine means nothing on another; a ratio does.
"""

# ruff: noqa: T201 -- it speaks to a person

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from authsvc.cli.bench_measure import BenchFault, Plan, Result, measure
from tests.bench import servers
from tests.bench.report import median
from tests.bench.servers import LOAD_CPUS, Contender, Running, Skipped

BASELINE = Path(__file__).with_name("baseline.json")
ROWS = (servers.CHECK, servers.CHECK_CONTEXT, servers.VERIFY, servers.EXT_AUTHZ, servers.BATCH_CHECK, servers.ISSUE)
TRANSPORTS = ("grpcio", "pyvoy")
KEPT = 2 / 3
"""The share of a baseline's ratio that a run must reach."""


def main() -> int:
    """Measure, compare or store; the exit code is 1 where a row fell or an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.smoke", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="how often a row and the echo are measured in turn")
    parser.add_argument("--seconds", type=float, default=0.4, help="how long each is measured")
    parser.add_argument("--store", action="store_true", help="make this run's ratios the baseline")
    options = parser.parse_args()
    plan = Plan(options.seconds, 0.2, 64, cpus=LOAD_CPUS)
    ratios, wrong = _ratios(options.pairs, plan)
    known: dict[str, float] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    fell = [name for name, ratio in ratios.items() if ratio < known.get(name, 0.0) * KEPT]
    for name, ratio in ratios.items():
        told = f"{known[name]:.3f}" if name in known else "none"
        print(f"{name:30} {ratio:.3f} of echo, baseline {told}{'  FELL BY A THIRD' if name in fell else ''}")
    if wrong:
        print(f"{wrong} answers were wrong")
    if options.store:
        stored = known | {name: round(ratio, 3) for name, ratio in ratios.items()}
        BASELINE.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
        return 0
    return 1 if fell or wrong else 0


def _ratios(pairs: int, plan: Plan) -> tuple[dict[str, float], int]:
    """The median ratio of each transport's rows, and how many answers were not right."""
    found: dict[str, float] = {}
    wrong = 0
    for transport in TRANSPORTS:
        contender = Contender(transport, partial(servers.authsvc, transport))
        try:
            with servers.echo() as echo, contender.start() as running:
                for row in ROWS:
                    seen = [_beside(echo, running, row, plan) for _ in range(pairs)]
                    found[f"{transport}: {row}"] = median([ratio for ratio, _ in seen])
                    wrong += sum(bad for _, bad in seen)
        except Skipped as why:
            print(f"{transport} is not measured: {why}")
    return found, wrong


def _beside(echo: Running, running: Running, row: str, plan: Plan) -> tuple[float, int]:
    """One row, and the echo right after it: what disturbs the machine disturbs both."""
    here = measure(running.address, running.rows[row], plan, running.processes())
    there = measure(echo.address, echo.rows[servers.ECHO], plan, echo.processes())
    return _cost(there) / _cost(here), here.wrong + here.errors


def _cost(result: Result) -> float:
    """Processor time a call: unlike calls/s it hardly changes where the machine has other work too."""
    return max(0.01, result.server_cpu or 0.0) / max(1.0, result.calls_per_s)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchFault as fault:
        sys.exit(f"smoke: {fault}")
