"""Watchers of a service process, over either transport: many of them, callers that left, and the stop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.v1 import authz_pb2, key_admin_pb2, token_pb2
from tests.replicas.watchers import Watchers, number_of
from tests.support.process import Serving, serving
from tests.support.transports import TRANSPORTS, skip_where_missing
from tests.support.waiting import wait_for
from tests.support.watching import number, watching

COUNT = 200
HEARTBEAT_S = 10.0


@pytest.fixture(scope="module", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport that is there."""
    name: str = request.param
    skip_where_missing(name)
    return name


@pytest.fixture(scope="module")
def service(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A service process."""
    with serving(tmp_path_factory.mktemp("watchers") / "data", {"server.transport": transport}) as running:
        running.apply()
        yield running


@pytest.fixture(scope="module")
def token(service: Serving) -> str:
    """A token of a caller."""
    return service.token("watcher", service.create_client("watcher"), audience=["authsvc"])


def revoke(service: Serving, subject: str) -> str:
    """Revoke a subject's tokens; the first revision that refuses them."""
    request = token_pb2.RevokeTokenRequest(subject=subject)
    return str(service.call("TokenService/RevokeToken", request, service.admin()).revision)


def connected(service: Serving) -> int:
    """How many watchers the service counts."""
    found = re.search(r"^authsvc_watchers (\d+)", service.operations("/metrics")[1], re.MULTILINE)
    assert found is not None
    return int(found[1])


def acknowledged(service: Serving, revision: str) -> list[tuple[int, int]]:
    """Watchers of each replica, and how many of them hold the revision."""
    request = key_admin_pb2.GetPropagationRequest(holding=revision)
    found = service.call("KeyAdminService/GetPropagation", request, service.admin()).replicas
    return [(replica.watchers, replica.acknowledged) for replica in found]


@pytest.mark.standard("U12", "J21")
def test_many_watchers_hear_of_each_change_and_acknowledge_while_calls_go_on(service: Serving, token: str) -> None:
    with Watchers([service.grpc], token, COUNT) as many:
        wait_for(lambda: connected(service) == COUNT, what="the count of watchers")
        for turn in range(5):
            revision = revoke(service, f"user:{turn}")
            question = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
            assert service.call("AuthzService/Check", question, token).decision == 1
            wait_for(partial(many.reached, number_of(revision)), 20, "every watcher")
        assert not many.faults
        wait_for(lambda: acknowledged(service, revision) == [(COUNT, COUNT)], 20, "every acknowledgement")
    wait_for(lambda: connected(service) == 0, 3 * HEARTBEAT_S, "the end of every watcher")


@pytest.mark.standard("U12", "K9")
def test_a_revoked_key_is_acknowledged_in_the_answer(service: Serving, token: str) -> None:
    with Watchers([service.grpc], token, 20) as many:
        keys = service.call("KeyAdminService/ListKeys", key_admin_pb2.ListKeysRequest(), service.admin()).keys
        pending = next(key.kid for key in keys if key.state == key_admin_pb2.KEY_STATE_PENDING)
        request = key_admin_pb2.RevokeKeyRequest(kid=pending, reason="test")
        done = service.call("KeyAdminService/RevokeKey", request, service.admin())
        assert many.reached(number_of(done.revision)) or done.acknowledged < done.watchers
        # On a busy machine a second may be too short for all.
        assert 0 < done.acknowledged <= done.watchers == 20


@pytest.mark.standard("U12")
def test_a_quiet_watcher_hears_a_heartbeat_and_one_that_left_is_found_by_it(service: Serving, token: str) -> None:
    channel = grpc.insecure_channel(service.grpc, (("grpc.use_local_subchannel_pool", 1),))
    with channel, watching(channel, token) as watcher:
        watcher.heard(1)
        wait_for(lambda: len(watcher.responses) > 1, 2 * HEARTBEAT_S, "a heartbeat")
        assert watcher.responses[1].WhichOneof("response") == "heartbeat"
        assert watcher.responses[1].revision == watcher.revision
    wait_for(lambda: connected(service) == 0, 3 * HEARTBEAT_S, "the end of the watcher")


@pytest.mark.standard("U4", "U12")
def test_a_stop_ends_every_watcher_with_unavailable_and_the_next_start_goes_on_where_it_was(
    transport: str, tmp_path: Path
) -> None:
    settings = {"server.transport": transport}
    with serving(tmp_path / "data", settings) as first:
        token = first.token("watcher", first.create_client("watcher"), audience=["authsvc"])
        channel = grpc.insecure_channel(first.grpc, (("grpc.use_local_subchannel_pool", 1),))
        with channel, watching(channel, token) as watcher:
            watcher.heard(1)
            first.server.process.terminate()
            ended = watcher.end()
            assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert first.server.process.wait(30) == 0
    with serving(tmp_path / "data", settings) as second:
        revision = revoke(second, "user:ann")
        again: dict[str, Any] = {"known_revision": watcher.revision, "known_digest": watcher.digest}
        with watching(second.call.channel, token, keys=True, revocations=True, **again) as later:
            later.holds(revision)
            assert number(later.revision) >= number(watcher.revision)
            assert len(later.revocations) == 1
