"""`authsvc roles`: the role bindings."""

from __future__ import annotations

from typing import Annotated

import typer

from authsvc.cli.ids import IdCommand
from authsvc.cli.options import AddressOption, CredentialsOption, FormOption, TenantOption
from authsvc.cli.output import Form, show

app = typer.Typer(help="Role bindings: grant, revoke, list.", no_args_is_help=True)

COLUMNS = ("binding_id", "subject", "role", "tenant", "resource", "expire_time", "condition", "source", "revoked")


@app.command()
def grant(
    subject: Annotated[str, typer.Argument(help="Who shall hold it, kind:name.")],
    role: Annotated[str, typer.Argument(help="A role of the policy, or a built-in one.")],
    tenant: TenantOption = "",
    resource: Annotated[str, typer.Option("--resource", help="Only for resources that match this pattern.")] = "",
    expire_time: Annotated[str, typer.Option("--expire-time", help="Until when, as 2027-01-31T12:00:00Z.")] = "",
    condition: Annotated[str, typer.Option("--condition", help="Only where this CEL expression is true.")] = "",
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Bind a role to a subject."""
    from authsvc.cli.messages import plain, timestamp
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import policy_admin_pb2

    request = policy_admin_pb2.GrantRoleRequest(
        subject=subject,
        role=role,
        tenant=tenant,
        resource=resource,
        condition=condition,
        expire_time=timestamp(expire_time, "--expire-time") if expire_time else None,
    )
    with Session(find_target(address, credentials)) as session:
        told = plain(session.call("PolicyAdminService/GrantRole", request, policy_admin_pb2.GrantRoleResponse))
    show(form, told if form is Form.JSON else {**told["binding"], "revision": told["revision"]})


@app.command(cls=IdCommand)
def revoke(
    binding_id: Annotated[str, typer.Argument(help="As `authsvc roles list` shows it.")],
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Take a binding away."""
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import policy_admin_pb2

    request = policy_admin_pb2.RevokeRoleRequest(binding_id=binding_id)
    with Session(find_target(address, credentials)) as session:
        show(form, plain(session.call("PolicyAdminService/RevokeRole", request, policy_admin_pb2.RevokeRoleResponse)))


@app.command("list")
def list_bindings(
    subject: Annotated[str, typer.Option("--subject", help="Only this subject's.")] = "",
    role: Annotated[str, typer.Option("--role", help="Only of this role.")] = "",
    tenant: TenantOption = "",
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """List bindings by subject."""
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import policy_admin_pb2

    found = []
    request = policy_admin_pb2.ListRoleBindingsRequest(subject=subject, role=role, tenant=tenant, page_size=1000)
    with Session(find_target(address, credentials)) as session:
        while True:
            page = session.call(
                "PolicyAdminService/ListRoleBindings", request, policy_admin_pb2.ListRoleBindingsResponse
            )
            found += [plain(binding) for binding in page.bindings]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    show(form, {"bindings": found, "revision": page.revision}, columns=COLUMNS, rows="bindings")
