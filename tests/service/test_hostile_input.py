"""Hostile input on every row: answered as data or refused by name, never INTERNAL or UNKNOWN, memory flat."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory, struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from authsvc.api import envoy_messages
from authsvc.api.method_table import Kind, Row
from authsvc.api.rls_encoding import OK, OVER_LIMIT
from authsvc.core.errors import Reason
from authsvc.v1 import authz_pb2, token_pb2
from tests.support.embedded import Embedded, Refused
from tests.support.scale import scale

NASTY = (
    "",
    "' OR 1=1; DROP TABLE client; --",
    '"; $(touch /tmp/owned) `id` | cat /etc/passwd #',
    "{{7*7}}${7*7}<%= 7*7 %>#{7*7}",
    'a\n{"kind":"fake","outcome":"allowed"}\r\n\x1b[2J',
    "\x00\x01\x7f\u2028\u202e",
    "../../../../etc/passwd",
    "*",
    "**:*",
    "%s%n%x{0.__class__}",
    "ünïcødé\U0001f600",
    "x" * 100_000,
    "a:" * 50_000,
)
REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.ABORTED,
    }
)
# What these would change for the tests beside them is not what hostile text is about.
SPARED = ("RevokeKey", "RotateKey", "RevokeRole", "RevokeToken")


def unary(service: Embedded) -> list[Row]:
    return [row for row in service.service.engine.table if row.kind is Kind.UNARY]


def outcome(service: Embedded, row: Row, request: bytes, token: str) -> grpc.StatusCode | None:
    """The status of a call, None where it was answered; an answer lets nothing through."""
    try:
        answer = service.call.raw(row.name, request, token="" if row.denials else token)
    except Refused as refusal:
        told = refusal.code is grpc.StatusCode.INVALID_ARGUMENT and Reason.REQUEST_INVALID in row.errors
        must(row.denials is None or told, f"{row.name} refused by {refusal}")
        must(refusal.code in REFUSALS, f"{row.name}: {refusal}")
        must("Traceback" not in refusal.message, row.name)
        return refusal.code
    if row.name.endswith("/ShouldRateLimit"):
        assert envoy_messages.RateLimitResponse.FromString(answer).overall_code in {OK, OVER_LIMIT}
    elif row.denials is not None:
        denial = envoy_messages.CheckResponse.FromString(answer)
        assert denial.status.code != 0
        assert denial.HasField("denied_response")
    assert not lets_through(row, answer), row.name
    return None


def must(holds: bool, why: str) -> None:  # noqa: FBT001 - a plain assertion
    assert holds, why


def lets_through(row: Row, answer: bytes) -> bool:
    """Whether an answer allows or validates anything."""
    if row.name.endswith(("/Check", "/Authorize")) and row.denials is None and "Health" not in row.name:
        return authz_pb2.AuthorizeResponse.FromString(answer).decision == 1
    if row.name.endswith("/VerifyToken"):
        return token_pb2.VerifyTokenResponse.FromString(answer).valid
    return False


def filled(kind: type[Message], depth: int = 0) -> Message:
    """A message with every field set to something plain."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        value = plain(field, depth)
        if value is None or (field.containing_oneof and message.WhichOneof(field.containing_oneof.name)):
            continue
        target: Any = getattr(message, field.name)
        if field.is_repeated and field.message_type is not None:
            if not field.message_type.GetOptions().map_entry:
                target.append(value)
        elif field.is_repeated:
            target.append(value)
        elif field.message_type is not None:
            target.CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


def plain(field: Any, depth: int) -> Any:
    if field.message_type is not None:
        return filled(message_factory.GetMessageClass(field.message_type), depth + 1) if depth < 3 else None
    if field.type == FieldDescriptor.TYPE_STRING:
        return {"min_revision": "", "page_token": ""}.get(field.name, "a:b")
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"ab"
    return None


