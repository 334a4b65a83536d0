"""How far a change has come: what a replica reports of itself, and what is concluded from the rows of all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from authsvc.core.errors import Unavailable
from authsvc.ports.replicas import Replica
from authsvc.usecases.propagation import LIVE_SECONDS, REPORT_SECONDS, Propagation, Reporter, Spread
from authsvc.usecases.sync import MOST_HELD
from tests.state.conftest import open_at
from tests.support.record_values import draft, granted, key, keys_change
from tests.support.sync_world import Follower, World
from tests.support.waiting import wait_for_async

ME = "replica-me"
MAX_AGE = 120.0
R = (1, 9)


class Rows:
    """Rows of replicas in memory, whose ages are given, down on demand."""

    def __init__(self, *others: Replica) -> None:
        self.rows = {replica.replica_id: replica for replica in others}
        self.down = False
        self.fault: Exception = Unavailable("the record is away")
        self.reports = 0
        self.forget_after = 0.0

    def report_replica(self, replica: Replica, *, forget_after: float) -> tuple[Replica, ...]:
        """As `Replicas.report_replica`."""
        self.reports += 1
        self.forget_after = forget_after
        if self.down:
            raise self.fault
        self.rows[replica.replica_id] = replica
        return self.replicas()

    def replicas(self) -> tuple[Replica, ...]:
        """As `Replicas.replicas`."""
        if self.down:
            raise self.fault
        return tuple(self.rows.values())

    def withdraw_replica(self, replica_id: str) -> None:
        """As `Replicas.withdraw_replica`."""
        if self.down:
            raise self.fault
        del self.rows[replica_id]


class Reporting:
    """A reporter over a world, and what it told."""

    def __init__(self, world: World, rows: Rows, *, configured: int = 1, max_age: float = MAX_AGE) -> None:
        self.told: list[tuple[str, Mapping[str, object]]] = []
        self.world = world
        self.rows = rows
        self.reporter = Reporter(
            rows,
            world.tail,
            world.watchers,
            ME,
            configured=configured,
            may_answer=max_age,
            tell=lambda kind, fields: self.told.append((kind, fields)),
        )

    async def change_a_key(self) -> None:
        """A change that is reported at once; waits for the report."""
        before = self.rows.reports
        self.world.record.change_keys(keys_change(key(f"k{before}")), draft(), expected=None)
        self.world.move()
        await wait_for_async(lambda: self.rows.reports > before, REPORT_SECONDS / 2, "a report at once")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A replica."""
    with closing(open_at(tmp_path / "record.db")) as record:
        yield World(record)


