"""`authsvc clients`: the OAuth clients and their secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authsvc.cli.options import AddressOption, ConfigOption, CredentialsOption, FormOption
from authsvc.cli.output import Form, show

if TYPE_CHECKING:
    from authsvc.cli.session import Target

app = typer.Typer(help="OAuth clients: create, list, rotate a secret.", no_args_is_help=True)

COLUMNS = ("client_id", "roles", "audience", "own_audience", "scope", "tenants", "domains", "secrets")
ADMIN_ROLE = "authsvc.admin"

ClientId = Annotated[str, typer.Argument(help="The client's id.")]
SaveOption = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="FILE",
        help="Write a credentials file of mode 0600 instead of showing the secret.",
        show_default=False,
    ),
]
LocalFlag = Annotated[
    bool,
    typer.Option("--local", help="Write to the record itself; no service may run on one in a file."),
]


@app.command()
def create(
    client_id: ClientId,
    role: Annotated[list[str], typer.Option("--role", help="A built-in role. Unset: authsvc.caller.")] = [],  # noqa: B006 - typer copies it
    admin: Annotated[bool, typer.Option("--admin", help="The role authsvc.admin.")] = False,
    local: LocalFlag = False,
    display_name: Annotated[str, typer.Option("--display-name", help="For people.")] = "",
    audience: Annotated[list[str], typer.Option("--audience", help="It may ask tokens for this.")] = [],  # noqa: B006 - as above
    own_audience: Annotated[list[str], typer.Option("--own-audience", help="It verifies tokens for this.")] = [],  # noqa: B006 - as above
    scope: Annotated[list[str], typer.Option("--scope", help="It may ask for this scope.")] = [],  # noqa: B006 - as above
    tenant: Annotated[list[str], typer.Option("--tenant", help="It may name this tenant; * any.")] = [],  # noqa: B006 - as above
    domain: Annotated[list[str], typer.Option("--domain", help="It may consume limits of this domain; * any.")] = [],  # noqa: B006 - as above
    token_ttl: Annotated[str, typer.Option("--token-ttl", help="How long its tokens live. Unset: tokens.ttl.")] = "",
    save: SaveOption = None,
    config: ConfigOption = None,
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Make a client and its first secret, which is shown this once.

    With --local and --admin a lost administrator is replaced beside the record.
    """
    from authsvc.cli.messages import duration, plain
    from authsvc.v1 import client_admin_pb2

    _check_saving(save, client_id)
    roles = [*role, *([ADMIN_ROLE] if admin else [])]
    request = client_admin_pb2.CreateClientRequest(
        client_id=client_id,
        display_name=display_name,
        roles=roles,
        audience=audience,
        own_audience=own_audience,
        scope=scope,
        tenants=tenant,
        domains=domain,
        token_ttl=duration(token_ttl, "--token-ttl") if token_ttl else None,
    )
    if local:
        from authsvc.cli.local import beside_the_record

        target, answer = beside_the_record(config, lambda rows, context: rows.create_client(request, context))
    else:
        from authsvc.cli.session import Session, find_target

        target = find_target(address, credentials)
        with Session(target) as session:
            answer = session.call("ClientAdminService/CreateClient", request, client_admin_pb2.CreateClientResponse)
    told = plain(answer)
    _save(told, target, client_id, save)
    if form is Form.TABLE:
        told = {**told.pop("client"), **told}
    show(form, told)


@app.command("list")
def list_clients(
    address: AddressOption = "", credentials: CredentialsOption = None, form: FormOption = Form.TABLE
) -> None:
    """List the clients by id; never a secret."""
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import client_admin_pb2

    found: list[dict[str, Any]] = []
    with Session(find_target(address, credentials)) as session:
        request = client_admin_pb2.ListClientsRequest(page_size=1000)
        while True:
            page = session.call("ClientAdminService/ListClients", request, client_admin_pb2.ListClientsResponse)
            found += [plain(client) for client in page.clients]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    if form is Form.TABLE:
        found = [client | {"secrets": len(client["secrets"])} for client in found]
    show(form, {"clients": found, "revision": page.revision}, columns=COLUMNS, rows="clients")


@app.command("rotate-secret")
def rotate_secret(
    client_id: ClientId,
    overlap: Annotated[
        str, typer.Option("--overlap", help="How long the secret before lives on. Unset: 24h; 0s: not at all.")
    ] = "",
    local: LocalFlag = False,
    save: SaveOption = None,
    config: ConfigOption = None,
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Make a new secret for a client, which is shown this once."""
    from authsvc.cli.messages import duration, plain
    from authsvc.v1 import client_admin_pb2

    _check_saving(save, client_id)
    request = client_admin_pb2.RotateClientSecretRequest(
        client_id=client_id, overlap=duration(overlap, "--overlap") if overlap else None
    )
    if local:
        from authsvc.cli.local import beside_the_record

        target, answer = beside_the_record(config, lambda rows, context: rows.rotate_client_secret(request, context))
    else:
        from authsvc.cli.session import Session, find_target

        target = find_target(address, credentials)
        with Session(target) as session:
            answer = session.call(
                "ClientAdminService/RotateClientSecret", request, client_admin_pb2.RotateClientSecretResponse
            )
    told = plain(answer)
    _save(told, target, client_id, save)
    show(form, told)


def _check_saving(path: Path | None, client_id: str) -> None:
    """Refuse a file that cannot take the secret before one is made: it is shown once, and an id is not used again."""
    if path is None:
        return
    from authsvc.cli.faults import Exit, of_error, wrong_use
    from authsvc.core.errors import AuthsvcError
    from authsvc.storage.secret_files import AdminCredentials

    if not path.exists():
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise wrong_use(f"--save: cannot write in {path.parent}")
        return
    try:
        held = AdminCredentials.read(path).client_id
    except AuthsvcError as error:
        raise of_error(error, Exit.WRONG_USE) from None
    if held != client_id:
        raise wrong_use(f"--save: {path} holds the secret of `{held}`")


def _save(told: dict[str, Any], target: Target, client_id: str, path: Path | None) -> None:
    """Move the secret from what is shown into a file."""
    if path is None:
        return
    from authsvc.cli.faults import Exit, of_error
    from authsvc.core.errors import AuthsvcError
    from authsvc.storage.secret_files import AdminCredentials, write_secret

    content = AdminCredentials(target.address, client_id, told.pop("client_secret"), target.certificate)
    try:
        write_secret(path, content.to_bytes(), "--save", replace=True)
    except AuthsvcError as error:
        raise of_error(error, Exit.WRONG_USE) from None
    told["saved"] = str(path)
