"""Hostile requests against a model of Envoy: whatever comes, only what the policy says gets through (STANDARDS E9)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.api.envoy_authz import IDENTITY_HEADERS
from authsvc.api.envoy_messages import CheckResponse
from tests.api.envoy_model import ENVOYS, Envoy, Headers, Seen
from tests.api.envoy_world import World, check_request, stranger
from tests.support.scale import scale

WORLD = World(grants=[("user:ann", "viewer")])
NOW = WORLD.clock.now()

GOOD = {
    "web": WORLD.token(token_id="1" * 32),
    "ann": WORLD.token(subject="user:ann", client_id="portal", tenant="acme", token_id="2" * 32),
}
"""Tokens that verify; both may read orders, only the first may write."""

IDENTITY = {
    "web": {
        "x-authsvc-subject": "client:web",
        "x-authsvc-client-id": "web",
        "x-authsvc-scope": "orders.read orders.write",
        "x-authsvc-token-id": "1" * 32,
    },
    "ann": {
        "x-authsvc-subject": "user:ann",
        "x-authsvc-client-id": "portal",
        "x-authsvc-scope": "orders.read orders.write",
        "x-authsvc-tenant": "acme",
        "x-authsvc-token-id": "2" * 32,
    },
}

BAD = [
    WORLD.token(signer=stranger()),
    WORLD.token(audience=("authsvc",)),
    WORLD.token(issue_time=NOW - 900, expire_time=NOW - 300),
    GOOD["web"][:-1],
    GOOD["web"] + "=",
    GOOD["web"].replace(".", "..", 1),
    GOOD["web"].rpartition(".")[0] + ".",
    "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjbGllbnQ6d2ViIn0.",
    "x",
]

ROUTES = {
    ("GET", re.compile(r"/v1/orders/[A-Za-z0-9._~!$&'()+,=:@-]+")): {"web", "ann"},
    ("POST", re.compile(r"/v1/orders")): {"web"},
}
"""The policy once more, by hand and over the raw path: who may use what, percent-encoding left out."""

TOKENS = st.sampled_from([*GOOD.values(), *BAD])
CREDENTIALS = st.one_of(
    TOKENS.map(lambda token: f"Bearer {token}".encode()),
    TOKENS.map(lambda token: f"bearer {token}".encode()),
    st.tuples(st.sampled_from(["Basic", "Bearer ", "Bearer,", "DPoP", "", "Bearer\u00a0"]), TOKENS).map(
        lambda parts: " ".join(parts).encode()
    ),
    st.tuples(TOKENS, TOKENS).map(lambda pair: f"Bearer {pair[0]},Bearer {pair[1]}".encode()),
    st.binary(max_size=24),
)
SEGMENTS = st.sampled_from(
    [
        "v1",
        "orders",
        "7",
        "admin",
        "",
        ".",
        "..",
        "%2e%2e",
        "%2f",
        "a%5cb",
        ";x",
        "\\",
        "#",
        "%00",
        "%",
        "a%20b",
        "é",
        "*",
    ]
)
PATHS = st.one_of(
    st.sampled_from(["/v1/orders/7", "/v1/orders", "/v1/orders/7?a=b", "/admin/x", "", "*", "v1/orders/7"]),
    st.lists(SEGMENTS, max_size=5).map(lambda segments: "/" + "/".join(segments)),
    st.tuples(
        st.sampled_from(["/v1/orders/7", "/v1/orders"]), st.sampled_from(["/", "?", "#", ";", "%3f", "%23", "//"])
    ).map("".join),
    st.text(max_size=16).filter(lambda text: text.isprintable()),
)
METHODS = st.sampled_from(["GET", "POST", "HEAD", "get", "OPTIONS", "", "GET POST", "CONNECT"])
SPOOFED = st.sampled_from(
    [
        *IDENTITY_HEADERS,
        *(name.replace("-", "_") for name in IDENTITY_HEADERS),
        "x-authsvc_subject",
        "x_authsvc-client_id",
        "x-forwarded-uri",
        "x-original-url",
        "x-http-method-override",
        "proxy-authorization",
    ]
)


@dataclass(frozen=True)
class Hostile:
    """What a client sends, and how Envoy is set up to tell it."""

    method: str
    path: str
    authorization: tuple[bytes, ...]
    spoofed: tuple[tuple[str, bytes], ...]
    is_raw: bool

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        return [*self.spoofed, *(("authorization", value) for value in self.authorization)]

    @property
    def client(self) -> Headers:
        return [(name.lower(), value.decode("latin-1")) for name, value in self.headers]

    @property
    def bearer(self) -> str | None:
        """Who sends, by a rule of its own: one header, seven characters of scheme and space, one good token."""
        if len(self.authorization) != 1:
            return None
        sent = self.authorization[0].decode("latin-1")
        is_bearer = sent[:7].lower() == "bearer "
        return next((who for who, token in GOOD.items() if is_bearer and sent[7:] == token), None)

    @property
    def may(self) -> bool:
        path = self.path.partition("?")[0]
        return "#" not in self.path and any(
            method == self.method and pattern.fullmatch(path) and self.bearer in who
            for (method, pattern), who in ROUTES.items()
            if not {".", ".."} & set(path.split("/"))
        )


Drawn = TypeVar("Drawn")


def mostly(good: Drawn, hostile: st.SearchStrategy[Drawn]) -> st.SearchStrategy[Drawn]:
    """One part in four hostile, so that requests come that are wrong in one place only, or nowhere."""
    return st.integers(0, 3).flatmap(lambda draw: st.just(good) if draw else hostile)


GOOD_CREDENTIAL = st.sampled_from(list(GOOD.values())).map(lambda token: (f"Bearer {token}".encode(),))
HOSTILE = st.builds(
    Hostile,
    mostly("GET", METHODS),
    mostly("/v1/orders/7", PATHS),
    st.one_of(GOOD_CREDENTIAL, st.lists(CREDENTIALS, max_size=2).map(tuple)),
    st.lists(st.tuples(SPOOFED, st.sampled_from([b"client:root", b"", b"\xff"])), max_size=4).map(tuple),
    st.booleans(),
)


def seen_by_all(answer: object, client: Headers) -> list[Seen]:
    return [envoy.meets(answer, client) for envoy in ENVOYS]


def identity_at_the_service(headers: Headers) -> dict[str, list[str]]:
    """What a CGI or WSGI service reads, for which `_` and `-` are one."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        if name.replace("_", "-") in IDENTITY_HEADERS:
            found.setdefault(name.replace("_", "-"), []).append(value)
    return found


