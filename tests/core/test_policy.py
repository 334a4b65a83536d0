"""Reading a policy, its tables, grants, its tests, and JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core import policy_document
from authsvc.core.bindings import BindingIndex, BindingSource, make_binding
from authsvc.core.errors import InvalidRequest, Reason
from authsvc.core.policy import (
    CompiledPolicy,
    Question,
    check_binding,
    compile_policy,
    decide,
    service_permissions,
)
from authsvc.core.policy_document import parse
from authsvc.core.policy_questions import decide_lines, run_tests
from authsvc.core.policy_text import MAX_BYTES, load_yaml
from authsvc.core.roles_builtin import ADMIN, AUDITOR, BUILTIN_ROLES, CALLER, SERVICE_PERMISSIONS, is_reserved
from tests.core.reference_policy import as_yaml, random_ask, random_policy

BASE = """
version: 1
permissions: {"orders:read": {}, "orders:write": {}}
roles:
  viewer: {allow: ["orders:read"]}
  editor: {inherits: [viewer], allow: ["orders:write"]}
groups: {desk: ["user:ann"]}
bindings:
  - {subject: "group:desk", role: editor, tenant: acme, expire_time: "2026-01-01T00:00:00Z"}
"""
EXPIRY = 1_767_225_600


def load(text: str) -> CompiledPolicy:
    return compile_policy(parse(text))


def faults(text: str, *, service_roles: bool = False) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse(text, service_roles=service_roles)
    assert caught.value.reason is Reason.POLICY_INVALID
    return {v.field: v.description for v in caught.value.violations}


@pytest.mark.standard("P9")
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("version: 1\nroles: &a {}\ngroups: *a", "anchors"),
        ("version: 1\nroles: *a", "anchors"),
        ("&a version: 1", "anchors"),
        ("version: !!int 1", "tags"),
        ("version: !!python/object:os.system {}", "tags"),
        ("!!str version: 1", "tags"),
        ("? [a]\n: 1", "name is not a text"),
        ("version: 1\n---\nversion: 1", "more than one document"),
        ("version: [", "line 2, column"),
        ("version: 1\n\tx: 1", "not YAML: line 2"),
        ("version: \x00", "not YAML"),
        ("version: \ud800", "not Unicode"),
        ("[" * 33 + "]" * 33, "deeper than 32"),
        ("a: " * 40, "not YAML"),
        ("#" * (MAX_BYTES + 1), "longer than"),
        ("#" + "é" * (MAX_BYTES // 2), "longer than"),
    ],
)
def test_yaml_beyond_plain_values_is_refused(text: str, fault: str) -> None:
    assert fault in faults(text)[""]


@pytest.mark.standard("P9")
def test_members_given_twice_are_named() -> None:
    found = faults('version: 1\nroles: {a: {}, a: {}, "b.c": {allow: [], allow: []}}\nroles: {}')
    assert set(found) == {"roles", "roles.a", 'roles["b.c"].allow'}


def test_scalars_follow_yaml_1_2() -> None:
    text = "{a: no, b: 2099-01-01, c: 1, d: 1.5, e: ~, f: true, g: '1', h: 0x10, i: 1e3, j: , k: \"true\", l: 1:30}"
    assert load_yaml(text)[0] == {
        "a": "no",
        "b": "2099-01-01",
        "c": 1,
        "d": 1.5,
        "e": None,
        "f": True,
        "g": "1",
        "h": "0x10",
        "i": 1000.0,
        "j": None,
        "k": "true",
        "l": "1:30",
    }
    assert load_yaml("") == (None, [])


@pytest.mark.standard("P9")
def test_every_section_names_its_own_faults_all_at_once() -> None:
    found = faults(
        """
version: true
permissions: {"orders": {}, "orders:read": {text: x}, "a:*": {}}
roles: {viewer: {inherits: [ghost]}}
groups: {"group:x": [], "a\\nb": [], ok: ["ann", 5, null]}
bindings: [5, {subject: 7, role: "no such", resource: "a***", expire_time: 1, condition: [], extra: 1}]
scopes: {"two words": [], s: "orders:read"}
routes:
  - {permission: "orders:read"}
  - match: {method: get, path: "v1", host: "a:1", destination: "***", header: x}
    permission: "orders:write"
    resource: "orders/{id}"
    audience: "a b"
    limits: [ghost, wide]
  - {match: {path: "/a/{b}", host: "***"}, permission: "orders:read", resource: "x/{b}/{"}
  - {match: {path: "/a//b"}, permission: "orders:read"}
  - {match: {path: "/a/{b}/{b}"}, permission: "orders:read"}
  - {match: {path: "/a/**/b"}, permission: "orders:read"}
  - {match: {path: "/a/x{b}"}, permission: "orders:read"}
