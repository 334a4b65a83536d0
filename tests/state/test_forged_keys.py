"""A key row forged in the database never gets a MAC of ours by a later rotation."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from functools import partial

import pytest

from authsvc.clock import FakeClock
from authsvc.core.jose import Algorithm
from authsvc.state.tail import Tail
from authsvc.storage.sql.record import SqlRecord
from authsvc.usecases.keys import KeyFactory, Keys
from authsvc.usecases.propagation import Propagation
from authsvc.usecases.writes import Writer
from tests.state.conftest import ISSUER, KEK
from tests.support.record_values import ADMIN, MAC_KEY, NOW, SCHEDULE, draft, key, keys_put


@pytest.mark.standard("K12")
def test_a_forged_standby_is_never_activated(record: SqlRecord) -> None:
    factory = KeyFactory(KEK, MAC_KEY, SCHEDULE, partial(os.urandom, 12))
    tail = Tail(record, factory.authentic, FakeClock(NOW))
    keys = Keys(
        Writer(record, lambda: tail, lambda _: None), factory, Algorithm.ES256, ISSUER, Propagation(record, 120)
    )
    keys.ensure(now=NOW)
    # Older than the true standby, so that a rotation would choose it.
    forged = replace(key("forged", now=NOW - 9_999), mac=b"m" * 32)
    record.change_keys(keys_put(forged), draft(), expected=None)
    tail.start()
    tail.hint()
    tail.reach(record.head().revision, time.monotonic() + 10)
    rotated = asyncio.run(
        keys.rotate(tail.current, algorithm=None, force=True, actor=ADMIN, now=NOW + 1, deadline=time.monotonic() + 10)
    )
    tail.stop()
    assert rotated.active.kid != "forged"
    assert "forged" not in tail.current.keys
    assert tail.current.broken_kids == {"forged"}
