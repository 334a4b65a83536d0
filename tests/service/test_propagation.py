"""How far a change has come: over replicas and watchers, as GetPropagation, RevokeKey and RotateKey tell it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from authsvc.clock import FakeClock
from authsvc.core.keys import KeyState
from authsvc.ports.replicas import Replica
from authsvc.usecases.propagation import PROMPT_SECONDS
from authsvc.v1 import key_admin_pb2
from tests.support.embedded import Embedded, Refused, embedded
from tests.support.record_values import NOW
from tests.support.waiting import wait_for
from tests.support.watching import acknowledging, watching

HOUR = 3_600
MAX_AGE, CACHED = 120, 300
"""`record.max_age`, and how long a JWKS may be cached, by default; seconds."""


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Embedded, Embedded]]:
    """Two replicas of one record."""
    with ExitStack() as stack:
        yield stack.enter_context(embedded(tmp_path)), stack.enter_context(embedded(tmp_path))


def propagation(service: Embedded, **request: str) -> key_admin_pb2.GetPropagationResponse:
    wanted = key_admin_pb2.GetPropagationRequest(**request)
    answer: key_admin_pb2.GetPropagationResponse = service.call(
        "KeyAdminService/GetPropagation", wanted, service.admin()
    )
    return answer


def kid_in(service: Embedded, state: KeyState) -> str:
    """The first key in this state."""
    return next(key.kid for key in service.foundation.tail.current.keys.values() if key.state is state)


def revoke_standby(service: Embedded, *, dry_run: bool = False) -> key_admin_pb2.RevokeKeyResponse:
    kid = kid_in(service, KeyState.PENDING)
    wanted = key_admin_pb2.RevokeKeyRequest(kid=kid, reason="test", dry_run=dry_run)
    answer: key_admin_pb2.RevokeKeyResponse = service.call("KeyAdminService/RevokeKey", wanted, service.admin())
    return answer


def rotate(service: Embedded, *, force: bool = False) -> None:
    wanted = key_admin_pb2.RotateKeyRequest(force=force)
    service.call("KeyAdminService/RotateKey", wanted, service.admin())


def watcher_of(one: Embedded, other: Embedded) -> str:
    """A token of a client that both replicas know."""
    token = one.caller("watcher")
    newest = one.foundation.tail.held.revision
    wait_for(lambda: other.foundation.tail.reached(newest), what="the other replica")
    return token


def ghost(service: Embedded, watchers: int = 0) -> Replica:
    """A replica that reported once, long behind, and does no more."""
    left = Replica("ghost", (1, 0), watchers)
    service.foundation.record.report_replica(left, forget_after=HOUR)
    return left


# Who has what.


@pytest.mark.standard("U12", "K9")
def test_replicas_tell_their_revision_their_watchers_and_what_those_hold(two: tuple[Embedded, Embedded]) -> None:
    one, other = two
    token = watcher_of(one, other)
    with ExitStack() as stack:
        watchers = [stack.enter_context(watching(s.call.channel, token)) for s in (one, one, other)]
        silent = stack.enter_context(watching(other.call.channel, token, acknowledges=False))
        revision = revoke_standby(one).revision
        for watcher in (*watchers, silent):
            watcher.holds(revision)

        def settled() -> bool:
            found = propagation(one).replicas
            return sorted((r.watchers, r.acknowledged) for r in found) == [(2, 1), (2, 2)]

        wait_for(settled, what="the reports of both replicas")
        answer = propagation(other)
        assert answer.holding == revision
        assert {replica.revision for replica in answer.replicas} == {revision}
        assert all(replica.age.seconds < 10 for replica in answer.replicas)
        ahead = f"{revision.rpartition('.')[0]}.999999"
        assert {replica.acknowledged for replica in propagation(one, holding=ahead).replicas} == {0}


@pytest.mark.parametrize("holding", ["nonsense", "ffffffff-1.1"])
def test_a_revision_that_is_none_of_this_record_is_refused(fresh: Embedded, holding: str) -> None:
    with pytest.raises(Refused) as caught:
        propagation(fresh, holding=holding)
    assert caught.value.fields == ("holding",)


def test_a_replica_that_stops_takes_its_row_away(tmp_path: Path) -> None:
    with embedded(tmp_path) as one:
        with embedded(tmp_path):
            assert len(propagation(one).replicas) == 2
        assert len(propagation(one).replicas) == 1


# RevokeKey.


@pytest.mark.standard("K9", "U12")
def test_revoking_a_key_waits_until_every_watcher_of_every_replica_has_acknowledged(
    two: tuple[Embedded, Embedded],
) -> None:
    one, other = two
    token = watcher_of(one, other)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        watchers = [stack.enter_context(watching(s.call.channel, token)) for s in (one, other)]
        late = stack.enter_context(watching(other.call.channel, token, acknowledges=False))
        for watcher in (*watchers, late):
            watcher.heard(1)
        planned = revoke_standby(one, dry_run=True)
        wait_for(lambda: revoke_standby(one, dry_run=True).watchers == 3, what="the reports of both replicas")
        assert planned.acknowledged == 0

        def held_up_by_the_last() -> bool:
            before = late.revision
            revoking = pool.submit(revoke_standby, one)
            wait_for(lambda: late.revision != before, what="the change")
            heard = late.revision
            wait_for(lambda: sum(r.acknowledged for r in propagation(one, holding=heard).replicas) == 2)
            if revoking.done():
                # On a busy machine a second may be over.
                return False
            late.send(acknowledging(heard))
            done = revoking.result(10)
            cached = done.offline_until.seconds - done.not_before.seconds
            return (done.watchers, done.acknowledged) == (3, 3) and cached <= CACHED + 3

        wait_for(held_up_by_the_last, 20, "an answer that waited for the last acknowledgement")


@pytest.mark.standard("K9", "U12")
def test_a_watcher_that_says_nothing_is_not_counted_and_holds_the_answer_up_for_a_second_at_most(
    fresh: Embedded,
) -> None:
    with watching(fresh.call.channel, fresh.caller("watcher"), acknowledges=False) as silent:
        silent.heard(1)
        started = time.monotonic()
        done = revoke_standby(fresh)
        assert PROMPT_SECONDS <= time.monotonic() - started < 5
        assert (done.watchers, done.acknowledged) == (1, 0)


@pytest.mark.standard("K9", "U12", "U6")
def test_a_replica_that_may_not_know_of_it_is_told_by_a_later_offline_until(fresh: Embedded) -> None:
    ghost(fresh, watchers=7)
    done = revoke_standby(fresh)
    assert (done.watchers, done.acknowledged) == (7, 0)
    assert done.offline_until.seconds - done.not_before.seconds >= CACHED + MAX_AGE


@pytest.mark.standard("K9")
def test_the_answer_comes_within_the_callers_deadline_though_a_watcher_says_nothing(fresh: Embedded) -> None:
    ghost(fresh, watchers=1)

    def answered() -> bool:
        request = key_admin_pb2.RevokeKeyRequest(all_keys=True, reason="test")
        try:
            done = fresh.call("KeyAdminService/RevokeKey", request, fresh.admin(), timeout=0.9)
        except Refused as refused:
            # On a busy machine the write itself may take as long once.
            if refused.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return False
        return (done.watchers, done.acknowledged) == (1, 0)

    wait_for(answered, 20, "an answer in time")


# RotateKey.


@pytest.mark.standard("K2", "U12")
def test_a_rotation_waits_until_every_live_replica_publishes_the_standby(tmp_path: Path) -> None:
    clock = FakeClock(NOW)
    with embedded(tmp_path, clock=clock) as service:
        service.advance(clock, HOUR + 1)
        left = ghost(service)
        with pytest.raises(Refused) as caught:
            rotate(service)
        assert (caught.value.code, caught.value.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "KEY_LEAD_NOT_PASSED",
        )
        assert caught.value.metadata["replicas"] == "ghost"
        caught_up = replace(left, revision=service.foundation.tail.held.revision.order)
        service.foundation.record.report_replica(caught_up, forget_after=HOUR)
        # At once: the lead counts from when the standby was made.
        rotate(service)


@pytest.mark.standard("K2")
def test_force_waits_for_nobody(tmp_path: Path) -> None:
    clock = FakeClock(NOW)
    with embedded(tmp_path, clock=clock) as service:
        service.advance(clock, HOUR + 1)
        ghost(service)
        standby = kid_in(service, KeyState.PENDING)
        with pytest.raises(Refused):
            rotate(service)
        assert kid_in(service, KeyState.PENDING) == standby
        rotate(service, force=True)
        assert kid_in(service, KeyState.ACTIVE) == standby
