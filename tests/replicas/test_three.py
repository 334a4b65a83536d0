"""Three replicas as processes on PostgreSQL and Redis: what one writes all hold, in order and soon; counts are one."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial

import pytest

from authsvc.core.bindings import make_binding
from authsvc.v1 import key_admin_pb2, key_pb2, limit_pb2, token_pb2
from tests.replicas.setting import LIMIT, POLICY, three
from tests.support.embedded import Refused
from tests.support.fleet import Member, Trio, stubborn
from tests.support.postgresql import Postgres
from tests.support.scale import scale
from tests.support.waiting import wait_for

WRITERS = 64
SOON = 2.0
"""Seconds in which a write of another replica must be there on a machine that is busy with other tests. On a quiet one
it is an eighth of it (docs/reliability.md)."""


@pytest.fixture(scope="module")
def trio(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """Three that tests share; whoever ends one begins it again."""
    # What falls to a failure policy is another test's: a busy machine must not look like a store that is lost.
    with three(server, tmp_path_factory.mktemp("three"), {"counters.deadline": "1s"}) as running:
        running[0].apply(POLICY)
        yield running


def on_all(trio: Trio, asked: Callable[[Member], bool], *, answer: bool, what: str) -> None:
    """Wait until every replica answers so."""
    end = time.monotonic() + SOON
    for member in trio:
        wait_for(partial(_answers, asked, member, answer), end - time.monotonic(), what)


def _answers(asked: Callable[[Member], bool], member: Member, answer: bool) -> bool:  # noqa: FBT001 -- of `partial`
    return asked(member) is answer


def allows(subject: str) -> Callable[[Member], bool]:
    """Whether a subject may."""
    return partial(Member.allows, subject=subject)


def verifies(token: str) -> Callable[[Member], bool]:
    """Whether a token is good."""
    return partial(Member.verifies, token=token, audience="orders")


@pytest.mark.standard("U5", "J21")
def test_64_concurrent_writers_leave_no_gap_and_no_wrong_order_in_any_replica(trio: Trio) -> None:
    rounds = max(2, scale(20))

    def write(index: int) -> str:
        """Give and take a role in turn, each time at another replica; the last word is to give or to take."""
        binding = make_binding(f"user:w{index}", "viewer", "")
        revision = ""
        for turn in range(rounds + index % 2):
            member = trio[index + turn]
            if turn % 2 == 0:
                revision = stubborn(partial(member.grant, binding.subject))
            else:
                revision = stubborn(partial(member.revoke_role, binding.binding_id))
        return revision

    with ThreadPoolExecutor(WRITERS) as pool:
        revisions = list(pool.map(write, range(WRITERS)))
    for member in trio:
        for index, revision in enumerate(revisions):
            has = (rounds + index % 2) % 2 == 1
            assert member.allows(f"user:w{index}", revision=revision) is has
    # A row that is missing, or out of its order, does not fit the digest of the one before, and is told.
    assert "lost revision" not in trio.said()
    assert "the tail stopped" not in trio.said()


@pytest.mark.standard("J21", "U6", "K9")
def test_a_revocation_a_role_a_policy_and_a_key_reach_every_replica_soon(trio: Trio) -> None:
    secret = trio[0].create_client("seen", audience=["orders"])
    for turn in range(Trio.COUNT):
        writer = trio[turn]
        token = writer.service.token("seen", secret, audience=["orders"])
        on_all(trio, verifies(token), answer=True, what="a client's token")
        writer.revoke_subject("client:seen")
        on_all(trio, verifies(token), answer=False, what="a revocation")
        binding = make_binding(f"user:seen{turn}", "viewer", "")
        writer.grant(binding.subject)
        on_all(trio, allows(binding.subject), answer=True, what="a role")
        writer.revoke_role(binding.binding_id)
        on_all(trio, allows(binding.subject), answer=False, what="a role taken away")
    trio[1].apply(POLICY.replace('viewer: {allow: ["orders:read"]}', 'viewer: {allow: ["orders:write"]}'))
    on_all(trio, allows("user:ann"), answer=False, what="a policy")
    trio[2].apply(POLICY)
    on_all(trio, allows("user:ann"), answer=True, what="the policy before")
    token = trio[0].service.token("seen", secret, audience=["orders"])
    on_all(trio, verifies(token), answer=True, what="a client's token")
    admins = [member.admin() for member in trio]
    verified = token_pb2.VerifyTokenRequest(token=token, audience=["orders"])
    kid = trio[0].service.call("TokenService/VerifyToken", verified, admins[0]).token.key_id
    request = key_admin_pb2.RevokeKeyRequest(kid=kid, reason="a test")
    trio[0].service.call("KeyAdminService/RevokeKey", request, admins[0])
    for member in trio:
        member.renew()
    on_all(trio, verifies(token), answer=False, what="a key's revocation")
    on_all(trio, lambda member: kid in _published(member), answer=False, what="a key set without it")


def _published(member: Member) -> str:
    return str(member.service.call("KeyService/GetJwks", key_pb2.GetJwksRequest()).jwks)


@pytest.mark.standard("K4")
def test_three_replicas_that_rotate_at_once_make_one_new_key(trio: Trio) -> None:
    def rotate(member: Member) -> str:
        request = key_admin_pb2.RotateKeyRequest(force=True)
        return str(member.service.call("KeyAdminService/RotateKey", request, member.admin()).revision)

    before = _kids(trio[0])
    with ThreadPoolExecutor(Trio.COUNT) as pool:
        revisions = set(pool.map(rotate, trio))
    after = _kids(trio[0])
    # Whoever comes second at the same moment answers with what the first has done.
    assert len(after - before) == len(revisions)
    on_all(trio, lambda member: _kids(member) == after, answer=True, what="one set of keys")
    assert all(_published(member).count('"kid"') >= 2 for member in trio)


def _kids(member: Member) -> frozenset[str]:
    request = key_admin_pb2.ListKeysRequest(page_size=100)
    return frozenset(key.kid for key in member.service.call("KeyAdminService/ListKeys", request, member.admin()).keys)


@pytest.mark.standard("R4")
def test_three_replicas_count_as_one_and_admit_to_the_hit(trio: Trio) -> None:
    def take(index: int) -> bool:
        answer = trio[index].consume("tight", "all")
        assert all(result.decided_by == limit_pb2.DECIDED_BY_STORE for result in answer.results)
        return answer.allowed

    with ThreadPoolExecutor(24) as pool:
        admitted = list(pool.map(take, range(3 * LIMIT)))
    assert admitted.count(True) == LIMIT


class Load:
    """Writers and takers that go on whatever fails, and remember what was acknowledged."""

    def __init__(self, trio: Trio, name: str, writers: int = 6, takers: int = 3) -> None:
        self.acknowledged: set[str] = set()
        self.sent = self.taken = 0
        self._trio = trio
        self._name = name
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._pool = ThreadPoolExecutor(writers + takers)
        self._running = [self._pool.submit(self._write, index) for index in range(writers)]
        self._running += [self._pool.submit(self._take, index) for index in range(takers)]

    def goes_on(self, more: int = 20) -> None:
        """Wait until so many more writes were acknowledged."""
        wanted = len(self.acknowledged) + more
        wait_for(lambda: len(self.acknowledged) >= wanted, 30.0, "writes going on")

    def stop(self) -> None:
        """End it; raises what went wrong in it."""
        self._stopping.set()
        wait(self._running)
        self._pool.shutdown()
        for one in self._running:
            one.result()

    def _members(self, index: int) -> Iterator[Member]:
        for turn in itertools.count(index):
            if self._stopping.is_set():
                return
            members = list(self._trio)
            yield members[turn % len(members)]

    def _write(self, index: int) -> None:
        for turn, member in enumerate(self._members(index)):
            subject = f"user:{self._name}{index}-{turn}"
            try:
                member.grant(subject)
            except (Refused, ValueError):  # a channel that was closed with its replica is a ValueError
                continue
            self.acknowledged.add(subject)

    def _take(self, index: int) -> None:
        for member in self._members(index):
            with self._turn:
                self.sent += 1
            try:
                answer = member.consume("wide", self._name)
            except (Refused, ValueError):
                continue
            assert answer.allowed
            if answer.results[0].decided_by == limit_pb2.DECIDED_BY_STORE:
                with self._turn:
                    self.taken += 1


@pytest.mark.standard("U5", "R7")
@pytest.mark.timeout(1_200)
def test_kill_9_of_replicas_loses_no_acknowledged_write_and_counts_no_hit_twice(trio: Trio) -> None:
    load = Load(trio, "kill")
    try:
        for turn in range(max(2, scale(40))):
            load.goes_on()
            trio.kill(turn % Trio.COUNT)
            load.goes_on()
            trio.begin(turn % Trio.COUNT)
        load.goes_on()
    finally:
        load.stop()
    for member in trio:
        assert {subject for subject in load.acknowledged if not member.allows(subject)} == set()
    (result,) = trio[0].consume("wide", "kill", hits=0).results
    # Whoever was killed may have counted a hit and not said so; nobody counted one that was not sent.
    assert load.taken <= result.limit - result.remaining <= load.sent
    assert "lost revision" not in trio.said()


@pytest.mark.standard("J21", "U6")
@pytest.mark.timeout(1_200)
def test_a_replica_that_is_killed_after_it_acknowledged_a_revocation_leaves_no_stale_allow(trio: Trio) -> None:
    for turn in range(max(1, scale(20))):
        index = turn % Trio.COUNT
        binding = make_binding(f"user:stale{turn}", "viewer", "")
        trio[index].grant(binding.subject)
        on_all(trio, allows(binding.subject), answer=True, what="a role")
        trio[index].revoke_role(binding.binding_id)
        trio.kill(index)
        on_all(trio, allows(binding.subject), answer=False, what="a role taken away")
        trio.begin(index)
        assert not trio[index].allows(binding.subject)


@pytest.mark.standard("J21", "U6")
def test_a_replica_that_stood_still_follows_and_denies_what_was_revoked_meanwhile(trio: Trio) -> None:
    binding = make_binding("user:paused", "viewer", "")
    trio[0].grant(binding.subject)
    on_all(trio, allows(binding.subject), answer=True, what="a role")
    trio.pause(2)
    try:
        revision = trio[0].revoke_role(binding.binding_id)
    finally:
        trio.go_on(2)
    assert not trio[2].allows(binding.subject, revision=revision)
    on_all(trio, allows(binding.subject), answer=False, what="a role taken away")
