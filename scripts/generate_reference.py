"""Write docs/reference from the code: the command line, the configuration, the metrics, the reasons.

With --check nothing is written and the exit code is 1 where a page is stale. What a page says is said once, in the
code: help texts in authsvc/cli, `doc` of each setting in authsvc/config, help of each metric, comments in
error_reason.proto.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import types
import typing
import urllib.request
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from typer.main import get_command

from authsvc.cli.faults import Exit
from authsvc.cli.main import build
from authsvc.cli.serve import settings_of
from authsvc.config import Config, Milliseconds, Seconds

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
REASONS = ROOT / "protos" / "authsvc" / "v1" / "error_reason.proto"

_NOTE = "<!-- Written by scripts/generate_reference.py (make docs). -->\n"
_REASON = re.compile(r"((?: *//[^\n]*\n)+) *REASON_([A-Z_]+) = (\d+);")
_EXITS = {
    Exit.DONE: "done",
    Exit.REFUSED: """refused or denied: the service refused the call, a check is denied, a token is not valid, a limit
        is reached, a policy file is wrong, or a line of standard input could not be read""",
    Exit.WRONG_USE: "wrong use: the command line, a file that it names or the configuration; nothing was asked",
    Exit.UNREACHABLE: "the service cannot be reached",
}
_FORMS = """
    Every command takes `--output json`; its fields are those of the protos, enums in lower case without their prefix,
    times in RFC 3339, durations in seconds. A fault is one line on standard error (one for each field at fault), and
    with `--output json` also `{"error": {"reason", "message", "fields", "retry_after"}}` on standard output.
"""
_TARGET = """
    A command that asks a service finds it by `--address` and `--credentials`, else by `$AUTHSVC_CREDENTIALS`, else by
    `admin.json` of the data directory (`$AUTHSVC_DATA_DIR`, else `~/.local/share/authsvc`). A credentials file is sent
    to the address that it names and nowhere else; where it holds a certificate, the connection is pinned to it.
"""
_LINES = """
    The three commands that read standard input answer each line that is not blank by one line, in order, as soon as it
    was read. A line that cannot be read is answered `{"error", "line"}`, the rest goes on, and the exit code is 1.
"""
_COMPLETION = "Completion for bash, zsh, fish and PowerShell: `authsvc --install-completion`."
_SETTINGS = """
    `authsvc.toml` < environment < flags. A setting `server.listen` is `[server]` `listen` in the file,
    `AUTHSVC_SERVER__LISTEN` in the environment (`AUTHSVC__ISSUER` for one without a section), `--server.listen` as a
    flag. Durations are texts with a unit: `15m`. Unknown settings and unsafe combinations are refused at start, all at
    once, each in one line. `authsvc check-config` prints what holds.
"""
_REASONS = """
    Answers carry a reason as the enum `authsvc.v1.Reason` (`REASON_TOKEN_EXPIRED`); RPC errors carry its name without
    prefix in `google.rpc.ErrorInfo`, domain `authsvc`, with `BadRequest` and `RetryInfo` where they help; the command
    line prints it in lower case. Callers treat a number that they do not know as a refusal.
"""

_METRICS = """
    `GET /metrics` on `server.ops_listen`, as OpenMetrics. No label holds an identifier. With several workers any of
    them answers for all, with the label `worker`. Metrics of certificates are there where authsvc speaks TLS itself,
    those of the counter store where `counters.url` names one.
