"""Keys, clients, policy and bindings, as an administrator meets them."""

from __future__ import annotations

import concurrent.futures
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from authsvc.bootstrap.foundation import lay_foundation
from authsvc.clock import FakeClock
from authsvc.config import load
from authsvc.core.errors import InvalidRequest
from authsvc.core.keys import KeyState
from authsvc.v1 import (
    authz_pb2,
    client_admin_pb2,
    error_reason_pb2,
    key_admin_pb2,
    key_pb2,
    policy_admin_pb2,
    token_pb2,
)
from tests.support.embedded import LOOPBACK, Embedded, Refused, embedded

Name = Callable[[str], str]

POLICY = """
version: 1
permissions: {"orders:read": {}, "orders:write": {}}
roles:
  viewer: {allow: ["orders:read"]}
  editor: {inherits: [viewer], allow: ["orders:write"]}
bindings:
  - {subject: "user:ann", role: viewer}
tests:
  - {subject: "user:ann", permission: "orders:read", expect: allow}
"""


def kids(service: Embedded, state: KeyState) -> list[str]:
    snapshot = service.foundation.tail.current
    return [kid for kid, key in snapshot.keys.items() if key.state is state]


def published(service: Embedded) -> set[str]:
    answer = service.call("KeyService/GetJwks", key_pb2.GetJwksRequest())
    return {key["kid"] for key in json.loads(answer.jwks)["keys"]}


def rotate(service: Embedded, **request: object) -> key_admin_pb2.RotateKeyResponse:
    wanted = key_admin_pb2.RotateKeyRequest(**request)  # type: ignore[arg-type]
    answer: key_admin_pb2.RotateKeyResponse = service.call("KeyAdminService/RotateKey", wanted, service.admin())
    return answer


def revoke_key(service: Embedded, **request: object) -> key_admin_pb2.RevokeKeyResponse:
    wanted = key_admin_pb2.RevokeKeyRequest(reason="leaked", **request)  # type: ignore[arg-type]
    answer: key_admin_pb2.RevokeKeyResponse = service.call("KeyAdminService/RevokeKey", wanted, service.admin())
    return answer


def verify(service: Embedded, token: str) -> token_pb2.VerifyTokenResponse:
    wanted = token_pb2.VerifyTokenRequest(token=token, audience=["orders"])
    answer: token_pb2.VerifyTokenResponse = service.call("TokenService/VerifyToken", wanted, service.admin())
    return answer


def check(service: Embedded, subject: str, permission: str, **request: object) -> bool:
    wanted = authz_pb2.CheckRequest(subject=subject, permission=permission, **request)  # type: ignore[arg-type]
    answer = service.call("AuthzService/Check", wanted, service.admin())
    return bool(answer.decision == 1)


def grant(service: Embedded, token: str, subject: str, role: str, **request: object) -> policy_admin_pb2.RoleBinding:
    wanted = policy_admin_pb2.GrantRoleRequest(subject=subject, role=role, **request)  # type: ignore[arg-type]
    answer: policy_admin_pb2.RoleBinding = service.call("PolicyAdminService/GrantRole", wanted, token).binding
    return answer


def revoke_role(service: Embedded, binding_id: str) -> None:
    wanted = policy_admin_pb2.RevokeRoleRequest(binding_id=binding_id)
    service.call("PolicyAdminService/RevokeRole", wanted, service.admin())


@pytest.mark.standard("K1", "K2")
def test_a_rotation_waits_for_the_lead_and_keeps_old_tokens_valid(tmp_path: Path) -> None:
    clock = FakeClock()
    with embedded(tmp_path / "data", clock=clock) as service:
        secret = service.create_client("shop", audience=["orders"])
        old = service.token("shop", secret, ttl={"seconds": 3600})
        with pytest.raises(Refused) as caught:
            rotate(service)
        assert caught.value.reason == "KEY_LEAD_NOT_PASSED"
        assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
        (standby,) = kids(service, KeyState.PENDING)
        service.advance(clock, 3601)
        rotated = rotate(service)
        assert rotated.active.kid == standby
        assert {rotated.active.kid, rotated.standby.kid, rotated.retiring.kid} == published(service)
        retiring = service.foundation.tail.current.keys[rotated.retiring.kid]
        assert retiring.envelope is None
        fresh = service.token("shop", secret)
        assert verify(service, fresh).token.key_id == standby
        assert verify(service, old).valid
        service.advance(clock, 60)
        assert verify(service, old).reason == error_reason_pb2.REASON_TOKEN_EXPIRED


