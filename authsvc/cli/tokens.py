"""`authsvc token`: access tokens.

A token may be given as an argument, but then everybody on the machine can read it in the list of processes: `-` reads
standard input, `@FILE` a file. A secret never is an argument. Both are printed only where the command is for that.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from authsvc.cli.options import AddressOption, CredentialsOption, FormOption, TenantOption
from authsvc.cli.output import Form, show

app = typer.Typer(help="Access tokens: issue, verify, decode, revoke.", no_args_is_help=True)

TokenArgument = Annotated[
    str, typer.Argument(metavar="TOKEN", help="The token; `-` reads standard input, `@FILE` a file.")
]


@app.command()
def issue(
    client_id: Annotated[
        str, typer.Argument(metavar="[CLIENT_ID]", help="Unset: the client of the credentials file.")
    ] = "",
    secret_file: Annotated[
        str, typer.Option("--secret-file", metavar="FILE", help="The client's secret; `-` reads standard input.")
    ] = "",
    audience: Annotated[list[str], typer.Option("--audience", help="Who shall accept it.")] = [],  # noqa: B006 - typer copies it
    scope: Annotated[list[str], typer.Option("--scope", help="Unset: all that the client lists.")] = [],  # noqa: B006 - as above
    tenant: TenantOption = "",
    ttl: Annotated[str, typer.Option("--ttl", help="How long it lives. Unset: tokens.ttl.")] = "",
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Issue an access token by the client credentials grant; the bare token is printed, so that it can be piped."""
    from authsvc.cli.faults import wrong_use
    from authsvc.cli.messages import duration, plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import token_pb2

    target = find_target(address, credentials)
    request = token_pb2.IssueTokenRequest(
        audience=audience, scope=scope, tenant=tenant, ttl=duration(ttl, "--ttl") if ttl else None
    )
    grant = request.client_credentials
    if client_id:
        grant.client_id, grant.client_secret = client_id, _secret(secret_file)
    elif target.credentials is not None:
        grant.client_id, grant.client_secret = target.credentials.client_id, target.credentials.client_secret
    else:
        raise wrong_use(target.missing)
    with Session(target) as session:
        answer = session.public("TokenService/IssueToken", request, token_pb2.IssueTokenResponse)
    if form is Form.JSON:
        show(form, plain(answer))
    else:
        print(answer.access_token)


def _secret(file: str) -> str:
    from authsvc.cli.faults import wrong_use

    if not file:
        raise wrong_use("--secret-file: is required with CLIENT_ID; `-` reads standard input")
    return read_text(file if file == "-" else f"@{file}", "--secret-file")


