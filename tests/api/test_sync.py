"""What watchers are sent, and that a slow one costs nothing but its place."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from authsvc.api.sync_encoding import FEW_MARKS, MARK_BYTES, MOST_MADE, PART_MARKS, Parts, SyncEncoding
from authsvc.core.errors import AuthsvcError, Exhausted, InvalidRequest, PermissionDenied, Reason, Unavailable
from authsvc.core.revocations import RevocationKind, revocation_digest
from authsvc.ports.change_log import Change, RevocationPut
from authsvc.ports.record import RevocationMark
from authsvc.state.history import MOST_MARKS, History, Position
from authsvc.state.revocations import Revocations
from authsvc.state.snapshot import Snapshot
from authsvc.storage.sql.record import SqlRecord
from authsvc.usecases.key_sets import KeySets
from authsvc.usecases.sync import A_TURN, Interest
from authsvc.v1 import sync_pb2
from tests.state.conftest import open_at
from tests.support.engines import empty_snapshot
from tests.support.record_values import NOW, SCHEDULE, draft, granted, key, keys_change
from tests.support.scale import scale
from tests.support.sync_world import ISSUER, Follower, World
from tests.support.waiting import wait_for_async

BOTH = Interest(keys=True, revocations=True)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[SqlRecord]:
    """A fresh record."""
    opened = open_at(tmp_path / "record.db")
    yield opened
    opened.close()


@pytest.fixture
def world(record: SqlRecord) -> World:
    """A replica of it."""
    return World(record)


def run(world: World, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run on a loop that brings changes to watchers."""

    async def begin() -> None:
        world.start()
        await scenario()

    asyncio.run(begin())


async def refusal(follower: Follower) -> AuthsvcError:
    """What ends it."""
    try:
        while True:
            await follower.take()
    except AuthsvcError as error:
        return error


# A slow watcher.


@pytest.mark.standard("U12")
def test_what_a_slow_watcher_missed_is_one_answer_when_it_comes_for_it(world: World) -> None:
    async def scenario() -> None:
        slow, quick = Follower(world), Follower(world)
        await slow.take()
        await quick.take()
        for number in range(30):
            world.revoke(f"user:{number}")
            world.move()
            await quick.catch_up()
        await slow.catch_up()
        assert slow.held() == quick.held() == world.held()
        assert len(slow.held()) == 30
        assert (await slow.take()).WhichOneof("response") == "heartbeat"

    run(world, scenario)


@pytest.mark.standard("U12")
def test_a_watcher_that_missed_more_than_is_remembered_gets_the_whole_state(world: World) -> None:
    async def scenario() -> None:
        slow = Follower(world)
        await slow.take()
        world.revoke("user:ann")
        world.move()
        world.tail.history.restart(Position.of(world.tail.held))
        response = await slow.take_change()
        assert response.WhichOneof("response") == "state"
        assert slow.held() == world.held() != set()

    run(world, scenario)


@pytest.mark.standard("J21", "U12")
def test_whatever_watchers_miss_and_however_they_come_back_they_end_with_what_the_replica_holds(
    world: World,
) -> None:
    async def scenario() -> None:
        chance = random.Random(7)
        followers = [Follower(world) for _ in range(4)]
        for turn in range(max(60, scale(5_000))):
            match chance.randrange(5):
                case 0:
                    kind = chance.choice(list(RevocationKind))
                    ends = NOW + chance.choice((60, 600, 86_400))
                    world.revoke(
                        *(f"{chance.randrange(9)}" for _ in range(chance.randrange(1, 4))), kind=kind, ends=ends
                    )
                case 1:
                    world.record.grant(granted(f"user:{turn}"), draft())
                case 2:
                    world.record.change_keys(keys_change(key(f"k{turn}")), draft(), expected=None)
                case 3:
                    world.clock.advance(chance.randrange(30))
                case _:
                    world.tail.history.restart(Position.of(world.tail.held))
            world.move()
            one = chance.randrange(len(followers))
            follower = followers[one]
            if chance.random() < 0.2:
                await follower.leave()
                known = {"known_revision": follower.revision, "known_digest": follower.digest}
                again = Follower(world, keys=True, revocations=True, **known)
                again.revocations, again.keys = dict(follower.revocations), follower.keys
                followers[one] = follower = again
            await follower.take_change() if follower.digest != world.tail.held.digest else None
        fresh = Follower(world)
        await fresh.take()
        for follower in followers:
            await follower.catch_up()
            assert follower.held() == fresh.held() == world.held()
            assert follower.keys == fresh.keys

    run(world, scenario)


# Sent once.


