"""The chart, rendered by a real helm; and the programs that judge what was rendered.

Owns: where these programs are. Without them a test is skipped with what to do, but never in CI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "authsvc"
SIZES = ("small", "medium", "large")
NAMESPACE = "auth"
NEWEST, OLDEST = "1.37", "1.25"
"""Versions of Kubernetes that the chart is for; the newest is the newest that the validator knows."""
DIGEST = f"sha256:{'0' * 64}"
_TOOLS = ROOT / ".tools"
_ENVIRONMENT = ROOT / ".venv-chart" / "bin"


def missing(what: str) -> Any:
    """End the test: in CI everything is installed."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, but this is CI")
    pytest.skip(what)


def tool(name: str) -> str:
    """A program that `make chart-tools` installs."""
    for folder in (_TOOLS, _ENVIRONMENT):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    return found or str(missing(f"{name} is not here: make chart-tools (needs Go)"))


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run helm; the exit code is the caller's to judge."""
    return subprocess.run([tool("helm"), *words], capture_output=True, text=True, check=False)


@cache
def rendered(size: str, kubernetes: str = NEWEST, *settings: str, chart: Path = CHART) -> str:
    """The chart's manifests for a size, `settings` as in `--set`."""
    done = render(size, kubernetes, *settings, chart=chart)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(
    size: str, kubernetes: str = NEWEST, *settings: str, chart: Path = CHART
) -> subprocess.CompletedProcess[str]:
    """As `rendered`, where it may fail."""
    words = ["template", "authsvc", str(chart), "--namespace", NAMESPACE, "--kube-version", kubernetes]
    values = ["--values", str(CHART / "sizes" / f"{size}.yaml")] if size else []
    return helm(*words, *values, *(word for setting in settings for word in ("--set-json", setting)))


def objects(manifests: str) -> list[dict[str, Any]]:
    """What was rendered, each as one object."""
    return [one for one in yaml.safe_load_all(manifests) if one]


def of_kind(manifests: str, kind: str) -> list[dict[str, Any]]:
    """The objects of one kind."""
    return [one for one in objects(manifests) if one["kind"] == kind]


def only(manifests: str, kind: str, name: str = "") -> dict[str, Any]:
    """The one object of a kind, and of a name where several are."""
    (found,) = (one for one in of_kind(manifests, kind) if not name or one["metadata"]["name"] == name)
    return found


def pods(manifests: str) -> list[Mapping[str, Any]]:
    """Every pod and every workload's template."""
    return [one if one["kind"] == "Pod" else one["spec"]["template"] for one in objects(manifests) if is_pod(one)]


def is_pod(one: Mapping[str, Any]) -> bool:
    """Whether an object is a pod or makes some."""
    return one["kind"] in {"Pod", "Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet"}


def settings_text(manifests: str) -> str:
    """The rendered authsvc.toml."""
    return str(only(manifests, "ConfigMap")["data"]["authsvc.toml"])