def strings(message: Message) -> Iterator[tuple[Message, str, int | None]]:
    """Every string of a message, its own and those of messages in it."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else [value]
        if field.type == FieldDescriptor.TYPE_STRING:
            for index in range(len(values)):
                yield message, field.name, index if field.is_repeated else None
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for item in values:
                yield from strings(item)


def put(holder: Message, name: str, index: int | None, text: str) -> None:
    if index is None:
        setattr(holder, name, text)
    else:
        getattr(holder, name)[index] = text


@pytest.mark.standard("U3", "U14", "E2")
def test_every_string_field_of_every_row_takes_metacharacters_as_data_or_refuses(service: Embedded) -> None:
    token = service.admin()
    tried = 0
    for row in unary(service):
        if row.name.endswith(SPARED):
            continue
        places = len(list(strings(filled(row.request_type))))
        for place in range(places):
            for text in NASTY:
                message = filled(row.request_type)
                holder, name, index = list(strings(message))[place]
                try:
                    put(holder, name, index, text)
                except (ValueError, UnicodeEncodeError):
                    continue
                outcome(service, row, message.SerializeToString(), token)
                tried += 1
    assert tried > 500


@pytest.mark.standard("U3", "E2", "J16")
def test_random_bytes_never_meet_an_internal_error(service: Embedded) -> None:
    token, dice = service.admin(), random.Random(7)
    rows = unary(service)
    for _ in range(scale(20_000)):
        row = dice.choice(rows)
        if row.name.endswith(SPARED):
            continue
        noise = dice.randbytes(dice.choice((1, 8, 60, 600)))
        if dice.random() < 0.5:
            base = bytearray(filled(row.request_type).SerializeToString() or b"\x0a\x01a")
            base[dice.randrange(len(base))] = dice.randrange(256)
            noise = bytes(base)
        outcome(service, row, noise, token)


@pytest.mark.standard("U3")
def test_undecodable_bytes_are_an_invalid_argument_on_every_row(service: Embedded) -> None:
    token = service.admin()
    for row in unary(service):
        for garbage in (b"\xff\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x7f", b"\x0a\x02\xff\xfe"):
            status = outcome(service, row, garbage, token)
            if row.denials is None and len(row.request_type.DESCRIPTOR.fields) > 0 and garbage[0] == 0xFF:
                assert status is grpc.StatusCode.INVALID_ARGUMENT, row.name


@pytest.mark.standard("U3")
def test_an_empty_message_names_the_field_that_is_missing(service: Embedded) -> None:
    token = service.admin()
    for method, field in (
        ("TokenService/VerifyToken", "token"),
        ("AuthzService/Check", "subject"),
        ("AuthzService/Authorize", "token"),
        ("LimitService/Consume", "domain"),
        ("ClientAdminService/CreateClient", "client_id"),
        ("PolicyAdminService/ApplyPolicy", "policy"),
        ("PolicyAdminService/GrantRole", "subject"),
        ("PolicyAdminService/RevokeRole", "binding_id"),
    ):
        with pytest.raises(Refused) as caught:
            service.call.raw(f"authsvc.v1.{method}", b"", token=token)
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert field in caught.value.fields, method


@pytest.mark.standard("U3", "J16")
def test_what_is_too_large_is_refused_with_the_cap_named(service: Embedded) -> None:
    token = service.admin()
    million = authz_pb2.CheckRequest(subject="user:ann", permission="p" * 1_000_000)
    with pytest.raises(Refused) as caught:
        service.call("AuthzService/Check", million, token)
    assert caught.value.reason == "REQUEST_TOO_LARGE"
    assert caught.value.metadata["limit_bytes"] == str(256 * 1024)
    many = authz_pb2.BatchCheckRequest(
        checks=[authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")] * 10_001
    )
    with pytest.raises(Refused) as caught:
        service.call("AuthzService/BatchCheck", many, token)
    assert (caught.value.reason, caught.value.metadata["cap"]) == ("LIMIT_CAPPED", "10000")
    with pytest.raises(Refused) as caught:
        service.call.raw("authsvc.v1.AuthzService/Check", b"", token=token, metadata=(("x-large", "x" * 60_000),))
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    long = token_pb2.VerifyTokenRequest(token="a." * 5_000, audience=["orders"])
    assert not service.call("TokenService/VerifyToken", long, token).valid


@pytest.mark.standard("U3", "P13")
def test_deep_nesting_is_refused_and_never_crashes(service: Embedded) -> None:
    token = service.admin()
    for depth in (15, 40, 46):
        value = struct_pb2.Value(bool_value=True)
        for _ in range(depth):
            value = struct_pb2.Value(list_value=struct_pb2.ListValue(values=[value]))
        request = authz_pb2.CheckRequest(subject="user:ann", permission="nothing:here")
        request.context.fields["deep"].CopyFrom(value)
        try:
            assert service.call("AuthzService/Check", request, token).decision != 1
        except Refused as refusal:
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017 - both outcomes are right
    bomb = b"\x0a" * 4000
    for row in unary(service):
        outcome(service, row, bomb, token)


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - not a path of ours
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.standard("U3")
def test_memory_stays_flat_under_hostile_input(service: Embedded) -> None:
    token = service.admin()

    def flood(rounds: int) -> None:
        for number in range(rounds):
            text = f"{number}:" + "x" * 50_000
            for request, method in (
                (authz_pb2.CheckRequest(subject=text, permission="a:b"), "AuthzService/Check"),
                (token_pb2.VerifyTokenRequest(token=text), "TokenService/VerifyToken"),
            ):
                try:
                    service.call(method, request, token)
                except Refused:
                    continue

    flood(300)
    before = resident_bytes()
    flood(scale(20_000) // 10)
    assert resident_bytes() - before < 48 * 1024 * 1024


@pytest.mark.standard("E2")
def test_a_feature_that_is_not_served_is_refused_by_name(service: Embedded) -> None:
    token = service.admin()
    from authsvc.v1 import limit_pb2  # noqa: PLC0415 - only here

    proof = {"dpop": "x"}
    for method, request, field in (
        ("TokenService/VerifyToken", token_pb2.VerifyTokenRequest(token="a", proof=proof), "proof"),
        ("AuthzService/Authorize", authz_pb2.AuthorizeRequest(token="a", permission="a:b", proof=proof), "proof"),
        (
            "LimitService/Consume",
            limit_pb2.ConsumeRequest(domain="d", descriptors=[{"entries": [{"key": "k"}]}], idempotency_key="x"),
            "idempotency_key",
        ),
    ):
        with pytest.raises(Refused) as caught:
            service.call(method, request, token)
        assert (caught.value.reason, caught.value.fields) == ("FEATURE_NOT_SERVED", (field,))