def test_the_same_for_everybody_is_encoded_once(world: World) -> None:
    before = Position.of(world.tail.held)
    world.revoke("user:ann")
    world.move()
    target = world.tail.held
    encoding = world.encoding
    assert encoding.delta(BOTH, before, target) is encoding.delta(BOTH, before, target)
    assert encoding.closing(BOTH, Parts(), target) is encoding.closing(BOTH, Parts(), target)
    assert encoding.heartbeat(target) is encoding.heartbeat(target)
    assert encoding.delta(Interest(keys=True, revocations=False), before, target) != encoding.delta(
        BOTH, before, target
    )


@pytest.mark.standard("U3")
def test_only_so_many_answers_are_kept_for_one_state_and_no_more_are_needed(world: World) -> None:
    known = []
    for number in range(MOST_MADE + 5):
        known.append(Position.of(world.tail.held))
        world.revoke(f"user:{number}")
        world.move()
    target = world.tail.held
    deltas = [parsed(world.encoding.delta(BOTH, one, target)) for one in known]
    assert [len(one.delta.revocations) for one in deltas] == list(range(MOST_MADE + 5, 0, -1))
    kept = [world.encoding.delta(BOTH, one, target) is world.encoding.delta(BOTH, one, target) for one in known]
    assert sum(kept) == MOST_MADE


def test_a_change_after_a_quiet_moment_goes_out_at_once_and_what_follows_it_gathers(record: SqlRecord) -> None:
    world = World(record, gather=60.0)

    async def scenario() -> None:
        follower = Follower(world)
        await follower.take()
        world.revoke("user:first")
        world.move()
        first = await follower.take_change()
        assert first.revision == world.tail.held.revision_text
        world.revoke("user:second")
        world.move()
        later = [await follower.take() for _ in range(3)]
        assert {one.WhichOneof("response") for one in later} == {"heartbeat"}
        assert {one.revision for one in later} == {first.revision}

    run(world, scenario)


def test_so_many_watchers_are_woken_in_a_turn_of_the_loop_and_all_in_the_end(world: World) -> None:
    async def scenario() -> None:
        followers = [Follower(world) for _ in range(2 * A_TURN + 3)]
        for follower in followers:
            await follower.take()
        reached = 0

        async def follow(follower: Follower) -> None:
            nonlocal reached
            await follower.take_change()
            reached += 1

        taking = [asyncio.create_task(follow(follower)) for follower in followers]
        await asyncio.sleep(0)
        world.revoke("user:ann")
        world.move()
        most, before = 0, 0
        while reached < len(followers):
            await asyncio.sleep(0)
            most, before = max(most, reached - before), reached
        assert most <= A_TURN
        await asyncio.gather(*taking)
        assert {follower.revision for follower in followers} == {world.tail.held.revision_text}

    run(world, scenario)


# Heartbeats and ages.


@pytest.mark.standard("U12", "U6")
def test_heartbeats_tell_the_age_while_the_record_is_out_of_reach(world: World) -> None:
    async def scenario() -> None:
        follower = Follower(world)
        assert (await follower.take()).age.seconds == 0
        assert (await follower.take()).WhichOneof("response") == "heartbeat"
        world.clock.advance(45)
        late = await follower.take()
        assert (late.WhichOneof("response"), late.age.seconds, late.max_stale.seconds) == ("heartbeat", 45, 30)
        assert late.revision == world.tail.held.revision_text
        world.move()
        assert (await follower.take()).age.seconds == 0

    run(world, scenario)


@pytest.mark.standard("U12")
def test_a_state_that_was_overtaken_while_changes_gather_is_told_to_be_as_much_older(record: SqlRecord) -> None:
    world = World(record, gather=7.0)

    async def scenario() -> None:
        follower = Follower(world)
        await follower.take()
        world.revoke("user:ann")
        world.move()
        assert (await follower.take_change()).age.seconds == 0
        world.revoke("user:bob")
        world.move()
        overtaken = await follower.take()
        assert (overtaken.WhichOneof("response"), overtaken.age.seconds) == ("heartbeat", 7)

    run(world, scenario)


@pytest.mark.standard("U6", "U12")
def test_a_replica_that_may_answer_no_more_ends_its_watchers(world: World) -> None:
    async def scenario() -> None:
        follower = Follower(world)
        await follower.take()
        world.clock.advance(121)
        ended = await refusal(follower)
        assert isinstance(ended, Unavailable)
        assert ended.reason is Reason.RECORD_UNAVAILABLE

    run(world, scenario)


@pytest.mark.standard("U12")
def test_whoever_may_watch_no_more_is_not_even_sent_a_heartbeat(world: World) -> None:
    async def scenario() -> None:
        follower = Follower(world)
        await follower.take()
        follower.refused = PermissionDenied("no more")
        with pytest.raises(PermissionDenied):
            await follower.take()
        assert len(world.watchers) == 0

    run(world, scenario)


# What counts as acknowledged.


