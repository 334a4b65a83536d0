"""The record cannot be written: its disk is full, or another process holds its lock. Hot calls do not notice."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest

from authsvc.bootstrap.first_start import DATABASE_FILE, KEK_FILE
from authsvc.core.envelopes import Kek
from authsvc.storage.secret_files import kek_bytes
from authsvc.storage.sql.opening import Opening, open_record
from authsvc.v1 import authz_pb2, client_admin_pb2, key_pb2, policy_admin_pb2, token_pb2, types_pb2
from tests.conformance.record import is_whole
from tests.support.embedded import Refused
from tests.support.process import Serving, serving
from tests.support.waiting import wait_for

MOST_WRITES = 2_000
ANSWERED_WITHIN = 3.0
"""Seconds: a writer waits about 2 for its turn and for the lock; the rest is a loaded machine's."""


class Callers:
    """An administrator who writes, and everybody else."""

    def __init__(self, service: Serving) -> None:
        service.apply()
        self._service = service
        self._secret = service.create_client("shop", audience=["orders"])
        self._admin = service.admin()
        self._count = 0

    def grant(self, subject: str) -> None:
        """Grant a role; raises Refused."""
        wanted = policy_admin_pb2.GrantRoleRequest(subject=subject, role="viewer")
        self._service.call("PolicyAdminService/GrantRole", wanted, self._admin)

    def refused_grant(self, subject: str) -> Refused:
        """The refusal of a grant, which has to come soon."""
        begun = time.monotonic()
        with pytest.raises(Refused) as caught:
            self.grant(subject)
        assert time.monotonic() - begun < ANSWERED_WITHIN
        return caught.value

    def grant_until_refused(self) -> list[str]:
        """Grants until one is refused; the subjects of those that were acknowledged."""
        done: list[str] = []
        try:
            while len(done) < MOST_WRITES:
                self._count += 1
                self.grant(f"user:g{self._count}")
                done.append(f"user:g{self._count}")
        except Refused as refused:
            is_clear(refused)
            return done
        raise AssertionError("no write was ever refused")

    def hot_calls(self) -> None:
        """Issue, verify, check, fetch keys: none of them needs to write."""
        call, admin = self._service.call, self._admin
        token = self._service.token("shop", self._secret, audience=["orders"])
        verified = token_pb2.VerifyTokenRequest(token=token, audience=["orders"])
        assert call("TokenService/VerifyToken", verified, admin).valid
        question = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
        assert call("AuthzService/Check", question, admin).decision == types_pb2.DECISION_ALLOW
        assert call("KeyService/GetJwks", key_pb2.GetJwksRequest()).jwks
        clients = call("ClientAdminService/ListClients", client_admin_pb2.ListClientsRequest(), admin).clients
        assert {client.client_id for client in clients} == {"admin", "shop"}

    def holds(self, subject: str) -> bool:
        """Whether a subject has its role: asked of the record."""
        wanted = policy_admin_pb2.ListRoleBindingsRequest(subject=subject)
        return bool(self._service.call("PolicyAdminService/ListRoleBindings", wanted, self._admin).bindings)


def is_clear(refused: Refused) -> None:
    """A refusal that says in one line, and in no words of a database, that the record is not there."""
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "RECORD_UNAVAILABLE")
    assert len(refused.message.splitlines()) == 1
    assert "record" in refused.message
    assert not {"sqlite", "sql", "errno", "disk i/o"} & set(refused.message.lower().split())


def check_whole(directory: Path) -> None:
    kek = Kek(kek_bytes(directory / KEK_FILE))
    record = open_record(Opening(f"sqlite:///{directory / DATABASE_FILE}", kek, issuer=""))
    with closing(record):
        assert is_whole(record)


def no_space_and_space_again(service: Serving, fill: Callable[[], None], free: Callable[[], None]) -> str:
    """What happens around a disk without space; gives the words of a refusal."""
    callers = Callers(service)
    fill()
    done = callers.grant_until_refused()
    refused = callers.refused_grant("user:refused")
    is_clear(refused)
    callers.hot_calls()
    assert not callers.holds("user:refused")
    assert service.operations("/livez")[0] == 200
    free()
    callers.grant("user:after")
    assert all(callers.holds(subject) for subject in (*done, "user:after"))
    check_whole(service.directory)
    return refused.message


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system; the limit on file sizes is tried without")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.standard("U5")
def test_a_full_disk_refuses_writes_keeps_hot_calls_and_heals(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, serving(disk) as service:
        ballast = disk / "ballast"

        def fill() -> None:
            with ballast.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    return

        said = no_space_and_space_again(service, fill, ballast.unlink)
        assert said == "the record's disk is full"


@pytest.mark.standard("U5")
def test_a_record_that_may_not_grow_refuses_writes_keeps_hot_calls_and_heals(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with serving(directory) as service:
        _, hard = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
        files = [directory / f"{DATABASE_FILE}{suffix}" for suffix in ("", "-wal")]

        def fill() -> None:
            most = max(file.stat().st_size for file in files)
            resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (most + 16_384, hard))

        def free() -> None:
            resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (hard, hard))

        no_space_and_space_again(service, fill, free)


@pytest.mark.standard("U5")
def test_a_record_that_another_process_locks_is_unavailable_within_seconds_and_heals(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with serving(directory) as service:
        callers = Callers(service)
        with closing(sqlite3.connect(directory / DATABASE_FILE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with ThreadPoolExecutor(4) as pool:
                refusals = list(pool.map(callers.refused_grant, [f"user:r{n}" for n in range(4)]))
                for refused in refusals:
                    is_clear(refused)
                callers.hot_calls()
            other.execute("ROLLBACK")
        callers.grant("user:after")
        assert callers.holds("user:after")
        assert not any(callers.holds(f"user:r{n}") for n in range(4))
        wait_for(lambda: service.operations("/readyz")[0] == 200)
        check_whole(directory)
