"""The FastAPI dependency, through a whole application.

Without postponed annotations: FastAPI reads those of the routes below, which name local variables.
"""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket

from authsvc.core.errors import InvalidRequest
from authsvc_client import AsyncClient, BearerToken, Consumption, current_token
from authsvc_client.fastapi import RESPONSES, requires
from authsvc_client.guard import Verify
from authsvc_client.testing import FakeAuthsvc
from tests.client.conftest import BRIEF, PATIENT

Get = Callable[..., httpx.Response]


def application(client: AsyncClient, verify: Verify) -> FastAPI:
    app = FastAPI(responses=RESPONSES)
    reader = Depends(requires(client, "orders:read", resource="orders/{order_id}", verify=verify))
    limited = Depends(
        requires(client, "orders:read", consume=[Consumption("api", [{"path": "/limited"}])], verify=verify)
    )

    async def get_order(order_id: str, bearer: Annotated[BearerToken, reader]) -> dict[str, str]:
        return {"order": order_id, "subject": bearer.subject}

    async def get_lost(bearer: Annotated[BearerToken, reader]) -> str:
        return bearer.subject

    async def get_limited(bearer: Annotated[BearerToken, limited]) -> str:
        return bearer.subject

    def whoami(_bearer: Annotated[BearerToken, Depends(requires(client, verify=verify))]) -> str:
        token = current_token()
        return token.subject if token else "nobody"

    async def open_to_all() -> str:
        token = current_token()
        return token.subject if token else "nobody"

    app.get("/orders/{order_id}")(get_order)
    app.get("/any/{order_id:path}")(get_order)
    app.get("/lost")(get_lost)
    app.get("/limited")(get_limited)
    app.get("/whoami")(whoami)
    app.get("/open")(open_to_all)
    return app


@pytest.fixture(params=list(Verify), ids=str)
def get(authsvc: FakeAuthsvc, request: pytest.FixtureRequest) -> Get:
    """One GET on the application, which keeps its client over several loops."""
    return getter(authsvc.async_client(AUTHSVC_DEADLINE=PATIENT), request.param)


def getter(client: AsyncClient, verify: Verify) -> Get:
    app = application(client, verify)

    def get(path: str, token: str = "", headers: Any = None) -> httpx.Response:
        async def run() -> httpx.Response:
            async with client, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as http:
                given = {"Authorization": f"Bearer {token}"} if token else {}
                return await http.get(path, headers=headers or given)

        return asyncio.run(run())

    return get


def test_who_holds_the_permission_comes_in(authsvc: FakeAuthsvc, get: Get) -> None:
    authsvc.grant("user:ann", "orders:read", resource="orders/*")
    answer = get("/orders/7", authsvc.token("user:ann"))
    assert answer.status_code == 200
    assert answer.json() == {"order": "7", "subject": "user:ann"}


def test_a_plain_function_knows_the_caller_too(authsvc: FakeAuthsvc, get: Get) -> None:
    assert get("/whoami", authsvc.token("user:bob")).json() == "user:bob"
    assert get("/open").json() == "nobody"


def test_no_credential_is_401_with_a_bare_challenge(get: Get) -> None:
    answer = get("/orders/7")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.standard("J17")
def test_a_token_that_is_not_valid_is_401_with_one_challenge_for_every_cause(authsvc: FakeAuthsvc, get: Get) -> None:
    revoked = authsvc.token("user:ann")
    authsvc.revoke(revoked)
    bad = ["rubbish", authsvc.token("user:ann", ttl=-60), authsvc.token("user:ann", audience=["x"]), revoked]
    answers = [get("/orders/7", token) for token in bad]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {'Bearer error="invalid_token"'}
    assert len({answer.text for answer in answers}) == 1


def test_two_credentials_are_none(authsvc: FakeAuthsvc, get: Get) -> None:
    authsvc.grant("user:ann", "orders:read")
    one = ("Authorization", f"Bearer {authsvc.token('user:ann')}")
    assert get("/orders/7", headers=[one]).status_code == 200
    assert get("/orders/7", headers=[one, one]).status_code == 401
    assert get("/orders/7", headers=[("Authorization", "Basic eDp5")]).status_code == 401


def test_without_the_permission_it_is_403(authsvc: FakeAuthsvc, get: Get) -> None:
    authsvc.grant("user:ann", "orders:read", resource="orders/8")
    answer = get("/orders/7", authsvc.token("user:ann"))
    assert answer.status_code == 403
    assert "WWW-Authenticate" not in answer.headers


def test_a_scope_that_does_not_cover_it_is_403_and_named(authsvc: FakeAuthsvc, get: Get) -> None:
    authsvc.apply_policy(
        {
            "version": 1,
            "permissions": {"orders:read": {}},
            "roles": {"reader": {"allow": ["orders:read"]}},
            "scopes": {"orders.read": ["orders:read"]},
            "bindings": [{"subject": "user:ann", "role": "reader"}],
        }
    )
    answer = get("/orders/7", authsvc.token("user:ann"))
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (403, 'Bearer error="insufficient_scope"')
    assert get("/orders/7", authsvc.token("user:ann", scope=["orders.read"])).status_code == 200