@pytest.mark.standard("U12", "K9")
def test_a_watcher_counts_whatever_it_follows(world: World) -> None:
    async def scenario() -> None:
        follower = Follower(world, revocations=True)
        await follower.take()
        world.record.change_keys(keys_change(key("k2")), draft(), expected=None)
        world.move()
        assert not (await follower.take_change()).delta.HasField("keys")
        follower.acknowledge()
        await wait_for_async(lambda: world.watchers.held() == ((world.tail.held.revision.order, 1),))

    run(world, scenario)


@pytest.mark.standard("U12", "K9")
def test_only_what_was_sent_and_said_to_be_held_counts(world: World) -> None:
    async def scenario() -> None:
        silent, follower = Follower(world), Follower(world)
        await silent.take()
        await follower.take()
        first = world.tail.held.revision.order
        assert world.watchers.held() == ()
        follower.acknowledge()
        await wait_for_async(lambda: world.watchers.held() == ((first, 1),))
        world.revoke("user:ann")
        world.move()
        assert world.watchers.held() == ((first, 1),)
        await follower.catch_up()
        assert world.watchers.held() == ((first, 1),)
        follower.acknowledge()
        follower.acknowledge()
        second = world.tail.held.revision.order
        await wait_for_async(lambda: world.watchers.held() == ((second, 1),))
        assert world.acknowledgements == 2
        await follower.leave()
        await silent.leave()
        assert (len(world.watchers), world.watchers.held()) == (0, ())

    run(world, scenario)


@pytest.mark.standard("U12")
def test_a_record_that_lost_what_it_acknowledged_is_followed_back_and_old_acknowledgements_are_passed_over(
    world: World, tmp_path: Path
) -> None:
    async def scenario() -> None:
        follower = Follower(world)
        await follower.take()
        world.revoke("user:lost")
        world.move()
        await follower.catch_up()
        follower.acknowledge()
        await wait_for_async(lambda: world.acknowledged_by(1))
        lost, lost_digest = follower.revision, follower.digest
        # Rebuilt with an older state, as after a failover: the digest is another, the number lower.
        with closing(sqlite3.connect(tmp_path / "record.db")) as connection, connection:
            connection.execute("DELETE FROM change WHERE number = 2")
            connection.execute("DELETE FROM revocation")
            connection.execute("UPDATE head SET number = 1, digest = (SELECT digest FROM change WHERE number = 1)")
        world.move()
        response = await follower.take_change()
        assert response.WhichOneof("response") == "state"
        assert world.watchers.held() == ()
        assert follower.held() == set()
        assert follower.digest != lost_digest
        follower.say(sync_pb2.WatchRequest(acknowledgement=sync_pb2.WatchAcknowledgement(revision=lost)))
        follower.acknowledge()
        await wait_for_async(lambda: world.watchers.held() == (((1, 1), 1),))
        again = Follower(world, revocations=True, known_revision=lost, known_digest=lost_digest)
        waiting = asyncio.create_task(again.take())
        await wait_for_async(lambda: bool(world.tail._waiters.unjudged()))
        world.move()
        assert (await waiting).WhichOneof("response") == "state"

    run(world, scenario)


# Caps.


def test_above_the_cap_a_watcher_is_refused_with_a_time_to_come_back(record: SqlRecord) -> None:
    world = World(record, most=1)

    async def scenario() -> None:
        first = Follower(world)
        await first.take()
        second = await refusal(Follower(world))
        assert isinstance(second, Exhausted)
        assert second.reason is Reason.OVERLOADED
        await first.leave()
        await Follower(world).take()

    run(world, scenario)


@pytest.mark.standard("U3")
def test_one_caller_takes_its_share_of_the_streams_and_leaves_the_rest_to_others(record: SqlRecord) -> None:
    world = World(record, most_of_a_caller=2)

    async def scenario() -> None:
        first, silent = Follower(world), Follower(world)
        await first.take()
        # One that has not said what for takes a place too.
        silent._requests = asyncio.Queue()
        waiting = asyncio.create_task(silent.take())
        await asyncio.sleep(0)
        third = await refusal(Follower(world))
        assert isinstance(third, Exhausted)
        assert third.reason is Reason.OVERLOADED
        await Follower(world, "other").take()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        second = Follower(world)
        await second.take()
        assert isinstance(await refusal(Follower(world)), Exhausted)
        await first.leave()
        await Follower(world).take()

    run(world, scenario)


def test_an_opening_that_never_comes_ends_the_stream_and_an_end_before_it_says_so(world: World) -> None:
    async def scenario() -> None:
        nobody = Follower(world)
        nobody._requests = asyncio.Queue()
        nobody.say(None)
        ended = await refusal(nobody)
        assert isinstance(ended, InvalidRequest)
        assert ended.violations[0].field == "open"

    run(world, scenario)


# Large states.