def run(reporting: Reporting, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run while it reports."""

    async def begin() -> None:
        await reporting.reporter.start()
        await scenario()
        await reporting.reporter.stop()

    asyncio.run(begin())


# What a replica reports.


def test_a_replica_has_a_row_from_its_start_to_its_stop(world: World) -> None:
    reporting = Reporting(world, Rows())

    async def scenario() -> None:
        assert reporting.rows.rows == {ME: Replica(ME, world.tail.held.revision.order)}

    run(reporting, scenario)
    assert reporting.rows.rows == {}


@pytest.mark.standard("K9", "U12")
def test_a_change_of_a_key_and_each_acknowledgement_of_it_are_reported_at_once(world: World) -> None:
    reporting = Reporting(world, Rows())

    async def scenario() -> None:
        follower = Follower(world)
        await follower.take()
        await reporting.change_a_key()
        order = world.tail.held.revision.order
        assert reporting.rows.rows[ME] == Replica(ME, order, 1)
        await follower.catch_up()
        follower.acknowledge()
        expected = Replica(ME, order, 1, ((order, 1),))
        await wait_for_async(lambda: reporting.rows.rows[ME] == expected, REPORT_SECONDS / 2, "its acknowledgement")
        await follower.leave()

    run(reporting, scenario)


def test_other_changes_wait_for_the_next_report(world: World) -> None:
    reporting = Reporting(world, Rows())

    async def scenario() -> None:
        follower = Follower(world)
        await follower.take()
        world.record.grant(granted(), draft())
        world.move()
        await follower.take_change()
        follower.acknowledge()
        await wait_for_async(lambda: world.acknowledged_by(1))
        assert reporting.rows.reports == 1
        await follower.leave()

    run(reporting, scenario)


def test_a_report_tells_apart_so_many_revisions_and_counts_the_rest_as_the_oldest(world: World) -> None:
    async def scenario() -> None:
        world.start()
        followers = [Follower(world) for _ in range(MOST_HELD + 3)]
        for number, follower in enumerate(followers):
            world.record.grant(granted(f"user:{number}"), draft())
            world.move()
            await follower.take()
            follower.acknowledge()
        await wait_for_async(lambda: world.acknowledged_by(len(followers)))
        held = world.watchers.held()
        assert len(held) == MOST_HELD
        newest = world.tail.held.revision.order
        assert held[0] == (newest, 1)
        assert held[-1] == ((1, newest[1] - len(followers) + 1), 4)
        assert sum(count for _, count in held) == len(followers)

    asyncio.run(scenario())


# How many replicas there are.


def test_live_replicas_are_those_seen_within_a_minute_and_never_fewer_than_configured(world: World) -> None:
    seen, gone = Replica("seen", R, age=LIVE_SECONDS), Replica("gone", R, age=LIVE_SECONDS + 1)
    for configured, live in ((1, 2), (5, 5)):
        reporting = Reporting(world, Rows(seen, gone), configured=configured)
        assert reporting.reporter.live_replicas == configured

        async def scenario(reporting: Reporting = reporting, live: int = live) -> None:
            assert reporting.reporter.live_replicas == live

        run(reporting, scenario)


# A row that a later release wrote may be one that this release cannot read.
FAULTS = pytest.mark.parametrize(
    ("fault", "text"), [(Unavailable("the record is away"), "the record is away"), (ValueError("3"), "ValueError")]
)


@pytest.mark.standard("U6")
@FAULTS
def test_while_the_record_is_down_the_number_stays_and_the_outage_is_told_once(
    world: World, fault: Exception, text: str
) -> None:
    reporting = Reporting(world, Rows(Replica("other", R)))

    async def scenario() -> None:
        reporting.rows.fault = fault
        reporting.rows.down = True
        reporting.rows.rows.clear()
        for _ in range(3):
            await reporting.change_a_key()
        assert reporting.reporter.live_replicas == 2
        assert reporting.told == [("replica.unreported", {"text": text})]
        reporting.rows.down = False
        await reporting.change_a_key()
        await wait_for_async(lambda: reporting.reporter.live_replicas == 1)
        assert reporting.told[1:] == [("replica.reported", {})]

    run(reporting, scenario)


def test_a_start_and_a_stop_without_the_record_go_on(world: World) -> None:
    reporting = Reporting(world, Rows())
    reporting.rows.down = True

    async def scenario() -> None:
        assert reporting.reporter.live_replicas == 1

    run(reporting, scenario)


@pytest.mark.standard("K2", "K5", "U6")
def test_a_replica_that_is_too_old_to_answer_reports_no_more_so_that_no_rotation_waits_for_it(world: World) -> None:
    reporting = Reporting(world, Rows())
    world.clock.advance(int(MAX_AGE) + 1)

    async def scenario() -> None:
        assert reporting.rows.rows == {}
        await reporting.change_a_key()
        assert reporting.rows.rows.keys() == {ME}

    run(reporting, scenario)


@pytest.mark.parametrize(("max_age", "kept"), [(10.0, 120.0), (600.0, 1_200.0)])
def test_a_row_is_kept_until_its_replica_cannot_answer_any_more(world: World, max_age: float, kept: float) -> None:
    reporting = Reporting(world, Rows(), max_age=max_age)

    async def scenario() -> None:
        assert reporting.rows.forget_after == kept

    run(reporting, scenario)


# What is concluded.

HERE = Replica("here", R, 3, ((R, 2), ((1, 8), 1)))
BEHIND = Replica("behind", (1, 8), 4, (((1, 8), 4),))


@pytest.mark.standard("K9", "U12")
@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ((), Spread(0, 0, everywhere=True)),
        ((HERE,), Spread(3, 2, everywhere=True)),
        ((HERE, BEHIND), Spread(7, 2, everywhere=False)),
        ((HERE, replace(BEHIND, age=LIVE_SECONDS + 1)), Spread(3, 2, everywhere=False)),
        ((HERE, replace(BEHIND, age=MAX_AGE + 1)), Spread(3, 2, everywhere=True)),
    ],
)
def test_a_revision_is_everywhere_once_no_replica_can_answer_without_it(
    replicas: tuple[Replica, ...], expected: Spread
) -> None:
    assert Spread.of(replicas, R, MAX_AGE) == expected


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("acknowledged", [1, 2])
def test_it_is_complete_where_nobody_is_left_to_wait_for(*, everywhere: bool, acknowledged: int) -> None:
    assert Spread(2, acknowledged, everywhere=everywhere).is_complete == (everywhere and acknowledged == 2)


@pytest.mark.standard("U6", "K9")
@FAULTS
def test_a_record_that_cannot_be_asked_tells_nothing_and_promises_nothing(fault: Exception, text: str) -> None:
    rows = Rows(HERE)
    assert text
    rows.down, rows.fault = True, fault
    assert asyncio.run(Propagation(rows, MAX_AGE).spread(R)) == Spread(0, 0, everywhere=False)


def test_what_was_seen_last_is_told_where_the_record_goes_away_meanwhile() -> None:
    class Once(Rows):
        def replicas(self) -> tuple[Replica, ...]:
            found = super().replicas()
            self.down = True
            return found

    assert asyncio.run(Propagation(Once(HERE), MAX_AGE).spread(R, within=0.1)) == Spread(3, 2, everywhere=True)


@pytest.mark.standard("K2")
def test_those_who_lack_a_revision_are_named_and_those_long_gone_are_not() -> None:
    rows = Rows(HERE, BEHIND, replace(BEHIND, replica_id="gone", age=LIVE_SECONDS + 1))
    tested = Propagation(rows, MAX_AGE)
    assert asyncio.run(tested.lacking(R, within=0.0)) == ("behind",)
    assert asyncio.run(tested.lacking((1, 8), within=0.0)) == ()


def test_those_who_come_in_time_lack_nothing() -> None:
    rows = Rows(BEHIND)

    async def scenario() -> tuple[str, ...]:
        asking = asyncio.create_task(Propagation(rows, MAX_AGE).lacking(R, within=10.0))
        await asyncio.sleep(0)
        rows.rows["behind"] = replace(BEHIND, revision=R)
        return await asking

    assert asyncio.run(scenario()) == ()