"""
_STOP_S = 20
_SCRAPED = {
    "server.listen": "127.0.0.1:0",
    "server.http_listen": "127.0.0.1:0",
    "server.ops_listen": "127.0.0.1:0",
    "server.tls.mode": "self_signed",
    "issuer": "https://authsvc.example",
    # Nobody answers there, which the metrics of the store can tell too.
    "counters.url": "redis://127.0.0.1:1",
    "audit.stdout": "false",
}
"""A service with everything switched on that has metrics."""


def pages() -> dict[str, str]:
    """File name to text."""
    return {
        "cli.md": command_line(),
        "configuration.md": configuration(),
        "errors.md": errors(),
        "metrics.md": metrics(),
    }


def command_line() -> str:
    """Every command with its options."""
    exits = [f"| {code:d} | {_flowed(text)} |" for code, text in _EXITS.items()]
    commands = [_command(path, command) for path, command in _commands("authsvc", get_command(build()))]
    return _page(
        "Command line",
        _flowed(_FORMS),
        _table("exit code", "meaning", rows=exits),
        *map(_flowed, (_TARGET, _LINES, _COMPLETION)),
        *commands,
    )


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"{_NOTE}# {title}", *parts]) + "\n"


def _flowed(text: str) -> str:
    return " ".join(text.split())


def _table(*columns: str, rows: Iterable[str]) -> str:
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows])


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Leaves of the tree of commands, with what is typed for each."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, child in inner.items():
        yield from _commands(f"{path} {name}", child)


def _command(path: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    usage = " ".join([path, "[OPTIONS]", *(_argument(param) for param in arguments)])
    rows = [f"| `{_argument(param)}` | {_cell(param.help)} |" for param in arguments]
    rows += [f"| {_option(param)} | {_cell(param.help)} |" for param in options]
    return "\n".join(
        [f"## `{path}`", "", f"    {usage}", "", (command.help or "").strip(), "", "| | |", "|---|---|", *rows]
    )


def _argument(param: Any) -> str:
    name: str = param.metavar or param.name.upper()
    return name if param.required or name.startswith("[") else f"[{name}]"


def _option(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
    return names if param.is_flag else f"{names} {_cell(param.metavar or 'VALUE')}"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def configuration() -> str:
    """Every setting with its default."""
    rows = _settings(Config, settings_of(Config()), "")
    return _page("Configuration", _flowed(_SETTINGS), _table("setting", "default", "meaning", rows=rows))


def _settings(kind: type[Any], defaults: dict[str, Any], prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, hint, value = f"{prefix}{field.name}", hints[field.name], defaults[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _settings(typing.cast("type[Any]", hint), value, f"{name}.")
            continue
        meaning = f"{_cell(field.metadata['doc'])} {_kind(hint)}".strip()
        yield f"| `{name}` | {_default(value)} | {meaning} |"
        for item in typing.get_args(hint):
            if dataclasses.is_dataclass(item):
                entry = typing.cast("type[Any]", item)
                yield from _settings(entry, settings_of(entry()), f"{name}[].")


def _default(value: Any) -> str:
    if value is None or value in ("", []):
        return "unset"
    if isinstance(value, list):
        value = ", ".join(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _kind(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if hint in (Seconds, Milliseconds):
        return "A duration."
    if hint is bool:
        return "True or false."
    if hint is Path:
        return "A file."
    if typing.get_origin(hint) is tuple:
        return "A list."
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return ""
    return "A number." if hint in (int, float) else ""


def metrics() -> str:
    """Every metric, read off a service that runs: a scrape is what an operator sees."""
    families = text_string_to_metric_families(_scraped())  # type: ignore[no-untyped-call]
    rows = map(_metric, sorted(families, key=lambda family: str(family.name)))
    return _page("Metrics", _flowed(_METRICS), _table("metric", "type", "labels", "meaning", rows=rows))


def _metric(family: Any) -> str:
    ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
    names = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
    labels = ", ".join(f"`{name}`" for name in names)
    return f"| `{family.name}{ending}` | {family.type} | {labels} | {_cell(family.documentation)} |"


def _scraped() -> str:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "AUTHSVC_DATA_DIR": str(Path(folder) / "data")}
        program = [sys.executable, "-m", "authsvc.cli"]
        serve = [*program, "serve", "--output", "json", *(f"--{name}={value}" for name, value in _SCRAPED.items())]
        with subprocess.Popen(serve, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as service:
            assert service.stderr is not None
            try:
                told = next(json.loads(line) for line in service.stderr if b'"ready"' in line)
                # Counts of calls have no row before the first.
                smoke = [*program, "smoke", "--address", told["grpc"], "--any-certificate"]
                subprocess.run(smoke, env=environment, check=True, stdout=subprocess.DEVNULL)
                with urllib.request.urlopen(f"http://{told['ops']}/metrics", timeout=_STOP_S) as page:
                    return str(page.read().decode())
            finally:
                service.terminate()
                service.wait(_STOP_S)


def errors() -> str:
    """Every reason."""
    rows = []
    for comment, name, number in _REASON.findall(REASONS.read_text(encoding="utf-8")):
        text = " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
        rows.append(f"| `{name}` | {number} | {_cell(text)} |")
    return _page("Reasons", _flowed(_REASONS), _table("reason", "number", "meaning", rows=rows))


def stale(found: dict[str, str]) -> list[str]:
    """Names of pages that are not as the code says."""
    return [
        name
        for name, text in found.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a page is stale")
    found = pages()
    old = stale(found)
    if parser.parse_args().check:
        for name in old:
            print(f"docs/reference/{name} is stale: make docs", file=sys.stderr)
        return 1 if old else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in found.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"docs/reference: {', '.join(old) or 'nothing'} written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main())