def marks(count: int, at: int = 1) -> list[RevocationMark]:
    """So many revoked tokens."""
    kind = RevocationKind.TOKEN
    return [RevocationMark(kind, revocation_digest(kind, f"{at} {n}"), (1, at), NOW + 60) for n in range(count)]


def state_of(number: int, revoked: list[RevocationMark]) -> Snapshot:
    """A state that holds these."""
    return replace(empty_snapshot(number), digest=b"%d" % number, revocations=Revocations.of(revoked))


def encoding(history: History, max_bytes: int = 2**25) -> SyncEncoding:
    """An encoding without a replica."""
    sets = KeySets(SCHEDULE, lambda: 0.0)
    return SyncEncoding(history, sets, ISSUER, lambda: NOW, max_bytes=max_bytes, max_stale=30)


def parsed(raw: bytes | None) -> sync_pb2.WatchResponse:
    """A response that must be there."""
    assert raw is not None
    return sync_pb2.WatchResponse.FromString(raw)


REVOKED = Interest(keys=False, revocations=True)


def test_a_large_state_is_parts_of_a_mebibyte_and_what_was_revoked_since_they_were_made() -> None:
    many, later = marks(2 * PART_MARKS + 5), marks(3, at=6)
    before, now = state_of(5, many), state_of(6, many + later)
    history = History(Position.of(before))
    tested = encoding(history)
    parts = asyncio.run(tested.parts(before))
    history.add(Change(1, 6, b"5", b"6", tuple(RevocationPut(mark) for mark in later)))
    assert asyncio.run(tested.parts(now)) == parts
    sent = [parsed(tested.part(parts, index)) for index in range(parts.number)]
    assert [len(one.state.revocations) for one in sent] == [PART_MARKS, PART_MARKS, 5]
    assert all(one.state.partial for one in sent)
    assert max(one.ByteSize() for one in sent) <= 1024 * 1024
    last = parsed(tested.closing(REVOKED, parts, now))
    assert not last.state.partial
    assert last.revision == now.revision_text
    held = {mark.digest for one in (*sent, last) for mark in one.state.revocations}
    assert held == {mark.digest for mark in many + later}
    assert len(last.state.revocations) == len(later)


def test_parts_that_the_history_reaches_no_more_are_made_anew_and_the_old_ones_are_let_go() -> None:
    many = marks(FEW_MARKS + 1)
    before, now = state_of(5, many), state_of(6, many)
    history = History(Position.of(before))
    tested = encoding(history)
    old = asyncio.run(tested.parts(before))
    history.restart(Position.of(now))
    assert tested.closing(REVOKED, old, now) is None
    new = asyncio.run(tested.parts(now))
    assert new.generation == old.generation + 1
    assert tested.part(old, 0) is None
    assert tested.part(new, 0) is not None


def test_a_small_state_that_has_grown_large_before_it_was_closed_begins_again() -> None:
    now = state_of(6, marks(FEW_MARKS + 1))
    assert encoding(History(Position.of(now))).closing(REVOKED, Parts(), now) is None
    small = state_of(6, marks(FEW_MARKS))
    whole = parsed(encoding(History(Position.of(small))).closing(REVOKED, Parts(), small))
    assert len(whole.state.revocations) == FEW_MARKS


def test_above_the_cap_nothing_is_sent_of_what_is_revoked_and_below_it_everything() -> None:
    tested = encoding(History(Position((1, 5), b"5")), max_bytes=10 * MARK_BYTES)
    assert not tested.is_remote(REVOKED, state_of(5, marks(10)))
    above = state_of(5, marks(11))
    assert tested.is_remote(REVOKED, above)
    assert not tested.is_remote(Interest(keys=True, revocations=False), above)
    assert asyncio.run(tested.parts(above)) == Parts()
    assert parsed(tested.closing(REVOKED, Parts(), above)).state == sync_pb2.WatchState(remote=True)


def test_the_largest_revocation_is_no_larger_than_it_is_counted() -> None:
    kind = RevocationKind.ISSUER
    largest = RevocationMark(kind, bytes([255] * 16), (2**29, 2**62), 253_402_300_799)
    whole = parsed(encoding(History(Position((1, 5), b"5"))).closing(REVOKED, Parts(), state_of(5, [largest])))
    assert whole.state.ByteSize() <= MARK_BYTES


@pytest.mark.parametrize("over", [0, 1])
def test_a_delta_holds_what_is_remembered_and_no_more(over: int) -> None:
    before, now = state_of(5, []), state_of(6, [])
    history = History(Position.of(before))
    tested = encoding(history)
    history.add(Change(1, 6, b"5", b"6", tuple(RevocationPut(mark) for mark in marks(MOST_MARKS + over))))
    delta = tested.delta(REVOKED, Position.of(before), now)
    assert (delta is None) == bool(over)
