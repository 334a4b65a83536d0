"""Options that many commands share, so that they are spelled and explained once.

Owns: their types. May import: typer, `cli.output`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from authsvc.cli.output import Form


def _remember_form(context: typer.Context, value: Form) -> Form:
    """Let a fault that ends the command be printed in the form that was asked for."""
    context.meta["form"] = value
    return value


FormOption = Annotated[
    Form,
    typer.Option("--output", "-o", metavar="table|json", help="How answers are printed.", callback=_remember_form),
]
LinesForm = Annotated[
    Form, typer.Option("--output", "-o", metavar="table|json", help="Taken as everywhere; answers are JSON lines.")
]
AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="The service's gRPC address. Unset: the address in the credentials file.",
        show_default=False,
    ),
]
CredentialsOption = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        metavar="FILE",
        help="Credentials file; sent only to the address that it names. Unset: admin.json of the data directory.",
        envvar="AUTHSVC_CREDENTIALS",
        show_default=False,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The configuration. Unset: authsvc.toml of the data directory, where there is one.",
        show_default=False,
    ),
]
TenantOption = Annotated[str, typer.Option("--tenant", help="The tenant. Unset: none.", show_default=False)]
PolicyOption = Annotated[Path, typer.Option("--policy", metavar="FILE", help="The policy file.")]
StdinFlag = Annotated[
    bool, typer.Option("--stdin", help="Read lines from standard input, answer each with a JSON line.")
]
