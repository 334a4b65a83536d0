"""`authsvc smoke`: is the service that was deployed whole? What `helm test` runs."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from authsvc.cli.options import AddressOption, CredentialsOption, FormOption
from authsvc.cli.output import Form

if TYPE_CHECKING:
    from authsvc.cli.session import Session, Target
    from authsvc.cli.steps import Answer

_SHOWN_WITHIN_S = 10.0


def smoke(
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    any_certificate: Annotated[
        bool,
        typer.Option(
            "--any-certificate", help="Take the certificate that the address shows; only without credentials."
        ),
    ] = False,
    form: FormOption = Form.TABLE,
) -> None:
    """Ask a service for its health, its keys, and a call that it must refuse.

    With an administrator's credentials also for a throw-away client, a token, its verification, a check and a limit.
    """
    from authsvc.cli.faults import Exit
    from authsvc.cli.session import Session, find_target
    from authsvc.cli.shop import READ, Shop
    from authsvc.cli.steps import Answer, Walk

    target = _whoever_answers(address, credentials) if any_certificate else find_target(address, credentials)
    walk = Walk(form)
    walk.title(f"authsvc smoke on {target.address}")
    with Session(target) as session:
        reached = walk.step("health", lambda: _health(session))
        if reached:
            walk.step("keys that verify", lambda: _jwks(session))
            walk.step("a call without credentials", lambda: _refused(session))
        if reached and target.credentials is not None:
            shop = Shop(session, f"smoke-{secrets.token_hex(4)}")
            if walk.step("create a client", shop.create):
                walk.step("issue a token", shop.issue)
                walk.step("verify it", shop.verify)
                walk.step("check", lambda: shop.check(READ, expected="")._replace(ok=True))
                walk.step("consume", lambda: Answer(True, "admitted" if shop.consume().allowed else "refused"))
    walk.finish()
    if not reached:
        raise typer.Exit(Exit.UNREACHABLE)
    if not walk.ok:
        raise typer.Exit(Exit.REFUSED)


def _whoever_answers(address: str, credentials: Path | None) -> Target:
    """The address with the certificate that it shows now: nothing secret is sent, so its owner need not be proved."""
    import ssl

    from authsvc.cli.faults import CommandFault, Exit, Fault, wrong_use
    from authsvc.cli.session import DEFAULT_ADDRESS, Target
    from authsvc.config import split_listen

    if credentials is not None:
        raise wrong_use("--any-certificate: credentials are sent to nobody unproved; leave out one of the two")
    chosen = address or DEFAULT_ADDRESS
    try:
        return Target(chosen, ssl.get_server_certificate(split_listen(chosen), timeout=_SHOWN_WITHIN_S))
    except ValueError as error:
        raise wrong_use(f"--address: {error}") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise CommandFault(Fault(f"cannot reach the service at {chosen}: {why}"), Exit.UNREACHABLE) from None


def _health(session: Session) -> Answer:
    from authsvc.api.standard_messages import HealthCheckRequest, HealthCheckResponse
    from authsvc.cli.steps import Answer

    answer = session.public("/grpc.health.v1.Health/Check", HealthCheckRequest(), HealthCheckResponse)
    status = HealthCheckResponse.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[answer.status].name
    return Answer(status == "SERVING", status.lower())


def _jwks(session: Session) -> Answer:
    from authsvc.cli.steps import Answer
    from authsvc.core.jose import verification_keys
    from authsvc.v1 import key_pb2

    answer = session.public("KeyService/GetJwks", key_pb2.GetJwksRequest(), key_pb2.GetJwksResponse)
    keys = verification_keys(answer.jwks)
    published = len(json.loads(answer.jwks)["keys"])
    return Answer(len(keys) == published > 0, f"{published} published, cached for {answer.max_age} s")


def _refused(session: Session) -> Answer:
    from authsvc.cli.faults import CommandFault
    from authsvc.cli.steps import Answer
    from authsvc.v1 import authz_pb2

    request = authz_pb2.CheckRequest(subject="user:nobody", permission="orders:read")
    try:
        session.public("AuthzService/Check", request, authz_pb2.CheckResponse)
    except CommandFault as ended:
        return Answer(ended.fault.reason == "caller_unauthenticated", f"refused: {ended.fault.reason}")
    return Answer(False, "was answered")
