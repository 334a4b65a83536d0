"""What only a real process shows: the script's speed, signals, the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import authsvc
from authsvc import __version__
from tests.support.command_line import CommandLine
from tests.support.process import Serving, serving
from tests.support.servers import Server, running

SCRIPT = Path(sys.executable).with_name("authsvc")


def ran(*words: str, directory: Path, code: int = 0) -> str:
    ended = subprocess.run(
        [str(SCRIPT), *words],
        env={**os.environ, "AUTHSVC_DATA_DIR": str(directory)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == code, (ended.stdout[-2000:], ended.stderr[-2000:])
    return ended.stdout


def test_version_imports_neither_grpcio_nor_typer(tmp_path: Path) -> None:
    # What is not imported costs no time: this holds on a loaded machine too.
    program = "import sys; sys.argv[1:] = ['version']; from authsvc.cli.main import main; main(); print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    version, modules = told.splitlines()
    assert version == __version__
    assert not {"typer", "grpc", "rich", "sqlalchemy", "yaml", "cryptography"} & set(modules.split())
    assert ran("version", directory=tmp_path).strip() == __version__


def test_without_the_packages_of_the_server_one_line_says_what_to_install() -> None:
    # The lean base as the thin client brings it: an isolated interpreter that sees this source and nothing else.
    program = "import sys; sys.path.append(sys.argv.pop(1)); from authsvc.cli.main import main; main()"
    root = str(Path(authsvc.__file__).parents[1])
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, root, "keys", "list"], capture_output=True, text=True, check=False
    )
    line = "authsvc: the command line needs more packages: pip install 'authsvc[server]'\n"
    assert (told.returncode, told.stdout, told.stderr) == (2, "", line)


def test_serve_imports_nothing_that_its_start_does_not_need(tmp_path: Path) -> None:
    program = (
        "import sys; import authsvc.cli.serve, authsvc.bootstrap.service, authsvc.bootstrap.foundation;"
        "print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"alembic", "rich", "opentelemetry", "prometheus_client", "httpx"} & set(modules)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path / "data") as service:
        service.server.process.send_signal(number)
        assert service.server.process.wait(30) == 0
        assert "Traceback" not in service.server.output()


def test_the_first_admins_file_follows_the_service_to_its_next_address(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    told = []
    for _ in range(2):
        with serving(directory) as service:
            found = json.loads((directory / "admin.json").read_text())
            assert found["address"] == service.grpc
            told.append(found["client_secret"])
            assert CommandLine(directory)("keys", "list").code == 0
    assert told[0] == told[1]
    assert (directory / "admin.json").stat().st_mode & 0o777 == 0o600


def test_the_demo_shows_every_step_and_each_is_as_it_should_be(tmp_path: Path) -> None:
    steps = json.loads(ran("demo", "--output", "json", directory=tmp_path / "none"))
    assert [step["step"] for step in steps if not step["ok"]] == []
    answers = {step["step"]: step["answer"] for step in steps}
    assert all(step.keys() == {"step", "ok", "answer", "milliseconds"} for step in steps)
    assert answers["check what is not"] == "orders:refund on orders/7: deny, no_binding"
    assert answers["consume until refused"].startswith("3 admitted, then refused: come back in ")
    assert answers["verify the revoked token"] == "refused: token_revoked"
    assert answers["verify a token of that key"] == "refused: token_key_revoked"
    through = [answers[name].split()[0] for name in answers if "Envoy" in name or name.startswith("GET")]
    assert through[1:] == ["200", "403", "401", "503"]
    assert not (tmp_path / "none").exists()


def test_make_run_leaves_a_service_running_until_it_is_told_to_stop(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    (directory / "authsvc.toml").write_text(
        'issuer = "http://authsvc.test"\n[server]\nhttp_listen = "127.0.0.1:0"\nops_listen = "127.0.0.1:0"\n'
    )
    (directory / "serve.log").write_text('{"event": "ready", "grpc": "from an earlier start"}\n')
    command = [sys.executable, "-m", "authsvc.cli.first_run"]
    screen = tmp_path / "screen"

    def walked(server: Server) -> bool:
        return "Ctrl-C stops it." in server.output()

    env = {"AUTHSVC_DATA_DIR": str(directory), "AUTHSVC_SERVER__LISTEN": "127.0.0.1:0"}
    with running(command, log=screen, ready=walked, env=env, deadline_s=60) as server:
        assert CommandLine(directory)("smoke").code == 0
        assert "FAIL" not in screen.read_text()
        assert "from an earlier start" in (directory / "serve.log").read_text(), "the log of earlier starts is kept"
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
    assert CommandLine(directory)("smoke").code == 3


def test_the_demo_on_a_given_service_changes_nothing_but_a_client_of_its_own(
    service: Serving, admin: CommandLine
) -> None:
    keys, policy = admin.json("keys", "list")["keys"], admin.json("policy", "show")["policy"]
    steps = json.loads(admin("demo", "--address", service.grpc, "--output", "json").out)
    assert [step["step"] for step in steps if not step["ok"]] == []
    assert not {"rotate", "revoke", "kill"} & {word for step in steps for word in step["step"].split()}
    assert admin.json("keys", "list")["keys"] == keys
    assert admin.json("policy", "show")["policy"] == policy


def test_the_demo_says_which_step_failed(service: Serving, nobody: CommandLine) -> None:
    told = nobody("demo", "--address", service.grpc, "--output", "json")
    assert told.code == 1
    (step,) = json.loads(told.out)
    assert (step["step"], step["ok"]) == ("create a client", False)
    assert step["answer"].startswith("there are no credentials in ")


def test_the_benchmark_counts_right_answers_and_writes_its_table(admin: CommandLine, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n\nBefore.\n\n<!-- bench: begin -->\nold\n<!-- bench: end -->\n\nAfter.\n")
    told = admin.json("bench", "--seconds", "0.3", "--warm-up", "0.1", "--concurrency", "2", "--write", str(page))
    assert [row["row"] for row in told["rows"]] == ["Check", "BatchCheck of 50", "IssueToken", "VerifyToken"]
    assert all(row["calls_per_s"] > 0 and row["p99_ms"] >= row["p50_ms"] > 0 for row in told["rows"])
    assert {(row["wrong"], row["errors"]) for row in told["rows"]} == {(0, 0)}
    text = page.read_text()
    assert "| Check |" in text
    assert "old" not in text
    assert text.index("Before.") < text.index("| Check |") < text.index("After.")
    assert told["machine"] in text
