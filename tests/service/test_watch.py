"""Watchers of a running service: what reaches them, when, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.api.sync_encoding import FEW_MARKS
from authsvc.clock import FakeClock
from authsvc.core.revocations import RevocationKind, revocation_digest
from authsvc.core.roles_builtin import AUDITOR, CALLER, OPERATOR
from authsvc.ports.record import Revocation
from authsvc.usecases.sync import MOST_IDLE
from authsvc.v1 import key_admin_pb2, key_pb2, policy_admin_pb2, sync_pb2, token_pb2
from tests.support.embedded import ISSUER, Embedded, embedded, refused
from tests.support.record_values import NOW, POLICY, draft
from tests.support.waiting import wait_for
from tests.support.watching import METHOD, Watching, acknowledging, number, opening, watching

Name = Callable[[str], str]
TOKEN = sync_pb2.REVOCATION_KIND_TOKEN
SUBJECT = sync_pb2.REVOCATION_KIND_SUBJECT


@pytest.fixture(scope="module")
def token(service: Embedded) -> str:
    """A token of a caller, which may watch."""
    return service.caller("watcher")


@pytest.fixture
def watcher(service: Embedded, token: str) -> Iterator[Watching]:
    """A watcher of keys and revocations that has its state."""
    with watching(service.call.channel, token) as one:
        one.heard(1)
        yield one


def revoke(service: Embedded, **target: str) -> str:
    """Revoke; the first revision that refuses."""
    request = token_pb2.RevokeTokenRequest(**target)
    return str(service.call("TokenService/RevokeToken", request, service.admin()).revision)


def digest_of(kind: RevocationKind, value: str) -> bytes:
    """What stands for a revoked thing."""
    return revocation_digest(kind, value)


def jwks(service: Embedded) -> str:
    """The published keys."""
    return str(service.call("KeyService/GetJwks", key_pb2.GetJwksRequest()).jwks)


# What a watcher hears.


def test_the_first_answer_is_a_whole_state_with_the_published_keys(service: Embedded, watcher: Watching) -> None:
    first = watcher.responses[0]
    assert first.WhichOneof("response") == "state"
    assert not first.state.partial
    assert not first.state.remote
    assert watcher.keys.jwks == jwks(service)
    assert watcher.keys.issuer == ISSUER
    assert first.max_stale.seconds == 30
    assert first.age.seconds < 5
    assert watcher.digest


@pytest.mark.standard("J21", "U12")
def test_a_revocation_reaches_a_watcher_as_a_delta_that_names_nobody(
    service: Embedded, watcher: Watching, name: Name
) -> None:
    subject = f"user:{name('ann')}"
    revision = revoke(service, subject=subject)
    watcher.holds(revision)
    found = watcher.revocations[SUBJECT, digest_of(RevocationKind.SUBJECT, subject)]
    assert (found.before_epoch, found.before_number) == (1, number(revision))
    assert found.expire_seconds > 0
    delta = watcher.responses[-1]
    assert delta.WhichOneof("response") == "delta"
    assert not delta.delta.HasField("keys")
    assert subject.encode() not in delta.SerializeToString()


@pytest.mark.standard("J21", "U12")
def test_a_revoked_token_reaches_a_watcher_whenever_it_was_minted(service: Embedded, watcher: Watching) -> None:
    watcher.holds(revoke(service, token_id="f" * 32))
    assert (TOKEN, digest_of(RevocationKind.TOKEN, "f" * 32)) in watcher.revocations


@pytest.mark.standard("U12")
def test_a_role_that_is_taken_and_a_policy_move_every_watcher_on(service: Embedded, watcher: Watching) -> None:
    applied = service.apply(POLICY).revision
    watcher.holds(applied)
    grant = policy_admin_pb2.GrantRoleRequest(subject="user:bob", role="viewer")
    granted = service.call("PolicyAdminService/GrantRole", grant, service.admin())
    watcher.holds(granted.revision)
    taken = policy_admin_pb2.RevokeRoleRequest(binding_id=granted.binding.binding_id)
    watcher.holds(service.call("PolicyAdminService/RevokeRole", taken, service.admin()).revision)
    assert watcher.responses[-1].delta == sync_pb2.WatchDelta()


@pytest.mark.standard("K9", "U12")
def test_a_revoked_key_leaves_the_set_of_every_watcher(fresh: Embedded) -> None:
    with watching(fresh.call.channel, fresh.caller("watcher")) as watcher:
        watcher.heard(1)
        keys = fresh.call("KeyAdminService/ListKeys", key_admin_pb2.ListKeysRequest(), fresh.admin()).keys
        (pending,) = (key.kid for key in keys if key.state == key_admin_pb2.KEY_STATE_PENDING)
        assert pending in watcher.keys.jwks
        request = key_admin_pb2.RevokeKeyRequest(kid=pending, reason="test")
        watcher.holds(fresh.call("KeyAdminService/RevokeKey", request, fresh.admin()).revision)
        assert pending not in watcher.keys.jwks
        assert list(watcher.keys.revoked_kids) == [pending]
        assert watcher.keys.jwks == jwks(fresh)


def test_whoever_asks_for_nothing_hears_of_revisions_alone(service: Embedded, token: str) -> None:
    first = opening()
    watcher = Watching(service.call.channel, token, first)
    assert watcher.heard(1).state == sync_pb2.WatchState()
    watcher.holds(revoke(service, subject="user:nobody"))
    assert watcher.responses[-1].delta == sync_pb2.WatchDelta()
    watcher.close()


# Where it begins.


def test_who_comes_back_is_told_what_changed_meanwhile_and_no_more(service: Embedded, token: str, name: Name) -> None:
    early, late = f"user:{name('early')}", f"user:{name('late')}"
    revoke(service, subject=early)
    with watching(service.call.channel, token) as before:
        before.heard(1)
    revision = revoke(service, subject=late)
    again: dict[str, Any] = {
        "keys": True,
        "revocations": True,
        "known_revision": before.revision,
        "known_digest": before.digest,
    }
    with watching(service.call.channel, token, **again) as watcher:
        watcher.holds(revision)
        first = watcher.responses[0]
        assert first.WhichOneof("response") == "delta"
        assert not first.delta.HasField("keys")
        found = {one.digest for one in first.delta.revocations}
        assert digest_of(RevocationKind.SUBJECT, late) in found
        assert digest_of(RevocationKind.SUBJECT, early) not in found


def test_who_comes_back_to_the_same_state_is_told_so_at_once(service: Embedded, token: str) -> None:
    with watching(service.call.channel, token) as before:
        before.heard(1)
    again: dict[str, Any] = {"keys": True, "known_revision": before.revision, "known_digest": before.digest}
    with watching(service.call.channel, token, **again) as watcher:
        assert watcher.heard(1).delta == sync_pb2.WatchDelta()
        assert watcher.revision == before.revision


@pytest.mark.parametrize("known", ["another record", "another digest", "no digest", "a revision that is nowhere"])
def test_who_holds_what_is_not_known_here_gets_the_whole_state(service: Embedded, token: str, known: str) -> None:
    with watching(service.call.channel, token) as before:
        before.heard(1)
    revision, digest = before.revision, before.digest
    match known:
        case "another record":
            revision = f"ffffffff-{revision.partition('-')[2]}"
        case "another digest":
            digest = bytes(32)
        case "no digest":
            digest = b""
        case _:
            revision = f"{revision.rpartition('.')[0]}.{number(revision) + 1000}"
    with watching(service.call.channel, token, keys=True, known_revision=revision, known_digest=digest) as watcher:
        assert watcher.heard(1).WhichOneof("response") == "state"
        assert watcher.keys.jwks == jwks(service)


@pytest.mark.standard("U13")
def test_a_revision_that_is_nowhere_cannot_be_demanded(service: Embedded, token: str) -> None:
    with watching(service.call.channel, token, min_revision="ffffffff-1.1") as watcher:
        assert watcher.end().reason == "REVISION_UNREACHABLE"


# How it ends.


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([sync_pb2.WatchRequest()], "open"),
        ([acknowledging("00000000-1.1")], "open"),
        ([opening(), opening()], "acknowledgement"),
        ([opening(), sync_pb2.WatchRequest()], "acknowledgement"),
        ([opening(), acknowledging("00000000-1.1")], "acknowledgement.revision"),
        ([opening(), acknowledging("nonsense")], "acknowledgement.revision"),
        ([opening(known_revision="nonsense")], "open.known_revision"),
        ([opening(min_revision="nonsense")], "open.min_revision"),
        ([opening(known_digest=bytes(65))], "open.known_digest"),
    ],
)
def test_requests_out_of_order_are_refused_by_the_field(
    service: Embedded, token: str, requests: list[sync_pb2.WatchRequest], field: str
) -> None:
    watcher = Watching(service.call.channel, token, requests[0], acknowledges=False)
    for request in requests[1:]:
        watcher.send(request)
    ended = watcher.end()
    assert (ended.code, ended.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))


def test_a_state_that_was_never_sent_cannot_be_acknowledged(service: Embedded, token: str) -> None:
    with watching(service.call.channel, token, acknowledges=False) as watcher:
        watcher.heard(1)
        above = f"{watcher.revision.rpartition('.')[0]}.{number(watcher.revision) + 1}"
        watcher.send(acknowledging(above))
        assert watcher.end().fields == ("acknowledgement.revision",)


@pytest.mark.standard("U3")
def test_a_flood_of_acknowledgements_ends_the_stream(service: Embedded, token: str) -> None:
    with watching(service.call.channel, token) as watcher:
        watcher.heard(1)
        for _ in range(MOST_IDLE + 2):
            watcher.send(acknowledging(watcher.revision))
        assert watcher.end().fields == ("acknowledgement.revision",)


@pytest.mark.standard("U3")
@pytest.mark.parametrize("place", [0, 1])
def test_undecodable_bytes_end_the_stream_wherever_they_come(service: Embedded, token: str, place: int) -> None:
    requests = [opening().SerializeToString(), opening().SerializeToString()]
    requests[place] = b"\xff\xff"
    call = service.call.channel.stream_stream(METHOD, request_serializer=None, response_deserializer=None)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter(requests), metadata=(("authorization", f"Bearer {token}"),), timeout=10))
    assert refused(caught.value).reason == "REQUEST_UNDECODABLE"


@pytest.mark.standard("U11", "U2")
def test_who_may_not_watch_is_refused(service: Embedded) -> None:
    for token in ("", "nonsense", service.caller("no-watcher", roles=[AUDITOR])):
        watcher = Watching(service.call.channel, token, opening())
        assert watcher.end().code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        assert watcher.responses == []


@pytest.mark.standard("U12", "J21")
def test_a_watcher_whose_own_token_is_revoked_hears_nothing_more(service: Embedded, name: Name) -> None:
    client = name("revoked")
    with watching(service.call.channel, service.caller(client)) as watcher:
        watcher.heard(1)
        revoke(service, client_id=client)
        assert watcher.end().code is grpc.StatusCode.UNAUTHENTICATED
        assert len(watcher.responses) == 1


@pytest.mark.standard("K9", "U12")
def test_a_watcher_whose_own_key_is_revoked_hears_of_it_and_is_counted_before_it_is_refused(fresh: Embedded) -> None:
    with watching(fresh.call.channel, fresh.caller("watcher")) as watcher:
        watcher.heard(1)
        request = key_admin_pb2.RevokeKeyRequest(all_keys=True, reason="test")
        revoked = fresh.call("KeyAdminService/RevokeKey", request, fresh.admin())
        watcher.holds(revoked.revision)
        assert set(watcher.keys.revoked_kids) == set(revoked.revoked_kids)
        assert watcher.end().code is grpc.StatusCode.UNAUTHENTICATED
        assert revoked.watchers == 1
        heard = len(watcher.responses)
        again = revoke(fresh, subject="user:later")
        assert number(watcher.revision) < number(again)
        assert len(watcher.responses) == heard == 2


@pytest.mark.standard("U12")
def test_a_watcher_that_loses_the_permission_hears_nothing_more(service: Embedded, name: Name) -> None:
    client = name("demoted")
    with watching(service.call.channel, service.caller(client, roles=[OPERATOR])) as watcher:
        watcher.heard(1)
        listed = policy_admin_pb2.ListRoleBindingsRequest(subject=f"client:{client}")
        found = service.call("PolicyAdminService/ListRoleBindings", listed, service.admin()).bindings
        for binding in found:
            request = policy_admin_pb2.RevokeRoleRequest(binding_id=binding.binding_id)
            service.call("PolicyAdminService/RevokeRole", request, service.admin())
        ended = watcher.end()
        assert (ended.code, ended.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_PERMITTED")


@pytest.mark.standard("U12", "J15")
def test_a_watcher_whose_own_token_expires_hears_nothing_more(tmp_path: Path) -> None:
    clock = FakeClock(NOW)
    with embedded(tmp_path, clock=clock) as service:
        client = service.create_client("watcher", roles=[CALLER])
        issued = service.issue("watcher", client, audience=["authsvc"])
        with watching(service.call.channel, issued.access_token) as watcher:
            watcher.heard(1)
            service.advance(clock, issued.expire_time.seconds - NOW + 61)
            service.create_client("another")
            ended = watcher.end()
            assert (ended.code, ended.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CALLER_UNAUTHENTICATED")


@pytest.mark.standard("U4")
def test_a_drain_ends_watchers_with_unavailable(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with embedded(tmp_path) as service:
            token = service.caller("watcher")
            # A channel of its own: the service closes its own with its end.
            channel = stack.enter_context(grpc.insecure_channel(service.addresses.grpc))
            watcher = stack.enter_context(watching(channel, token))
            watcher.heard(1)
        ended = watcher.end()
        assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


# Size.


def test_a_state_above_the_cap_is_not_sent_and_the_watcher_is_told_to_ask(tmp_path: Path) -> None:
    with embedded(tmp_path, settings={"sync.max_bytes": "100"}) as service:
        token = service.caller("watcher")
        with watching(service.call.channel, token) as watcher:
            assert not watcher.heard(1).state.remote
            for turn in range(3):
                watcher.holds(revoke(service, subject=f"user:{turn}"))
            assert watcher.remote
            assert watcher.revocations == {}
            assert watcher.keys.jwks == jwks(service)
            watcher.holds(revoke(service, subject="user:more"))
            assert watcher.responses[-1].delta == sync_pb2.WatchDelta()
        with watching(service.call.channel, token) as later:
            assert later.heard(1).state.remote
        with watching(service.call.channel, token, keys=True) as keys_alone:
            assert not keys_alone.heard(1).state.remote


def test_a_state_of_many_revocations_comes_in_parts_and_whole(tmp_path: Path) -> None:
    with embedded(tmp_path) as service:
        token = service.caller("watcher")
        ends = service.foundation.clock.now() + 3_600
        many = [Revocation(RevocationKind.TOKEN, str(number), ends) for number in range(FEW_MARKS + 1)]
        service.foundation.record.revoke(many, draft())
        wait_for(lambda: len(service.foundation.tail.held.revocations.tokens) == len(many))
        with watching(service.call.channel, token) as one, ExitStack() as stack:
            wait_for(lambda: one.revision, what="a whole state")
            assert len(one.revocations) == len(many)
            assert [response.state.partial for response in one.responses] == [True, False]
            one.holds(revoke(service, subject="user:later"))
            two = stack.enter_context(watching(service.call.channel, token))
            wait_for(lambda: two.revision, what="a whole state")
            assert two.revocations == one.revocations
            later = one.revocations[SUBJECT, digest_of(RevocationKind.SUBJECT, "user:later")]
            assert list(two.responses[-1].state.revocations) == [later]
