"""A client made and used before a fork works in the parent and in every child."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from authsvc_client.testing import FakeAuthsvc
from tests.client.conftest import PATIENT
from tests.support.scale import scale

_PROGRAM = """
import os, sys
from authsvc_client import AsyncClient, Client

def answer(client):
    # Consume first: it is never repeated, so that a dead connection is not hidden by a retry.
    return not client.consume("api", {"a": "b"}).unavailable and client.check("user:ann", "orders:read").allowed

client = Client.from_env()
assert answer(client)
for child in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        # No clean-up of the parent's things in the child, as in every pre-forking server.
        fresh = client._wire._open is None
        os._exit(0 if fresh and answer(client) and client.verify(sys.argv[2]).subject == "user:ann" else 9)
    assert os.waitpid(pid, 0)[1] == 0, "a child was not answered"
    assert answer(client), "the parent was not answered"
print("done")
"""

_UNUSED = """
import asyncio, os, sys
from authsvc_client import AsyncClient

client = AsyncClient.from_env()

async def answer():
    return not (await client.consume("api", {"a": "b"})).unavailable

for child in range(int(sys.argv[1])):
    if os.fork() == 0:
        os._exit(0 if asyncio.run(answer()) else 9)
codes = [os.wait()[1] for _ in range(int(sys.argv[1]))]
assert codes == [0] * len(codes), codes
print("done")
"""


@pytest.mark.parametrize("program", [_PROGRAM, _UNUSED], ids=["used before", "awaiting, made before"])
def test_parent_and_children_are_answered(authsvc: FakeAuthsvc, program: str) -> None:
    authsvc.grant("user:ann", "orders:read")
    ended = subprocess.run(
        [sys.executable, "-c", program, str(scale(200)), authsvc.token("user:ann")],
        env={**os.environ, **authsvc.environ(), "AUTHSVC_DEADLINE": PATIENT},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stdout == "done\n", ended.stderr
    assert ended.returncode == 0
