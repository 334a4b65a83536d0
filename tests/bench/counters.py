"""Measure limits on Redis, on each transport: `python -m tests.bench.counters [--write]`.

Owns: the calls with 1 and 3 limits, what they cost this service and what they cost Redis. A program, never a timed
test. The service has a processor of its own; load and Redis share the others, since neither is what is measured.
"""

# ruff: noqa: T201 -- it speaks to a person

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from authsvc.api.envoy_messages import RateLimitRequest, RateLimitResponse
from authsvc.cli.bench_measure import BenchFault, Plan, Result, Subject, measure, subject
from authsvc.cli.child import throw_away_service
from authsvc.cli.faults import CommandFault
from authsvc.cli.session import Session, find_target
from authsvc.core.values import SERVICE_AUDIENCE
from authsvc.v1 import authz_pb2, client_admin_pb2, limit_pb2, policy_admin_pb2, types_pb2
from tests.bench.report import circumstances, median, put_block, spread, table, whole
from tests.bench.servers import LOAD_CPUS, SERVER_CPU, Running, Skipped
from tests.support.process import page
from tests.support.redis import Store, store
from tests.support.transports import TRANSPORTS

CALLS, CONNECTIONS = 64, 4
VALUES = {"user": "user:ann.example", "path": "/v1/orders/{id}", "remote_address": "203.0.113.77"}
POLICY = """\
version: 1
permissions: {"orders:read": {}}
roles:
  clerk: {allow: ["orders:read"]}
bindings:
  - {subject: "client:bench", role: clerk}
limits:
""" + "".join(f'  per_{key}: {{domain: bench, match: {{{key}: "*"}}, rate: 1000000/1s}}\n' for key in VALUES)
TARGETS = {"authsvc pyvoy": {"ShouldRateLimit, 1 limit": "12,000/s, p99 5 ms", "Authorize, 1 limit": "10,000/s"}}
HOW = """\
One processor for the service ({server}), the others ({load}) for Redis and the load: closed loop, {connections} \
connections, {calls} calls in flight, {seconds:g} s a row after {warm_up:g} s of warm-up; then an open loop at half \
of what that reached, for its p99 from the moment a call was due. Median of {rounds} rounds in turn, in brackets \
the least and the greatest. Every call is one script on Redis whatever the number of limits. `us` are microseconds \
of processor time a call: of the service with all its processes, and of Redis by its own `INFO cpu`. `not by Redis` \
are outcomes of the local share, because Redis had not answered within 10 ms, and wrong answers and errors."""


@dataclass(frozen=True)
class Seen:
    """A row of a round: at full load, at half of it, Redis' microseconds a call, answers that Redis did not decide."""

    full: Result
    half: Result
    redis_us: float
    elsewhere: int


@dataclass(frozen=True)
class Counting:
    """A service that counts on a store."""

    running: Running
    store: Store
    ops: str

    def decided(self) -> dict[str, float]:
        """Outcomes so far by who decided."""
        begin = 'authsvc_counters_decisions_total{decided_by="'
        lines = (line for line in page(f"http://{self.ops}/metrics")[1].splitlines() if line.startswith(begin))
        pairs = (line.removeprefix(begin).split('"} ') for line in lines)
        return {name: float(count) for name, count in pairs}

    def redis(self) -> tuple[float, int]:
        """Processor seconds and scripts of Redis so far."""
        cpu, scripts = self.store.ask("INFO", "cpu"), self.store.ask("INFO", "commandstats")["cmdstat_evalsha"]
        return cpu["used_cpu_user"] + cpu["used_cpu_sys"], scripts["calls"]


def main() -> None:
    """Measure, tell, write."""
    options = _options()
    plan = Plan(options.seconds, options.warm_up, CALLS, CONNECTIONS, cpus=LOAD_CPUS)
    seen: dict[tuple[str, str], list[Seen]] = {}
    for number in range(options.rounds):
        for transport in TRANSPORTS:
            if options.only not in transport:
                continue
            print(f"round {number + 1} of {options.rounds}: {transport}", flush=True)
            try:
                with counting(transport) as service:
                    for row in service.running.rows.values():
                        one = _measured(service, row, plan)
                        print(f"  {one}", flush=True)
                        seen.setdefault((f"authsvc {transport}", row.name), []).append(one)
            except Skipped as why:
                print(f"  skipped: {why}")
    lines = _written(seen, options)
    print("\n".join(lines))
    if options.write:
        put_block("counters", lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.counters", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a row is measured in each round")
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--only", default="", help="transports whose name holds this")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


@contextmanager
def counting(transport: str) -> Iterator[Counting]:
    """This service as anybody runs it, on a Redis of its own; raises Skipped."""
    with store() as redis:
        os.sched_setaffinity(redis.server.process.pid, LOAD_CPUS)
        settings = {"server.transport": transport, "counters.url": redis.url}
        try:
            with (
                throw_away_service(settings, cpu=SERVER_CPU) as child,
                Session(find_target("", child.credentials)) as session,
            ):
                rows = rows_of(session)
                yield Counting(Running(child.grpc, child.process.pid, child.seconds, rows), redis, child.ops)
        except CommandFault as fault:
            raise Skipped(str(fault)) from None


