"""Watchers of two replicas on one PostgreSQL: what reaches them across, and what they hear while it is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from authsvc.core.revocations import RevocationKind, revocation_digest
from authsvc.v1 import key_admin_pb2, policy_admin_pb2, sync_pb2, token_pb2
from tests.postgresql.conftest import PostgresqlBench
from tests.support.embedded import Embedded, Refused, embedded
from tests.support.postgresql import Postgres
from tests.support.record_values import POLICY
from tests.support.waiting import wait_for
from tests.support.watching import Watching, watching

SUBJECT = sync_pb2.REVOCATION_KIND_SUBJECT


class Pair:
    """Two replicas of one record, and a watcher of each."""

    def __init__(self, stack: ExitStack, bench: PostgresqlBench, folder: Path) -> None:
        kek = folder / "kek"
        kek.write_text("6b" * 32)
        kek.chmod(0o600)
        settings = {
            "record.url": bench.opening.url,
            "record.password_file": str(bench.opening.password_file),
            "keys.kek": str(kek),
        }
        services = []
        for name in ("one", "two"):
            (folder / name).mkdir(mode=0o700)
            services.append(stack.enter_context(embedded(folder / name, settings=settings)))
        self.one, self.two = services
        token = self.one.caller("watcher")
        self.both_hold(self.one.foundation.tail.held.revision.number)
        self.watchers: list[Watching] = [
            stack.enter_context(watching(service.call.channel, token)) for service in services
        ]
        for watcher in self.watchers:
            watcher.heard(1)
        self.admin = self.one.admin()

    def both_hold(self, number: int) -> None:
        """Wait until each replica is there."""
        for service in (self.one, self.two):
            wait_for(lambda tail=service.foundation.tail: tail.held.revision.number >= number)  # type: ignore[misc]

    def revoke(self, service: Embedded, subject: str) -> str:
        """Revoke a subject's tokens at one of them."""
        request = token_pb2.RevokeTokenRequest(subject=subject)
        return str(service.call("TokenService/RevokeToken", request, self.admin).revision)

    def all_hold(self, revision: str, subject: str) -> None:
        """Wait until each watcher knows that the subject is revoked."""
        digest = revocation_digest(RevocationKind.SUBJECT, subject)
        for watcher in self.watchers:
            watcher.holds(revision)
            assert (SUBJECT, digest) in watcher.revocations


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Stops what a test started."""
    with ExitStack() as started:
        yield started


@pytest.mark.standard("U12", "J21")
def test_whatever_is_written_at_one_replica_reaches_the_watchers_of_both(
    postgresql: PostgresqlBench, tmp_path: Path, stack: ExitStack
) -> None:
    pair = Pair(stack, postgresql, tmp_path)
    for turn, service in enumerate((pair.one, pair.two)):
        subject = f"user:{turn}"
        pair.all_hold(pair.revoke(service, subject), subject)
        wanted = policy_admin_pb2.ApplyPolicyRequest(policy=POLICY)
        applied = service.call("PolicyAdminService/ApplyPolicy", wanted, pair.admin)
        grant = policy_admin_pb2.GrantRoleRequest(subject=subject, role="viewer")
        granted = service.call("PolicyAdminService/GrantRole", grant, pair.admin)
        taken = policy_admin_pb2.RevokeRoleRequest(binding_id=granted.binding.binding_id)
        removed = service.call("PolicyAdminService/RevokeRole", taken, pair.admin)
        for watcher in pair.watchers:
            watcher.holds(applied.revision)
            watcher.holds(removed.revision)


@pytest.mark.standard("K9", "U12")
def test_every_watcher_holds_the_end_of_the_key_that_signed_its_own_token_before_it_is_refused(
    postgresql: PostgresqlBench, tmp_path: Path, stack: ExitStack
) -> None:
    pair = Pair(stack, postgresql, tmp_path)
    request = key_admin_pb2.RevokeKeyRequest(all_keys=True, reason="test")
    revoked = pair.one.call("KeyAdminService/RevokeKey", request, pair.admin)
    # On a busy machine a second may be too short for both.
    assert 0 < revoked.acknowledged <= revoked.watchers == 2
    for watcher in pair.watchers:
        watcher.holds(revoked.revision)
        assert set(revoked.revoked_kids) <= set(watcher.keys.revoked_kids)
        assert not any(kid in watcher.keys.jwks for kid in revoked.revoked_kids)
        assert watcher.end().code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.standard("U12", "U6")
def test_while_the_record_is_away_watchers_hear_how_old_it_is_and_nothing_is_said_to_be_acknowledged(
    own_server: Postgres, tmp_path: Path, stack: ExitStack
) -> None:
    bench = PostgresqlBench(own_server)
    pair = Pair(stack, bench, tmp_path)
    own_server.end()
    heard = [len(watcher.responses) for watcher in pair.watchers]
    request = key_admin_pb2.RevokeKeyRequest(all_keys=True, reason="test")
    with pytest.raises(Refused) as caught:
        pair.one.call("KeyAdminService/RevokeKey", request, pair.admin, timeout=20)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    for watcher, before in zip(pair.watchers, heard, strict=True):
        wait_for(lambda w=watcher, n=before: len(w.responses) > n, 20, "a heartbeat")  # type: ignore[misc]
        last = watcher.responses[-1]
        assert last.WhichOneof("response") == "heartbeat"
        assert last.age.seconds >= 2
    own_server.begin()
    revision = wait_for(lambda: _revoked(pair, "user:back"), 30, "a write")
    pair.all_hold(revision, "user:back")
    wait_for(lambda: pair.watchers[0].responses[-1].age.seconds < 5)


def _revoked(pair: Pair, subject: str) -> str:
    """The revision; empty while the record is not there yet."""
    try:
        return pair.revoke(pair.two, subject)
    except Refused:
        return ""
