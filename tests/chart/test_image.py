"""The image: what it is made of, and that it runs without root, shell, capabilities or a root that can be written."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path

import pytest

from tests.support.containers import IMAGE, Podman, podman
from tests.support.ports import free_port
from tests.support.process import page
from tests.support.waiting import wait_for

USER = "10001:10001"
PYTHON = "/opt/authsvc/bin/python"
MOST_MB = 330
"""Of what the image adds to its base; a third of it is Envoy."""
INSTALLED = """
import json
from importlib.metadata import distributions
print(json.dumps({one.metadata["Name"].lower(): one.version for one in distributions()}))
"""
BYTES = """
import os
found = (os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk("/opt/authsvc") for name in names)
print(sum(found))
"""


@pytest.fixture
def run(tmp_path: Path) -> Podman:
    """Podman with the image."""
    return podman(tmp_path)


def name() -> str:
    """Of a container that nobody else has."""
    return f"authsvc-test-{secrets.token_hex(4)}"


def once(run: Podman, *words: str) -> str:
    """A container that runs one Python program and is gone."""
    return run("run", "--rm", "--no-healthcheck", "--network", "host", "--entrypoint", PYTHON, IMAGE, *words)


def ready(ops: int) -> bool:
    """Whether the service says so."""
    try:
        return page(f"http://127.0.0.1:{ops}/readyz")[0] == 200
    except OSError:
        return False


def test_nothing_in_it_needs_a_shell_or_root(run: Podman) -> None:
    config = run.inspect(IMAGE)["Config"]
    assert config["User"] == USER, "numeric, so that Kubernetes can tell that it is not root"
    assert config["Entrypoint"] == ["/opt/authsvc/bin/authsvc"]
    assert config["Cmd"] == ["serve"]
    assert run.inspect(IMAGE)["Healthcheck"]["Test"][:2] == ["CMD", PYTHON]
    assert list(config["Volumes"]) == ["/var/lib/authsvc"]


def test_the_bill_of_materials_lists_what_is_installed_and_nothing_else(run: Podman) -> None:
    bill = json.loads(once(run, "-c", "print(open('/opt/authsvc/sbom.cdx.json').read())"))
    assert bill["bomFormat"] == "CycloneDX"
    listed = {one["name"].lower(): one["version"] for one in bill["components"]}
    installed = json.loads(once(run, "-c", INSTALLED))
    assert listed == installed
    assert {"authsvc", "grpcio", "cryptography", "pyvoy", "psycopg-binary"} <= listed.keys()
    assert not {"pip", "setuptools", "wheel", "pytest", "hatchling"} & listed.keys(), "tools stay in the build"


def test_it_is_small(run: Podman) -> None:
    assert int(once(run, "-c", BYTES)) < MOST_MB * 1_000_000


@pytest.mark.parametrize("transport", ["grpcio", "pyvoy"])
def test_it_serves_without_a_shell_and_ends_by_sigterm(run: Podman, tmp_path: Path, transport: str) -> None:
    nothing = tmp_path / "nothing"
    nothing.touch(mode=0o644)
    no_shell = tuple(
        word for shell in ("sh", "bash", "dash") for word in ("--volume", f"{nothing}:/usr/bin/{shell}:ro")
    )
    grpc, http, ops = free_port(), free_port(), free_port()
    flags = (f"--server.listen=127.0.0.1:{grpc}", f"--server.http_listen=127.0.0.1:{http}")
    serve = ("serve", "--transport", transport, *flags, f"--server.ops_listen=127.0.0.1:{ops}")
    with run.container(name(), *serve, options=no_shell) as container:
        wait_for(lambda: ready(ops), 30.0, lambda: run("logs", container))
        without = subprocess.run(["podman", "exec", container, "sh", "-c", "true"], capture_output=True, check=False)
        assert without.returncode != 0, "the test has taken the shell away"
        assert "serving" in run("exec", container, "authsvc", "smoke")
        status = run("exec", container, PYTHON, "-c", "print(open('/proc/1/status').read())")
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert (facts["Name"], facts["Uid"].split()[0], facts["NoNewPrivs"]) == ("authsvc", "10001", "1")
        assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == int(facts["CapBnd"], 16) == 0
        run("stop", "--time", "20", container)
        assert run.state(container) == (False, 0), run("logs", container)


def test_its_health_check_tells_a_service_that_is_ready_from_one_that_is_not(run: Podman) -> None:
    check = run.inspect(IMAGE)["Healthcheck"]["Test"][1:]
    grpc, http = free_port(), free_port()
    # The check asks the port that the service has unless told otherwise, so here the check is told.
    ops = free_port()
    check = [word.replace("7072", str(ops)) for word in check]
    flags = (f"--server.listen=127.0.0.1:{grpc}", f"--server.http_listen=127.0.0.1:{http}")
    with run.container(name(), "serve", *flags, f"--server.ops_listen=127.0.0.1:{ops}") as container:
        wait_for(lambda: ready(ops), 30.0, lambda: run("logs", container))
        run("exec", container, *check)
        elsewhere = [word.replace(str(ops), str(free_port())) for word in check]
        run("exec", container, *elsewhere, code=1)


def test_any_command_as_the_first_process_ends_by_sigterm(run: Podman) -> None:
    words = ("policy", "decide", "--policy", "/dev/stdin", "--stdin")
    with run.container(name(), *words, options=("--interactive",)) as container:
        wait_for(lambda: run.state(container)[0], 10.0, "its start")
        handled = (
            "print(int([l for l in open('/proc/1/status') if l.startswith('SigCgt')][0].split()[1], 16) >> 14 & 1)"
        )
        wait_for(lambda: run("exec", container, PYTHON, "-c", handled).strip() == "1", 10.0, "its handler")
        run("stop", "--time", "20", container)
        assert run.state(container) == (False, 143), "128 + SIGTERM, not 137 of a kill"
