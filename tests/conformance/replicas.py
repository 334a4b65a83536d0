"""The suite that every adapter of the rows of replicas passes.

An adapter joins by subclassing `ReplicasSuite` and giving a `bench` fixture, as for `tests.conformance.record`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from authsvc.ports.record import Record
from authsvc.ports.replicas import Replica, Replicas
from tests.support.record_values import draft, granted
from tests.support.waiting import wait_for

FOREVER = 3_600.0
ONE = Replica("replica-one", (1, 7), 5, (((1, 7), 2), ((1, 4), 1)))
TWO = Replica("replica-two", (1, 4))


class ReplicaRecord(Record, Replicas, Protocol):
    """A record with its replicas."""


class Bench(Protocol):
    """A fresh record of the adapter, and as many instances over it as asked for."""

    def open(self) -> ReplicaRecord:
        """Another instance."""

    def sql(self, statement: str) -> object:
        """Go behind the record's back."""


def without_age(replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
    """What they reported."""
    return tuple(replace(replica, age=0.0) for replica in replicas)


class ReplicasSuite:
    """The port's laws."""

    def test_a_report_is_seen_by_every_instance_as_it_was_made(self, bench: Bench) -> None:
        one, two = bench.open(), bench.open()
        assert one.replicas() == ()
        assert without_age(one.report_replica(ONE, forget_after=FOREVER)) == (ONE,)
        assert without_age(two.report_replica(TWO, forget_after=FOREVER)) == (ONE, TWO)
        assert without_age(one.replicas()) == (ONE, TWO)

    def test_a_later_report_takes_the_place_of_the_earlier(self, bench: Bench) -> None:
        record = bench.open()
        record.report_replica(ONE, forget_after=FOREVER)
        later = replace(ONE, revision=(2, 8), watchers=0, acknowledged=())
        assert without_age(record.report_replica(later, forget_after=FOREVER)) == (later,)

    def test_the_age_grows_until_the_next_report(self, bench: Bench) -> None:
        record = bench.open()
        (first,) = record.report_replica(ONE, forget_after=FOREVER)
        assert 0 <= first.age < 5
        wait_for(lambda: record.replicas()[0].age > first.age + 0.05)
        (old,) = record.replicas()
        (again,) = record.report_replica(ONE, forget_after=FOREVER)
        assert again.age < old.age

    def test_whoever_was_not_seen_for_so_long_is_forgotten_and_the_reporter_never(self, bench: Bench) -> None:
        record = bench.open()
        record.report_replica(ONE, forget_after=FOREVER)
        wait_for(lambda: record.replicas()[0].age > 0.1)
        assert without_age(record.report_replica(TWO, forget_after=0.1)) == (TWO,)
        assert without_age(record.replicas()) == (TWO,)

    def test_whoever_was_seen_in_the_future_is_forgotten_in_the_usual_time_and_counts_until_then(
        self, bench: Bench
    ) -> None:
        record = bench.open()
        record.report_replica(ONE, forget_after=FOREVER)
        # As after a fail-over to a server whose clock is behind.
        bench.sql("UPDATE replica SET seen_at = seen_at + 3600000")
        assert [replica.age for replica in record.replicas()] == [0]
        assert without_age(record.report_replica(TWO, forget_after=60)) == (ONE, TWO)
        wait_for(lambda: record.replicas()[0].age > 0.1)
        assert without_age(record.report_replica(TWO, forget_after=0.1)) == (TWO,)

    def test_whoever_withdraws_is_gone_at_once(self, bench: Bench) -> None:
        record = bench.open()
        record.report_replica(ONE, forget_after=FOREVER)
        record.report_replica(TWO, forget_after=FOREVER)
        record.withdraw_replica(ONE.replica_id)
        record.withdraw_replica("nobody")
        assert without_age(record.replicas()) == (TWO,)

    def test_reports_make_no_revision_no_change_and_no_event(self, bench: Bench) -> None:
        record = bench.open()
        record.grant(granted(), draft())
        before = (record.head(), record.changes_from(0, 100))
        record.report_replica(ONE, forget_after=FOREVER)
        record.withdraw_replica(ONE.replica_id)
        assert (record.head(), record.changes_from(0, 100)) == before

    def test_many_replicas_report_at_once_beside_writers_and_none_is_missing(self, bench: Bench) -> None:
        records = [bench.open() for _ in range(4)]

        def report(turn: int) -> None:
            record = records[turn % len(records)]
            for number in range(3):
                record.report_replica(Replica(f"replica-{turn:02}", (1, number)), forget_after=FOREVER)
            record.grant(granted(f"user:{turn}"), draft())

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(report, range(16)))
        assert [replica.replica_id for replica in records[0].replicas()] == [f"replica-{n:02}" for n in range(16)]
        assert {replica.revision for replica in records[0].replicas()} == {(1, 2)}
        assert records[0].head().revision.number == 16

    def test_those_who_hold_a_revision_are_those_who_hold_it_or_a_later_one(self) -> None:
        assert [ONE.holding(order) for order in ((1, 8), (1, 7), (1, 5), (1, 4), (1, 1), (2, 1))] == [0, 2, 2, 3, 3, 0]
