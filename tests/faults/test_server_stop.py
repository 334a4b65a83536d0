"""SIGTERM to the whole service: it says that it is not ready, finishes what it took, and ends with 0 (STANDARDS U4)."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.api.standard_messages import HealthCheckRequest, HealthCheckResponse
from authsvc.bootstrap.first_start import DATABASE_FILE
from authsvc.v1 import authz_pb2, policy_admin_pb2
from tests.support.load import CHECK, CONSUME, ENDS, ISSUE, REVOKE, Load, executed, revocations
from tests.support.ports import is_listening
from tests.support.process import Serving, serving
from tests.support.scale import scale
from tests.support.transports import TRANSPORTS, skip_where_missing
from tests.support.waiting import wait_for

CALLERS = 6
CALLS = scale(10_000)

WATCH = "/grpc.health.v1.Health/Watch"


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    name: str = request.param
    skip_where_missing(name)
    return name


def draining(service: Serving) -> bool:
    """Whether `/readyz` says that it is not ready."""
    with suppress(OSError):
        return service.operations("/readyz")[0] == 503
    return False


def has_ended_well(service: Serving) -> None:
    """The process ends by itself with 0 and nobody listens any more."""
    assert service.server.process.wait(20) == 0, service.server.output()
    for address in (service.grpc, service.http, service.ops):
        assert not is_listening(int(address.rpartition(":")[2]))


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the record's write lock, as another process."""
    with closing(sqlite3.connect(directory / DATABASE_FILE, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            database.execute("ROLLBACK")


@pytest.mark.standard("U4")
def test_a_stop_under_load_loses_no_call_that_was_executed_and_no_write_that_was_acknowledged(
    tmp_path: Path, transport: str
) -> None:
    directory = tmp_path / "data"
    settings = {"audit.allow_sample": "1.0", "server.transport": transport}
    with serving(directory, settings) as service, ThreadPoolExecutor(CALLERS) as pool:
        service.apply()
        before = revocations(directory)
        load = Load(service, service.admin(), service.create_client("shop", audience=["orders"]))
        running = [pool.submit(load.work, number) for number in range(CALLERS)]
        try:
            wait_for(lambda: load.answered.total() >= CALLS, 120.0, "calls")
            service.server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: draining(service), 10.0, "not being ready")
            has_ended_well(service)
        finally:
            load.stop.set()
        codes = set().union(*(one.result(30) for one in running))
    assert codes <= ENDS
    done = executed(directory)
    # The administrator's token was asked for by the test itself.
    assert done[ISSUE] - load.answered[ISSUE] == 1
    assert (done[CHECK], done[CONSUME]) == (load.answered[CHECK], load.answered[CONSUME])
    assert revocations(directory) - before == load.answered[REVOKE] == len(load.revoked)


def under_way(service: Serving, method: str, request: Any) -> Any:
    """The future of a call; one after it on the same connection was answered, so it has reached the service."""
    metadata = (("authorization", f"Bearer {service.admin()}"),)
    call = service.call.channel.unary_unary(f"/{method}", request_serializer=None, response_deserializer=None)
    sent = call.future(request.SerializeToString(), metadata=metadata, timeout=30.0)
    service.call("AuthzService/Check", authz_pb2.CheckRequest(subject="user:ann", permission="a:b"), service.admin())
    return sent


@pytest.mark.standard("U4")
def test_calls_in_flight_at_a_stop_finish_and_open_streams_end_with_unavailable(tmp_path: Path, transport: str) -> None:
    directory = tmp_path / "data"
    with serving(directory, {"server.transport": transport}) as service:
        service.apply()
        watch = service.call.channel.unary_stream(WATCH, request_serializer=None, response_deserializer=None)
        watched: Any = watch(HealthCheckRequest().SerializeToString(), timeout=30.0)
        assert HealthCheckResponse.FromString(next(watched)).status == 1
        question = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
        batch = under_way(
            service, "authsvc.v1.AuthzService/BatchCheck", authz_pb2.BatchCheckRequest(checks=[question] * 10_000)
        )
        with locked(directory):
            wanted = policy_admin_pb2.GrantRoleRequest(subject="user:late", role="viewer")
            write = under_way(service, "authsvc.v1.PolicyAdminService/GrantRole", wanted)
            service.server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: draining(service), 5.0, "not being ready")
        assert policy_admin_pb2.GrantRoleResponse.FromString(write.result(20)).binding.subject == "user:late"
        assert len(authz_pb2.BatchCheckResponse.FromString(batch.result(20)).results) == 10_000
        states = []
        with pytest.raises(grpc.RpcError) as ended:
            states += [HealthCheckResponse.FromString(state).status for state in watched]
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        has_ended_well(service)
    with serving(directory) as service:
        late = policy_admin_pb2.ListRoleBindingsRequest(subject="user:late")
        assert len(service.call("PolicyAdminService/ListRoleBindings", late, service.admin()).bindings) == 1


@pytest.mark.standard("U4")
def test_a_second_signal_ends_at_once_what_still_waits(tmp_path: Path, transport: str) -> None:
    directory = tmp_path / "data"
    with serving(directory, {"server.transport": transport}) as service:
        service.apply()
        with locked(directory):
            wanted = policy_admin_pb2.GrantRoleRequest(subject="user:late", role="viewer")
            write = under_way(service, "authsvc.v1.PolicyAdminService/GrantRole", wanted)
            service.server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: draining(service), 5.0, "not being ready")
            service.server.process.send_signal(signal.SIGTERM)
            assert service.server.process.wait(5) == -signal.SIGTERM
        with pytest.raises(grpc.RpcError) as ended:
            write.result(20)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
