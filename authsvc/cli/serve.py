"""`authsvc serve` and `authsvc check-config`.

Owns: the process around the service: its configuration, its lock, its signals, the one line when it is ready.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authsvc.cli.faults import Exit, of_error, wrong_use
from authsvc.cli.options import ConfigOption, FormOption
from authsvc.cli.orphans import Orphans
from authsvc.cli.output import Form, show
from authsvc.cli.settings import load_config, sources

if TYPE_CHECKING:
    from authsvc.bootstrap.letter import Letter
    from authsvc.bootstrap.service import Addresses
    from authsvc.cli.serve_workers import Addresses as SupervisedAddresses
    from authsvc.config import Config
    from authsvc.transport.tls import LiveTls, TlsMaterial

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may hold the interpreter while others wait: at Python's 5 ms one busy thread beside the loop costs
twice the throughput that it costs at this."""


def serve(
    context: typer.Context,
    config: ConfigOption = None,
    transport: Annotated[
        str, typer.Option("--transport", help="Short for --server.transport.", show_default=False)
    ] = "",
    workers: Annotated[
        int | None, typer.Option("--workers", help="Short for --server.workers.", show_default=False)
    ] = None,
    accept_new_issuer: Annotated[
        bool, typer.Option("--accept-new-issuer", help="Issue under another issuer than the record remembers.")
    ] = False,
    form: FormOption = Form.TABLE,
) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Every setting of the configuration is also a flag: --server.listen 127.0.0.1:7070.
    """
    begun = time.monotonic()
    extra = [
        *context.args,
        *(["--server.transport", transport] if transport else []),
        *(["--server.workers", str(workers)] if workers is not None else []),
    ]
    chosen = load_config(config, extra)
    from authsvc.bootstrap.first_start import prepare_directory
    from authsvc.bootstrap.letter import Letter
    from authsvc.cli.serve_workers import why_not
    from authsvc.core.errors import AuthsvcError
    from authsvc.storage.data_directory import data_directory
    from authsvc.storage.sql.directory_lock import DataDirectoryLock
    from authsvc.transport.scheduling import work_in_batches
    from authsvc.transport.tls import limit_grpcio

    directory = data_directory(os.environ)
    missing = why_not(chosen)
    for text in (*warnings(chosen), *([missing] if missing else [])):
        print(f"authsvc: warning: {text}", file=sys.stderr)
    limit_grpcio(os.environ, chosen.server.tls.min_version)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    work_in_batches()
    os.umask(0o077)  # the record is this user's alone
    try:
        prepare_directory(directory)
        with DataDirectoryLock(directory) as lock:
            in_envoy = chosen.server.transport == "pyvoy" and not missing
            if in_envoy or chosen.server.workers > 1:
                letter = Letter(*sources(config, extra), directory, accept_new_issuer, SWITCH_INTERVAL_S)
                asyncio.run(_supervise(chosen, letter, lock.fileno(), begun, form, in_envoy=in_envoy))
            else:
                asyncio.run(_serve(chosen, directory, begun, form, accept_new_issuer=accept_new_issuer))
    except AuthsvcError as error:
        raise of_error(error, Exit.WRONG_USE) from None


def warnings(config: Config) -> list[str]:
    """What is allowed and unwise; said at each start."""
    from authsvc.bootstrap.counting import in_plaintext
    from authsvc.config import TlsMode

    found = []
    if config.server.tls.mode is TlsMode.INSECURE:
        found.append("server.tls.mode: insecure: whoever is on the way reads tokens and secrets, and answers for us")
    if not config.on_loopback and config.bootstrap.generate:
        found.append("bootstrap.generate: key-encryption key and admin are generated beside the record they protect")
    if in_plaintext(config.counters.url):
        found.append("counters.url: plain redis to another host; on the way all can read the password, and count")
    return found


async def _serve(config: Config, directory: Path, begun: float, form: Form, *, accept_new_issuer: bool) -> None:
    from authsvc.bootstrap.foundation import lay_foundation
    from authsvc.bootstrap.service import AuthorizationService
    from authsvc.core.errors import AuthsvcError
    from authsvc.telemetry import log_the_unexpected
    from authsvc.transport.listening import ListenFault

    foundation = lay_foundation(config, directory, accept_new_issuer=accept_new_issuer)
    log_the_unexpected(foundation.log)
    service = AuthorizationService(foundation, environment=os.environ)
    stopped = asyncio.Event()
    _on_signals(stopped, Orphans())
    try:
        addresses = await service.start()
    except ListenFault as fault:
        await service.stop(0)
        raise wrong_use(_named(str(fault), config)) from None
    except AuthsvcError:
        # A key file at fault is found before anything was started.
        foundation.close()
        raise
    _tell_admin_file(directory, addresses, service.tls)
    _say_ready(form, addresses, directory, time.monotonic() - begun, service.tls)
    await stopped.wait()
    await service.stop(config.server.grace)


async def _supervise(config: Config, letter: Letter, lock: int, begun: float, form: Form, *, in_envoy: bool) -> None:
    from authsvc.cli.serve_workers import Supervision, supervise

    stopped, orphans = asyncio.Event(), Orphans()
    _on_signals(stopped, orphans)

    def ready(addresses: SupervisedAddresses, tls: LiveTls | None) -> None:
        _tell_admin_file(letter.directory, addresses, tls)
        _say_ready(form, addresses, letter.directory, time.monotonic() - begun, tls)

    def say(worker: int, what: str) -> None:
        told = {"event": "worker", "worker": worker, "text": what}
        line = json.dumps(told) if form is Form.JSON else f"authsvc: worker {worker} {what}"
        print(line, file=sys.stderr, flush=True)

    await supervise(
        Supervision(config, letter, lock, in_envoy, orphans, say),
        named=lambda fault: _named(fault, config),
        ready=ready,
        stopped=stopped,
    )


def _on_signals(stopped: asyncio.Event, orphans: Orphans) -> None:
    """The first signal asks for a graceful end; a second one ends the process as it would any other.

    In a container this is PID 1, which inherits the children of others.
    """
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopped.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGCHLD, orphans.reap)
    orphans.reap()  # those that ended before anybody heard


def _named(fault: str, config: Config) -> str:
    """The line of a listener with the setting at fault before it."""
    for name in ("listen", "http_listen", "ops_listen"):
        if getattr(config.server, name) in fault:
            return f"server.{name}: {fault}"
    return f"server: {fault}"


def _tell_admin_file(directory: Path, addresses: Addresses | SupervisedAddresses, tls: LiveTls | None) -> None:
    """Keep address and certificate in the first admin's file true: one moves, the other is renewed."""
    if tls is None:
        _write_admin_file(directory, addresses.grpc)
        return

    def write(shown: TlsMaterial) -> None:
        from authsvc.core.errors import InvalidRequest

        try:
            _write_admin_file(directory, addresses.grpc, shown.anchor.decode(), shown.pin)
        except InvalidRequest as error:
            # Whoever shows the certificate must get the new one all the same.
            (at,) = error.violations
            print(f"authsvc: warning: {at.field}: {at.description}", file=sys.stderr, flush=True)

    tls.use(write)


