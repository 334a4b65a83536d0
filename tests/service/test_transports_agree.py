"""The same calls over both transports get the same answers, but for ids, times and signatures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor

from authsvc.api import envoy_messages
from authsvc.v1 import (
    authz_pb2,
    client_admin_pb2,
    key_admin_pb2,
    limit_pb2,
    policy_admin_pb2,
    sync_pb2,
    token_pb2,
)
from tests.support.embedded import Refused
from tests.support.engines import ALL_SERVICES, OWN_SERVICES
from tests.support.process import Serving, refused_start, serving
from tests.support.transports import TRANSPORTS, skip_where_missing
from tests.support.watching import Watching, opening, watching

VOLATILE = {
    *("revision", "policyRevision", "accessToken", "tokenId", "keyId", "kid", "jwksJson", "secretId", "clientSecret"),
    *("decisionId", "decision_id", "consumeId", "nextPageToken", "bindingId", "id", "jwks", "publicJwk", "x", "y"),
    *("maxAge", "request_id", "activeKid", "standbyKid", "revokedKids", "holding", "age"),
}
"""Fields that hold ids, keys, revisions, secrets, ages, or a jitter."""

Answer = tuple[Any, ...]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, ...]]:
    """A service over each transport, with the same policy and the same client."""
    skip_where_missing("pyvoy")
    folder = tmp_path_factory.mktemp("agree")
    with ExitStack() as stack:
        services = tuple(
            stack.enter_context(serving(folder / name, {"server.transport": name, "issuer": "http://agree.test"}))
            for name in TRANSPORTS
        )
        for service in services:
            service.apply()
        yield services


def steady(value: Any) -> Any:
    """An answer as JSON, without what differs between any two services."""
    if isinstance(value, dict):
        return {
            key: steady(item)
            for key, item in value.items()
            if key not in VOLATILE and not key.lower().endswith(("time", "after"))
        }
    if isinstance(value, str):
        return re.sub(r"[0-9a-f]{32}|\d{4}-\d\d-\d\dT[\d:]+Z", "*", value)
    # Lists of keys are in the order of their ids.
    return sorted((steady(item) for item in value), key=json.dumps) if isinstance(value, list) else value


def answer(service: Serving, method: MethodDescriptor, request: bytes, token: str) -> Answer:
    """What a caller sees of one call."""
    try:
        raw = service.call.raw(f"{method.containing_service.full_name}/{method.name}", request, token=token)
    except Refused as refused:
        metadata = steady(dict(refused.metadata))
        return (refused.code, steady(refused.message), refused.reason, metadata, refused.fields, refused.retry_after)
    message = message_factory.GetMessageClass(method.output_type).FromString(raw)
    return ("OK", steady(json_format.MessageToDict(message, descriptor_pool=method.output_type.file.pool)))


def unary(services: Any) -> list[MethodDescriptor]:
    return [method for service in services for method in service.methods if not method.server_streaming]


def agree(
    both: tuple[Serving, ...], method: MethodDescriptor, request: bytes, *, admin: bool, **options: Any
) -> Answer:
    """The answer of both; they must be equal."""
    answers = [answer(one, method, request, one.admin() if admin else "", **options) for one in both]
    assert answers[0] == answers[1], method.full_name
    return answers[0]


@pytest.mark.standard("U3", "U11")
@pytest.mark.parametrize("method", unary(ALL_SERVICES), ids=lambda method: method.full_name)
@pytest.mark.parametrize("admin", [False, True], ids=["stranger", "admin"])
def test_empty_garbled_and_oversize_requests(both: Any, method: MethodDescriptor, *, admin: bool) -> None:
    if method.full_name.endswith(("RotateKey", "RevokeKey")) and admin:
        requests = [b"\xff", b"\x0a\x05ab"]
    else:
        requests = [b"", b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x00" * 300_000]
    for request in requests:
        agree(both, method, request, admin=admin)


def of(name: str) -> MethodDescriptor:
    found: MethodDescriptor = next(method for method in unary(OWN_SERVICES) if method.name == name)
    return found


@pytest.mark.standard("U12")
def test_watchers_hear_and_are_refused_the_same(both: Any) -> None:
    def heard(service: Serving) -> tuple[list[str | None], Any, str]:
        channel, admin = service.call.channel, service.admin()
        with watching(channel, admin) as watcher:
            watcher.heard(1)
            request = token_pb2.RevokeTokenRequest(subject="user:watched")
            watcher.holds(service.call("TokenService/RevokeToken", request, admin).revision)
            kinds = [response.WhichOneof("response") for response in watcher.responses]
            found = sorted((kind, digest) for kind, digest in watcher.revocations)
            return kinds, found, watcher.keys.issuer

    def refused(service: Serving, first: sync_pb2.WatchRequest, token: str) -> Answer:
        watcher = Watching(service.call.channel, token, first)
        ended = watcher.end()
        return (ended.code, ended.message, ended.reason, ended.fields, ended.retry_after)

    answers = [heard(service) for service in both]
    assert answers[0] == answers[1]
    assert answers[0][0] == ["state", "delta"]
    for first in (sync_pb2.WatchRequest(), opening(known_revision="x"), opening(min_revision="ffffffff-1.1")):
        for admin in (False, True):
            one, other = (refused(service, first, service.admin() if admin else "") for service in both)
            assert one == other


def test_a_day_of_a_service(both: Any) -> None:
    create = client_admin_pb2.CreateClientRequest(client_id="shop", audience=["orders", "authsvc"])
    assert agree(both, of("CreateClient"), create.SerializeToString(), admin=True)[0] == "OK"
    agree(both, of("CreateClient"), create.SerializeToString(), admin=True)
    question = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
    other = authz_pb2.CheckRequest(subject="user:bob", permission="orders:read")
    consume = limit_pb2.ConsumeRequest(
        domain="api",
        descriptors=[limit_pb2.Descriptor(entries=[limit_pb2.Entry(key="user", value="user:ann")], hits=2)],
    )
    calls: list[tuple[str, Any]] = [
        ("Check", question),
        ("Check", other),
        ("Check", authz_pb2.CheckRequest(subject="nobody", permission="*")),
        ("Check", authz_pb2.CheckRequest(subject="user:ann", permission="orders:read", min_revision="0-1.9")),
        ("BatchCheck", authz_pb2.BatchCheckRequest(checks=[question, other] * 10)),
        ("Consume", consume),
        ("Peek", limit_pb2.PeekRequest(domain="api", descriptors=consume.descriptors)),
        ("GrantRole", policy_admin_pb2.GrantRoleRequest(subject="user:bob", role="viewer")),
        ("GrantRole", policy_admin_pb2.GrantRoleRequest(subject="user:bob", role="no-such-role")),
        ("Check", other),
        ("ListRoleBindings", policy_admin_pb2.ListRoleBindingsRequest()),
        ("ListClients", client_admin_pb2.ListClientsRequest(page_size=1)),
        ("ListKeys", key_admin_pb2.ListKeysRequest()),
        ("RevokeToken", token_pb2.RevokeTokenRequest(subject="user:gone")),
        ("VerifyToken", token_pb2.VerifyTokenRequest(token="e30.e30.e30", audience=["orders"])),
        ("GetPolicy", policy_admin_pb2.GetPolicyRequest()),
        ("RotateKey", key_admin_pb2.RotateKeyRequest()),
    ]
    for name, request in calls:
        agree(both, of(name), request.SerializeToString(), admin=True)


def test_a_token_is_issued_verified_and_used(both: Any) -> None:
    answers = []
    for service in both:
        token = service.token("billing", service.create_client("billing", audience=["orders"]))
        verify = token_pb2.VerifyTokenRequest(token=token, audience=["orders"])
        authorize = authz_pb2.AuthorizeRequest(token=token, permission="orders:read", audience=["orders"])
        for name, request in (("VerifyToken", verify), ("VerifyToken", verify), ("Authorize", authorize)):
            answers.append(answer(service, of(name), request.SerializeToString(), service.admin()))
    assert answers[:3] == answers[3:]
    assert answers[0][1]["valid"] is True


@pytest.mark.standard("E2", "E7")
@pytest.mark.parametrize("path", ["/v1/orders/7", "/v1/../admin", "", "/v1/orders;x"])
def test_envoys_row(both: Any, path: str) -> None:
    request = envoy_messages.CheckRequest()
    request.attributes.request.http.method = "GET"
    request.attributes.request.http.path = path
    request.attributes.request.http.headers["authorization"] = "Bearer nothing"
    method = envoy_messages.AUTHORIZATION.methods_by_name["Check"]
    status, told = agree(both, method, request.SerializeToString(), admin=False)
    assert (status, told["status"]["code"] != 0) == ("OK", True)


@pytest.mark.standard("U14")
def test_http_and_operations_are_served_beside_either(both: Any) -> None:
    for service in both:
        assert service.operations("/readyz")[0] == 200
        assert "authsvc_calls_total" in service.operations("/metrics")[1]


@pytest.mark.standard("U5")
def test_one_directory_is_held_by_one_service(both: Any) -> None:
    for service in both:
        code, lines = refused_start(service.directory)
        assert (code, len(lines)) == (2, 1)
        assert "in use by another authsvc process" in lines[0]
