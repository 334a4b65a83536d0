"""Several instances on one PostgreSQL: nothing is lost, nothing is out of order, whoever is killed or cut off."""

from __future__ import annotations

import itertools
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Self

import pytest

from authsvc.clock import SystemClock
from authsvc.core.errors import Conflict, Unavailable
from authsvc.core.keys import KeyRecord
from authsvc.ports.change_log import Change
from authsvc.ports.record import KeyRows, Record
from authsvc.state.tail import Tail
from authsvc.storage.sql.record import SqlRecord
from tests.conformance.record import is_whole, refuse
from tests.faults.test_kill_record import acknowledged, check
from tests.postgresql.conftest import PostgresqlBench
from tests.support.postgresql import PASSWORD, USER, Postgres
from tests.support.record_values import draft, granted
from tests.support.scale import scale
from tests.support.waiting import wait_for

WRITERS = 64


def trusted(rows: KeyRows) -> tuple[KeyRecord, ...]:
    """Nobody touches a key here."""
    return rows.keys


@contextmanager
def following(record: SqlRecord) -> Iterator[Tail]:
    """A replica that follows, by poll and wake-up."""
    tail = Tail(record, trusted, SystemClock())
    record.listen(tail.hint)
    tail.start()
    try:
        yield tail
    finally:
        tail.stop()


def holds_all(tail: Tail, record: Record) -> bool:
    """Whether the replica's snapshot is the record's newest state."""
    return tail.held.digest == record.head().digest


class Writing:
    """Writers that go on whatever fails, and remember what was acknowledged."""

    def __init__(self, records: list[SqlRecord]) -> None:
        self.acknowledged: set[str] = set()
        self.refused = 0
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i, one)) for i, one in enumerate(records)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, more: int = 20) -> bool:
        """Wait until so many more writes were acknowledged."""
        wanted = len(self.acknowledged) + more
        return wait_for(lambda: len(self.acknowledged) >= wanted, 30.0, "writes going on")

    def _run(self, index: int, record: Record) -> None:
        for turn in itertools.count():
            if self._stopping.is_set():
                return
            subject = f"user:{index}-{turn}"
            try:
                record.grant(granted(subject), draft())
            except Unavailable:
                self.refused += 1
            else:
                self.acknowledged.add(subject)


def lost(writing: Writing, record: Record) -> set[str]:
    """What was acknowledged and is not there."""
    return writing.acknowledged - {binding.subject for binding in record.load().bindings}


@pytest.mark.standard("U5")
def test_64_writers_at_once_leave_no_gap_and_no_wrong_order_in_a_replica_that_follows(
    postgresql: PostgresqlBench, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(8) as pool:
        writers = list(pool.map(lambda _: postgresql.open(), range(WRITERS)))
    reader = postgresql.open()
    rounds = max(2, scale(50))
    seen: list[Change] = list(reader.changes_from(0, 10))
    done = threading.Event()

    def write(index: int) -> int:
        # Each waits for 63 others: more than a lock's two seconds on a busy machine is an answer, not a loss.
        made = 0
        while made < rounds:
            try:
                made += writers[index].grant(granted(f"user:{index}-{made}"), draft()).changed
            except Unavailable:
                continue
        return made

    def read() -> None:
        while not done.is_set() or seen[-1].digest != reader.head().digest:
            seen.extend(reader.changes_from(seen[-1].number, 1_000)[1:])

    with following(postgresql.open()) as tail:
        reading = threading.Thread(target=read)
        reading.start()
        with ThreadPoolExecutor(WRITERS) as pool:
            assert sum(pool.map(write, range(WRITERS))) == WRITERS * rounds
        done.set()
        reading.join()
        wait_for(lambda: holds_all(tail, reader))
        assert not tail.fault
        assert tail.held.revision.number == WRITERS * rounds
    assert [row.number for row in seen] == list(range(WRITERS * rounds + 1))
    assert all(row.previous == before.digest for before, row in pairwise(seen))
    assert "lost revision" not in caplog.text
    assert is_whole(reader)


@pytest.mark.standard("U5", "U6")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
def test_a_server_that_ends_and_comes_back_loses_nothing_acknowledged_and_replicas_follow_again(
    own_server: Postgres, how: signal.Signals
) -> None:
    bench = PostgresqlBench(own_server)
    with following(bench.open()) as tail, Writing([bench.open() for _ in range(3)]) as writing:
        writing.goes_on()
        own_server.end(how)
        refused = writing.refused
        wait_for(lambda: writing.refused > refused, 10.0, "refusals while it is away")
        own_server.begin()
        writing.goes_on()
    record = bench.open()
    assert lost(writing, record) == set()
    assert is_whole(record)
    with following(record) as tail:
        assert holds_all(tail, record)
    bench.close()


@pytest.mark.standard("U5", "U6")
def test_a_replica_follows_again_over_the_same_connections_after_a_restart(own_server: Postgres) -> None:
    bench = PostgresqlBench(own_server)
    record, other = bench.open(), bench.open()
    with following(record) as tail:
        own_server.end()
        wait_for(lambda: tail.age() > 0.5, 10.0, "the age of a replica that cannot reach the record")
        assert not tail.fault
        own_server.begin()
        written = wait_for(lambda: other.grant(granted(), draft()))
        tail.reach(written.revision, None)
        assert tail.age() < 5.0
    bench.close()


@pytest.mark.standard("U5")
def test_cut_connections_lose_nothing_acknowledged(postgresql: PostgresqlBench) -> None:
    record = postgresql.open()
    with following(postgresql.open()) as tail:
        with Writing([postgresql.open() for _ in range(4)]) as writing:
            for _ in range(max(5, scale(100))):
                writing.goes_on(5)
                assert postgresql.server.cut(postgresql.database) > 0
            writing.goes_on()
        assert lost(writing, record) == set()
        assert is_whole(record)
        wait_for(lambda: holds_all(tail, record))
        assert not tail.fault


@pytest.mark.standard("U5")
@pytest.mark.timeout(1_200)
def test_kill_9_of_a_writer_at_random_moments_loses_nothing_acknowledged(postgresql: PostgresqlBench) -> None:
    url = postgresql.opening.url.replace(f"//{USER}@", f"//{USER}:{PASSWORD.replace(' ', '%20')}@")
    chance, said, run = random.Random(), list[str](), 0
    while len(said) < max(30, scale(1_000)):
        run += 1
        heard = acknowledged(url, f"r{run}", chance)
        assert heard
        said += heard
        check(url, said)


# The wake-up.


def test_a_write_of_another_instance_wakes_whoever_listens_and_a_refused_one_does_not(
    postgresql: PostgresqlBench,
) -> None:
    heard = threading.Semaphore(0)
    postgresql.open().listen(heard.release)
    assert heard.acquire(timeout=10.0), "the hint at the begin of listening"
    other = postgresql.open()
    with pytest.raises(Conflict):
        other.grant(granted(), draft(), check=refuse)
    other.grant(granted(), draft())
    assert heard.acquire(timeout=10.0), "the hint of a write"
    assert not heard.acquire(timeout=0.2)


def test_a_listener_that_is_cut_off_comes_back_and_hints_at_what_it_missed(postgresql: PostgresqlBench) -> None:
    heard = threading.Semaphore(0)
    record = postgresql.open()
    record.listen(heard.release)
    assert heard.acquire(timeout=10.0)
    postgresql.server.cut(postgresql.database)
    assert heard.acquire(timeout=10.0), "the hint after it came back"
    record.close()
    left = postgresql.sql("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'")
    assert left == []
