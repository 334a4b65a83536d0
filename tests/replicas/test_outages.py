"""What answers and what refuses while a store or a replica is lost; the table of docs/reliability.md, with bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.replicas.outages import MAX_AGE_S, PROBES, Fault, Scene, Told, page, scene
from tests.support.scale import CAMPAIGN

SECONDS = 3.0 if CAMPAIGN else 1.5
BACK_S = 5.0
"""Until when after a fault all is as before: a connection is tried for 2 s, and the machine is busy."""

NO_COUNTS = {
    "Consume local": {"local share"},
    "Consume open": {"failed open"},
    "Consume closed": {"failed closed"},
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Three replicas whose stores these tests may do anything to."""
    with scene(tmp_path_factory.mktemp("outages")) as found:
        yield found


@pytest.fixture
def faults(stage: Scene) -> dict[str, Fault]:
    """By the begin of their name."""
    return {fault.name: fault for fault in stage.faults(seconds=SECONDS, beyond=1.0)}


def without_the_record(told: Mapping[str, Told]) -> dict[str, set[str]]:
    """What may be odd: writes are refused, and past the stated age everything is, but nothing before."""
    late = told["Check"].first > MAX_AGE_S - 1.0
    return {name: {"UNAVAILABLE"} for name in (PROBES if late else ("GrantRole",))}


def only(told: Mapping[str, Told], allowed: Mapping[str, set[str]]) -> None:
    """Nothing but what is allowed was odd, and it ended soon.

    A store of counters is given 10 ms: on a machine that other tests use too, it may be late at any time.
    """
    for name, seen in told.items():
        assert set(seen.odd) <= allowed.get(name, set()) | NO_COUNTS.get(name, set()), (name, seen)
        assert seen.usual, name
        assert seen.back < BACK_S, (name, seen)


@pytest.mark.standard("U5", "U6")
@pytest.mark.parametrize(
    "name",
    [
        "PostgreSQL restarts",
        *(["PostgreSQL crashes and recovers"] if CAMPAIGN else []),
        "every connection to PostgreSQL is cut",
        "PostgreSQL stands still",
    ],
)
def test_without_the_record_writes_are_refused_and_everything_else_goes_on(
    stage: Scene, faults: dict[str, Fault], name: str
) -> None:
    told = stage.seen(faults[name])
    only(told, without_the_record(told))
    assert stage.lost() == set()


@pytest.mark.standard("U6")
def test_beyond_the_stated_age_everything_that_decides_is_refused_until_the_record_is_back(
    stage: Scene, faults: dict[str, Fault]
) -> None:
    told = stage.seen(faults["PostgreSQL is away longer than record.max_age"])
    only(told, without_the_record(told))
    for name in ("Check", "VerifyToken", "IssueToken"):
        assert set(told[name].odd) == {"UNAVAILABLE"}, name
        assert told[name].first > MAX_AGE_S - 1.0, name
    assert stage.lost() == set()


@pytest.mark.standard("R10")
@pytest.mark.parametrize("name", ["Redis is killed, another begins empty", "Redis stands still"])
def test_without_the_counters_each_rules_policy_decides_and_says_so(
    stage: Scene, faults: dict[str, Fault], name: str
) -> None:
    told = stage.seen(faults[name])
    only(told, {})
    assert {probe: set(told[probe].odd) for probe in NO_COUNTS} == NO_COUNTS


@pytest.mark.standard("U5", "U6")
@pytest.mark.parametrize("name", [*(["another replica is killed"] if CAMPAIGN else []), "another replica stands still"])
def test_the_loss_of_a_replica_costs_the_others_nothing_but_a_lock_that_it_held(
    stage: Scene, faults: dict[str, Fault], name: str
) -> None:
    # A writer that stands still may hold the lock of all, for the 5 s that the database lets it.
    only(stage.seen(faults[name]), {"GrantRole": {"UNAVAILABLE"}})


def test_the_page_tells_a_refusal_with_its_times_and_of_hot_calls_the_worst() -> None:
    well = Told(100, {}, 0.0, 0.0, 0.0, 0.012)
    refused = Told(60, {"UNAVAILABLE": 40}, 0.1, 2.5, 0.4, 2.0)
    seen = {**dict.fromkeys(PROBES, well), "GrantRole": refused, "GetJwks": well._replace(slowest=0.5)}
    (row,) = [line for line in page({"a fault": (3.0, seen)}) if line.startswith("| a fault, 3 s")]
    assert "| ok, 500 ms |" in row
    assert "UNAVAILABLE 40 of 100, over 2.5 s, until 0.4 s after" in row
