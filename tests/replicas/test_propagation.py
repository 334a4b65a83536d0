"""What one replica writes reaches every replica and every watcher; counts and bound are docs/reliability.md's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.replicas import propagation
from tests.replicas.propagation import Seen
from tests.replicas.setting import POLICY, three
from tests.support.postgresql import Postgres
from tests.support.scale import CAMPAIGN

BOUND_S = 0.25 if CAMPAIGN else 3.0
"""A campaign has the machine for itself; other tests run beside this one."""


@pytest.mark.standard("J21", "U6", "U12", "K9")
def test_each_kind_of_change_reaches_every_replica_and_every_watcher_in_time(server: Postgres, tmp_path: Path) -> None:
    rounds = propagation.ROUNDS if CAMPAIGN else dict.fromkeys(propagation.ROUNDS, 2)
    watchers = propagation.WATCHERS if CAMPAIGN else 60
    with three(server, tmp_path) as trio:
        trio[0].apply(POLICY)
        found = propagation.measure(trio, rounds, watchers)
    for kind, seen in found.items():
        assert len(seen.watchers) == rounds[kind] * watchers
        assert len(seen.replicas) == rounds[kind] * 3
        assert propagation.percentile(seen.watchers, 0.99) < BOUND_S, kind
        assert propagation.percentile(seen.replicas, 0.99) < BOUND_S, kind


def test_the_page_tells_when_the_bound_is_missed() -> None:
    held = {"a policy": Seen([0.01, 0.02], [0.03] * 99 + [0.9])}
    assert "holds" in "\n".join(propagation.page(held, 1))
    missed = {"a policy": Seen([0.01, 0.02], [0.03] * 98 + [0.9] * 2)}
    assert "IS MISSED" in "\n".join(propagation.page(missed, 1))


def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [propagation.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert propagation.percentile([3.0], 0.01) == 3.0


def test_a_histogram_counts_each_value_once() -> None:
    lines = propagation.histogram([0.0, 9.9, 10.0, 999.9, 5_000.0])
    assert sum(int(line.split(" ms")[1].split()[0]) for line in lines) == 5
