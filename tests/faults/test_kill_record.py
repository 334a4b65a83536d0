"""kill -9 at random moments while administrators write: nothing acknowledged is lost, nothing is half there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from authsvc.core.keys import KeyRecord
from authsvc.core.revocations import RevocationKind, revocation_digest
from authsvc.ports.record import KeyRows
from authsvc.state.snapshot import build
from authsvc.storage.sql.opening import open_record
from tests.conformance.record import is_whole
from tests.faults.record_writer import opening
from tests.support.record_values import draft, granted
from tests.support.scale import scale

ROOT = Path(__file__).parents[2]
WRITES = scale(1_000)
MOST_A_RUN = 25
OPEN_SECONDS = 2.0


def acknowledged(target: str | Path, prefix: str, chance: random.Random) -> list[str]:
    """Run a writer, kill it at a random moment, and give every whole line that it said."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.record_writer", str(target), prefix],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    with writer:
        lines = [writer.stdout.readline() for _ in range(chance.randint(1, MOST_A_RUN))]
        # Not a wait for anything: the moment of the kill, anywhere within a write or two.
        threading.Event().wait(chance.uniform(0, 0.01))
        writer.kill()
        lines += writer.stdout.readlines()
    return [line.decode().strip() for line in lines if line.endswith(b"\n")]


def check(target: str | Path, said: list[str]) -> None:
    """The record opens quickly, is whole, and holds all that was acknowledged."""

    def trusted(rows: KeyRows) -> tuple[KeyRecord, ...]:
        return rows.keys

    start = time.monotonic()
    record = open_record(opening(target))
    state = record.load()
    snapshot = build(state, trusted)
    assert time.monotonic() - start < OPEN_SECONDS
    assert is_whole(record)

    subjects = {binding.subject for binding in state.bindings}
    clients = {client.client_id for client in state.clients}
    policy = int(state.policy.policy_revision.rpartition(".")[2] or 0)
    for line in said:
        kind, _, name = line.partition(" ")
        match kind:
            case "grant":
                assert name in subjects
            case "client":
                assert name in clients
            case "token":
                assert revocation_digest(RevocationKind.TOKEN, name) in snapshot.revocations.tokens
            case _:
                assert policy >= int(name)
    # Acknowledged or not, a write is there whole: a client with its grant, a policy with its twenty bindings.
    assert {f"client:{client}" for client in clients} == {s for s in subjects if s.startswith("client:")}
    assert sum(binding.source == "file" for binding in state.bindings) == (20 if policy else 0)
    assert record.grant(granted("user:after"), draft()).revision.order > (1, 0)
    record.close()


@pytest.mark.standard("U5")
@pytest.mark.timeout(1_200)
def test_kill_9_at_random_moments_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path, chance = tmp_path / "record.db", random.Random()
    said: list[str] = []
    run = 0
    while len(said) < WRITES:
        run += 1
        heard = acknowledged(path, f"r{run}", chance)
        assert heard
        said += heard
        check(path, said)
