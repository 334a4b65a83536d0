"""A batch costs no more than its caller waits for (STANDARDS P13, U3)."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from authsvc.v1 import authz_pb2
from tests.support.embedded import Embedded, Refused, embedded
from tests.support.waiting import wait_for

CONDITIONS = 200
"""Each different, so that none is asked once for all of a check."""


def costly_policy() -> str:
    condition = "context.l.all(x, context.l.exists(y, y == '{}'))"
    bindings = "\n".join(
        f'  - {{subject: "user:ann", role: reader, condition: "{condition.format(i)}"}}' for i in range(CONDITIONS)
    )
    return f"""
version: 1
permissions: {{"orders:read": {{}}}}
roles: {{reader: {{allow: ["orders:read"]}}}}
bindings:
{bindings}
"""


def costly_checks() -> authz_pb2.BatchCheckRequest:
    """Each with a context of its own, since what a batch has in common is looked at once."""
    batch = authz_pb2.BatchCheckRequest()
    for number in range(2_000):
        check = batch.checks.add(subject="user:ann", permission="orders:read")
        check.context.update({"l": ["z"] * 40, "n": number})
    return batch


def large_contexts() -> authz_pb2.BatchCheckRequest:
    check = authz_pb2.CheckRequest(subject="user:bob", permission="orders:read")
    check.context.update({f"k{i}": [{"a": i}] * 20 for i in range(300)})
    return authz_pb2.BatchCheckRequest(checks=[check] * 120)


def ended(service: Embedded, method: str) -> bool:
    """Whether the service itself has ended a call of the method for its deadline; the caller is gone by then."""
    with urllib.request.urlopen(f"http://{service.addresses.ops}/metrics") as answer:
        text = answer.read().decode()
    return re.search(rf'method="{method}".*(?i:deadline_exceeded)', text) is not None


@pytest.mark.standard("P13", "U3")
@pytest.mark.parametrize("batch", [costly_checks, large_contexts])
def test_a_batch_ends_when_nobody_waits_for_it_any_more(
    tmp_path: Path, batch: Callable[[], authz_pb2.BatchCheckRequest]
) -> None:
    """Each would hold one of the few threads for long after its caller has gone."""
    with embedded(tmp_path / "data") as service:
        service.apply(costly_policy())
        caller = service.caller("orders")
        with pytest.raises(Refused) as caught:
            service.call("AuthzService/BatchCheck", batch(), caller, timeout=0.3)
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for(lambda: ended(service, "authsvc.v1.AuthzService/BatchCheck"), 3.0, "the end of the batch")
