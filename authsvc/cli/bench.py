"""`authsvc bench`: how many calls a second, and how long each takes.

Owns: the rows that are measured and the table. Load comes from processes of their own (`bench_measure`); where this
command starts the service itself, the service has the first processor and the load the others. Every answer is
compared.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authsvc.cli.options import AddressOption, CredentialsOption, FormOption
from authsvc.cli.output import Form, show

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from authsvc.cli.bench_measure import Subject
    from authsvc.cli.session import Session, Target
    from authsvc.cli.shop import Shop

COLUMNS = ("row", "calls_per_s", "p50_ms", "p99_ms", "wrong", "errors", "server_cpu", "load_cpu")
BATCH = 50
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def bench(
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long each row is measured.")] = 5.0,
    warm_up: Annotated[float, typer.Option("--warm-up", min=0.0, help="Seconds before, not counted.")] = 1.0,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Calls in flight, all in all.")] = 32,
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
    from authsvc.cli.bench_measure import BenchFault, Plan, machine, measure, processors
    from authsvc.cli.faults import CommandFault, Exit, Fault
    from authsvc.cli.session import Session

    processes = min(processes or max(1, processors() - 1), concurrency)
    with _service(address, credentials, own=own) as (target, pid), Session(target) as session:
        cpus = tuple(sorted(os.sched_getaffinity(0))[1:]) if pid is not None else ()
        plan = Plan(seconds, warm_up, concurrency, processes=processes, cpus=cpus)
        server = () if pid is None else (pid,)
        try:
            subjects = _subjects(session, own=pid is not None)
            results = [asdict(measure(target.address, row, plan, server)) for row in subjects]
        except BenchFault as fault:
            raise CommandFault(Fault(str(fault)), Exit.REFUSED) from None
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
    from authsvc.cli.bench_measure import processors
    from authsvc.cli.session import find_target

    if not own:
        target = find_target(address, credentials)
        if address or credentials is not None or (target.credentials is not None and _answers(target)):
            yield target, None
            return
    from authsvc.cli.child import throw_away_service

    first = min(os.sched_getaffinity(0)) if processors() > 1 else None
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


def _subjects(session: Session, *, own: bool) -> list[Subject]:
    """The rows, each asked before: what its answers have in common is expected of all."""
    from authsvc.cli.demo import SHOP, apply_policy
    from authsvc.cli.shop import AUDIENCE, ORDER, READ, Shop
    from authsvc.v1 import authz_pb2, token_pb2, types_pb2

    shop = Shop(session, SHOP if own else f"bench-{secrets.token_hex(4)}")
    if own:
        apply_policy(session)
    shop.create()
    shop.issue()
    allow = types_pb2.DECISION_ALLOW if own else types_pb2.DECISION_DENY
    question = authz_pb2.CheckRequest(subject=shop.subject, permission=READ, resource=ORDER)
    batch = authz_pb2.BatchCheckRequest(checks=[question] * BATCH)
    token = token_pb2.VerifyTokenRequest(token=shop.access_token)
    issue = token_pb2.IssueTokenRequest(audience=[AUDIENCE])
    issue.client_credentials.client_id, issue.client_credentials.client_secret = shop.client_id, shop.secret

    def allows(answer: bytes) -> bool:
        return authz_pb2.CheckResponse.FromString(answer).decision == allow

    def all_allow(answer: bytes) -> bool:
        results = authz_pb2.BatchCheckResponse.FromString(answer).results
        return [result.decision for result in results] == [allow] * BATCH

    def valid(answer: bytes) -> bool:
        return token_pb2.VerifyTokenResponse.FromString(answer).valid

    def issued(answer: bytes) -> bool:
        return bool(token_pb2.IssueTokenResponse.FromString(answer).access_token)

    return [
        _subject(shop, "Check", "AuthzService/Check", question, allows),
        _subject(shop, f"BatchCheck of {BATCH}", "AuthzService/BatchCheck", batch, all_allow, items=BATCH),
        _subject(shop, "IssueToken", "TokenService/IssueToken", issue, issued, public=True, until=b"."),
        _subject(shop, "VerifyToken", "TokenService/VerifyToken", token, valid),
    ]


def _subject(
    shop: Shop,
    name: str,
    method: str,
    request: Message,
    right: Callable[[bytes], bool],
    *,
    public: bool = False,
    items: int = 1,
    until: bytes = b"",
) -> Subject:
    from authsvc.cli.bench_measure import subject

    token = "" if public else shop.caller_token()
    body = request.SerializeToString()
    path = f"/authsvc.v1.{method}"
    return subject(shop.session.channel, name, path, body, right=right, token=token, items=items, until=until)


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