@pytest.mark.standard("E1", "E2", "E4", "E5", "E9")
@pytest.mark.timeout(600)
@settings(max_examples=scale(10_000))
@given(HOSTILE)
def test_whatever_a_client_sends_every_envoy_lets_through_only_what_the_policy_says(hostile: Hostile) -> None:
    request = check_request(hostile.method, hostile.path, headers=hostile.headers, raw=hostile.is_raw)
    answer = WORLD.serve(request.SerializeToString())
    for seen in seen_by_all(answer, hostile.client):
        assert not seen.is_error
        assert not seen.allowed or hostile.bearer is not None
        if seen.allowed:
            assert hostile.bearer is not None
            expected = {name: [value] for name, value in IDENTITY[hostile.bearer].items()}
            assert identity_at_the_service(seen.upstream) == expected
        else:
            assert seen.status in {400, 401, 403}
        if "%" not in hostile.path and (hostile.is_raw or "!" not in hostile.path):
            assert seen.allowed == hostile.may


@pytest.mark.standard("E1", "E2", "E9", "U3")
@pytest.mark.timeout(600)
@settings(max_examples=scale(10_000))
@given(st.binary(max_size=64), st.integers(0, 400), st.integers(0, 40), st.booleans())
def test_whatever_bytes_come_every_envoy_gets_an_explicit_denial(
    noise: bytes,
    at: int,
    cut: int,
    has_credential: bool,  # noqa: FBT001 - hypothesis draws it
) -> None:
    whole = check_request(token=None if not has_credential else BAD[0]).SerializeToString()
    answer = WORLD.serve(whole[:at] + noise + whole[at + cut :])
    for seen in seen_by_all(answer, []):
        assert not seen.is_error
        assert not seen.allowed


@pytest.mark.standard("E1", "E9")
def test_the_model_knows_the_ways_in_which_answers_let_through_by_mistake() -> None:
    """An oracle that cannot say yes proves nothing."""
    empty = CheckResponse()
    ok_with_denial = CheckResponse()
    ok_with_denial.denied_response.status.code = 403
    error = CheckResponse()
    error.status.code = 7
    error.error_response.SetInParent()
    appended = CheckResponse()
    appended.ok_response.headers.add().header.key = "x-authsvc-subject"
    appended.ok_response.headers[0].header.value = "client:web"
    client = [("x-authsvc-subject", "client:root")]
    lenient, strict = Envoy(failure_mode_allow=True), Envoy()
    assert lenient.meets(empty.SerializeToString(), client).upstream == client
    assert strict.meets(ok_with_denial.SerializeToString(), client).allowed
    assert lenient.meets(error.SerializeToString(), client).allowed
    assert not strict.meets(error.SerializeToString(), client).allowed
    assert lenient.meets(None, client).allowed
    both = [*client, ("x-authsvc-subject", "client:web")]
    assert strict.meets(appended.SerializeToString(), client).upstream == both