@pytest.mark.standard("K1", "K3", "K5")
def test_keys_rotate_and_leave_by_themselves_when_they_are_due(tmp_path: Path) -> None:
    clock = FakeClock()
    settings = {"keys.ttl": "2h", "tokens.max_ttl": "10m", "tokens.ttl": "5m"}
    with embedded(tmp_path / "data", clock=clock, settings=settings) as service:
        (first,) = kids(service, KeyState.ACTIVE)
        secret = service.create_client("shop", audience=["orders"])
        service.advance(clock, 7201)
        token = service.token("shop", secret)
        assert upkeep(service)
        assert kids(service, KeyState.ACTIVE) != [first]
        assert verify(service, token).valid
        assert kids(service, KeyState.RETIRING) == [first]
        service.advance(clock, 601 + 60 + 10)
        assert upkeep(service)
        assert first not in published(service)


def upkeep(service: Embedded) -> bool:
    import asyncio  # noqa: PLC0415 - only here
    import time  # noqa: PLC0415 - only here

    found = service.foundation
    work = found.keys.upkeep(found.tail.current, now=found.clock.now(), deadline=time.monotonic() + 5)
    return asyncio.run_coroutine_threadsafe(work, service.loop).result(10)


@pytest.mark.standard("K3")
def test_a_replica_that_lost_the_record_issues_no_token_its_key_might_not_cover(tmp_path: Path) -> None:
    clock = FakeClock()
    with embedded(tmp_path / "data", clock=clock) as service:
        secret = service.create_client("shop", audience=["orders"])
        service.foundation.tail.stop()
        clock.advance(61)
        with pytest.raises(Refused) as caught:
            service.token("shop", secret)
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "RECORD_UNAVAILABLE")


@pytest.mark.standard("K9")
def test_a_revoked_key_signs_no_more_leaves_the_key_set_and_its_tokens_are_refused(fresh: Embedded) -> None:
    secret = fresh.create_client("shop", audience=["orders"])
    token = fresh.token("shop", secret)
    (active,) = kids(fresh, KeyState.ACTIVE)
    (standby,) = kids(fresh, KeyState.PENDING)
    planned = revoke_key(fresh, kid=active, dry_run=True)
    assert (list(planned.revoked_kids), planned.active_kid) == ([active], standby)
    assert revoke_key(fresh, all_keys=True, dry_run=True).active_kid == "", "a key that would be made has no kid yet"
    assert verify(fresh, token).valid
    done = revoke_key(fresh, kid=active)
    assert (list(done.revoked_kids), done.active_kid) == ([active], standby)
    assert done.offline_until.seconds > done.not_before.seconds
    assert (done.watchers, done.acknowledged) == (0, 0)
    assert active not in published(fresh)
    assert verify(fresh, token).reason == error_reason_pb2.REASON_TOKEN_KEY_REVOKED
    assert verify(fresh, fresh.token("shop", secret)).token.key_id == standby


@pytest.mark.standard("K9", "K4")
def test_revoking_every_key_leaves_new_ones_and_refuses_every_old_token(fresh: Embedded) -> None:
    secret = fresh.create_client("shop", audience=["orders"])
    token, before = fresh.token("shop", secret), published(fresh)
    done = revoke_key(fresh, all_keys=True, all_tokens=True)
    assert set(done.revoked_kids) == before
    assert published(fresh)
    assert published(fresh).isdisjoint(before)
    assert not verify(fresh, token).valid
    assert verify(fresh, fresh.token("shop", secret)).valid


@pytest.mark.standard("K4")
def test_three_instances_that_rotate_at_once_make_one_new_key(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    url = f"sqlite:///{directory / 'authsvc.db'}"
    with (
        embedded(directory) as one,
        embedded(directory, settings={"record.url": url}) as two,
        embedded(directory, settings={"record.url": url}) as three,
    ):
        token = one.admin()
        services = (one, two, three)
        for service in services:
            service.call("KeyAdminService/ListKeys", key_admin_pb2.ListKeysRequest(), token)
        before = set(one.foundation.tail.current.keys)

        def rotate_at(service: Embedded) -> key_admin_pb2.RotateKeyResponse:
            wanted = key_admin_pb2.RotateKeyRequest(force=True)
            answer: key_admin_pb2.RotateKeyResponse = service.call("KeyAdminService/RotateKey", wanted, token)
            return answer

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(rotate_at, services))
        assert len({answer.active.kid for answer in answers}) == 1
        assert len({answer.revision for answer in answers}) == 1
        newest = max(answer.revision for answer in answers)
        for service in services:
            service.call("KeyAdminService/ListKeys", key_admin_pb2.ListKeysRequest(min_revision=newest), token)
            assert len(set(service.foundation.tail.current.keys) - before) == 1
            assert published(service)


