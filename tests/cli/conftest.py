"""One real service for all tests of the command line that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.process import Serving, serving

POLICY = """\
version: 1
permissions: {"orders:read": {}, "orders:write": {}, "orders:refund": {}}
roles:
  viewer: {allow: ["orders:read"]}
  editor: {inherits: [viewer], allow: ["orders:write"], deny: ["orders:refund"]}
groups: {desk: ["user:ann"]}
bindings:
  - {subject: "group:desk", role: viewer}
  - {subject: "user:eve", role: editor, tenant: acme, condition: "context.mfa == true"}
limits:
  per_subject: {domain: api, match: {subject: "*"}, rate: 2/1h}
tests:
  - {subject: "user:ann", permission: "orders:read", expect: allow}
"""


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A service with `POLICY` in force."""
    directory = tmp_path_factory.mktemp("service") / "data"
    with serving(directory) as running:
        policy = directory / "policy.yaml"
        policy.write_text(POLICY)
        told = CommandLine(directory)("policy", "apply", policy)
        assert told.code == 0, told.err
        yield running


@pytest.fixture
def admin(service: Serving) -> CommandLine:
    """The command line beside the service, where the first administrator's credentials lie."""
    return CommandLine(service.directory)


@pytest.fixture
def nobody(tmp_path: Path) -> CommandLine:
    """The command line on a machine that has no data directory."""
    return CommandLine(tmp_path / "none")


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    """`POLICY` as a file."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path
