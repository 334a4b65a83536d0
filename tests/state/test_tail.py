"""The tail: following the record, and waiting for a revision."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from authsvc.clock import FakeClock
from authsvc.core.errors import AuthsvcError, Conflict, DeadlineExceeded, Exhausted, Reason, Unavailable
from authsvc.core.revocations import RevocationKind
from authsvc.core.values import Revision
from authsvc.ports.record import Head, Revocation
from authsvc.state.history import Moves, Position
from authsvc.state.tail import Tail
from authsvc.storage.sql.dialects import make_engine
from authsvc.storage.sql.record import SqlRecord
from tests.state.conftest import ISSUER, KEK, open_at
from tests.support.record_values import NOW, POLICY, draft, file_binding, granted, key, keys_change, verify_keys
from tests.support.waiting import wait_for


class WatchedRecord(SqlRecord):
    """The record, with its head's reads counted, and down on demand."""

    heads = 0
    down = False

    def head(self) -> Head:
        """As the record's."""
        self.heads += 1
        if self.down:
            raise Unavailable("down")
        return super().head()


@pytest.fixture
def record(record_path: Path) -> Iterator[WatchedRecord]:
    """A fresh record, watched."""
    open_at(record_path).close()
    watched = WatchedRecord(make_engine(f"sqlite:///{record_path}"), KEK, ISSUER)
    yield watched
    watched.close()


@pytest.fixture
def clock() -> FakeClock:
    """A clock turned by hand."""
    return FakeClock(NOW)


@pytest.fixture
def tail(record: WatchedRecord, clock: FakeClock) -> Tail:
    """A tail that advances when told to."""
    return Tail(record, verify_keys, clock, most_waiters_a_caller=3)


@pytest.fixture
def running(tail: Tail) -> Iterator[Tail]:
    """A tail that advances by itself."""
    tail.start()
    yield tail
    tail.stop()


