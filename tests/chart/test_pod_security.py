"""The checker of "restricted" decides every fixture of kubernetes' own admission plugin as that does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support import pod_security

FIXTURES = "kubernetes/pod-security-admission/test/testdata/restricted/v1.37"


@pytest.mark.parametrize(("folder", "allowed"), [("pass", True), ("fail", False)])
def test_every_published_fixture_is_decided_as_kubernetes_does(corpora: Path, folder: str, *, allowed: bool) -> None:
    files = sorted((corpora / FIXTURES / folder).glob("*.yaml"))
    assert files, "the fixtures are not there"
    wrong = [file.name for file in files if bool(pod_security.faults(yaml.safe_load(file.read_text()))) is allowed]
    assert wrong == []
