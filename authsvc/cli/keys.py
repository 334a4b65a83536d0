"""`authsvc keys`: the signing keys."""

from __future__ import annotations

from typing import Annotated

import typer

from authsvc.cli.ids import IdCommand
from authsvc.cli.options import AddressOption, CredentialsOption, FormOption
from authsvc.cli.output import Form, show

app = typer.Typer(help="Signing keys: list, rotate, revoke, and how far a change has come.", no_args_is_help=True)

_ALGORITHMS = {"": 0, "ES256": 1, "EdDSA": 2, "RS256": 3}
REPLICA_COLUMNS = ("replica_id", "revision", "watchers", "acknowledged", "age")
COLUMNS = ("kid", "algorithm", "state", "create_time", "activate_after", "expire_time", "revoke_reason")


@app.command("list")
def list_keys(
    address: AddressOption = "", credentials: CredentialsOption = None, form: FormOption = Form.TABLE
) -> None:
    """List every signing key with its state, newest first."""
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import key_admin_pb2

    found = []
    with Session(find_target(address, credentials)) as session:
        request = key_admin_pb2.ListKeysRequest(page_size=1000)
        while True:
            page = session.call("KeyAdminService/ListKeys", request, key_admin_pb2.ListKeysResponse)
            found += [plain(key) for key in page.keys]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
    show(form, {"keys": found, "revision": page.revision}, columns=COLUMNS, rows="keys")


@app.command()
def rotate(
    algorithm: Annotated[
        str, typer.Option("--algorithm", help="Of the new standby: ES256, EdDSA or RS256. Unset: keys.algorithm.")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Do not wait for the standby's lead: verifiers may not know it yet.")
    ] = False,
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Let the standby sign, and publish another."""
    from authsvc.cli.faults import wrong_use
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import key_admin_pb2

    if algorithm not in _ALGORITHMS:
        raise wrong_use(f"--algorithm: `{algorithm}` is not ES256, EdDSA or RS256")
    request = key_admin_pb2.RotateKeyRequest(force=force)
    request.algorithm = _ALGORITHMS[algorithm]  # type: ignore[assignment]  # the enum's numbers
    with Session(find_target(address, credentials)) as session:
        answer = plain(session.call("KeyAdminService/RotateKey", request, key_admin_pb2.RotateKeyResponse))
    if form is Form.TABLE:
        answer = {name: key["kid"] if isinstance(key, dict) else key for name, key in answer.items()}
    show(form, answer)


@app.command(cls=IdCommand)
def revoke(
    kid: Annotated[str, typer.Argument(help="The key; none with --all-keys.")] = "",
    reason: Annotated[str, typer.Option("--reason", help="Kept with the key and in the audit log.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would happen, change nothing.")] = False,
    all_keys: Annotated[bool, typer.Option("--all-keys", help="Every key, standbys too; new ones are made.")] = False,
    all_tokens: Annotated[bool, typer.Option("--all-tokens", help="Refuse every token minted so far.")] = False,
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Withdraw a key at once: it leaves the JWKS and its tokens are refused."""
    from authsvc.cli.faults import wrong_use
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import key_admin_pb2

    if bool(kid) == all_keys:
        raise wrong_use("give a KID or --all-keys, not both")
    if not reason:
        raise wrong_use("--reason: is required; it is kept with the key")
    request = key_admin_pb2.RevokeKeyRequest(
        kid=kid, reason=reason, dry_run=dry_run, all_keys=all_keys, all_tokens=all_tokens
    )
    with Session(find_target(address, credentials)) as session:
        show(form, plain(session.call("KeyAdminService/RevokeKey", request, key_admin_pb2.RevokeKeyResponse)))


@app.command()
def propagation(
    holding: Annotated[
        str,
        typer.Option("--holding", help="A revision: count watchers that hold it. Unset: the newest change of a key."),
    ] = "",
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Tell which replica holds which revision, and how many of its watchers; ages in seconds."""
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import key_admin_pb2

    request = key_admin_pb2.GetPropagationRequest(holding=holding)
    with Session(find_target(address, credentials)) as session:
        answer = session.call("KeyAdminService/GetPropagation", request, key_admin_pb2.GetPropagationResponse)
    show(form, plain(answer), columns=REPLICA_COLUMNS, rows="replicas")