limits: {wide: {domain: d, match: {colour: "*"}, rate: 1/1s}, bad: {domain: d}}
tests:
  - {subject: "user:a", permission: "orders:*", expect: maybe, now: "2026-02-30T00:00:00Z",
     context: {token: 1, request: 2}}
  - {subject: "user:a", permission: "orders:read", expect: allow, scope: ["a b"], now: "2026-01-01", why: no}
"""
    )
    assert set(found) >= {
        "version",
        "permissions.orders",
        'permissions["orders:read"].text',
        'permissions["a:*"]',
        "roles.viewer.inherits[0]",
        'groups["group:x"]',
        'groups["a\\nb"]',
        "groups.ok[0]",
        "groups.ok[1]",
        "groups.ok[2]",
        "bindings[0]",
        "bindings[0].subject",
        "bindings[0].role",
        "bindings[1].subject",
        "bindings[1].role",
        "bindings[1].resource",
        "bindings[1].expire_time",
        "bindings[1].condition",
        "bindings[1].extra",
        'scopes["two words"]',
        "scopes.s",
        "routes[0].match",
        "routes[1].match.method",
        "routes[1].match.path",
        "routes[1].match.host",
        "routes[1].match.destination",
        "routes[1].match.header",
        "routes[1].permission",
        "routes[1].resource",
        "routes[1].audience",
        "routes[1].limits[0]",
        "routes[1].limits[1]",
        "routes[2].match.host",
        "routes[2].resource",
        "routes[3].match.path",
        "routes[4].match.path",
        "routes[5].match.path",
        "routes[6].match.path",
        "tests[0].permission",
        "tests[0].expect",
        "tests[0].context.token",
        "tests[0].context.request",
        "tests[0].now",
        "tests[1].scope[0]",
        "tests[1].now",
        "tests[1].why",
    }
    assert any(field.startswith("limits.bad") for field in found)
    assert set(faults("{version: 1, roles: []}")) == {"roles"}
    assert set(faults("[]")) == {"", "version"}
    assert set(faults("")) == {"version"}
    assert "limits" in faults("{version: 1, limits: []}")


@pytest.mark.standard("P9")
@pytest.mark.parametrize(
    ("rule", "member"),
    [
        ("{domain: d, match: {k: '*'}, rate: 1/1s, algorithm: sliding_window}", "algorithm"),
        ("{domain: d, match: {k: '*'}, rate: 1/1s, count: failures}", "count"),
        ("{domain: d, match: {k: '*'}, rate: 1/1s, exceeded: challenge}", "exceeded"),
    ],
)
def test_what_this_release_does_not_serve_is_refused_by_name(rule: str, member: str) -> None:
    found = faults(f"{{version: 1, limits: {{r: {rule}}}}}")
    assert "not served" in found[f"limits.r.{member}"]


@pytest.mark.standard("P2")
@pytest.mark.parametrize("length", [1, 2, 3, 500])
def test_a_cycle_of_any_length_is_named(length: int) -> None:
    roles = {f"r{i}": {"inherits": [f"r{(i + 1) % length}"]} for i in range(length)}
    groups = {f"g{i}": [f"group:g{(i + 1) % length}"] for i in range(length)}
    found = faults(json.dumps({"version": 1, "roles": roles, "groups": groups}))
    assert set(found) == {"roles.r0", "groups.g0"}
    assert found["roles.r0"].endswith(" -> ".join([*roles, "r0"]))


@pytest.mark.standard("P2")
def test_diamonds_and_long_chains_are_no_cycles() -> None:
    roles: dict[str, Any] = {"top": {"inherits": ["l", "r"]}, "l": {"inherits": ["b"]}, "r": {"inherits": ["b"]}}
    roles["b"] = {"allow": ["a:b"]}
    roles |= {f"c{i}": {"inherits": [f"c{i + 1}"]} for i in range(1_200)} | {"c1200": {"inherits": ["top"]}}
    groups = {f"g{i}": [f"group:g{i + 1}"] for i in range(1_200)} | {"g1200": ["user:ann"]}
    bindings = [{"subject": "group:g0", "role": "c0"}]
    policy = load(
        json.dumps({"version": 1, "permissions": {"a:b": {}}, "roles": roles, "groups": groups, "bindings": bindings})
    )
    index = BindingIndex.from_bindings(policy.bindings)
    assert decide(policy, index, Question("user:ann", "a:b"), now=0).allowed


@pytest.mark.standard("P3")
def test_what_a_removed_parent_or_member_gave_ends_with_the_next_policy() -> None:
    index = BindingIndex.from_bindings([make_binding("group:desk", "editor")])
    ask = Question("user:ann", "orders:read")
    assert decide(load(BASE), index, ask, now=0).allowed
    assert not decide(load(BASE.replace("inherits: [viewer], ", "")), index, ask, now=0).allowed
    assert not decide(load(BASE.replace('["user:ann"]', "[]")), index, ask, now=0).allowed


@pytest.mark.standard("P2", "P9")
def test_tables_beyond_memory_are_refused_before_they_are_built() -> None:
    many: dict[str, dict[str, str]] = {f"p:{i}": {} for i in range(3_000)}
    roles = {f"r{i}": {"allow": ["**"]} for i in range(1_000)}
    with pytest.raises(InvalidRequest, match="roles: make a table") as caught:
        load(json.dumps({"version": 1, "permissions": many, "roles": roles}))
    assert caught.value.reason is Reason.POLICY_INVALID
    chain = {f"g{i}": [f"group:g{i + 1}"] for i in range(3_000)}
    with pytest.raises(InvalidRequest, match="groups: make a table"):
        load(json.dumps({"version": 1, "groups": chain}))
    assert "permissions" in faults(json.dumps({"version": 1, "permissions": {f"p:{i}": {} for i in range(10_001)}}))
    assert "roles" in faults(json.dumps({"version": 1, "roles": {f"r{i}": {} for i in range(5_001)}}))


@pytest.mark.standard("P12")
def test_a_policy_binds_service_roles_only_where_the_configuration_lets_it() -> None:
    text = "version: 1\nbindings: [{subject: 'client:root', role: authsvc.admin}]"
    assert "bindings[0].role" in faults(text)
    policy = compile_policy(parse(text, service_roles=True))
    index = BindingIndex.from_bindings(policy.bindings)
    assert decide(policy, index, Question("client:root", "authsvc.keys:rotate"), now=0).allowed
    unknown = "version: 1\nbindings: [{subject: 'a:b', role: authsvc.king}, {subject: 'group:g', role: authsvc.admin}]"
    assert set(faults(unknown, service_roles=True)) == {"bindings[0].role", "bindings[1].subject"}


@pytest.mark.standard("P12")
@pytest.mark.parametrize("name", ["authsvc", "authsvc:x", "authsvc.admin", "authsvc.keys:rotate", "authsvc.*"])
def test_the_services_names_are_reserved(name: str) -> None:
    assert is_reserved(name)
    assert not is_reserved("x" + name)
    assert not is_reserved("authsvcs:x")


@pytest.mark.standard("P12")
def test_no_role_of_a_random_policy_reaches_a_service_permission() -> None:
    for seed in range(50):
        policy = load(as_yaml(random_policy(Random(seed))))
        for permission in SERVICE_PERMISSIONS:
            assert set(policy.effects[permission]) <= set(BUILTIN_ROLES)


@pytest.mark.standard("P12")
def test_service_permissions_are_decided_by_roles_alone() -> None:
    policy = load(BASE + 'scopes: {s: ["orders:read"]}')
    index = BindingIndex.from_bindings([make_binding("client:root", ADMIN)])
    for scope in (None, frozenset[str](), frozenset({"s"})):
        question = Question("client:root", "authsvc.keys:rotate", scope=scope)
        assert decide(policy, index, question, now=0).allowed


@pytest.mark.standard("P12", "U11")
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*BUILTIN_ROLES, "viewer"]),
            st.sampled_from(["", "", "acme"]),
            st.sampled_from(["", "x", "**"]),
            st.sampled_from([None, 9, 10, 11]),
            st.sampled_from(["", "", "tenant == ''", "context.mfa"]),
        ),
        max_size=12,
    ),
    st.sampled_from(["", "acme", "other"]),
)
def test_the_set_of_service_permissions_is_what_each_check_allows(
    rows: list[tuple[str, str, str, int | None, str]], tenant: str
) -> None:
    policy = load(BASE)
    index = BindingIndex.from_bindings(make_binding("client:c", *row) for row in rows)
    held = service_permissions(policy, index, "client:c", now=10, tenant=tenant)
    asked = {p: decide(policy, index, Question("client:c", p, tenant=tenant), now=10) for p in SERVICE_PERMISSIONS}
    assert held == {p for p, decision in asked.items() if decision.allowed}


def test_the_admin_holds_every_role_so_that_it_may_give_each() -> None:
    assert all(given <= BUILTIN_ROLES[ADMIN] for given in BUILTIN_ROLES.values())
    assert not BUILTIN_ROLES[CALLER] & BUILTIN_ROLES[AUDITOR]


@pytest.mark.standard("P12")
def test_a_grant_is_checked_whole() -> None:
    policy = load(BASE)
    check_binding(policy, make_binding("group:desk", "viewer", "acme", "orders/*", 5, "context.mfa"))
    check_binding(policy, make_binding("client:c", CALLER))
    with pytest.raises(InvalidRequest) as caught:
        check_binding(policy, make_binding("ann", "a b", "*", "***", None, "nope"))
    assert [v.field for v in caught.value.violations] == ["subject", "role", "tenant", "resource", "condition"]
    with pytest.raises(InvalidRequest) as caught:
        check_binding(policy, make_binding("group:desk", ADMIN))
    assert caught.value.violations[0].field == "subject"
    with pytest.raises(InvalidRequest) as caught:
        check_binding(policy, make_binding("user:a", "ghost"))
    assert caught.value.reason is Reason.ROLE_UNKNOWN


def test_a_decision_names_the_binding_that_decided() -> None:
    policy = load(BASE)
    index = BindingIndex.from_bindings(policy.bindings)
    decision = decide(policy, index, Question("user:ann", "orders:write", tenant="acme"), now=0)
    (binding,) = policy.bindings
    assert (decision.role, decision.binding_id) == ("editor", binding.binding_id)
    nothing = decide(policy, index, Question("user:bob", "orders:write"), now=0)
    assert (nothing.role, nothing.binding_id) == ("", "")


def test_conditions_see_the_token_and_the_request_that_the_service_sets() -> None:
    policy = load(BASE)
    index = BindingIndex.from_bindings(
        [make_binding("user:a", "viewer", condition="context.token.issuer == 'i' && context.request.method == 'GET'")]
    )
    ask = Question("user:a", "orders:read", token={"issuer": "i"}, request={"method": "GET"})
    assert decide(policy, index, ask, now=0).allowed
    assert not decide(policy, index, Question("user:a", "orders:read"), now=0).allowed
    forged = Question("user:a", "orders:read", context={"token": {"issuer": "i"}, "request": {"method": "GET"}})
    assert decide(policy, index, forged, now=0).reason is Reason.QUESTION_INVALID


def test_the_permissions_of_a_policy_are_its_own_and_the_services() -> None:
    policy = load(BASE)
    assert set(policy.permissions) == {"orders:read", "orders:write"} | SERVICE_PERMISSIONS
    assert policy.has_role("viewer")
    assert policy.has_role(ADMIN)
    assert not policy.has_role("ghost")


@pytest.mark.standard("P9")
def test_a_policys_tests_run_against_its_file_and_look_at_expiry_only_with_now() -> None:
    ask = 'subject: "user:ann", permission: "orders:write", tenant: acme'
    text = f"""{BASE}
