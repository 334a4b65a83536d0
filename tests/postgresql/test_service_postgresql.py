"""The whole service on PostgreSQL, over real gRPC: one replica, and what several agree on."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from authsvc.core.keys import KeyState
from authsvc.usecases.keys import Rotated
from authsvc.v1 import authz_pb2, token_pb2, types_pb2
from tests.postgresql.conftest import PostgresqlBench
from tests.support.embedded import Embedded, embedded
from tests.support.postgresql import PASSWORD
from tests.support.record_values import POLICY
from tests.support.waiting import wait_for


def settings(bench: PostgresqlBench) -> dict[str, str]:
    """The record's."""
    return {"record.url": bench.opening.url, "record.password_file": str(bench.opening.password_file)}


def replica(stack: ExitStack, bench: PostgresqlBench, folder: Path, kek: Path) -> Embedded:
    """A service with a data directory of its own."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return stack.enter_context(embedded(folder, settings={**settings(bench), "keys.kek": str(kek)}))


@pytest.fixture
def kek(tmp_path: Path) -> Path:
    """The key-encryption key that replicas share."""
    file = tmp_path / "kek"
    file.write_text("6b" * 32)
    file.chmod(0o600)
    return file


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Stops what a test started."""
    with ExitStack() as started:
        yield started


def verifies(service: Embedded, token: str, admin: str) -> bool:
    """Whether a replica lets a token through."""
    wanted = token_pb2.VerifyTokenRequest(token=token, audience=["orders"])
    return bool(service.call("TokenService/VerifyToken", wanted, admin).valid)


def allows(service: Embedded, admin: str) -> bool:
    """Whether a replica lets Ann read orders."""
    wanted = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
    answer = service.call("AuthzService/Check", wanted, admin)
    return bool(answer.decision == types_pb2.DECISION_ALLOW)


def test_a_service_keeps_everything_in_postgresql_and_finds_it_again(
    postgresql: PostgresqlBench, tmp_path: Path, kek: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        first = replica(stack, postgresql, tmp_path / "first", kek)
        admin = first.admin()
        first.apply(POLICY)
        secret = first.create_client("billing", audience=["orders"])
        kept, revoked = (first.token("billing", secret, audience=["orders"]) for _ in range(2))
        first.call("TokenService/RevokeToken", token_pb2.RevokeTokenRequest(token=revoked), admin)
        assert (verifies(first, kept, admin), verifies(first, revoked, admin)) == (True, False)
        assert allows(first, admin)
        assert not (first.directory / "authsvc.db").exists()
    shutil.rmtree(tmp_path / "first")
    with ExitStack() as stack:
        again = replica(stack, postgresql, tmp_path / "again", kek)
        assert (verifies(again, kept, admin), verifies(again, revoked, admin)) == (True, False)
        assert allows(again, admin)
        assert again.token("billing", secret, audience=["orders"])
    assert PASSWORD not in "".join(capfd.readouterr())


@pytest.mark.standard("J21")
def test_what_one_replica_revokes_the_other_refuses(
    postgresql: PostgresqlBench, tmp_path: Path, kek: Path, stack: ExitStack
) -> None:
    one, two = (replica(stack, postgresql, tmp_path / name, kek) for name in ("one", "two"))
    admin = one.admin()
    secret = one.create_client("billing", audience=["orders"])
    two.foundation.tail.reach(one.foundation.record.head().revision, None)
    token = two.token("billing", secret, audience=["orders"])
    assert verifies(two, token, admin)
    revoked = token_pb2.RevokeTokenRequest(client_id="billing")
    revision = one.call("TokenService/RevokeToken", revoked, admin).revision
    wanted = token_pb2.VerifyTokenRequest(token=token, audience=["orders"], min_revision=revision)
    assert not two.call("TokenService/VerifyToken", wanted, admin).valid
    one.apply(POLICY)
    wait_for(lambda: allows(two, admin))


@pytest.mark.standard("K4")
def test_replicas_that_start_and_rotate_at_once_agree_on_one_set_of_keys(
    postgresql: PostgresqlBench, tmp_path: Path, kek: Path, stack: ExitStack
) -> None:
    secret = tmp_path / "admin"
    secret.write_text("s" * 43)
    secret.chmod(0o600)
    given = {"bootstrap.admin_client_id": "root", "bootstrap.admin_secret_file": str(secret), "keys.kek": str(kek)}

    def start(index: int) -> Embedded:
        folder = tmp_path / str(index)
        folder.mkdir(mode=0o700)
        return stack.enter_context(embedded(folder, settings={**settings(postgresql), **given}))

    with ThreadPoolExecutor(3) as pool:
        replicas = list(pool.map(start, range(3)))
        assert states(replicas[0]) == {KeyState.ACTIVE: 1, KeyState.PENDING: 1}
        assert replicas[1].token("root", "s" * 43, audience=["authsvc"])
        # Each decides on what it held before any of them began.
        held = [one.foundation.tail.current for one in replicas]
        assert len({snapshot.revision for snapshot in held}) == 1

        def rotate(index: int) -> Rotated:
            keys, now = replicas[index].foundation.keys, replicas[index].foundation.clock.now()
            act = keys.rotate(
                held[index], algorithm=None, force=True, actor="client:root", now=now, deadline=time.monotonic() + 20
            )
            return asyncio.run_coroutine_threadsafe(act, replicas[index].loop).result(30)

        active = {answer.active.kid for answer in pool.map(rotate, range(3))}
    assert len(active) == 1
    assert states(replicas[0]) == {KeyState.ACTIVE: 1, KeyState.PENDING: 1, KeyState.RETIRING: 1}


def states(service: Embedded) -> Counter[KeyState]:
    """How many keys are in each state."""
    return Counter(key.state for key in service.foundation.record.load().keys.keys)