@pytest.mark.standard("P9")
def test_a_policy_is_applied_whole_or_not_at_all(service: Embedded) -> None:
    service.apply(POLICY)
    good = service.call("PolicyAdminService/GetPolicy", policy_admin_pb2.GetPolicyRequest(), service.admin())
    for broken in (
        "version: 2\n",
        POLICY.replace("expect: allow", "expect: deny"),
        POLICY.replace("role: viewer", "role: nobody"),
        POLICY + "\nlimits:\n  a: {domain: d, match: {k: '*'}, rate: 1/1s, algorithm: sliding_window}\n",
    ):
        with pytest.raises(Refused) as caught:
            service.apply(broken)
        assert caught.value.reason == "POLICY_INVALID"
        assert caught.value.fields
        now = service.call("PolicyAdminService/GetPolicy", policy_admin_pb2.GetPolicyRequest(), service.admin())
        assert now.policy_revision == good.policy_revision
    assert check(service, "user:ann", "orders:read")


@pytest.mark.standard("P9")
def test_apply_is_compare_and_set_and_a_dry_run_changes_nothing(service: Embedded) -> None:
    revision = service.apply(POLICY).policy_revision

    def apply(**request: object) -> policy_admin_pb2.ApplyPolicyResponse:
        wanted = policy_admin_pb2.ApplyPolicyRequest(policy=POLICY + "# again\n", **request)  # type: ignore[arg-type]
        answer: policy_admin_pb2.ApplyPolicyResponse = service.call(
            "PolicyAdminService/ApplyPolicy", wanted, service.admin()
        )
        return answer

    assert apply(dry_run=True).tests_passed == 1
    assert apply(dry_run=True).policy_revision == revision
    assert apply(expected_revision=revision).policy_revision != revision
    with pytest.raises(Refused) as caught:
        apply(expected_revision=revision)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.ABORTED, "POLICY_REVISION_CONFLICT")


@pytest.mark.standard("P3")
def test_what_a_binding_gave_is_gone_with_it_at_once_and_a_files_stays_gone(fresh: Embedded) -> None:
    fresh.apply(POLICY)
    granted = grant(fresh, fresh.admin(), "user:bob", "editor")
    assert check(fresh, "user:bob", "orders:write")
    revoke_role(fresh, granted.binding_id)
    assert not check(fresh, "user:bob", "orders:write")
    listed = fresh.call(
        "PolicyAdminService/ListRoleBindings",
        policy_admin_pb2.ListRoleBindingsRequest(subject="user:ann"),
        fresh.admin(),
    )
    (of_file,) = listed.bindings
    revoke_role(fresh, of_file.binding_id)
    assert not check(fresh, "user:ann", "orders:read")
    fresh.apply(POLICY + "# again\n")
    assert not check(fresh, "user:ann", "orders:read")
    assert grant(fresh, fresh.admin(), "user:ann", "viewer").binding_id == of_file.binding_id
    assert check(fresh, "user:ann", "orders:read")
    revoke_role(fresh, of_file.binding_id)


def test_a_policy_that_drops_a_granted_role_is_refused(service: Embedded) -> None:
    service.apply(POLICY)
    granted = grant(service, service.admin(), "user:eve", "editor")
    with pytest.raises(Refused) as caught:
        service.apply("version: 1\npermissions: {'orders:read': {}}\nroles: {viewer: {allow: ['orders:read']}}\n")
    assert caught.value.fields == ("roles.editor",)
    revoke_role(service, granted.binding_id)


@pytest.mark.standard("P12")
def test_a_granter_gives_only_what_it_holds(service: Embedded, name: Name) -> None:
    operator = service.caller(name("operator"), roles=["authsvc.operator"])
    admin = service.admin()
    for role in ("authsvc.admin", "authsvc.caller"):
        with pytest.raises(Refused) as caught:
            grant(service, operator, "client:friend", role)
        assert caught.value.reason == "CALLER_NOT_PERMITTED"
    wanted = client_admin_pb2.RotateClientSecretRequest(client_id=service.admin_credentials["client_id"])
    with pytest.raises(Refused) as caught:
        service.call("ClientAdminService/RotateClientSecret", wanted, operator)
    assert caught.value.reason == "CALLER_NOT_PERMITTED"
    with pytest.raises(Refused) as caught:
        grant(service, admin, "client:friend", "authsvc.proxy")
    assert caught.value.fields == ("role",)
    with pytest.raises(Refused) as caught:
        grant(service, admin, "group:friends", "authsvc.caller")
    assert caught.value.fields == ("subject",)