tests:
  - {{{ask}, expect: allow}}
  - {{{ask}, expect: deny, now: "2026-01-01T00:00:00Z"}}
  - {{{ask}, expect: allow, now: "2025-12-31T23:59:59.999999999Z"}}
  - {{subject: "user:bob", permission: "orders:read", tenant: acme, groups: [desk], scope: [], expect: allow}}
"""
    policy = load(text)
    assert run_tests(policy) == []
    (failure, *_) = failed = run_tests(policy, [])
    assert [f.path for f in failed] == ["tests[0]", "tests[2]", "tests[3]"]
    assert failure.violation.description == "expected allow, got no_binding"
    (failure,) = run_tests(load(text.replace("expect: deny", "expect: allow")))
    assert failure.path == "tests[1]"
    assert run_tests(load(text.replace('orders:write"]', 'orders:read"]')))[0].expected_allowed


def test_lines_are_answered_with_decision_and_reason() -> None:
    answer = decide_lines(load(BASE), EXPIRY - 1)
    ask = {"subject": "user:ann", "permission": "orders:write", "tenant": "acme"}
    assert answer(ask).items() >= {"decision": "allow", "reason": "allowed", "role": "editor"}.items()
    assert answer({**ask, "scope": None, "groups": None, "context": None})["decision"] == "allow"
    assert answer({**ask, "scope": []})["decision"] == "allow"
    assert answer({**ask, "scope": ["x"]}) == {"decision": "deny", "reason": "scope_insufficient"}
    assert answer({**ask, "tenant": None})["reason"] == "no_binding"
    assert decide_lines(load(BASE), EXPIRY)(ask)["reason"] == "no_binding"


@pytest.mark.parametrize(
    "line",
    [
        None,
        [],
        "x",
        7,
        {},
        {"subject": "user:ann"},
        {"subject": "user:ann", "permission": "orders:write", "tenants": "acme"},
        {"subject": "user:ann", "permission": "orders:write", "tenant": 5},
        {"subject": "user:ann", "permission": ["orders:write"]},
        {"subject": "user:ann", "permission": "orders:write", "groups": "desk"},
        {"subject": "user:ann", "permission": "orders:write", "groups": [5]},
        {"subject": "user:ann", "permission": "orders:write", "scope": "orders.read"},
        {"subject": "user:ann", "permission": "orders:write", "context": []},
        {"subject": "user:ann", "permission": "orders:write", "context": {"token": {}}},
        {"subject": "user:ann", "permission": "orders:write", "tenant": "\ud800"},
    ],
)
def test_what_is_no_question_is_denied_and_never_raises(line: object) -> None:
    found = decide_lines(load(BASE), 0)(line)
    assert found["decision"] == "deny"
    assert found["reason"] in {"question_invalid", "permission_undeclared"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = ["subject", "permission", "groups", "resource", "tenant", "scope", "context", "x"]


@given(st.dictionaries(st.sampled_from(MEMBERS), JSON) | JSON)
def test_any_json_line_is_answered(line: object) -> None:
    assert decide_lines(load(BASE), 0)(line)["decision"] == "deny"


def test_lines_equal_the_decision_over_random_policies() -> None:
    for seed in range(30):
        random = Random(seed)
        policy = load(as_yaml(random_policy(random)))
        answer, index = decide_lines(policy, 10), BindingIndex.from_bindings(policy.bindings)
        for _ in range(20):
            ask = random_ask(random)
            ask.pop("token_tenant", None)
            scope = ask.get("scope")
            question = Question(
                ask["subject"],
                ask["permission"],
                ask.get("resource", ""),
                ask.get("tenant", ""),
                tuple(ask.get("groups", ())),
                None if scope is None else frozenset(scope),
                ask["context"],
            )
            decision = decide(policy, index, question, now=10)
            found = answer(ask)
            assert (found["decision"] == "allow", found["reason"]) == (decision.allowed, decision.reason.text)


@given(st.text(max_size=300) | st.text(alphabet="{}[]:,-&*!|>'\"\n abversion1#%@`", max_size=80))
def test_any_text_is_a_policy_or_is_refused(text: str) -> None:
    refused: InvalidRequest | None = None
    try:
        parse(text)
    except InvalidRequest as error:
        refused = error
    assert refused is None or refused.reason is Reason.POLICY_INVALID


def test_file_bindings_are_the_files() -> None:
    assert {binding.source for binding in load(BASE).bindings} == {BindingSource.FILE}


@pytest.mark.standard("P9")
def test_the_published_schema_knows_the_members_that_are_read() -> None:
    schema = json.loads((Path(policy_document.__file__).parent / "policy.schema.json").read_text())
    sections = schema["properties"]
    assert tuple(sections) == policy_document.SECTIONS
    items = {name: sections[name]["items"]["properties"] for name in ("bindings", "routes", "tests")}
    assert set(sections["roles"]["additionalProperties"]["properties"]) == set(policy_document.ROLE)
    assert set(items["bindings"]) == set(policy_document.BINDING)
    assert set(items["routes"]) == set(policy_document.ROUTE)
    assert set(items["routes"]["match"]["properties"]) == set(policy_document.MATCH)
    assert set(items["tests"]) == set(policy_document.TEST)


def test_a_route_names_limits_whose_keys_routes_have() -> None:
    policy = load(
        BASE
        + """
routes: [{match: {path: "/x"}, permission: "orders:read", limits: [per_user]}]
limits: {per_user: {domain: api, match: {subject: "*", route: "*"}, rate: 100/15m, burst: 20}}
"""
    )
    assert policy.document.routes[0].limits == ("per_user",)
    assert set(policy.limits.by_name) == {"per_user"}