def _write_admin_file(directory: Path, address: str, certificate: str = "", pin: str = "") -> None:
    from dataclasses import replace

    from authsvc.storage.data_directory import ADMIN_FILE
    from authsvc.storage.secret_files import AdminCredentials, write_secret

    path = directory / ADMIN_FILE
    if not path.exists():
        return
    known = AdminCredentials.read(path)
    now = replace(known, address=address, certificate=certificate, pin=pin)
    if now != known:
        write_secret(path, now.to_bytes(), "AUTHSVC_DATA_DIR", replace=True)


def _say_ready(
    form: Form, addresses: Addresses | SupervisedAddresses, directory: Path, seconds: float, tls: LiveTls | None
) -> None:
    from authsvc import __version__

    told: dict[str, Any] = {
        "event": "ready",
        "version": __version__,
        "grpc": addresses.grpc,
        "http": addresses.http,
        "ops": addresses.ops,
        "data_directory": str(directory),
        "seconds": round(seconds, 3),
        **({} if tls is None else {"pin": tls.current.pin}),
    }
    line = (
        json.dumps(told)
        if form is Form.JSON
        else (
            f"authsvc {__version__} is ready after {seconds:.2f} s: gRPC {addresses.grpc}, HTTP {addresses.http}, "
            f"metrics and probes {addresses.ops}, data {directory}"
            f"{'' if tls is None else f', TLS key {tls.current.pin}'}"
        )
    )
    print(line, file=sys.stderr, flush=True)


def check_config(
    context: typer.Context,
    config: ConfigOption = None,
    form: FormOption = Form.TABLE,
) -> None:
    """Print the effective configuration, or every fault in it.

    Takes the flags that `serve` takes. Secrets are files and are not read.
    """
    effective = settings_of(load_config(config, context.args))
    show(form, effective if form is Form.JSON else _flat(effective))


def settings_of(config: Any) -> dict[str, Any]:
    """The configuration as plain values, durations as text."""
    from dataclasses import fields
    from typing import get_type_hints

    hints = get_type_hints(type(config))
    return {field.name: _plain(getattr(config, field.name), hints[field.name]) for field in fields(config)}


def _plain(value: Any, kind: Any) -> Any:
    from dataclasses import is_dataclass

    from authsvc.config import Milliseconds, Seconds
    from authsvc.core.durations import format_duration

    if is_dataclass(value):
        return settings_of(value)
    if isinstance(value, tuple):
        return [_plain(item, None) for item in value]
    if kind is Seconds:
        return format_duration(value * 1_000_000)
    if kind is Milliseconds:
        return format_duration(value * 1_000)
    return value if value is None or isinstance(value, bool | float) else str(value)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found
