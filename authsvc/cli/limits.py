"""`authsvc limits`: look at limits, consume from them, or simulate them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from authsvc.cli.options import AddressOption, CredentialsOption, FormOption, LinesForm, PolicyOption, StdinFlag
from authsvc.cli.output import Form, show

if TYPE_CHECKING:
    from authsvc.v1 import limit_pb2

app = typer.Typer(help="Rate limits: show, consume, simulate.", no_args_is_help=True)

_COLUMNS = ("rule", "limit", "remaining", "reset_after", "decided_by")

Domain = Annotated[str, typer.Argument(help="The domain of the rules.")]
Entries = Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="The entries of one descriptor.")]


@app.command(name="show")
def show_limits(
    domain: Domain,
    entries: Entries,
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """What is left of every rule that matches, and who counts it; takes nothing."""
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import limit_pb2

    asked = limit_pb2.PeekRequest(domain=domain, descriptors=[descriptor_of(entries, 0)])
    with Session(find_target(address, credentials)) as session:
        answer = session.call("LimitService/Peek", asked, limit_pb2.PeekResponse)
    show(form, plain(answer), columns=_COLUMNS, rows="results")


@app.command()
def consume(
    domain: Domain,
    entries: Entries,
    hits: Annotated[int, typer.Option("--hits", min=0, help="How many; 0 looks and takes nothing.")] = 1,
    peek: Annotated[bool, typer.Option("--peek", help="Ask whether so many would pass, take nothing.")] = False,
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Take hits from every rule that matches, all or nothing; exit code 1 where one refuses."""
    from authsvc.cli.faults import Exit
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import limit_pb2

    descriptor = descriptor_of(entries, hits)
    answer: limit_pb2.ConsumeResponse | limit_pb2.PeekResponse
    with Session(find_target(address, credentials)) as session:
        if peek:
            asked = limit_pb2.PeekRequest(domain=domain, descriptors=[descriptor])
            answer = session.call("LimitService/Peek", asked, limit_pb2.PeekResponse)
        else:
            wanted = limit_pb2.ConsumeRequest(domain=domain, descriptors=[descriptor])
            answer = session.call("LimitService/Consume", wanted, limit_pb2.ConsumeResponse)
    show(form, plain(answer))
    if not answer.allowed:
        raise typer.Exit(Exit.REFUSED)


def descriptor_of(entries: list[str], hits: int) -> limit_pb2.Descriptor:
    """`subject=user:ann` and so on as a descriptor."""
    from authsvc.cli.faults import wrong_use
    from authsvc.v1 import limit_pb2

    descriptor = limit_pb2.Descriptor(hits=hits)
    for text in entries:
        key, equals, value = text.partition("=")
        if not equals:
            raise wrong_use(f"`{text}` is not KEY=VALUE")
        descriptor.entries.add(key=key, value=value)
    return descriptor


@app.command()
def simulate(
    policy: PolicyOption,
    stdin: StdinFlag = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw what happened.", show_default=False)
    ] = None,
    _form: LinesForm = Form.JSON,
) -> None:
    """Try a policy file's limits on calls of your own, without a service.

    A line is {"at": seconds, "domain", "descriptors": [{"entries": [{"key", "value"}], "hits"}]}, in the order of
    time; its answer {"allowed", "results"}. A line at fault counts nothing and is answered {"error", "line"}.
    """
    import json
    from decimal import Decimal
    from typing import Any

    from authsvc.cli.faults import wrong_use
    from authsvc.cli.lines import answer_lines
    from authsvc.cli.policy import read_policy
    from authsvc.core.simulation import simulate_lines

    if not stdin:
        raise wrong_use("give --stdin: calls are read from standard input, one a line")
    simulated = simulate_lines(read_policy(policy).document.limits)
    records: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def answer(text: str) -> dict[str, Any]:
        line = json.loads(text, parse_float=Decimal)
        if not isinstance(line, dict):
            raise ValueError("not an object")  # noqa: TRY004 - as for every other text that is none
        told = simulated(line)
        if svg is not None:
            records.append((line, told))
        return told

    try:
        answer_lines(answer)
    finally:
        if svg is not None:
            _draw(svg, records)


def _draw(path: Path, records: list[tuple[dict[str, object], dict[str, object]]]) -> None:
    from authsvc.cli.faults import wrong_use
    from authsvc.cli.limits_picture import draw_svg

    try:
        path.write_text(draw_svg(records), encoding="utf-8")
    except OSError as error:
        raise wrong_use(f"--svg: cannot write {path}: {error.strerror}") from None
