"""The entry point.

Owns: which commands there are, and how a fault ends the process. May import: typer, the command groups.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """What the script `authsvc` runs."""
    if os.getpid() == 1:
        # In a container, where the kernel drops a signal that PID 1 has no handler for. `serve` sets its own later.
        signal.signal(signal.SIGTERM, _end)
    if sys.argv[1:] == ["version"]:
        from authsvc import __version__

        print(__version__)
        return
    if find_spec("typer") is None:
        # The lean base, which the thin client brings, has the script and not what the commands need.
        print("authsvc: the command line needs more packages: pip install 'authsvc[server]'", file=sys.stderr)
        sys.exit(2)
    build()(prog_name="authsvc")


def _end(number: int, _frame: object) -> None:
    """End as the signal would end any other process."""
    sys.exit(128 + number)


def build() -> typer.Typer:
    """The application with every command of this release."""
    import typer

    from authsvc.cli import (
        bench,
        check,
        clients,
        demo,
        keys,
        limits,
        migrate,
        policy,
        roles,
        serve,
        smoke,
        tokens,
        version,
    )
    from authsvc.cli.ending import Commands
    from authsvc.cli.settings import FLAGS

    app = typer.Typer(
        cls=Commands,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Tokens, keys, permissions and rate limits for microservices.\n\n"
        "Exit codes: 0 done, 1 refused or denied, 2 wrong use, 3 cannot reach the service.",
    )
    app.command(context_settings=FLAGS)(serve.serve)
    app.command()(demo.demo)
    app.command()(smoke.smoke)
    app.command(context_settings=FLAGS)(migrate.migrate)
    app.command("check-config", context_settings=FLAGS)(serve.check_config)
    app.add_typer(keys.app, name="keys")
    app.add_typer(clients.app, name="clients")
    app.add_typer(policy.app, name="policy")
    app.add_typer(roles.app, name="roles")
    app.add_typer(tokens.app, name="token")
    app.command()(check.check)
    app.add_typer(limits.app, name="limits")
    app.command()(bench.bench)
    app.command()(version.version)
    return app


if __name__ == "__main__":
    main()
