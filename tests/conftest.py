"""Fixtures and profiles that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.scale import CAMPAIGN

# No deadline: on two shared cores the first example pays for imports. CI is derandomised, so that a red run is one
# anybody can repeat; a campaign looks for new examples.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", _COMMON, max_examples=50)
settings.register_profile("ci", _COMMON, max_examples=50, derandomize=True, database=None)
settings.register_profile("campaign", _COMMON, max_examples=5_000)
settings.load_profile("campaign" if CAMPAIGN else "ci" if os.environ.get("CI") else "default")


def pytest_report_header() -> str:
    """Say which scale is run."""
    return "authsvc scale: " + ("campaign, full counts" if CAMPAIGN else "small counts (full: make campaign)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what is marked `campaign` to campaigns."""
    if not CAMPAIGN:
        skip = pytest.mark.skip(reason="runs in a campaign: make campaign")
        for item in items:
            if item.get_closest_marker("campaign"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of published test vectors ($AUTHSVC_CORPORA); the test is skipped where there is none."""
    folder = Path(os.environ.get("AUTHSVC_CORPORA") or Path(__file__).parents[2] / "shared" / "corpora")
    if not folder.is_dir():
        pytest.skip("no vectors here: set AUTHSVC_CORPORA to their folder")
    return folder