def soon(seconds: float = 10.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


def after(revision: Revision, count: int = 1) -> Revision:
    """A revision that the record has not reached."""
    return Revision(revision.record, revision.epoch, revision.number + count)


def waited(tail: Tail, revision: Revision) -> None:
    """Wait as a coroutine."""
    asyncio.run(tail.wait_for(revision, "client:a", soon(60)))


def reason_of(work: Callable[[], object]) -> Reason:
    """Why the work was refused."""
    with pytest.raises(AuthsvcError) as refused:
        work()
    return refused.value.reason


# Following.


def test_the_tail_follows_what_another_instance_writes(tail: Tail, record_path: Path) -> None:
    with closing(open_at(record_path)) as other:
        written = other.grant(granted(), draft())
    assert not tail.reached(written.revision)
    tail.advance()
    assert tail.current.revision == written.revision
    assert [b.role for b in tail.current.bindings.of("user:ann")] == ["viewer"]


def test_the_thread_follows_without_a_hint(running: Tail, record: WatchedRecord) -> None:
    written = record.grant(granted(), draft())
    wait_for(lambda: running.reached(written.revision), what="the poll")


def test_many_changes_are_followed_over_pages(tail: Tail, record: WatchedRecord) -> None:
    written = record.grant(granted(), draft())
    for number in range(1_050):
        written = record.grant(granted(f"user:{number}"), draft())
    tail.advance()
    assert tail.current.revision == written.revision
    assert len(tail.current.bindings) == 1_051


def test_audit_alone_is_no_news(tail: Tail, record: WatchedRecord) -> None:
    written = record.grant(granted(), draft())
    tail.advance()
    before = tail.current
    record.grant(granted(), draft())
    tail.advance()
    assert tail.current is before
    assert tail.reached(written.revision)


def test_lost_commits_rebuild_the_snapshot_and_raise_the_epoch(
    tail: Tail, record: WatchedRecord, record_path: Path
) -> None:
    record.grant(granted("user:kept"), draft())
    kept = sqlite3.connect(":memory:")
    with closing(sqlite3.connect(record_path)) as now, closing(kept):
        now.backup(kept)
        lost = record.grant(granted("user:lost"), draft())
        tail.advance()
        before = Position.of(tail.current)
        assert tail.reached(lost.revision)
        kept.backup(now)
    with closing(open_at(record_path)) as other:
        # Another replica takes the lost revision's number, and goes on, before this one looks.
        taken = other.grant(granted("user:other"), draft())
        other.grant(granted("user:more"), draft())
    assert taken.revision == lost.revision
    tail.advance()
    assert not list(tail.current.bindings.of("user:lost"))
    newest = Position.of(tail.current)
    assert tail.history.between(before, newest) is None
    assert tail.history.between(newest, newest) == Moves((), keys=False)
    assert list(tail.current.bindings.of("user:other"))
    assert record.grant(granted("user:next"), draft()).revision.order == (2, 4)


def test_an_unknown_kind_of_change_stops_the_tail_for_good(
    tail: Tail, record: WatchedRecord, record_path: Path, clock: FakeClock
) -> None:
    written = record.grant(granted(), draft())
    with closing(sqlite3.connect(record_path)) as connection, connection:
        connection.execute("UPDATE change SET body = '[[\"hologram\", 1]]' WHERE number = 1")
    before = tail.current
    tail.advance()
    assert "UnknownChange" in tail.fault
    clock.advance(7)
    tail.advance()
    assert tail.current is before
    assert tail.age() == 7
    assert reason_of(lambda: tail.reach(written.revision, soon())) is Reason.RECORD_UNAVAILABLE


@pytest.mark.standard("U6")
def test_a_record_that_is_down_leaves_the_snapshot_and_lets_its_age_grow(
    tail: Tail, record: WatchedRecord, clock: FakeClock
) -> None:
    before = tail.current
    record.down = True
    clock.advance(5)
    tail.advance()
    assert (tail.current, tail.age(), tail.fault) == (before, 5.0, "")
    record.down = False
    tail.advance()
    assert tail.age() == 0


@pytest.mark.standard("U6")
def test_a_record_that_is_down_is_told_when_it_begins_once_a_minute_and_when_it_is_over(
    tail: Tail, record: WatchedRecord, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    record.down = True
    for _ in range(3):
        tail.advance()
        clock.advance(19)
    assert [r.getMessage() for r in caplog.records] == ["the record does not answer: down"]
    clock.advance(5)
    tail.advance()
    assert len(caplog.records) == 2
    record.down = False
    tail.advance()
    tail.advance()
    assert [r.getMessage() for r in caplog.records][2:] == ["the record answers again"]


def test_whoever_asked_is_told_of_each_move_and_finds_the_new_state(tail: Tail, record: WatchedRecord) -> None:
    told: list[Revision] = []
    tail.on_move(lambda: told.append(tail.current.revision))
    tail.advance()
    first = record.grant(granted(), draft())
    tail.advance()
    tail.advance()
    assert told == [first.revision]


@pytest.mark.standard("K12")
def test_an_altered_key_row_is_not_published_and_is_loud(
    record: WatchedRecord, tail: Tail, clock: FakeClock, record_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = replace(key("k1"))
    record.change_keys(keys_change(made), draft(), expected=None)
    tail.advance()
    assert "k1" in tail.current.keys
    with closing(sqlite3.connect(record_path)) as connection, connection:
        connection.execute("UPDATE signing_key SET body = replace(body, '\"pending\"', '\"active\"')")
    again = Tail(record, verify_keys, clock)
    assert "k1" not in again.current.keys
    assert again.current.broken_kids == {"k1"}
    assert [r.levelname for r in caplog.records if "k1" in r.getMessage()] == ["CRITICAL"]


@pytest.mark.standard("P3")
def test_what_a_policy_gave_is_gone_with_the_next_one(tail: Tail, record: WatchedRecord) -> None:
    record.apply_policy(POLICY, [file_binding()], draft(), expected_revision=None)
    tail.advance()
    assert list(tail.current.bindings.of("user:ann"))
    without = POLICY.replace("inherits: [viewer], ", "")
    record.apply_policy(without, [], draft(), expected_revision=None)
    tail.advance()
    assert not list(tail.current.bindings.of("user:ann"))
    assert tail.current.policy_record.text == without


def test_expired_revocations_are_swept_locally(tail: Tail, record: WatchedRecord, clock: FakeClock) -> None:
    record.revoke([Revocation(RevocationKind.TOKEN, "jti", NOW + 30)], draft())
    tail.advance()
    revision = tail.current.revision
    assert len(tail.current.revocations.tokens) == 1
    clock.advance(120)
    tail.advance()
    assert len(tail.current.revocations.tokens) == 0
    assert tail.current.revision == revision


# Waiting.


@pytest.mark.standard("U13")
def test_what_is_reached_is_answered_without_a_read(tail: Tail, record: WatchedRecord) -> None:
    reads = record.heads
    tail.reach(tail.current.revision, soon(0))
    asyncio.run(tail.wait_for(tail.current.revision, "client:a", soon(0)))
    assert record.heads == reads


@pytest.mark.standard("U13")
def test_a_revision_above_the_head_fails_at_once(running: Tail) -> None:
    start = time.monotonic()
    above = after(running.current.revision)
    assert reason_of(lambda: running.reach(above, soon(60), "client:a")) is Reason.REVISION_UNREACHABLE
    assert reason_of(partial(waited, running, above)) is Reason.REVISION_UNREACHABLE
    assert time.monotonic() - start < 5


@pytest.mark.standard("U13")
def test_a_revision_of_another_record_fails_at_once(tail: Tail) -> None:
    foreign = Revision("ffffffff", 1, 0)
    assert reason_of(lambda: tail.reached(foreign)) is Reason.REVISION_UNREACHABLE


@pytest.mark.standard("U13")
def test_a_revision_of_an_earlier_epoch_is_reached(tail: Tail, record: WatchedRecord) -> None:
    early = record.grant(granted(), draft()).revision
    record.demand_epoch(1)
    record.grant(granted("user:bob"), draft())
    tail.advance()
    assert tail.reached(replace(early, number=900))


@pytest.mark.standard("U13")
def test_one_read_of_the_head_judges_all_waiters(tail: Tail, record: WatchedRecord) -> None:
    above = after(tail.current.revision)
    reads = record.heads
    with ThreadPoolExecutor(30) as pool:
        waiting = [pool.submit(tail.reach, above, soon(), f"client:{n}") for n in range(30)]
        wait_for(lambda: len(tail._waiters.unjudged()) == 30)
        tail.advance()
        assert {type(done.exception()) for done in waiting} == {Conflict}
    assert record.heads == reads + 1


@pytest.mark.standard("U13")
def test_a_revision_that_exists_is_waited_for(tail: Tail, record: WatchedRecord, record_path: Path) -> None:
    async def scenario() -> None:
        with closing(open_at(record_path)) as other:
            written = await asyncio.to_thread(other.grant, granted(), draft())
        waiting = asyncio.create_task(tail.wait_for(written.revision, "client:a", soon()))
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(tail.advance)
        await waiting
        assert tail.reached(written.revision)

    asyncio.run(scenario())


@pytest.mark.standard("U13")
def test_waiting_ends_with_the_deadline_and_frees_its_place(tail: Tail, record: WatchedRecord) -> None:
    written = record.grant(granted(), draft())
    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            tail.reach(written.revision, soon(0), "client:a")
        with pytest.raises(DeadlineExceeded):
            asyncio.run(tail.wait_for(written.revision, "client:a", soon(0)))
    assert tail._waiters.unjudged() == ()


@pytest.mark.standard("U13")
def test_waiters_are_capped_a_caller(tail: Tail, record: WatchedRecord) -> None:
    written = record.grant(granted(), draft())

    async def scenario() -> None:
        waiting = [asyncio.create_task(tail.wait_for(written.revision, "client:a", soon())) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Exhausted) as refused:
            await tail.wait_for(written.revision, "client:a", soon())
        assert refused.value.reason is Reason.WAITERS_EXHAUSTED
        other = asyncio.create_task(tail.wait_for(written.revision, "client:b", soon()))
        service = asyncio.create_task(asyncio.to_thread(tail.reach, written.revision, soon()))
        await asyncio.to_thread(tail.advance)
        await asyncio.gather(*waiting, other, service)
        await tail.wait_for(written.revision, "client:a", soon())

    asyncio.run(scenario())


@pytest.mark.standard("U13")
def test_a_waiter_that_is_cancelled_frees_its_place(tail: Tail, record: WatchedRecord) -> None:
    written = record.grant(granted(), draft())

    async def scenario() -> None:
        for _ in range(5):
            waiting = asyncio.create_task(tail.wait_for(written.revision, "client:a", soon()))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await asyncio.to_thread(tail.advance)

    asyncio.run(scenario())
    assert tail.reached(written.revision)


@pytest.mark.standard("U13")
def test_waiters_of_a_record_that_is_down_are_told_so(running: Tail, record: WatchedRecord) -> None:
    record.down = True
    above = after(running.current.revision)
    assert reason_of(lambda: running.reach(above, soon(), "client:a")) is Reason.RECORD_UNAVAILABLE


def test_waiters_are_told_when_the_tail_stops(tail: Tail, record: WatchedRecord) -> None:
    written = record.grant(granted(), draft())
    outcome: list[BaseException | None] = []

    def wait() -> None:
        try:
            tail.reach(written.revision, soon())
        except Unavailable as error:
            outcome.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for(tail._waiters.unjudged)
    tail.stop()
    waiting.join()
    assert len(outcome) == 1


@pytest.mark.standard("U13")
def test_a_writer_is_answered_when_its_own_snapshot_holds_the_write(running: Tail, record: WatchedRecord) -> None:
    for number in range(20):
        written = record.grant(granted(f"user:{number}"), draft())
        running.reach(written.revision, soon())
        assert running.current.revision.order >= written.revision.order
        assert list(running.current.bindings.of(f"user:{number}"))


@pytest.mark.standard("U6")
def test_a_replica_that_cannot_reach_the_record_answers_until_a_stated_age_and_then_refuses(record: SqlRecord) -> None:
    clock = FakeClock(NOW)
    tail = Tail(record, verify_keys, clock, max_age=30)
    clock.advance(30)
    assert tail.current is tail.held
    assert tail.fault == ""
    clock.advance(1)
    with pytest.raises(Unavailable):
        _ = tail.current
    assert tail.fault == "the record is out of reach"
    tail.advance()
    assert tail.current is tail.held
