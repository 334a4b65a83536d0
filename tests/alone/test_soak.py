"""Seven tenths of what a service can take, for long: no error, no slower, and nothing that grows."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from authsvc.cli.bench_measure import Plan
from tests.support.loaded import AT_MOST, loaded
from tests.support.scale import CAMPAIGN
from tests.support.waiting import wait_for

SECONDS = 1_800.0 if CAMPAIGN else 60.0
SHARE = 0.7
THIRD = Plan(seconds=SECONDS / 3, warm_up_s=1.0, connections=4)
MIB = 1024 * 1024
MOST_GROWTH = (48 if CAMPAIGN else 16) * MIB
"""After the first third: histograms, samples of the audit; a leak of 100 bytes a call would be several times this."""
SLOWER, SLACK_MS = 3.0, 25.0
"""How much slower the last third may be than the first: a queue that grows would be far beyond it."""


@pytest.mark.standard("U3")
@pytest.mark.timeout(3_000)
def test_for_long_at_seven_tenths_nothing_fails_slows_or_grows(tmp_path: Path, transport: str) -> None:
    with loaded(tmp_path / "data", transport) as here:
        most = min(here.measure(AT_MOST).calls_per_s for _ in range(2))
        third = replace(THIRD, rate=SHARE * most)
        first = here.measure(third)
        early = here.held()
        between = here.measure(third)
        last = here.measure(third)
        # What callers opened goes with them, in a moment.
        wait_for(lambda: here.held().descriptors <= early.descriptors + 8, 10.0, lambda: f"{early}, {here.held()}")
        late = here.held()
        sys.stdout.write(f"{transport}: at most {most:g}/s; {first}, {between}, {last}; {early}, {late}\n")
        assert [(one.errors, one.wrong) for one in (first, between, last)] == [(0, 0)] * 3
        assert last.p99_ms <= SLOWER * first.p99_ms + SLACK_MS
        assert late.memory - early.memory < MOST_GROWTH
        assert late.threads <= early.threads + 2
        assert late.tasks <= early.tasks + 8
