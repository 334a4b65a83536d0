"""What a replica admits by itself while no store counts for all: its share, by how many there are."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from authsvc.v1 import limit_pb2
from tests.replicas.setting import three
from tests.support.fleet import Member
from tests.support.postgresql import Postgres
from tests.support.waiting import wait_for

BURST = 30
POLICY = f"""
version: 1
limits:
  shared: {{domain: shared, match: {{user: "*"}}, rate: {BURST}/30d}}
"""
NOWHERE = {"counters.url": "redis://127.0.0.1:1", "server.replicas": "1"}


def sees(member: Member, count: int) -> bool:
    _, text = member.service.operations("/metrics")
    return f"authsvc_replicas {count}.0" in text.splitlines()


def admitted(member: Member, user: str) -> int:
    """How many of more calls than the limit a replica lets through, all by itself."""
    answers = [member.consume("shared", user) for _ in range(BURST + 1)]
    assert {answer.results[0].decided_by for answer in answers} == {limit_pb2.DECIDED_BY_LOCAL}
    return sum(answer.allowed for answer in answers)


@pytest.mark.standard("R10")
def test_shares_follow_the_replicas_that_are_there_though_none_was_told_of_the_others(
    server: Postgres, tmp_path: Path
) -> None:
    """That the number stays while the record is down is proved where it is made, in tests/state."""
    with three(server, tmp_path, NOWHERE) as trio:
        revision = trio[0].apply(POLICY)
        for member in trio:
            wait_for(partial(sees, member, 3), 30, "all being seen")
            member.allows("user:ann", revision=revision)
        assert sum(admitted(member, "user:ann") for member in trio) == BURST
        trio.stop(2)
        wait_for(partial(sees, trio[0], 2), 30, "the end of one being seen")
        assert admitted(trio[0], "user:bob") == BURST // 2
