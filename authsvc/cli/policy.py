"""`authsvc policy`: the policy, in force or in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from authsvc.cli.options import AddressOption, CredentialsOption, FormOption, LinesForm, PolicyOption, StdinFlag
from authsvc.cli.output import Form, show

if TYPE_CHECKING:
    from authsvc.core.policy import CompiledPolicy

app = typer.Typer(help="The policy: lint, apply, show, decide.", no_args_is_help=True)

PolicyFile = Annotated[Path, typer.Argument(metavar="FILE", help="The policy file.")]


@app.command()
def lint(
    file: PolicyFile,
    service_roles: Annotated[
        bool, typer.Option("--service-roles", help="The file may bind authsvc.* roles, as policy.grants_service_roles.")
    ] = False,
    form: FormOption = Form.TABLE,
) -> None:
    """Check a policy file whole and run its tests, without a service."""
    policy = read_policy(file, service_roles=service_roles)
    document = policy.document
    counts = {
        "permissions": len(document.permissions),
        "roles": len(document.roles),
        "groups": len(document.groups),
        "bindings": len(document.bindings),
        "scopes": len(document.scopes),
        "routes": len(document.routes),
        "limits": len(document.limits.by_name),
        "tests_passed": len(document.tests),
    }
    show(form, {"file": str(file), "valid": True, **counts})


@app.command()
def apply(
    file: PolicyFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and test only, change nothing.")] = False,
    expected_revision: Annotated[
        str, typer.Option("--expected-revision", help="The policy revision that this builds on.")
    ] = "",
    address: AddressOption = "",
    credentials: CredentialsOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Put a policy in force; on any fault the old one stays."""
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import policy_admin_pb2

    request = policy_admin_pb2.ApplyPolicyRequest(
        policy=read_text(file), dry_run=dry_run, expected_revision=expected_revision
    )
    with Session(find_target(address, credentials)) as session:
        answer = session.call("PolicyAdminService/ApplyPolicy", request, policy_admin_pb2.ApplyPolicyResponse)
    show(form, plain(answer))


@app.command("show")
def show_policy(
    address: AddressOption = "", credentials: CredentialsOption = None, form: FormOption = Form.TABLE
) -> None:
    """Print the policy in force, as it was applied."""
    from authsvc.cli.messages import plain
    from authsvc.cli.session import Session, find_target
    from authsvc.v1 import policy_admin_pb2

    request = policy_admin_pb2.GetPolicyRequest()
    with Session(find_target(address, credentials)) as session:
        answer = session.call("PolicyAdminService/GetPolicy", request, policy_admin_pb2.GetPolicyResponse)
    if form is Form.JSON:
        show(form, plain(answer))
    elif answer.policy:
        print(answer.policy, end="" if answer.policy.endswith("\n") else "\n")
    else:
        print("# no policy was applied yet")


@app.command()
def decide(
    policy: PolicyOption,
    stdin: StdinFlag = False,
    service_roles: Annotated[bool, typer.Option("--service-roles", help="The file may bind authsvc.* roles.")] = False,
    _form: LinesForm = Form.JSON,
) -> None:
    """Decide questions by a policy file, without a service.

    A line is {"subject", "groups", "permission", "resource", "tenant", "scope", "context"}, all but subject and
    permission optional; its answer {"decision": "allow"|"deny", "reason", "role", "binding_id"}. A line that is no
    question is denied as question_invalid.
    """
    import time

    from authsvc.cli.faults import wrong_use
    from authsvc.cli.lines import answer_lines
    from authsvc.core.policy_questions import decide_lines

    if not stdin:
        raise wrong_use("give --stdin: questions are read from standard input, one a line")
    import json

    decided = decide_lines(read_policy(policy, service_roles=service_roles), int(time.time()))
    answer_lines(lambda line: decided(json.loads(line)))


def read_policy(path: Path, *, service_roles: bool = False) -> CompiledPolicy:
    """The policy of a file, compiled, its tests run; raises CommandFault that names every fault by its path."""
    from authsvc.cli.faults import Exit, of_error
    from authsvc.core import policy_document
    from authsvc.core.errors import FieldViolation, InvalidRequest, Reason
    from authsvc.core.policy import compile_policy
    from authsvc.core.policy_questions import run_tests

    try:
        compiled = compile_policy(policy_document.parse(read_text(path), service_roles=service_roles))
        if failures := run_tests(compiled):
            raise InvalidRequest([failure.violation for failure in failures], Reason.POLICY_INVALID)
    except InvalidRequest as error:
        # What concerns the file as a whole has no path within it.
        faults = [FieldViolation(fault.field or str(path), fault.description) for fault in error.violations]
        raise of_error(InvalidRequest(faults, error.reason), Exit.REFUSED) from None
    return compiled


def read_text(path: Path) -> str:
    """A file's text; raises CommandFault where it cannot be read."""
    from authsvc.cli.faults import wrong_use

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise wrong_use(f"cannot read {path}: {why}") from None
