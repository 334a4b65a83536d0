"""The shipped fake is a small real service, and a pytest plugin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from authsvc.clock import FakeClock
from authsvc_client import Client, InvalidRequest, Reason
from authsvc_client.testing import FakeAuthsvc
from tests.client.conftest import PATIENT

POLICY = """
version: 1
permissions: {"orders:read": {}, "orders:refund": {}}
roles:
  viewer: {allow: ["orders:read"]}
  admin: {inherits: [viewer], allow: ["orders:*"], deny: ["orders:refund"]}
bindings:
  - {subject: "user:ann", role: viewer, tenant: acme}
  - {subject: "user:bob", role: admin}
limits:
  per_user: {domain: api, match: {subject: "*"}, rate: 2/1m, burst: 2}
"""


def test_it_decides_by_a_policy_file(authsvc: FakeAuthsvc) -> None:
    authsvc.apply_policy(POLICY)
    with authsvc.client(AUTHSVC_DEADLINE=PATIENT) as client:
        assert client.check("user:ann", "orders:read", tenant="acme")
        assert not client.check("user:ann", "orders:read")
        assert client.check("user:bob", "orders:refund").reason is Reason.DENIED_BY_ROLE


def test_grants_add_to_a_policy_file(authsvc: FakeAuthsvc) -> None:
    authsvc.apply_policy(POLICY)
    authsvc.grant("user:eve", "orders:read", condition="context.mfa == true")
    authsvc.deny("user:ann", "orders:read")
    with authsvc.client(AUTHSVC_DEADLINE=PATIENT) as client:
        assert client.check("user:eve", "orders:read", context={"mfa": True})
        assert not client.check("user:eve", "orders:read", context={"mfa": False})
        assert not client.check("user:ann", "orders:read", tenant="acme")
        assert client.check("user:bob", "orders:read")


def test_a_wrong_policy_is_refused_and_the_old_one_stays(authsvc: FakeAuthsvc) -> None:
    authsvc.grant("user:ann", "orders:read")
    with pytest.raises(InvalidRequest, match="role"):
        authsvc.apply_policy({"version": 1, "bindings": [{"subject": "user:ann", "role": "nobody"}]})
    with authsvc.client(AUTHSVC_DEADLINE=PATIENT) as client:
        assert client.check("user:ann", "orders:read")


def test_windows_pass_when_its_clock_is_turned() -> None:
    clock = FakeClock()
    with FakeAuthsvc(POLICY, clock=clock) as fake, Client(fake.settings(AUTHSVC_DEADLINE=PATIENT)) as client:
        answers = [client.consume("api", {"subject": "user:ann"}).allowed for _ in range(3)]
        clock.advance(30)
        answers.append(client.consume("api", {"subject": "user:ann"}).allowed)
    assert answers == [True, True, False, True]


def test_a_caller_it_does_not_know_is_refused(authsvc: FakeAuthsvc) -> None:
    settings = authsvc.settings()
    authsvc.state.clients.clear()
    with Client(settings) as client, pytest.raises(Exception, match="client authentication failed"):
        client.check("user:ann", "orders:read")


def test_the_plugin_gives_the_fixture_to_a_project_that_installed_it(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(
        "def test_ann_reads(authsvc):\n"
        "    authsvc.grant('user:ann', 'orders:read')\n"
        "    with authsvc.client(AUTHSVC_DEADLINE='10s') as client:\n"
        "        assert client.check('user:ann', 'orders:read')\n"
        "        assert not client.check('user:bob', 'orders:read')\n"
    )
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:asyncio", "test_shop.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "1 passed" in ended.stdout, ended.stdout + ended.stderr


def test_without_its_extra_the_fake_says_what_to_install() -> None:
    program = "import sys; sys.modules['yaml'] = None; import authsvc_client.testing"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr.endswith("lacks `yaml`: pip install 'authsvc-client[testing]'\n")


def test_the_plugin_imports_nothing_of_the_client_until_a_test_asks() -> None:
    program = (
        "import authsvc_client_pytest, sys; print([m for m in sys.modules if m.split('.')[0] in ('authsvc', 'grpc')])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"


def test_the_client_imports_no_part_of_the_server_or_of_an_extra() -> None:
    heavy = (
        "sqlalchemy",
        "starlette",
        "fastapi",
        "httpx",
        "yaml",
        "immutables",
        "cel_expr_python",
        "google.rpc",
        "pytest",
    )
    program = (
        f"import sys, authsvc_client, authsvc_client.grpc_server\nprint([m for m in {heavy!r} if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"
