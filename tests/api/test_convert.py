"""Input validation: every fault names its field, every hostile text is data or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import message_factory, struct_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from authsvc.api import convert, convert_admin, convert_authz, convert_limits, convert_tokens
from authsvc.core.bindings import BindingIndex, make_binding
from authsvc.core.errors import InvalidRequest, Reason
from authsvc.core.policy import Question, compile_policy, decide
from authsvc.core.policy_document import parse
from authsvc.v1 import authz_pb2, client_admin_pb2, key_admin_pb2, limit_pb2, policy_admin_pb2, token_pb2, types_pb2

Convert = Callable[[Any], object]

GOOD_CHECK: dict[str, Any] = {"subject": "user:ann", "permission": "orders:read"}


def fault_of(run: Callable[[], object]) -> InvalidRequest:
    """The refusal that a conversion must end in."""
    with pytest.raises(InvalidRequest) as caught:
        run()
    return caught.value


def fields(fault: InvalidRequest) -> list[str]:
    """The paths it names."""
    return [violation.field for violation in fault.violations]


def issue(**more: Any) -> token_pb2.IssueTokenRequest:
    """A good grant."""
    grant = token_pb2.ClientCredentials(client_id="billing", client_secret="s")
    return token_pb2.IssueTokenRequest(client_credentials=grant, **more)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"permission": "orders:read"}, "subject"),
        ({"subject": "ann", "permission": "orders:read"}, "subject"),
        ({"subject": "user:ann"}, "permission"),
        ({**GOOD_CHECK, "permission": "orders:*"}, "permission"),
        ({**GOOD_CHECK, "permission": "a" * 1_000_000}, "permission"),
        ({**GOOD_CHECK, "resource": "orders/*"}, "resource"),
        ({**GOOD_CHECK, "tenant": "a\nb"}, "tenant"),
        ({**GOOD_CHECK, "groups": ["a", ""]}, "groups[1]"),
        ({**GOOD_CHECK, "groups": ["g"] * 257}, "groups"),
        ({**GOOD_CHECK, "scope": ["orders.read"]}, "scope"),
        ({**GOOD_CHECK, "scope": ["a b"], "scope_bound": True}, "scope[0]"),
        ({**GOOD_CHECK, "context": {"token": {}}}, "context.token"),
        ({**GOOD_CHECK, "context": {"request": 1}}, "context.request"),
        ({**GOOD_CHECK, "context": {"a": {"b": [1, float("nan")]}}}, "context.a.b[1]"),
    ],
)
@pytest.mark.standard("P4")
def test_a_question_names_its_fault(request_: dict[str, Any], field: str) -> None:
    assert fields(fault_of(lambda: convert_authz.question(authz_pb2.CheckRequest(**request_)))) == [field]


def test_a_fault_in_a_batch_names_its_place() -> None:
    checks = [authz_pb2.CheckRequest(**GOOD_CHECK)] * 3 + [authz_pb2.CheckRequest(permission="orders:read")]
    assert fields(fault_of(lambda: convert_authz.questions(authz_pb2.BatchCheckRequest(checks=checks)))) == [
        "checks[3].subject"
    ]
    inner = authz_pb2.CheckRequest(**GOOD_CHECK, min_revision="x")
    assert fields(fault_of(lambda: convert_authz.questions(authz_pb2.BatchCheckRequest(checks=[inner])))) == [
        "checks[0].min_revision"
    ]


@pytest.mark.parametrize(
    ("run", "cap"),
    [
        (
            lambda: convert_authz.questions(
                authz_pb2.BatchCheckRequest(checks=[authz_pb2.CheckRequest(**GOOD_CHECK)] * 10_001)
            ),
            "10000",
        ),
        (
            lambda: convert_tokens.verifications(
                token_pb2.BatchVerifyTokensRequest(requests=[token_pb2.VerifyTokenRequest(token="t")] * 10_001)
            ),
            "10000",
        ),
        (
            lambda: convert_authz.ask(
                authz_pb2.AuthorizeRequest(token="t", permission="a:b", consume=[limit_pb2.Consumption(domain="d")] * 9)
            ),
            "8",
        ),
    ],
)
def test_the_cap_is_named(run: Callable[[], object], cap: str) -> None:
    fault = fault_of(run)
    assert fault.reason is Reason.LIMIT_CAPPED
    assert fault.metadata == {"cap": cap}
    assert cap in fault.message


@pytest.mark.parametrize(
    ("run", "field"),
    [
        (
            lambda: convert_tokens.verification(token_pb2.VerifyTokenRequest(token="t", proof=types_pb2.Proof())),
            "proof",
        ),
        (
            lambda: convert_authz.ask(
                authz_pb2.AuthorizeRequest(token="t", permission="a:b", proof=types_pb2.Proof(dpop="x"))
            ),
            "proof",
        ),
        (
            lambda: convert_limits.consume(limit_pb2.ConsumeRequest(domain="d", idempotency_key="k")),
            "idempotency_key",
        ),
    ],
)
def test_what_is_not_served_is_refused_by_name(run: Callable[[], object], field: str) -> None:
    fault = fault_of(run)
    assert (fault.reason, fields(fault)) == (Reason.FEATURE_NOT_SERVED, [field])


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (token_pb2.IssueTokenRequest(), "grant"),
        (issue(scope=["a", "b c"]), "scope[1]"),
        (issue(audience=["orders", ""]), "audience[1]"),
        (issue(ttl={"seconds": 0}), "ttl"),
        (issue(ttl={"seconds": -5}), "ttl"),
        (issue(ttl={"seconds": 5, "nanos": 1}), "ttl"),
        (issue(tenant="*"), "tenant"),
    ],
)
def test_a_grant_names_its_fault(request_: Any, field: str) -> None:
    assert fields(fault_of(lambda: convert_tokens.token_request(request_))) == [field]


@pytest.mark.parametrize(("client_id", "secret"), [("", "s"), ("b c", "s"), ("billing", ""), ("billing", "s" * 513)])
def test_credentials_name_their_field_and_never_show_their_text(client_id: str, secret: str) -> None:
    grant = token_pb2.ClientCredentials(client_id=client_id, client_secret=secret)
    fault = fault_of(lambda: convert_tokens.token_request(token_pb2.IssueTokenRequest(client_credentials=grant)))
    assert fields(fault)[0].startswith("client_credentials.client_")
    assert not secret or secret not in fault.message or secret == "s"


def test_an_unknown_algorithm_is_refused() -> None:
    request = key_admin_pb2.RotateKeyRequest.FromString(b"\x08\x63")
    assert fields(fault_of(lambda: convert_admin.algorithm(request.algorithm))) == ["algorithm"]


def test_hits_beyond_any_rule_are_refused() -> None:
    entry = limit_pb2.Entry(key="k", value="v")
    request = limit_pb2.ConsumeRequest(domain="d", descriptors=[limit_pb2.Descriptor(entries=[entry], hits=2**64 - 1)])
    assert fields(fault_of(lambda: convert_limits.consume(request))) == ["descriptors[0].hits"]


def test_unset_hits_are_one_and_zero_looks() -> None:
    entry = limit_pb2.Entry(key="k", value="v")
    descriptors = [limit_pb2.Descriptor(entries=[entry]), limit_pb2.Descriptor(entries=[entry], hits=0)]
    wanted = convert_limits.consume(limit_pb2.ConsumeRequest(domain="d", descriptors=descriptors))
    assert [descriptor.hits for descriptor in wanted.descriptors] == [1, 0]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text().filter(lambda key: key not in {"token", "request"}), JSON, max_size=4))
def test_a_context_arrives_as_it_was_meant(given_: dict[str, Any]) -> None:
    request = authz_pb2.CheckRequest()
    request.context.update(given_)
    assert convert.context(request) == given_


def test_what_the_service_adds_to_a_context_is_in_no_other_question() -> None:
    request = authz_pb2.CheckRequest()
    request.context.update({"region": "eu"})
    policy = compile_policy(parse('{"version": 1, "permissions": {"a:b": {}}, "roles": {"r": {"allow": ["a:b"]}}}'))
    condition = "context.region == 'eu' && has(context.token)"
    bindings = BindingIndex.from_bindings([make_binding("user:a", "r", condition=condition)])
    for token, allowed in (({"tenant": ""}, True), (None, False)):
        asked = Question("user:a", "a:b", context=convert.context(request), token=token)
        assert decide(policy, bindings, asked, now=0).allowed is allowed
    assert convert.context(request) == {"region": "eu"}


def test_a_context_too_deep_or_without_value_is_refused() -> None:
    deep = struct_pb2.Value()
    inner = deep
    for _ in range(40):
        inner = inner.struct_value.fields["x"]
    inner.null_value = struct_pb2.NULL_VALUE
    request = authz_pb2.CheckRequest()
    request.context.fields["a"].CopyFrom(deep)
    assert "nested" in fault_of(lambda: convert.context(request)).message
    empty = authz_pb2.CheckRequest()
    empty.context.fields["a"].SetInParent()
    empty.context.fields["a"].CopyFrom(struct_pb2.Value())
    assert fields(fault_of(lambda: convert.context(empty))) == ["context.a"]


CONVERSIONS: list[tuple[Convert, type[Any]]] = [
    (convert_authz.question, authz_pb2.CheckRequest),
    (convert_authz.questions, authz_pb2.BatchCheckRequest),
    (convert_authz.ask, authz_pb2.AuthorizeRequest),
    (convert_limits.consume, limit_pb2.ConsumeRequest),
    (convert_limits.wanted, limit_pb2.PeekRequest),
    (convert_tokens.token_request, token_pb2.IssueTokenRequest),
    (convert_tokens.verification, token_pb2.VerifyTokenRequest),
    (convert_tokens.verifications, token_pb2.BatchVerifyTokensRequest),
    (convert_tokens.revocation, token_pb2.RevokeTokenRequest),
    (lambda request: convert_admin.algorithm(request.algorithm), key_admin_pb2.RotateKeyRequest),
    (convert_admin.key_revocation, key_admin_pb2.RevokeKeyRequest),
    (lambda request: convert_admin.new_client(request, 0), client_admin_pb2.CreateClientRequest),
    (convert_admin.rotation, client_admin_pb2.RotateClientSecretRequest),
    (convert_admin.grant, policy_admin_pb2.GrantRoleRequest),
    (convert_admin.binding_filters, policy_admin_pb2.ListRoleBindingsRequest),
]

HOSTILE = st.one_of(
    st.text(max_size=50),
    st.sampled_from(
        [
            "",
            "\x00",
            "\x1b[31m",
            "'; DROP TABLE head;--",
            "$(id)",
            "{{7*7}}",
            "%s%n",
            "a\r\nb",
            "../" * 50,
            "*",
            "**",
            "🙂",
        ]
    ),
    st.integers(1, 2_000_000).map(lambda size: "a" * size),
)


@st.composite
def messages(draw: Any, kind: type[Any], depth: int = 0) -> Any:
    """A message with hostile text in its string fields."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if field.full_name.startswith("google.") or not draw(st.booleans()):
            continue
        if field.message_type is not None:
            if field.message_type.full_name.startswith("google.protobuf.") or depth > 2:
                continue
            inner = draw(messages(message_factory.GetMessageClass(field.message_type), depth + 1))
            target = getattr(message, field.name)
            (target.add() if field.is_repeated else target).CopyFrom(inner)
        elif field.cpp_type == field.CPPTYPE_STRING and field.type == field.TYPE_STRING:
            if field.is_repeated:
                getattr(message, field.name).extend(draw(st.lists(HOSTILE, max_size=3)))
            else:
                setattr(message, field.name, draw(HOSTILE))
        elif field.cpp_type == field.CPPTYPE_ENUM:
            setattr(message, field.name, draw(st.integers(0, 2**31 - 1)))
    return message


def faults_of(run: Callable[[], object]) -> tuple[str, ...]:
    """The paths of the refusal, none where it is data; anything else that is raised fails the test."""
    try:
        run()
    except InvalidRequest as fault:
        return tuple(fields(fault))
    return ()


@pytest.mark.parametrize(("conversion", "kind"), CONVERSIONS, ids=lambda value: getattr(value, "__name__", ""))
@given(data=st.data())
def test_hostile_text_is_data_or_a_named_fault(conversion: Convert, kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    assert all(faults_of(lambda: conversion(message)))


@pytest.mark.parametrize(("conversion", "kind"), CONVERSIONS, ids=lambda value: getattr(value, "__name__", ""))
@given(raw=st.binary(max_size=120))
def test_whatever_parses_is_data_or_a_named_fault(conversion: Convert, kind: type[Any], raw: bytes) -> None:
    try:
        message = kind.FromString(raw)
    except DecodeError:
        return
    assert all(faults_of(lambda: conversion(message)))