@app.command()
def verify(
    token: Annotated[
        str, typer.Argument(metavar="[TOKEN]", help="The token; `-` reads standard input, `@FILE` a file.")
    ] = "",
    audience: Annotated[list[str], typer.Option("--audience", help="It must be for one of these.")] = [],  # noqa: B006 - typer copies it
    required_scope: Annotated[list[str], typer.Option("--required-scope", help="It must hold this.")] = [],  # noqa: B006 - as above
    jwks: Annotated[
        Path | None,
        typer.Option("--jwks", metavar="FILE", help="Verify by this key set, without a service.", show_default=False),
    ] = None,
    issuer: Annotated[str | None, typer.Option("--issuer", help="With --jwks: what iss must be.")] = None,
    typ: Annotated[str | None, typer.Option("--typ", help="With --jwks: what the header's typ must be.")] = None,
    algorithm: Annotated[str | None, typer.Option("--algorithm", help="With --jwks. Unset: the key fixes it.")] = None,
    leeway: Annotated[int, typer.Option("--leeway", min=0, help="With --jwks: seconds allowed at exp and nbf.")] = 0,
    stdin: Annotated[bool, typer.Option("--stdin", help="With --jwks: a token a line, an answer a line.")] = False,
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Say whether a token is valid now, and what it says; exit code 1 where it is not.

    With --jwks no service is asked, and what is not given is not checked: the answer is {"valid", "reason"}.
    """
    from authsvc.cli.faults import Exit, wrong_use

    if jwks is not None:
        answer = _offline(jwks, issuer, audience, typ, algorithm, leeway)
        if stdin:
            from authsvc.cli.lines import answer_lines

            answer_lines(answer)
            return
        told = answer(read_text(token, "TOKEN"))
    elif stdin or issuer is not None or typ is not None or algorithm is not None or leeway:
        raise wrong_use("--stdin, --issuer, --typ, --algorithm and --leeway go with --jwks")
    else:
        told = _online(read_text(token, "TOKEN"), audience, required_scope, address, credentials)
    if form is Form.TABLE:
        told |= told.pop("token", None) or {}
    show(form, told)
    if not told["valid"]:
        raise typer.Exit(Exit.REFUSED)


def _offline(
    jwks: Path, issuer: str | None, audience: list[str], typ: str | None, algorithm: str | None, leeway: int
) -> Any:
    import time

    from authsvc.cli.faults import Exit, of_error, wrong_use
    from authsvc.core.claims import IGNORE
    from authsvc.core.errors import AuthsvcError
    from authsvc.core.jose import Algorithm
    from authsvc.core.offline import Expectations, verify_lines

    if len(audience) > 1:
        raise wrong_use("--audience: one only, with --jwks")
    try:
        wanted = IGNORE if algorithm is None else Algorithm(algorithm)
    except ValueError:
        raise wrong_use(f"--algorithm: `{algorithm}` is not one of {', '.join(Algorithm)}") from None
    expectations = Expectations(
        issuer=IGNORE if issuer is None else issuer,
        audience=audience[0] if audience else IGNORE,
        typ=IGNORE if typ is None else typ,
        algorithm=wanted,
        leeway=leeway,
    )
    try:
        return verify_lines(jwks.read_bytes(), expectations, lambda: int(time.time()))
    except OSError as error:
        raise wrong_use(f"--jwks: cannot read {jwks}: {error.strerror}") from None
    except AuthsvcError as error:
        raise of_error(error, Exit.WRONG_USE) from None


def _online(
    token: str, audience: list[str], required_scope: list[str], address: str, credentials: Path | None
) -> dict[str, Any]:
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import token_pb2

    request = token_pb2.VerifyTokenRequest(token=token, audience=audience, required_scope=required_scope)
    with Session(find_target(address, credentials)) as session:
        return plain(session.call("TokenService/VerifyToken", request, token_pb2.VerifyTokenResponse))


@app.command()
def decode(token: TokenArgument, form: FormOption = Form.TABLE) -> None:
    """Show what a token says. NOTHING IS VERIFIED: anybody can have written it."""
    from authsvc.cli.faults import Exit, of_error, wrong_use
    from authsvc.core.errors import AuthsvcError
    from authsvc.core.jose import parse_compact
    from authsvc.core.strict_json import parse_object

    try:
        parsed = parse_compact(read_text(token, "TOKEN"))
        claims: Any = parse_object(parsed.payload)
    except AuthsvcError as error:
        raise of_error(error, Exit.REFUSED) from None
    except ValueError:
        raise wrong_use("the token's payload is not a JSON object") from None
    print("NOT VERIFIED: anybody can have written this token; ask `authsvc token verify`", file=sys.stderr)
    told = {"verified": False, "header": dict(parsed.header.members), "claims": claims}
    if form is Form.JSON:
        show(form, told)
    else:
        for part in ("header", "claims"):
            print(f"{part}  {json.dumps(told[part], indent=2)}")


@app.command()
def revoke(
    token: Annotated[
        str, typer.Argument(metavar="[TOKEN]", help="One token; `-` reads standard input, `@FILE` a file.")
    ] = "",
    token_id: Annotated[str, typer.Option("--token-id", help="One token, by its jti.")] = "",
    subject: Annotated[str, typer.Option("--subject", help="Every token minted so far for this subject.")] = "",
    client_id: Annotated[str, typer.Option("--client-id", help="Every token minted so far for this client.")] = "",
    issuer: Annotated[str, typer.Option("--issuer", help="Every token minted so far by this issuer.")] = "",
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Refuse a token, or all tokens minted so far for a subject, a client or the issuer."""
    from authsvc.cli.faults import wrong_use
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import token_pb2

    targets = {"token": token, "token_id": token_id, "subject": subject, "client_id": client_id, "issuer": issuer}
    chosen = {name: value for name, value in targets.items() if value}
    if len(chosen) != 1:
        raise wrong_use("give one of TOKEN, --token-id, --subject, --client-id, --issuer")
    if token:
        chosen["token"] = read_text(token, "TOKEN")
    request = token_pb2.RevokeTokenRequest(**chosen)
    with Session(find_target(address, credentials)) as session:
        show(form, plain(session.call("TokenService/RevokeToken", request, token_pb2.RevokeTokenResponse)))


def read_text(given: str, name: str) -> str:
    """A token or secret: as it is, from standard input (`-`) or from a file (`@FILE`)."""
    from authsvc.cli.faults import wrong_use

    if given == "-":
        text = sys.stdin.read().strip()
    elif given.startswith("@"):
        try:
            text = Path(given[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise wrong_use(f"{name}: cannot read {given[1:]}") from None
    else:
        text = given
    if not text:
        raise wrong_use(f"{name}: is required")
    return text
