"""`authsvc check`: one question to the service."""

from __future__ import annotations

from typing import Annotated

import typer

from authsvc.cli.options import AddressOption, CredentialsOption, FormOption, TenantOption
from authsvc.cli.output import Form, show


def check(
    subject: Annotated[str, typer.Argument(help="Whom it concerns, kind:name.")],
    permission: Annotated[str, typer.Argument(help="What is to be done, noun:verb.")],
    resource: Annotated[str, typer.Option("--resource", help="To what. Unset: no resource.")] = "",
    tenant: TenantOption = "",
    group: Annotated[list[str], typer.Option("--group", help="A group the subject is in, by your word.")] = [],  # noqa: B006 - typer copies it
    scope: Annotated[list[str], typer.Option("--scope", help="Bound the answer by this scope.")] = [],  # noqa: B006 - as above
    context: Annotated[str, typer.Option("--context", metavar="JSON", help="What conditions may read.")] = "",
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Ask whether a subject may do a thing; exit code 1 where it may not."""
    from authsvc.cli.faults import Exit
    from authsvc.cli.messages import plain, struct
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import authz_pb2, types_pb2

    request = authz_pb2.CheckRequest(
        subject=subject,
        groups=group,
        permission=permission,
        resource=resource,
        tenant=tenant,
        scope_bound=bool(scope),
        scope=scope,
        context=struct(context, "--context") if context else None,
    )
    with Session(find_target(address, credentials)) as session:
        answer = session.call("AuthzService/Check", request, authz_pb2.CheckResponse)
    show(form, plain(answer))
    if answer.decision != types_pb2.DECISION_ALLOW:
        raise typer.Exit(Exit.REFUSED)
