"""The interceptors: sync and asyncio servers judge alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2

from authsvc.core.errors import InvalidRequest
from authsvc_client import Consumption, current_token
from authsvc_client.grpc_server import AsyncServerInterceptor, ServerInterceptor
from authsvc_client.guard import PUBLIC, Require, Rules, Verify
from authsvc_client.testing import FakeAuthsvc
from tests.client.conftest import BRIEF, PATIENT

RULES: Rules = {
    "/shop.Orders/Get": Require("orders:read", resource="orders/{value}"),
    "/shop.Orders/Plain": Require("orders:read", resource="orders/{value}"),
    "/shop.Orders/List": Require("orders:list"),
    "/shop.Orders/PlainList": Require("orders:list"),
    "/shop.Orders/Put": Require("orders:write"),
    "/shop.Orders/Chat": Require("orders:write"),
    "/shop.Orders/WhoAmI": Require(),
    "/shop.Orders/Health": PUBLIC,
    "/shop.Orders/PlainHealth": PUBLIC,
    "/shop.Orders/Nowhere": PUBLIC,
    "/shop.Orders/Limited": Require("orders:read", consume=[Consumption("api", [{"path": "/limited"}])]),
    "/shop.Orders/LimitedBySubject": Require(
        "orders:read",
        consume=lambda asked: [Consumption("api", [{"subject": asked.token.subject if asked.token else "nobody"}])],
    ),
    "/shop.Orders/InTenant": Require("orders:read", tenant=lambda asked: asked.metadata["x-tenant"]),
    "/shop.Orders/NoSuchField": Require("orders:read", resource="orders/{order_id}"),
    "/shop.Orders/LimitedByHeader": Require(
        "orders:read", consume=lambda asked: (Consumption("api", [{"plan": asked.metadata[name]}]) for name in ["plan"])
    ),
}


def who() -> str:
    token = current_token()
    return token.subject if token else "nobody"


def get(request: StringValue, _context: Any) -> StringValue:
    return StringValue(value=f"{who()} got {request.value}")


def listed(_request: StringValue, _context: Any) -> Iterator[StringValue]:
    for number in range(3):
        yield StringValue(value=f"{who()} {number}")


def put(requests: Iterator[StringValue], _context: Any) -> StringValue:
    return StringValue(value=f"{who()} put {sum(1 for _ in requests)}")


def chat(requests: Iterator[StringValue], _context: Any) -> Iterator[StringValue]:
    for request in requests:
        yield StringValue(value=f"{who()} said {request.value}")


async def get_async(request: StringValue, _context: Any) -> StringValue:
    await asyncio.sleep(0)
    return get(request, None)


async def listed_async(_request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
    for number in range(3):
        await asyncio.sleep(0)
        yield StringValue(value=f"{who()} {number}")


async def put_async(requests: AsyncIterator[StringValue], _context: Any) -> StringValue:
    count = 0
    async for _ in requests:
        count += 1
    return StringValue(value=f"{who()} put {count}")


async def chat_async(requests: AsyncIterator[StringValue], context: Any) -> None:
    """In the style that writes to the context."""
    async for request in requests:
        await context.write(StringValue(value=f"{who()} said {request.value}"))


class Orders(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A service with a method of each kind; `plain` ones are functions also on the asyncio server."""

    def __init__(self, *, awaiting: bool) -> None:
        unary, out, into, both = (
            (get_async, listed_async, put_async, chat_async) if awaiting else (get, listed, put, chat)
        )
        kinds: dict[str, tuple[Callable[..., Any], Any]] = {
            "List": (grpc.unary_stream_rpc_method_handler, out),
            "PlainList": (grpc.unary_stream_rpc_method_handler, listed),
            "Plain": (grpc.unary_unary_rpc_method_handler, get),
            "PlainHealth": (grpc.unary_unary_rpc_method_handler, get),
            "Put": (grpc.stream_unary_rpc_method_handler, into),
            "Chat": (grpc.stream_stream_rpc_method_handler, both),
        }
        unaries = ["Get", "WhoAmI", "Health", "Limited", "LimitedBySubject", "LimitedByHeader"]
        unaries += ["InTenant", "NoSuchField", "Unlisted"]
        kinds |= dict.fromkeys(unaries, (grpc.unary_unary_rpc_method_handler, unary))
        self._handlers = {
            f"/shop.Orders/{name}": make(behaviour, StringValue.FromString, StringValue.SerializeToString)
            for name, (make, behaviour) in kinds.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


@contextmanager
def blocking_server(authsvc: FakeAuthsvc, verify: Verify, **variables: str) -> Iterator[str]:
    with authsvc.client(**variables) as client:
        guard = ServerInterceptor(client, RULES, verify=verify)
        server = grpc.server(ThreadPoolExecutor(4), [Orders(awaiting=False)], [guard])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@contextmanager
def awaiting_server(authsvc: FakeAuthsvc, verify: Verify, **variables: str) -> Iterator[str]:
    """An asyncio server on a loop in a thread of its own."""
    loop = asyncio.new_event_loop()

    async def start() -> tuple[Any, Any, int]:
        client = authsvc.async_client(**variables)
        server = grpc.aio.server(interceptors=[AsyncServerInterceptor(client, RULES, verify=verify)])
        server.add_generic_rpc_handlers((Orders(awaiting=True),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return client, server, port

    async def stop(client: Any, server: Any) -> None:
        await server.stop(None)
        await client.aclose()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(loop.run_forever)
        client, server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            asyncio.run_coroutine_threadsafe(stop(client, server), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            running.result(10)
            loop.close()


Serve = Callable[..., Any]


@pytest.fixture(params=[blocking_server, awaiting_server], ids=["blocking", "awaiting"])
def serve(request: pytest.FixtureRequest) -> Serve:
    chosen: Serve = request.param
    return chosen


@pytest.fixture(params=list(Verify), ids=str)
def orders(authsvc: FakeAuthsvc, serve: Serve, request: pytest.FixtureRequest) -> Iterator[Caller]:
    with serve(authsvc, request.param, AUTHSVC_DEADLINE=PATIENT) as address, Caller(address) as caller:
        yield caller


class Caller:
    """Calls the guarded service as a bearer."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def __call__(self, method: str, token: str = "", value: str = "7", **metadata: str) -> Any:
        kind = {
            "List": self._channel.unary_stream,
            "PlainList": self._channel.unary_stream,
            "Put": self._channel.stream_unary,
            "Chat": self._channel.stream_stream,
        }.get(method, self._channel.unary_unary)
        call: Any = kind(f"/shop.Orders/{method}", StringValue.SerializeToString, StringValue.FromString)
        request = StringValue(value=value)
        given: Any = iter([request, request]) if method in {"Put", "Chat"} else request
        pairs = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        if token:
            pairs.append(("authorization", f"Bearer {token}"))
        answer = call(given, timeout=10, metadata=pairs)
        return answer.value if isinstance(answer, StringValue) else [each.value for each in answer]

    def refused(self, method: str, token: str = "", value: str = "7", **metadata: str) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as refused:
            self(method, token, value, **metadata)
        return refused.value


UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


def test_every_kind_of_method_lets_in_and_knows_its_caller(authsvc: FakeAuthsvc, orders: Caller) -> None:
    for permission in ("orders:read", "orders:list", "orders:write"):
        authsvc.grant("user:ann", permission)
    token = authsvc.token("user:ann")
    assert orders("Get", token) == "user:ann got 7"
    assert orders("Plain", token) == "user:ann got 7"
    assert orders("List", token) == ["user:ann 0", "user:ann 1", "user:ann 2"]
    assert orders("PlainList", token) == ["user:ann 0", "user:ann 1", "user:ann 2"]
    assert orders("Put", token) == "user:ann put 2"
    assert orders("Chat", token) == ["user:ann said 7", "user:ann said 7"]
    assert orders("WhoAmI", token) == "user:ann got 7"


@pytest.mark.parametrize("method", ["Get", "Plain", "List", "PlainList", "Put", "Chat"])
def test_every_kind_of_method_refuses(authsvc: FakeAuthsvc, orders: Caller, method: str) -> None:
    assert orders.refused(method).code() is UNAUTHENTICATED
    assert orders.refused(method, "rubbish").code() is UNAUTHENTICATED
    assert orders.refused(method, authsvc.token("user:bob")).code() is PERMISSION_DENIED


def test_a_method_that_is_not_listed_is_denied_whether_it_exists_or_not(authsvc: FakeAuthsvc, orders: Caller) -> None:
    token = authsvc.token("user:ann")
    assert orders.refused("Unlisted", token).code() is PERMISSION_DENIED
    assert orders.refused("NoSuchMethod", token).code() is PERMISSION_DENIED
    assert orders.refused("Nowhere", token).code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_public_method_is_open_and_has_no_token(authsvc: FakeAuthsvc, orders: Caller) -> None:
    assert orders("Health", authsvc.token("user:ann")) == "nobody got 7"


@pytest.mark.standard("J17")
def test_bearers_get_one_answer_for_every_cause(authsvc: FakeAuthsvc, orders: Caller) -> None:
    revoked = authsvc.token("user:ann")
    authsvc.revoke(revoked)
    bad = ["rubbish", authsvc.token("user:ann", ttl=-60), authsvc.token("user:ann", audience=["x"]), revoked]
    refusals = [orders.refused("Get", token) for token in bad]
    assert {(each.code(), each.details()) for each in refusals} == {(UNAUTHENTICATED, "the token is not valid")}


def test_two_credentials_are_none(authsvc: FakeAuthsvc, orders: Caller) -> None:
    authsvc.grant("user:ann", "orders:read")
    token = authsvc.token("user:ann")
    assert orders.refused("Get", token, authorization=f"Bearer {token}").code() is UNAUTHENTICATED
    assert orders.refused("Get", authorization=f"Basic {token}").code() is UNAUTHENTICATED
    assert orders("Get", authorization=f"bearer {token}") == "user:ann got 7"


def test_the_resource_comes_from_the_request_and_never_spans_segments(authsvc: FakeAuthsvc, orders: Caller) -> None:
    authsvc.grant("user:ann", "orders:read", resource="orders/**")
    token = authsvc.token("user:ann")
    assert orders("Get", token, "eu-7") == "user:ann got eu-7"
    for hostile in ("eu/7", "", "/", "*", "a\x00b"):
        assert orders.refused("Get", token, hostile).code() is PERMISSION_DENIED, hostile


def test_a_call_that_lacks_what_its_rule_asks_about_is_denied(authsvc: FakeAuthsvc, orders: Caller) -> None:
    authsvc.grant("user:ann", "orders:read")
    token = authsvc.token("user:ann")
    for method in ("InTenant", "NoSuchField", "LimitedByHeader"):
        assert orders.refused(method, token).code() is PERMISSION_DENIED, method


def test_the_tenant_comes_from_where_the_rule_says(authsvc: FakeAuthsvc, orders: Caller) -> None:
    authsvc.grant("user:ann", "orders:read", tenant="acme")
    token = authsvc.token("user:ann", tenant="acme")
    assert orders("InTenant", token, x_tenant="acme")
    assert orders.refused("InTenant", token, x_tenant="other").code() is PERMISSION_DENIED


def test_a_limit_refuses_and_says_when_to_come_back(authsvc: FakeAuthsvc, orders: Caller) -> None:
    authsvc.grant("user:ann", "orders:read")
    authsvc.limit("per_path", match={"path": "*"}, rate="1/1m", burst=1)
    token = authsvc.token("user:ann")
    assert orders("Limited", token)
    refused = orders.refused("Limited", token)
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # The stubs' pairs are no tuples.
    pairs: Any = refused.trailing_metadata()
    trailers = dict(pairs)
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.domain, info.reason) == ("authsvc", "LIMIT_EXCEEDED")
    assert 0 < retry.retry_delay.seconds <= 60


def test_who_came_in_before_is_not_known_to_the_next(authsvc: FakeAuthsvc, orders: Caller) -> None:
    for permission in ("orders:read", "orders:list"):
        authsvc.grant("user:ann", permission)
    token = authsvc.token("user:ann")
    for _ in range(8):
        orders("Plain", token)
        orders("PlainList", token)
    assert {orders("Health") for _ in range(16)} == {"nobody got 7"}
    assert {orders("PlainHealth") for _ in range(16)} == {"nobody got 7"}


def test_a_limit_by_subject_needs_local_verification(authsvc: FakeAuthsvc, serve: Serve) -> None:
    authsvc.grant("user:ann", "orders:read")
    authsvc.grant("user:bob", "orders:read")
    authsvc.limit("per_subject", match={"subject": "*"}, rate="1/1m", burst=1)
    with serve(authsvc, Verify.LOCAL, AUTHSVC_DEADLINE=PATIENT) as address, Caller(address) as orders:
        assert orders("LimitedBySubject", authsvc.token("user:ann"))
        assert orders("LimitedBySubject", authsvc.token("user:bob"))
        again = orders.refused("LimitedBySubject", authsvc.token("user:ann"))
    assert again.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_rubbish_costs_no_call_of_the_service_where_tokens_are_verified_here(
    authsvc: FakeAuthsvc, serve: Serve
) -> None:
    with serve(authsvc, Verify.LOCAL, AUTHSVC_DEADLINE=PATIENT) as address, Caller(address) as orders:
        orders.refused("Get", "rubbish")
        authsvc.wait_acknowledged()
        for _ in range(10):
            orders.refused("Get", "rubbish")
            orders.refused("Get", authsvc.token("user:ann", ttl=-60))
    assert authsvc.received("Authorize") == authsvc.received("VerifyToken") == 0
    assert authsvc.received("Watch") == 1


@pytest.mark.parametrize("mode", ["deny", "raise", "allow"])
@pytest.mark.parametrize("verify", Verify, ids=str)
def test_without_the_service_nobody_comes_in_unless_allowed_and_verified(
    authsvc: FakeAuthsvc, serve: Serve, mode: str, verify: Verify
) -> None:
    authsvc.grant("user:ann", "orders:read")
    token = authsvc.token("user:ann")
    brief = {"AUTHSVC_DEADLINE": BRIEF, "AUTHSVC_ON_UNAVAILABLE": mode}
    with serve(authsvc, verify, **brief) as address, Caller(address) as orders:
        assert orders("Get", token)
        if verify is Verify.LOCAL:
            authsvc.wait_acknowledged()
        authsvc.stop()
        assert orders.refused("Get").code() is UNAUTHENTICATED
        if mode == "allow" and verify is Verify.LOCAL:
            assert orders("Get", token) == "user:ann got 7"
            assert orders.refused("Get", "rubbish").code() is UNAUTHENTICATED
        else:
            assert orders.refused("Get", token).code() is grpc.StatusCode.UNAVAILABLE
            assert orders("Health") == "nobody got 7"


def test_rules_are_checked_when_they_are_given(authsvc: FakeAuthsvc) -> None:
    with authsvc.client() as client, pytest.raises(ValueError, match="Orders/Get"):
        ServerInterceptor(client, {"shop.Orders/Get": PUBLIC})
    with authsvc.client(AUTHSVC_AUDIENCE="") as client:
        ServerInterceptor(client, {"/shop.Orders/Get": Require(audience=("orders",))}, verify=Verify.LOCAL)
        with pytest.raises(InvalidRequest, match=r"AUTHSVC_AUDIENCE.*is required to verify tokens locally"):
            ServerInterceptor(client, RULES, verify=Verify.LOCAL)
    with pytest.raises(ValueError, match="permission"):
        Require(resource="orders/1")
