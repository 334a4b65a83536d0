"""Three times the load that a service can take: the excess is held back, and the rest is served as before."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from authsvc.api.envoy_messages import CheckRequest, CheckResponse
from authsvc.api.standard_messages import HealthCheckRequest, HealthCheckResponse
from authsvc.cli.bench_measure import Plan
from authsvc.transport.grpcio_server import MOST_WAITING
from authsvc.transport.pyvoy_app import CALLS
from tests.support.loaded import AT_MOST, QUESTION, goodput, loaded
from tests.support.process import Serving
from tests.support.scale import CAMPAIGN
from tests.support.transports import CHECK, ENVOY, HEALTH, details_of
from tests.support.waiting import wait_for

SECONDS = 60.0 if CAMPAIGN else 4.0
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
EXCESS = Plan(seconds=SECONDS, warm_up_s=1.5, connections=16, rest_s=2.0)
"""Callers who obey RetryInfo, as it is on average."""
BURST = 200
"""Of each kind: with what waits already, more than either transport lets wait."""
HELD = {"grpcio": MOST_WAITING, "pyvoy": CALLS}
KEPT = 0.8 if CAMPAIGN else 0.6
"""The share of the greatest goodput that is left under overload. Where other work takes the processor, the callers come
back no later for it.
"""
MIB = 1024 * 1024


@contextmanager
def new_connection(service: Serving) -> Iterator[Any]:
    """A connection that nobody else uses."""
    with grpc.insecure_channel(service.grpc, OPTIONS) as channel:
        yield channel


def refused(service: Serving) -> Any:
    """The error of a question that is held back; None where it is answered."""
    metadata = (("authorization", f"Bearer {service.admin()}"),)
    with new_connection(service) as channel:
        asked = channel.unary_unary(CHECK).future(QUESTION.SerializeToString(), timeout=10, metadata=metadata)
        return asked.exception()


@dataclass
class HeldBack:
    """What callers were told whose calls came when too many waited."""

    error: Any = None
    denied: bool = False

    def look(self, service: Serving) -> bool:
        """Send a burst of questions and one of Envoy's; whether both kinds have been told by now."""
        metadata = (("authorization", f"Bearer {service.admin()}"),)
        with new_connection(service) as channel:
            check, envoy = channel.unary_unary(CHECK), channel.unary_unary(ENVOY)
            question, request = QUESTION.SerializeToString(), CheckRequest().SerializeToString()
            # In turn, since of a burst it is the last that find no room.
            asked = [
                (check.future(question, timeout=10, metadata=metadata), envoy.future(request, timeout=10))
                for _ in range(BURST)
            ]
            for one, _ in asked:
                self.error = one.exception() or self.error
            for answer in (CheckResponse.FromString(one.result()) for _, one in asked):
                # Every answer is a denial; that of overload says 503.
                assert answer.status.code
                assert answer.HasField("denied_response")
                self.denied |= answer.denied_response.status.code == 503
        return self.denied and self.error is not None


def is_serving(service: Serving) -> bool:
    """What health says, over gRPC and over HTTP."""
    with new_connection(service) as channel:
        answer = channel.unary_unary(HEALTH)(HealthCheckRequest().SerializeToString(), timeout=10)
    return HealthCheckResponse.FromString(answer).status == 1 and service.operations("/readyz")[0] == 200


def until_true(seen: Callable[[], bool], ended: Callable[[], bool]) -> bool:
    """Look again and again until it is, or the load has ended."""
    while not ended():
        if seen():
            return True
    return False


@pytest.mark.standard("U3", "E2")
@pytest.mark.timeout(600)
def test_the_excess_is_held_back_and_the_rest_is_served_as_before(tmp_path: Path, transport: str) -> None:
    with loaded(tmp_path / "data", transport) as here, ThreadPoolExecutor(1) as pool:
        most = here.measure(AT_MOST)
        assert (most.errors, most.wrong) == (0, 0)
        before = here.held().memory
        load = pool.submit(here.measure, replace(EXCESS, calls=3 * HELD[transport]))
        held_back = HeldBack()
        assert until_true(lambda: held_back.look(here.service), load.done), f"{held_back}; {load.result()}"
        asked = 0
        while not load.done():
            assert is_serving(here.service)
            asked += 1
        over = load.result()
        ended = time.monotonic()
        wait_for(lambda: refused(here.service) is None, 1.0, "recovery")
        assert time.monotonic() - ended < 1.0
        assert asked
        assert here.held().memory < before + 64 * MIB
        assert over.errors
        assert over.wrong == 0
        # Before and after, since a machine that others share may change its speed meanwhile.
        again = here.measure(AT_MOST)
        most_kept = (goodput(most) + goodput(again)) / 2
        assert goodput(over) > KEPT * most_kept, f"{over} between {most} and {again}"
        assert held_back.error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = {one.type_url.rpartition(".")[2]: one.value for one in _status(held_back.error).details}
        assert error_details_pb2.ErrorInfo.FromString(details["ErrorInfo"]).reason == "OVERLOADED"
        wait = error_details_pb2.RetryInfo.FromString(details["RetryInfo"]).retry_delay
        assert 1_000 <= wait.ToMilliseconds() <= 3_000


def _status(error: Any) -> status_pb2.Status:
    return status_pb2.Status.FromString(details_of(error))


@pytest.mark.standard("U3")
@pytest.mark.timeout(600)
def test_callers_who_never_wait_bring_down_nothing(tmp_path: Path, transport: str) -> None:
    """An open loop of three times what it can take: what is not answered in time is the callers' loss."""
    with loaded(tmp_path / "data", transport) as here:
        most = here.measure(AT_MOST)
        before = here.held().memory
        over = here.measure(replace(EXCESS, rest_s=0.0, connections=32, rate=3 * most.calls_per_s))
        # Where the goodput of an open loop goes: `pytest -s`, and docs/performance.md.
        sys.stdout.write(f"{transport}: at most {most}; open loop at three times that: {over}\n")
        assert over.wrong == 0
        wait_for(lambda: refused(here.service) is None, 5.0, "recovery")
        assert is_serving(here.service)
        assert here.held().memory < before + 96 * MIB
