"""ext_authz: what is let through, what is refused, and how."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format

from authsvc import config
from authsvc.api.envoy_authz import IDENTITY_HEADERS, EnvoyAuthorization
from authsvc.api.envoy_messages import CheckRequest, CheckResponse
from authsvc.api.errors import denial_status
from authsvc.api.rate_limit_headers import rate_limit_fields
from authsvc.core.consumption import DecidedBy, Hit, LimitOutcome
from authsvc.core.errors import Reason, TokenRefused, Unavailable
from authsvc.core.limits import LimitRule
from authsvc.core.rates import Rate
from authsvc.core.revocations import RevocationKind
from authsvc.usecases.envoy import bearer
from tests.api.envoy_model import ENVOYS
from tests.api.envoy_world import ISSUER, POLICY, World, check_request, stranger


@pytest.fixture
def world() -> World:
    return World()


def headers_of(options: Any) -> dict[str, str]:
    return {option.header.key: option.header.value for option in options}


def status_of(answer: Any) -> int:
    """200, or the status of a denial that every Envoy obeys."""
    seen = [envoy.meets(answer.SerializeToString(), []) for envoy in ENVOYS]
    assert not any(one.is_error for one in seen)
    (status,) = {one.status for one in seen}
    assert all(one.allowed == (status == 200) for one in seen)
    return status


# --- letting through ---------------------------------------------------------------------------------------------


@pytest.mark.standard("E4")
@pytest.mark.parametrize("raw", [False, True])
def test_a_valid_token_with_the_permission_is_let_through_with_its_identity(world: World, *, raw: bool) -> None:
    token = world.token(tenant="acme", token_id="j" * 32)
    answer = world.ask(check_request(token=token, raw=raw))
    assert status_of(answer) == 200
    assert headers_of(answer.ok_response.headers) == {
        "x-authsvc-subject": "client:web",
        "x-authsvc-client-id": "web",
        "x-authsvc-scope": "orders.read orders.write",
        "x-authsvc-tenant": "acme",
        "x-authsvc-token-id": "j" * 32,
    }


@pytest.mark.standard("E4")
def test_every_header_overwrites_whatever_the_version_of_envoy(world: World) -> None:
    allowed = world.ask(check_request("GET", "/v1/metered", token=world.token()))
    denied = world.ask(check_request())
    options = [
        *allowed.ok_response.headers,
        *allowed.ok_response.response_headers_to_add,
        *denied.denied_response.headers,
    ]
    assert len(options) > 8
    for option in options:
        assert option.header.key == option.header.key.lower()
        assert option.header.value
        assert option.HasField("append")
        assert not option.append.value
        assert option.append_action == 2  # OVERWRITE_IF_EXISTS_OR_ADD


@pytest.mark.standard("E4")
def test_an_identity_header_without_a_value_is_removed_and_none_is_both_set_and_removed(world: World) -> None:
    answer = world.ask(check_request(token=world.token())).ok_response
    given, removed = headers_of(answer.headers), set(answer.headers_to_remove)
    assert "x-authsvc-tenant" in removed
    assert given.keys() | removed >= set(IDENTITY_HEADERS)
    assert not given.keys() & removed


@pytest.mark.standard("E4")
def test_every_underscore_spelling_of_an_identity_header_is_removed(world: World) -> None:
    removed = set(world.ask(check_request(token=world.token())).ok_response.headers_to_remove)
    assert {"x_authsvc_subject", "x-authsvc_subject", "x_authsvc-client_id", "x_authsvc_token_id"} <= removed
    for name in IDENTITY_HEADERS:
        spellings = {one for one in removed if one.replace("_", "-") == name and "_" in one}
        assert len(spellings) == 2 ** name.count("-") - 1


@pytest.mark.standard("E4")
@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ("user:änn", "user:%C3%A4nn"),
        ("user:%C3%A4nn", "user:%25C3%25A4nn"),
        ("user:a,client:b", "user:a%2Cclient:b"),
        ("user: ann ", "user:%20ann%20"),
        ("workload:spiffe://td/ns/a/sa/b", "workload:spiffe://td/ns/a/sa/b"),
    ],
)
def test_an_identity_stands_in_its_header_one_to_one(subject: str, shown: str) -> None:
    world = World(grants=[(subject, "viewer")])
    answer = world.ask(check_request(token=world.token(subject=subject)))
    assert headers_of(answer.ok_response.headers)["x-authsvc-subject"] == shown


@pytest.mark.standard("E5")
def test_the_query_is_not_part_of_the_path(world: World) -> None:
    assert status_of(world.ask(check_request(path="/v1/orders/7?next=//x/../y;z", token=world.token()))) == 200


# --- refusing ----------------------------------------------------------------------------------------------------


@pytest.mark.standard("E1", "E2", "E7")
def test_without_a_credential_the_challenge_names_no_error(world: World) -> None:
    answer = world.ask(check_request())
    assert status_of(answer) == 401
    assert headers_of(answer.denied_response.headers)["www-authenticate"] == 'Bearer realm="authsvc"'


@pytest.mark.standard("E7")
@pytest.mark.parametrize("scheme", ["Basic d2ViOng=", "Negotiate abc", "bearerx", "Bearer", "Bearer\tx"])
def test_another_scheme_is_no_bearer_credential(world: World, scheme: str) -> None:
    answer = world.ask(check_request(headers=[("authorization", scheme.encode())]))
    assert status_of(answer) == 401
    assert ("error" in headers_of(answer.denied_response.headers)["www-authenticate"]) == (scheme == "Bearer")


@pytest.mark.standard("E7")
def test_the_scheme_is_compared_without_case(world: World) -> None:
    headers = [("authorization", b"bEARER " + world.token().encode())]
    assert status_of(world.ask(check_request(headers=headers))) == 200


def invalid_tokens(world: World) -> dict[Reason, str]:
    now = world.clock.now()
    good = world.token()
    head, payload, signature = good.split(".")
    world.revoke(RevocationKind.TOKEN, "r" * 32)
    return {
        Reason.TOKEN_MALFORMED: "x.y",
        Reason.TOKEN_KEY_UNKNOWN: world.token(signer=stranger()),
        Reason.TOKEN_SIGNATURE_INVALID: f"{head}.{payload}.{'A' * len(signature)}",
        Reason.TOKEN_EXPIRED: world.token(issue_time=now - 600, expire_time=now - 60),
        Reason.TOKEN_NOT_YET_VALID: world.token(issue_time=now + 300),
        Reason.TOKEN_AUDIENCE_MISMATCH: world.token(audience=("billing",)),
        Reason.TOKEN_ISSUER_UNKNOWN: world.token(issuer=f"{ISSUER}/"),
        Reason.TOKEN_REVOKED: world.token(token_id="r" * 32),
    }


@pytest.mark.standard("J17", "E7", "E8")
def test_bearers_get_one_answer_for_every_cause_and_the_proxy_the_cause(world: World) -> None:
    answers = set()
    for reason, token in invalid_tokens(world).items():
        answer = world.ask(check_request(token=token))
        assert answer.dynamic_metadata.fields["reason"].string_value == reason.text
        assert status_of(answer) == 401
        assert token not in str(answer)
        denied = answer.denied_response
        problem = json.loads(denied.body)
        del problem["decision_id"]
        answers.add((str(denied.headers), str(problem)))
    ((headers, _),) = answers
    assert "invalid_token" in headers


@pytest.mark.standard("E5")
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        ["Bearer {token}", "Bearer {token}"],
        ["Bearer {token}", "Basic eDp5"],
        ["Basic eDp5", "Bearer {token}"],
        ["Bearer {token},Bearer {token}"],
        ["Basic eDp5, Bearer {token}"],
        ["", "Bearer {token}"],
        ["Bearer {token}\u00e4"],
        ["Bear\u00e9r {token}"],
        ["Bearer  {token}"],
        ["Bearer {token} "],
        ["Bearer {token} x"],
        ["Bearer \t{token}"],
        ["{token}"],
        ["Bearer"],
        [""],
    ],
)
def test_a_credential_that_two_readers_could_read_differently_is_refused(
    world: World, values: list[str], *, raw: bool
) -> None:
    headers = [("authorization", value.format(token=world.token()).encode()) for value in values]
    assert status_of(world.ask(check_request(headers=headers, raw=raw))) == 401


@pytest.mark.standard("E5")
@pytest.mark.parametrize(
    "value", ["Bearer a,b", "Bearer a, Bearer b", "Basic a, Bearer b", "Bearer \u00e4", "\u00e4 x", "Bearer "]
)
def test_what_is_not_exactly_one_credential_is_refused_before_anybody_parses_it(value: str) -> None:
    with pytest.raises(TokenRefused):
        bearer([value])
    with pytest.raises(TokenRefused):
        bearer(["Bearer a", "Bearer b"])


@pytest.mark.standard("E5")
def test_bytes_that_are_no_text_in_the_credential_are_refused(world: World) -> None:
    token = world.token().encode()
    for value in (b"Bearer " + token + b"\xff", b"Bearer \xc3\x28" + token, b"\xff"):
        for raw in (False, True):
            assert status_of(world.ask(check_request(headers=[("authorization", value)], raw=raw))) == 401


@pytest.mark.standard("E5")
def test_a_credential_in_the_map_and_in_the_raw_headers_is_two(world: World) -> None:
    request = check_request(token=world.token(), raw=True)
    request.attributes.request.http.headers["authorization"] = f"Bearer {world.token()}"
    assert status_of(world.ask(request)) == 401


@pytest.mark.standard("E5")
@pytest.mark.parametrize(
    "path",
    [
        "",
        "*",
        "v1/orders/7",
        "http://evil/v1/orders/7",
        "//v1/orders/7",
        "/v1//orders/7",
        "/v1/orders//7",
        "/public/../v1/orders/7",
        "/v1/./orders/7",
        "/v1/orders/..",
        "/v1/orders/a%2fb",
        "/v1/orders/a%2Fb",
        "/v1/orders/a%5Cb",
        "/v1/orders/a\\b",
        "/v1/orders/%2e%2e",
        "/v1/orders/a%252fb",
        "/v1/orders/%00",
        "/v1/orders/%0a",
        "/v1/orders/%zz",
        "/v1/orders/%4",
        "/v1/orders/7;jsessionid=1",
        "/v1/orders/7%3Bx",
        "/v1/orders/7#frag",
        "/v1/orders/7?x#frag",
        "/v1/orders/7\x00",
        "/v1/orders/7\r\nx: y",
        "/v1/orders/ 7",
        "/v1/orders/\u00e4",
        "/v1/orders/%ff",
        "/v1/orders/%c0%af",
        "/v1/orders/" + "a" * 9000,
    ],
)
def test_a_path_that_two_readers_could_read_differently_is_refused(world: World, path: str) -> None:
    answer = world.ask(check_request(path=path, token=world.token()))
    assert status_of(answer) == 400
    assert answer.dynamic_metadata.fields["reason"].string_value == "request_invalid"


@pytest.mark.standard("E5")
@pytest.mark.parametrize("raw", [False, True])
def test_bytes_that_envoy_writes_as_an_exclamation_mark_do_not_pass_for_one(world: World, *, raw: bool) -> None:
    """HTTP/2 carries them to the service as they are; only the raw header tells the two apart."""
    token = world.token()
    assert status_of(world.ask(check_request(path=b"/v1/orders/\xff", token=token, raw=raw))) == 400
    assert status_of(world.ask(check_request(path=b"/v1/orders/!\xff", token=token, raw=raw))) == 400
    assert status_of(world.ask(check_request(path="/v1/orders/!", token=token, raw=raw))) == (200 if raw else 400)
    assert status_of(world.ask(check_request(path="/v1/orders/7?a=!", token=token, raw=raw))) == 200


@pytest.mark.standard("E5")
def test_an_encoded_question_mark_stays_in_its_segment(world: World) -> None:
    """`/v1/orders?x` is another route than `/v1/orders%3Fx`, however a proxy spells it (Heimdall's bypass)."""
    assert status_of(world.ask(check_request("POST", "/v1/orders?x=/admin", token=world.token()))) == 200
    assert status_of(world.ask(check_request("POST", "/v1/orders%3Fx", token=world.token()))) == 403


@pytest.mark.standard("E2")
def test_what_no_route_names_is_denied_with_and_without_a_credential(world: World) -> None:
    for token in (None, world.token()):
        answer = world.ask(check_request(path="/elsewhere", token=token))
        assert status_of(answer) == 403
        assert answer.dynamic_metadata.fields["reason"].string_value == "no_route"
        assert "route" not in answer.denied_response.body


@pytest.mark.standard("E2")
def test_without_a_policy_everything_is_denied() -> None:
    world = World("version: 1\n")
    assert status_of(world.ask(check_request(token=world.token()))) == 403


@pytest.mark.standard("E7")
def test_a_scope_that_does_not_cover_the_permission_is_named_as_such(world: World) -> None:
    answer = world.ask(check_request(token=world.token(scope=("orders.write",))))
    assert status_of(answer) == 403
    assert headers_of(answer.denied_response.headers)["www-authenticate"] == (
        'Bearer realm="authsvc", error="insufficient_scope"'
    )


@pytest.mark.standard("E7")
def test_what_no_role_gives_is_denied_without_a_challenge(world: World) -> None:
    token = world.token(scope=("orders.audit",))
    answer = world.ask(check_request(path="/admin/x", token=token))
    assert status_of(answer) == 403
    assert "www-authenticate" not in headers_of(answer.denied_response.headers)


@pytest.mark.standard("J12", "E10")
def test_a_route_without_an_audience_takes_those_its_proxy_is_bound_to_and_never_any(world: World) -> None:
    answer = world.ask(check_request(path="/no-audience", token=world.token()))
    assert status_of(answer) == 403
    assert answer.dynamic_metadata.fields["reason"].string_value == "audience_refused"
    bound = World(proxies=(config.Proxy(peer="loopback", audiences=("orders",)),))
    assert bound.ask(check_request(path="/no-audience", token=bound.token())).status.code == 0
    foreign = World(proxies=(config.Proxy(peer="loopback", audiences=("stock",)),))
    assert status_of(foreign.ask(check_request(path="/no-audience", token=foreign.token()))) == 401


@pytest.mark.standard("E7")
def test_a_denial_is_a_problem_with_an_id_and_never_stored(world: World) -> None:
    denied = world.ask(check_request()).denied_response
    headers = headers_of(denied.headers)
    assert headers["content-type"] == "application/problem+json"
    assert headers["cache-control"] == "no-store"
    problem = json.loads(denied.body)
    assert problem["title"] == "Unauthorized"
    assert problem["status"] == 401
    assert re.fullmatch("[0-9a-f]{32}", problem["decision_id"])


@pytest.mark.standard("E7")
def test_a_denial_of_head_has_no_body(world: World) -> None:
    answer = world.ask(check_request("HEAD", token=world.token()))
    assert status_of(answer) == 403
    assert not answer.denied_response.body
    assert "content-type" not in headers_of(answer.denied_response.headers)


# --- what the proxy says, and what the client says -----------------------------------------------------------------


@pytest.mark.standard("E6")
def test_context_extensions_reach_conditions_and_headers_of_their_names_do_not(world: World) -> None:
    def ask(**given: Any) -> int:
        return status_of(world.ask(check_request("POST", "/v1/orders", token=world.token(), **given)))

    assert ask() == 200
    assert ask(extensions={"frozen": "no"}) == 200
    assert ask(extensions={"frozen": "yes"}) == 403
    assert ask(extensions={"frozen": "no"}, headers=[("frozen", b"yes"), ("x-frozen", b"yes")]) == 200


@pytest.mark.standard("E6")
def test_the_destination_is_the_proxys_word_and_not_a_headers(world: World) -> None:
    destination = "spiffe://td/ns/shop/sa/orders"
    assert status_of(world.ask(check_request(path="/mesh/x", token=world.token(), destination=destination))) == 200
    spoofed = [("x-forwarded-client-cert", f"URI={destination}".encode())]
    assert status_of(world.ask(check_request(path="/mesh/x", token=world.token(), headers=spoofed))) == 403


@pytest.mark.standard("E5")
def test_forwarded_headers_do_not_change_the_route(world: World) -> None:
    headers = [
        (name, b"/v1/orders/7")
        for name in ("x-forwarded-uri", "x-original-url", "x-rewrite-url", "x-envoy-original-path", "x-forwarded-path")
    ]
    headers += [("x-http-method-override", b"GET"), ("x-forwarded-method", b"GET")]
    assert status_of(world.ask(check_request("POST", "/admin/x", token=world.token(), headers=headers))) == 403


@pytest.mark.standard("E10")
def test_a_peer_that_is_no_proxy_gets_an_explicit_denial(world: World) -> None:
    for address in ("192.0.2.1", "", "::ffff:192.0.2.1"):
        answer = world.ask(check_request(token=world.token()), peer_address=address)
        assert status_of(answer) == 403
        assert answer.dynamic_metadata.fields["reason"].string_value == "caller_not_permitted"


@pytest.mark.standard("E10")
def test_a_proxy_is_bound_to_its_routes_and_audiences() -> None:
    def world(**bounds: Any) -> World:
        proxy = config.Proxy(peer="spiffe://td/ns/edge/sa/*", **bounds)
        return World(proxies=[proxy])

    def ask(one: World, path: str = "/v1/orders/7") -> int:
        peer = {"peer_address": "192.0.2.9", "peer_identities": ("spiffe://td/ns/edge/sa/envoy",)}
        return status_of(one.ask(check_request(path=path, token=one.token()), **peer))

    assert ask(world()) == 200
    assert ask(world(routes=("read",), audiences=("orders",))) == 200
    assert ask(world(routes=("re*",))) == 200
    assert ask(world(routes=("write",))) == 403
    assert ask(world(audiences=("billing",))) == 403
    assert ask(world(routes=("read",)), "/v1/metered") == 403


@pytest.mark.standard("E10")
def test_a_proxys_routes_and_audiences_hold_together() -> None:
    """Two entries add up, but the routes of one do not combine with the audiences of the other."""
    entries = [
        config.Proxy(peer="loopback", routes=("read",), audiences=("billing",)),
        config.Proxy(peer="loopback", routes=("write",), audiences=("orders",)),
    ]
    world = World(proxies=entries)
    assert status_of(world.ask(check_request(token=world.token()))) == 403
    assert status_of(world.ask(check_request("POST", "/v1/orders", token=world.token()))) == 200


@pytest.mark.standard("E10", "S12")
def test_a_peer_named_by_a_pattern_is_not_believed_without_its_certificate() -> None:
    world = World(proxies=[config.Proxy(peer="spiffe://td/**")])
    claimed = {"metadata": {"x-forwarded-client-cert": "URI=spiffe://td/envoy"}}
    assert status_of(world.ask(check_request(token=world.token()), **claimed)) == 403


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.standard("E7", "R12")
def test_a_routes_limit_refuses_with_429_and_the_time_to_wait(world: World) -> None:
    token = world.token()
    answers = [world.ask(check_request(path="/v1/metered", token=token)) for _ in range(4)]
    assert [status_of(answer) for answer in answers] == [200, 200, 200, 429]
    told = [headers_of(answer.ok_response.response_headers_to_add)["ratelimit"] for answer in answers[:3]]
    assert [text.partition(",")[0] for text in told] == [
        f'"per_user";r={n};t={t}' for n, t in ((2, 20), (1, 40), (0, 60))
    ]
    denied = answers[3].denied_response
    headers = headers_of(denied.headers)
    assert headers["ratelimit-policy"] == '"per_user";q=3;w=60'
    assert headers["ratelimit"] == '"per_user";r=0;t=20'
    assert headers["retry-after"] == "20"
    problem = json.loads(denied.body)
    assert problem["type"].endswith("#quota-exceeded")
    assert problem["violated-policies"] == ["per_user"]
    world.clock.advance(20)
    assert status_of(world.ask(check_request(path="/v1/metered", token=token))) == 200


@pytest.mark.standard("E7")
def test_the_time_to_wait_is_rounded_up(world: World) -> None:
    token = world.token()
    for _ in range(3):
        world.ask(check_request(path="/v1/metered", token=token))
    world.clock.advance(us=500_001)
    headers = headers_of(world.ask(check_request(path="/v1/metered", token=token)).denied_response.headers)
    assert (headers["ratelimit"], headers["retry-after"]) == ('"per_user";r=0;t=20', "20")


@pytest.mark.standard("R12")
def test_a_window_that_is_no_whole_seconds_and_a_wait_that_does_not_help_are_not_told() -> None:
    rule = LimitRule("fast", "api", (("subject", "*"),), Rate(5, 1_500_000), 5)
    never = LimitOutcome(rule, False, 5, 0, 0, None, DecidedBy.STORE)
    assert rate_limit_fields([never]) == (("ratelimit-policy", '"fast";q=5'), ("ratelimit", '"fast";r=0'))
    assert rate_limit_fields([]) == ()


@pytest.mark.standard("R4", "R15")
def test_only_what_is_allowed_is_counted_and_each_subject_by_itself() -> None:
    world = World(grants=[("client:other", "viewer")])
    unscoped = world.token(scope=("orders.write",))
    for _ in range(9):
        assert status_of(world.ask(check_request(path="/v1/metered", token=unscoped))) == 403
        assert status_of(world.ask(check_request(path="/v1/metered"))) == 401
    for subject in ("client:web", "client:other"):
        token = world.token(subject=subject)
        told = [status_of(world.ask(check_request(path="/v1/metered?n=1", token=token))) for _ in range(4)]
        assert told == [200, 200, 200, 429]


class FailedCounters:
    """A store that is out of reach: its rules follow `on_failure: closed`, or it raises."""

    def __init__(self, fault: BaseException | None = None) -> None:
        self._fault = fault

    async def consume(self, hits: Any, *, peek: bool = False) -> list[LimitOutcome]:
        if self._fault is not None:
            raise self._fault
        return [self._closed(hit) for hit in hits]

    @staticmethod
    def _closed(hit: Hit) -> LimitOutcome:
        return LimitOutcome(hit.rule, False, hit.rule.meter.limit, 0, 0, None, DecidedBy.FAILED_CLOSED)


@pytest.mark.standard("E7", "R10")
def test_a_limit_that_could_not_be_counted_is_our_fault_and_not_the_callers() -> None:
    world = World(counters=FailedCounters())
    answer = world.ask(check_request(path="/v1/metered", token=world.token()))
    assert status_of(answer) == 503
    assert headers_of(answer.denied_response.headers)["retry-after"] == "1"
    assert answer.dynamic_metadata.fields["reason"].string_value == "counters_unavailable"


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.standard("E2", "U3")
@pytest.mark.parametrize(
    "fault", [RuntimeError("secret inner text"), Unavailable("down"), KeyError("x"), SystemExit(1), KeyboardInterrupt()]
)
def test_whatever_is_raised_inside_becomes_an_explicit_denial(fault: BaseException) -> None:
    world = World(counters=FailedCounters(fault))
    answer = world.ask(check_request(path="/v1/metered", token=world.token()))
    assert status_of(answer) == 503
    assert "secret" not in str(answer)


@pytest.mark.standard("E3")
def test_an_allow_that_comes_after_the_deadline_is_a_denial() -> None:
    class SlowCounters(FailedCounters):
        async def consume(self, hits: Any, *, peek: bool = False) -> list[LimitOutcome]:
            slow.seconds += 0.2
            return [self._closed(hit)._replace(allowed=True, decided_by=DecidedBy.STORE) for hit in hits]

    slow = World(counters=SlowCounters())
    request = check_request(path="/v1/metered", token=slow.token())
    assert status_of(slow.ask(request, deadline=slow.seconds + 0.3)) == 200
    answer = slow.ask(request, deadline=slow.seconds + 0.1)
    assert status_of(answer) == 503
    assert answer.dynamic_metadata.fields["reason"].string_value == "deadline_exceeded"


@pytest.mark.standard("E2")
def test_a_replica_that_may_not_answer_denies(world: World) -> None:
    class TooOld:
        @property
        def current(self) -> Any:
            raise Unavailable("the snapshot is too old")

    world.engine._around = replace(world.engine._around, state=TooOld())  # type: ignore[arg-type]
    assert status_of(world.ask(check_request(token=world.token()))) == 503


@pytest.mark.standard("E1", "E2")
@pytest.mark.parametrize("reason", Reason)
def test_every_ready_made_denial_denies(reason: Reason) -> None:
    answer = CheckResponse.FromString(EnvoyAuthorization.deny(reason, denial_status(reason)))
    assert status_of(answer) in {403, 503}
    assert not answer.HasField("error_response")
    assert not answer.HasField("ok_response")


@pytest.mark.standard("E2")
@pytest.mark.parametrize("request_bytes", [b"", b"\x0a\x00", b"\xff\xff\xff", b"\x0a\x80", b"x" * 300_000])
def test_what_is_no_question_is_denied(world: World, request_bytes: bytes) -> None:
    answer = world.serve(request_bytes)
    assert isinstance(answer, bytes)
    assert status_of(CheckResponse.FromString(answer)) in {400, 403}


@pytest.mark.standard("E2")
def test_the_network_filters_question_is_denied(world: World) -> None:
    request = CheckRequest()
    request.attributes.source.principal = "spiffe://td/x"
    assert status_of(world.ask(request)) == 400


@pytest.mark.standard("E2", "E9")
def test_published_requests_meet_no_exception_and_no_allow_without_a_credential(world: World, corpora: Any) -> None:
    files = sorted((corpora / "ext_authz" / "requests").glob("*.json"))
    assert files
    for file in files:
        request = json_format.Parse(file.read_text(), CheckRequest(), ignore_unknown_fields=True)
        assert status_of(world.ask(request)) in {400, 401, 403}, file.name
        http = request.attributes.request.http
        http.method, http.path = "GET", "/v1/orders/7"
        assert status_of(world.ask(request)) == 401, file.name
    assert not world.kept.faults


# --- what is told about a decision ----------------------------------------------------------------------------------


@pytest.mark.standard("E8", "U8")
def test_metadata_tells_the_decision_and_no_identifier(world: World) -> None:
    answer = world.ask(check_request(path="/v1/metered", token=world.token()))
    told = {key: value.string_value or value.number_value for key, value in answer.dynamic_metadata.fields.items()}
    assert re.fullmatch("[0-9a-f]{32}", str(told.pop("decision_id")))
    pseudonym = str(told.pop("subject_pseudonym"))
    assert re.fullmatch("[0-9a-f]{32}", pseudonym)
    assert told == {
        "decision": "allow",
        "reason": "allowed",
        "route": "metered",
        "role": "writer",
        "rule": "per_user",
        "remaining": 2,
        "decided_by": "store",
    }
    assert "client:web" not in str(answer.dynamic_metadata)
    again = world.ask(check_request("POST", "/v1/orders", token=world.token()))
    assert again.dynamic_metadata.fields["subject_pseudonym"].string_value == pseudonym
    assert not answer.ok_response.HasField("dynamic_metadata")  # deprecated, and would win over the outer one


@pytest.mark.standard("U7")
def test_a_denial_is_audited_with_whom_it_concerned(world: World) -> None:
    world.ask(check_request(path="/admin/x", token=world.token()))
    (event,) = world.kept.events
    assert (event.outcome, event.reason, event.subject) == ("denied", "scope_insufficient", "client:web")


def test_the_pseudonyms_key_is_not_short() -> None:
    with pytest.raises(ValueError):
        EnvoyAuthorization(None, pseudonym_key=b"short")  # type: ignore[arg-type]


def test_the_policy_of_these_tests_has_the_routes_they_name() -> None:
    assert World(POLICY).state.current.policy.routes.names[:3] == ("mesh", "read", "head")