@pytest.mark.standard("P12")
def test_a_policy_file_gives_no_role_of_the_service(service: Embedded) -> None:
    with pytest.raises(Refused) as caught:
        service.apply('version: 1\nbindings:\n  - {subject: "user:eve", role: authsvc.admin}\n')
    assert caught.value.fields == ("bindings[0].role",)


@pytest.mark.standard("P11")
def test_the_last_administrator_cannot_be_removed(fresh: Embedded) -> None:
    listed = fresh.call(
        "PolicyAdminService/ListRoleBindings",
        policy_admin_pb2.ListRoleBindingsRequest(role="authsvc.admin"),
        fresh.admin(),
    )
    (binding,) = listed.bindings
    with pytest.raises(Refused) as caught:
        revoke_role(fresh, binding.binding_id)
    assert caught.value.reason == "LAST_ADMIN"
    fresh.create_client("second", roles=["authsvc.admin"])
    revoke_role(fresh, binding.binding_id)


def test_a_clients_id_is_never_used_again(service: Embedded, name: Name) -> None:
    client = name("shop")
    service.create_client(client)
    with pytest.raises(Refused) as caught:
        service.create_client(client)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.ALREADY_EXISTS, "CLIENT_EXISTS")


def test_lists_come_in_pages_that_only_their_own_list_continues(service: Embedded, name: Name) -> None:
    made = {name("page") for _ in range(5)}
    for client in made:
        service.create_client(client)
    seen: list[str] = []
    token = ""
    while True:
        wanted = client_admin_pb2.ListClientsRequest(page_size=2, page_token=token)
        page = service.call("ClientAdminService/ListClients", wanted, service.admin())
        seen += [client.client_id for client in page.clients]
        token = page.next_page_token
        if not token:
            break
        with pytest.raises(Refused) as caught:
            service.call("KeyAdminService/ListKeys", key_admin_pb2.ListKeysRequest(page_token=token), service.admin())
        assert caught.value.fields == ("page_token",)
    assert made <= set(seen)
    assert seen == sorted(set(seen))


@pytest.mark.standard("U13")
def test_min_revision_is_honoured_and_one_above_the_newest_fails_at_once(service: Embedded) -> None:
    revision = service.apply(POLICY + "# newest\n").revision
    admin = service.admin()
    question = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read", min_revision=revision)
    assert service.call("AuthzService/Check", question, admin).revision == revision
    head, _, number = revision.rpartition(".")
    for unreachable in (f"{head}.{int(number) + 1000}", "00000000-1.1"):
        question.min_revision = unreachable
        with pytest.raises(Refused) as caught:
            service.call("AuthzService/Check", question, admin)
        assert caught.value.reason == "REVISION_UNREACHABLE"
        assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    question.min_revision = "yesterday"
    with pytest.raises(Refused) as caught:
        service.call("AuthzService/Check", question, admin)
    assert caught.value.fields == ("min_revision",)


def test_a_policy_from_a_file_is_in_force_at_start_and_apply_names_the_file(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    settings = {"policy.source": "file", "policy.path": str(policy)}
    with embedded(tmp_path / "data", settings=settings) as service:
        assert check(service, "user:ann", "orders:read")
        with pytest.raises(Refused) as caught:
            service.apply(POLICY)
        assert caught.value.reason == "POLICY_FROM_FILE"
        assert caught.value.metadata["path"] == str(policy)
    policy.write_text(POLICY.replace("expect: allow", "expect: deny"))
    with pytest.raises(InvalidRequest, match=r"tests\[0\]"):
        lay_foundation(load("", {}, {**LOOPBACK, **settings}), tmp_path / "data")


def test_the_key_set_is_the_same_over_grpc_and_http(service: Embedded) -> None:
    with urllib.request.urlopen(f"http://{service.addresses.http}/.well-known/jwks.json", timeout=5) as answer:
        over_http = json.load(answer)
    assert {key["kid"] for key in over_http["keys"]} == published(service)


def test_a_configured_admin_is_made_sure_of_and_its_secret_works(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("s" * 43)
    settings = {"bootstrap.admin_client_id": "root", "bootstrap.admin_secret_file": str(secret)}
    for _ in range(2):
        with embedded(tmp_path / "data", settings=settings) as service:
            token = service.token("root", "s" * 43)
            assert service.call("KeyAdminService/ListKeys", key_admin_pb2.ListKeysRequest(), token).keys
    assert not (tmp_path / "data" / "admin.json").exists()
