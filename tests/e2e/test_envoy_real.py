"""A real Envoy asks a real server: what its clients and the service behind it see."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from authsvc.api.envoy_authz import IDENTITY_HEADERS
from authsvc.cli.demo_envoy import EnvoySetup, echo_upstream, envoy_config, find_envoy, running_envoy
from authsvc.core.revocations import RevocationKind
from tests.api.envoy_world import World
from tests.support.envoy import Edge, edge, send, send_http2, serving

ERRORS = "http.edge.ext_authz.error"


@pytest.fixture(scope="module", params=["bytes", "text"])
def strict(request: pytest.FixtureRequest) -> Iterator[Edge]:
    """The recommended setup, headers as bytes and as text."""
    with edge(encode_raw_headers=request.param == "bytes") as one:
        yield one


@pytest.fixture(scope="module", params=["bytes", "text"])
def lenient(request: pytest.FixtureRequest) -> Iterator[Edge]:
    """An Envoy that normalises nothing and lets through whatever fails: only explicit denials hold it back."""
    raw = request.param == "bytes"
    with edge(encode_raw_headers=raw, strict_paths=False, failure_mode_allow=True) as one:
        yield one


@pytest.mark.standard("E1", "E2", "E4", "E7")
def test_allowed_denied_revoked_and_limited_each_have_their_status(strict: Edge) -> None:
    world = strict.world
    name = f"client:web-{secrets.token_hex(4)}"
    token_id = secrets.token_hex(16)
    token = world.token(token_id=token_id)
    allowed = strict.get(token=token)
    assert allowed.status == 200
    assert allowed.reached("x-authsvc-subject") == ["client:web"]
    assert allowed.reached("x-authsvc-token-id") == [token_id]
    assert allowed.reached("authorization") == [f"Bearer {token}"]
    assert strict.get().status == 401
    assert strict.get("/admin/x", token).status == 403
    assert strict.get("/nowhere", token).status == 403
    assert strict.get(token=world.token(subject=name)).status == 403
    world.revoke(RevocationKind.TOKEN, token_id)
    revoked = strict.get(token=token)
    assert revoked.status == 401
    assert revoked.headers["www-authenticate"] == 'Bearer realm="authsvc", error="invalid_token"'
    assert strict.envoy.counter(ERRORS) == 0


@pytest.mark.standard("E7", "R12")
def test_the_client_sees_its_limit_and_the_time_to_wait(strict: Edge) -> None:
    strict.world.clock.advance(3600)
    token = strict.world.token()
    answers = [strict.get("/v1/metered", token) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["ratelimit"].startswith('"per_user";r=2;t=20')
    assert answers[0].headers["ratelimit-policy"] == '"per_user";q=3;w=60, "per_address";q=100;w=3600'
    refused = answers[3]
    assert refused.headers["retry-after"] == "20"
    assert refused.headers["content-type"] == "application/problem+json"
    assert json.loads(refused.body)["violated-policies"] == ["per_user"]


@pytest.mark.standard("E7")
def test_a_denial_reaches_the_client_as_a_problem(strict: Edge) -> None:
    answer = strict.get()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert json.loads(answer.body)["status"] == 401
    head = strict.ask("HEAD", "/v1/orders/7")
    assert (head.status, head.body) == (401, "")


@pytest.mark.standard("E4")
def test_no_identity_header_of_the_client_reaches_the_service(lenient: Edge) -> None:
    spoofed = [
        (spelling, "client:root")
        for name in IDENTITY_HEADERS
        for spelling in (name, name.upper(), name.replace("-", "_"), name.replace("-", "_", 1), name)
    ]
    answer = lenient.get(token=lenient.world.token(tenant="acme"), headers=spoofed)
    assert answer.status == 200
    assert answer.reached("x-authsvc-subject") == ["client:web"]
    assert answer.reached("x-authsvc-tenant") == ["acme"]
    without_tenant = lenient.get(token=lenient.world.token(), headers=spoofed)
    assert without_tenant.reached("x-authsvc-tenant") == []
    assert "root" not in without_tenant.body


@pytest.mark.standard("E4")
def test_an_identity_that_is_no_plain_text_reaches_the_service_encoded() -> None:
    subject = "user:ännä, 100 %"
    world = World(grants=[(subject, "viewer")], monotonic=time.monotonic)
    with edge(world) as one:
        answer = one.get(token=world.token(subject=subject))
    assert answer.reached("x-authsvc-subject") == ["user:%C3%A4nn%C3%A4%2C%20100%20%25"]


HOSTILE_TARGETS: list[str | bytes] = [
    "//v1/orders/7",
    "/v1//orders/7",
    "/public/../v1/orders/7",
    "/v1/./orders/7",
    "/v1/orders/..",
    "/v1/orders/a%2fb",
    "/v1/orders/a%5cb",
    "/v1/orders/a\\b",
    "/v1/orders/%2e%2e/%2e%2e/admin/x",
    "/v1/orders/%252e%252e",
    "/v1/orders/7%00",
    "/v1/orders/7;x=1",
    "/v1/orders/7#f",
    "/v1/orders/7#/../../admin",
    "/v1/orders/%zz",
    "v1/orders/7",
    "*",
    "http://orders.example/v1/orders/../orders/7",
    b"/v1/orders/\xff",
    b"/v1/orders/\xc3\xa4",
    b"/v1/orders/\x01",
]


@pytest.mark.standard("E2", "E5", "E9")
@pytest.mark.parametrize("target", HOSTILE_TARGETS)
def test_a_hostile_path_never_reaches_the_service_even_where_envoy_lets_failures_through(
    lenient: Edge, target: str | bytes
) -> None:
    answer = lenient.get(target, lenient.world.token())
    assert answer.status in {0, 400, 403, 404}
    assert answer.told is None
    assert lenient.envoy.counter(ERRORS) == 0


@pytest.mark.standard("E2", "E5", "E9")
def test_over_http2_the_service_gets_no_other_path_than_was_decided_about(lenient: Edge) -> None:
    """HTTP/2 lets bytes through that HTTP/1 does not, and Envoy tells them as `!`."""

    def get(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
        credential = (b"authorization", b"Bearer " + lenient.world.token().encode())
        return send_http2(lenient.envoy.url, [(b":path", path), credential, *more])

    assert b'"path": "/v1/orders/7"' in get(b"/v1/orders/7")
    for path in (b"/v1/orders/\xff", b"/v1/orders/\xc3\xa4", b"/v1/orders/7#x", b"/v1/orders/\x01", b"v1/orders/7"):
        assert b'"path"' not in get(path)
    assert b'"path"' not in get(b"/v1/orders/7", (b"authorization", b"Basic eDp5"))
    assert lenient.envoy.counter(ERRORS) == 0


@pytest.mark.standard("E2", "E5", "E9")
@pytest.mark.parametrize(
    "values",
    [
        [b"Bearer {token}", b"Bearer {token}"],
        [b"Basic eDp5", b"Bearer {token}"],
        [b"Bearer {token}, Bearer {token}"],
        [b"Bearer {token}\xff"],
        [b"Bearer {token}\xc3\xa4"],
        [b"Bearer \xff", b"Bearer {token}"],
        [b"Bearer"],
        [b"Bearer " + b"a" * 9000],
        [b"Basic eDp5"],
    ],
)
def test_a_hostile_credential_is_denied_even_where_envoy_lets_failures_through(
    lenient: Edge, values: list[bytes]
) -> None:
    token = lenient.world.token().encode()
    headers = [("Authorization", value.replace(b"{token}", token)) for value in values]
    answer = lenient.get(headers=headers)
    assert answer.status in {400, 401}
    assert lenient.envoy.counter(ERRORS) == 0


@pytest.mark.standard("E5")
def test_an_empty_second_credential_is_gone_before_anybody_reads_it(lenient: Edge) -> None:
    """Envoy itself makes one header of the two: the service reads what was decided about."""
    token = lenient.world.token()
    for values in (("", f"Bearer {token}"), (f"Bearer {token}", "")):
        answer = lenient.get(headers=[("Authorization", value) for value in values])
        assert answer.status == 401 or answer.reached("authorization") == [f"Bearer {token}"]


@pytest.mark.standard("E2", "E5")
@pytest.mark.parametrize("value", [b"\xff\xfe", b"\xc3\x28", "ä".encode(), b"a" * 20_000])
def test_an_odd_header_beside_the_credential_makes_no_failure(lenient: Edge, value: bytes) -> None:
    assert lenient.get(headers=[("x-odd", value)]).status == 401
    assert lenient.get(token=lenient.world.token(), headers=[("x-odd", value)]).status == 200
    assert lenient.envoy.counter(ERRORS) == 0


@pytest.mark.standard("E6")
def test_the_routes_extensions_decide_and_the_clients_headers_do_not() -> None:
    with edge(extensions=(("frozen", "yes"),)) as one:
        token = one.world.token()
        headers = [("frozen", "no"), ("context_extensions-frozen", "no")]
        assert one.ask("POST", "/v1/orders", token).status == 403
        assert one.ask("POST", "/v1/orders", token, headers[:1]).status == 403
        assert one.get(token=token).status == 200


@pytest.mark.standard("E7")
def test_with_the_service_gone_envoy_answers_503() -> None:
    world = World(monotonic=time.monotonic)
    headers = [("Authorization", f"Bearer {world.token()}")]
    with ExitStack() as served, echo_upstream() as upstream:
        authsvc = served.enter_context(serving(world))
        with running_envoy(EnvoySetup(authsvc, upstream)) as envoy:
            assert send(envoy.url, headers=headers).status == 200
            served.close()
            assert send(envoy.url, headers=headers).status == 503


def test_envoy_itself_takes_the_configuration(tmp_path: Path) -> None:
    binary = find_envoy()
    assert binary is not None
    for strict_paths in (True, False):
        setup = EnvoySetup("127.0.0.1:1", "[::1]:2", strict_paths=strict_paths, extensions=(("a", "b"),))
        config = tmp_path / "envoy.json"
        config.write_text(envoy_config(setup, tmp_path / "admin"))
        subprocess.run([binary, "--mode", "validate", "-c", config], check=True, capture_output=True, timeout=30)