def test_a_path_parameter_never_spans_segments_of_the_resource(authsvc: FakeAuthsvc, get: Get) -> None:
    authsvc.grant("user:ann", "orders:read", resource="orders/**")
    token = authsvc.token("user:ann")
    assert get("/any/7", token).status_code == 200
    assert get("/any/7/8", token).status_code == 403
    assert get("/any/", token).status_code == 403
    assert get("/any/*", token).status_code == 403


def test_a_route_without_the_parameter_that_its_rule_names_denies(authsvc: FakeAuthsvc, get: Get) -> None:
    authsvc.grant("user:ann", "orders:read")
    assert get("/lost", authsvc.token("user:ann")).status_code == 403


def test_what_is_guarded_as_a_whole_runs_nothing_before_the_guard(authsvc: FakeAuthsvc) -> None:
    ran = []

    def note() -> None:
        ran.append("a dependency")

    async def handle(_noted: Annotated[None, Depends(note)]) -> None:
        ran.append("the handler")

    client = authsvc.async_client(AUTHSVC_DEADLINE=PATIENT)
    app = FastAPI()
    app.get("/first", dependencies=[Depends(requires(client, "orders:read"))])(handle)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop")
    assert asyncio.run(http.get("/first")).status_code == 401
    assert not ran


def test_a_websocket_is_not_let_in_by_a_guard_that_cannot_read_it(authsvc: FakeAuthsvc) -> None:
    authsvc.grant("user:ann", "orders:read")
    guard = Depends(requires(authsvc.async_client(AUTHSVC_DEADLINE=PATIENT), "orders:read"))
    sent: list[Any] = []
    token = authsvc.token("user:ann").encode()

    async def talk(websocket: WebSocket, _bearer: Annotated[BearerToken, guard]) -> None:
        await websocket.accept()

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    app = FastAPI()
    app.websocket("/talk")(talk)
    scope = {
        "type": "websocket",
        "path": "/talk",
        "raw_path": b"/talk",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer " + token)],
    }
    with pytest.raises(RuntimeError, match="guards HTTP routes only: this WebSocket is not let in"):
        asyncio.run(app(scope, receive, send))
    assert "websocket.accept" not in {message["type"] for message in sent}


@pytest.mark.parametrize("name", ["AUTHSVC_ISSUER", "AUTHSVC_AUDIENCE"])
def test_a_guard_that_could_never_verify_is_refused_where_it_is_made(authsvc: FakeAuthsvc, name: str) -> None:
    client = authsvc.async_client(**{name: ""})
    with pytest.raises(InvalidRequest, match=f"{name}.*is required to verify tokens locally"):
        requires(client, "orders:read", verify=Verify.LOCAL)
    requires(client, "orders:read")


def test_a_limit_is_429_with_retry_after(authsvc: FakeAuthsvc, get: Get) -> None:
    authsvc.grant("user:ann", "orders:read")
    authsvc.limit("per_path", match={"path": "*"}, rate="1/1m", burst=1)
    token = authsvc.token("user:ann")
    assert get("/limited", token).status_code == 200
    answer = get("/limited", token)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


@pytest.mark.parametrize("mode", ["deny", "raise", "allow"])
@pytest.mark.parametrize("verify", Verify, ids=str)
def test_without_the_service_it_is_503_unless_allowed_and_verified(
    authsvc: FakeAuthsvc, mode: str, verify: Verify
) -> None:
    authsvc.grant("user:ann", "orders:read")
    client = authsvc.async_client(AUTHSVC_DEADLINE=BRIEF, AUTHSVC_ON_UNAVAILABLE=mode)
    if verify is Verify.LOCAL:
        asyncio.run(client.prepare())
    get = getter(client, verify)
    token = authsvc.token("user:ann")
    assert get("/orders/7", token).status_code == 200
    authsvc.stop()
    answer = get("/orders/7", token)
    if mode == "allow" and verify is Verify.LOCAL:
        assert answer.status_code == 200
        assert get("/orders/7", "rubbish").status_code == 401
    else:
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
    assert get("/orders/7").status_code == 401


def test_the_scheme_shows_in_openapi(authsvc: FakeAuthsvc) -> None:
    document = application(authsvc.async_client(), Verify.REMOTE).openapi()
    scheme = document["components"]["securitySchemes"]["authsvc"]
    assert (scheme["type"], scheme["scheme"], scheme["bearerFormat"]) == ("http", "bearer", "JWT")
    guarded = document["paths"]["/orders/{order_id}"]["get"]
    assert guarded["security"] == [{"authsvc": []}]
    assert {"401", "403", "429", "503"} <= set(guarded["responses"])
    assert [parameter["name"] for parameter in guarded["parameters"]] == ["order_id"]
    assert "security" not in document["paths"]["/open"]["get"]