def rows_of(session: Session) -> dict[str, Subject]:
    """ShouldRateLimit and Consume, each of 1 and of 3 limits, and Authorize of 1."""
    session.call(
        "PolicyAdminService/ApplyPolicy",
        policy_admin_pb2.ApplyPolicyRequest(policy=POLICY),
        policy_admin_pb2.ApplyPolicyResponse,
    )
    made = session.call(
        "ClientAdminService/CreateClient",
        client_admin_pb2.CreateClientRequest(
            client_id="bench", audience=["orders"], own_audience=["orders"], domains=["bench"]
        ),
        client_admin_pb2.CreateClientResponse,
    )
    caller = session.issue("bench", made.client_secret, SERVICE_AUDIENCE).access_token
    token = session.issue("bench", made.client_secret, "orders").access_token
    calls, found = partial(subject, session.channel), []
    for count in (1, 3):
        limits = f"{count} limit{'s' * (count > 1)}"
        asked, wanted = RateLimitRequest(domain="bench"), limit_pb2.ConsumeRequest(domain="bench")
        for key, value in list(VALUES.items())[:count]:
            asked.descriptors.add().entries.add(key=key, value=value)
            wanted.descriptors.add().entries.add(key=key, value=value)
        found += [
            calls(
                f"ShouldRateLimit, {limits}",
                "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
                asked.SerializeToString(),
                right=_let_through,
            ),
            calls(
                f"Consume, {limits}",
                "/authsvc.v1.LimitService/Consume",
                wanted.SerializeToString(),
                right=lambda answer: limit_pb2.ConsumeResponse.FromString(answer).allowed,
                token=caller,
            ),
        ]
    entry = limit_pb2.Entry(key="user", value=VALUES["user"])
    authorize = authz_pb2.AuthorizeRequest(
        token=token,
        permission="orders:read",
        resource="orders/81734",
        consume=[limit_pb2.Consumption(domain="bench", descriptors=[limit_pb2.Descriptor(entries=[entry])])],
    )
    found.append(
        calls(
            "Authorize, 1 limit",
            "/authsvc.v1.AuthzService/Authorize",
            authorize.SerializeToString(),
            right=lambda answer: authz_pb2.AuthorizeResponse.FromString(answer).decision == types_pb2.DECISION_ALLOW,
            token=caller,
        )
    )
    return {row.name: row for row in found}


def _let_through(answer: bytes) -> bool:
    message = RateLimitResponse.FromString(answer)
    return bool(message.overall_code == 1 and message.dynamic_metadata.fields["decided_by"].string_value == "store")


def _measured(service: Counting, row: Subject, plan: Plan) -> Seen:
    running = service.running
    cpu, scripts = service.redis()
    decided = service.decided()
    full = measure(running.address, row, plan, running.processes())
    cpu_after, scripts_after = service.redis()
    half = measure(running.address, row, replace(plan, rate=full.calls_per_s / 2), running.processes())
    decided_after = service.decided()
    elsewhere = sum(decided_after[by] - decided[by] for by in decided_after if by != "store")
    faults = full.wrong + full.errors + half.wrong + half.errors
    redis_us = (cpu_after - cpu) / max(1, scripts_after - scripts) * 1e6
    return Seen(full, half, redis_us, round(elsewhere) + faults)


def _written(seen: dict[tuple[str, str], list[Seen]], options: argparse.Namespace) -> list[str]:
    rows = []
    for (name, row), found in seen.items():
        service_us = [(one.full.server_cpu or 0.0) / max(1, one.full.calls_per_s) * 1e6 for one in found]
        rows.append(
            [
                f"{name}: {row}",
                spread([one.full.calls_per_s for one in found]),
                TARGETS.get(name, {}).get(row, ""),
                f"{median(service_us):.0f}",
                f"{median([one.redis_us for one in found]):.1f}",
                f"{median([one.full.p99_ms for one in found]):.1f}",
                f"{median([one.half.p99_ms for one in found]):.1f}",
                whole(sum(one.elsewhere for one in found)),
            ]
        )
    head = ["transport and row", "calls/s", "target", "service us", "Redis us", "p99 ms", "p99 ms at half"]
    how = HOW.format(
        server=SERVER_CPU,
        load=", ".join(map(str, LOAD_CPUS)),
        connections=CONNECTIONS,
        calls=CALLS,
        seconds=options.seconds,
        warm_up=options.warm_up,
        rounds=options.rounds,
    )
    return [circumstances(), "", how, "", *table([*head, "not by Redis"], rows)]


if __name__ == "__main__":
    try:
        main()
    except BenchFault as fault:
        raise SystemExit(f"counters: {fault}") from None
