"""Our own tokens: one flight, renewed ahead, for our own calls and for calls to others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import grpc
import grpc.aio
import httpx
import pytest
import trustme

from authsvc.core import claims, jose
from authsvc.v1 import token_pb2
from authsvc_client import AsyncClient, Client, TokenRefused, Tokens, methods
from authsvc_client.flow import Send
from authsvc_client.httpx import BearerAuth
from authsvc_client.refreshed import Lease
from authsvc_client.testing import FakeAuthsvc
from authsvc_client.tokens import TokenSource
from authsvc_client.wire import Wire
from tests.client.conftest import PATIENT


def age(tokens: Tokens, seconds: float) -> None:
    """Make the token held look as if it had been issued so long ago."""
    refreshed = tokens._source._tokens
    held = refreshed._held
    assert held is not None
    refreshed._held = type(held)(held.lease, held.since - seconds)


def test_a_hundred_first_uses_at_once_make_one_request(authsvc: FakeAuthsvc) -> None:
    begin = Barrier(100)
    with Client(authsvc.settings(AUTHSVC_DEADLINE=PATIENT)) as client, ThreadPoolExecutor(100) as pool:

        def use(_: int) -> str:
            begin.wait(10)
            return client.tokens("orders").token()

        assert len(set(pool.map(use, range(100)))) == 1
    assert authsvc.received("IssueToken") == 1


def test_a_hundred_tasks_at_once_make_one_request(authsvc: FakeAuthsvc) -> None:
    async def use() -> set[str]:
        async with authsvc.async_client() as client:
            tokens = client.tokens("orders")
            return set(await asyncio.gather(*(tokens.atoken() for _ in range(100))))

    assert len(asyncio.run(use())) == 1
    assert authsvc.received("IssueToken") == 1


def test_a_cancelled_task_does_not_stop_the_flight_of_the_others(authsvc: FakeAuthsvc) -> None:
    async def use() -> str:
        async with authsvc.async_client() as client:
            tokens = client.tokens("orders")
            first, second = asyncio.create_task(tokens.atoken()), asyncio.create_task(tokens.atoken())
            await asyncio.sleep(0)
            first.cancel()
            return await second

    assert asyncio.run(use())
    assert authsvc.received("IssueToken") == 1


def test_a_token_is_renewed_ahead_of_its_end_by_one_flight(authsvc: FakeAuthsvc) -> None:
    with Client(authsvc.settings()) as client:
        tokens = client.tokens("orders")
        first = tokens.token()
        age(tokens, 300 * 0.8)
        # The old one serves while the new one is fetched.
        assert {tokens.token() for _ in range(20)} >= {first}
        authsvc.wait_received("IssueToken", 2)
        assert authsvc.received("IssueToken") == 2


def test_an_old_token_is_never_given(authsvc: FakeAuthsvc) -> None:
    with Client(authsvc.settings()) as client:
        tokens = client.tokens("orders")
        first = tokens.token()
        age(tokens, 295)
        assert tokens.token() != first


def test_a_token_is_used_by_the_issuers_clock_alone(authsvc: FakeAuthsvc) -> None:
    """The machine's wall clock is nowhere asked: only how long the token lives."""
    wire = Wire(authsvc.settings())
    now = [5.0]
    source = TokenSource(authsvc.settings(), lambda step: wire.send(step, 10.0), lambda: now[0], ("orders",))
    first = wire.run(source.obtain(), 10.0)
    now[0] += 200
    assert wire.run(source.obtain(), 10.0) == first
    now[0] += 95
    assert wire.run(source.obtain(), 10.0) != first
    wire.close()


def test_what_is_asked_for_is_in_the_token(authsvc: FakeAuthsvc) -> None:
    with authsvc.client() as client:
        token = client.tokens("orders", scope=("orders.read",), tenant="acme").token()
    said = claims.read_claims(jose.parse_compact(token))
    assert (said["aud"], said["scope"], said["tenant"], said["sub"]) == ("orders", "orders.read", "acme", "client:test")


class TestHttpx:
    @staticmethod
    def guarded(authsvc: FakeAuthsvc) -> httpx.MockTransport:
        """A service that verifies what it gets."""

        def answer(request: httpx.Request) -> httpx.Response:
            try:
                token = request.headers["Authorization"].removeprefix("Bearer ")
                subject = authsvc.state.verify(token, ["orders"]).subject
            except TokenRefused:
                return httpx.Response(401)
            return httpx.Response(200, text=subject)

        return httpx.MockTransport(answer)

    def test_requests_carry_the_token_and_a_401_renews_it_once(self, authsvc: FakeAuthsvc) -> None:
        with authsvc.client() as client:
            tokens = client.tokens("orders")
            with httpx.Client(auth=BearerAuth(tokens), transport=self.guarded(authsvc)) as http:
                assert http.get("http://orders/").text == "client:test"
                authsvc.revoke_subject("client:test")
                age(tokens, 5)
                assert http.post("http://orders/", json={}).text == "client:test"
                authsvc.revoke_subject("client:test")
                # A token younger than a second is not renewed, so a service that always says 401 costs nothing.
                assert http.get("http://orders/").status_code == 401
        assert authsvc.received("IssueToken") == 2

    def test_the_same_awaited(self, authsvc: FakeAuthsvc) -> None:
        async def use() -> list[str]:
            async with authsvc.async_client() as client:
                tokens = client.tokens("orders")
                transport = self.guarded(authsvc)
                async with httpx.AsyncClient(auth=BearerAuth(tokens), transport=transport) as http:
                    first = await http.get("http://orders/")
                    authsvc.revoke_subject("client:test")
                    age(tokens, 5)
                    return [first.text, (await http.get("http://orders/")).text]

        assert asyncio.run(use()) == ["client:test", "client:test"]

    def test_tokens_that_block_are_refused_where_they_would_block_a_loop(self, authsvc: FakeAuthsvc) -> None:
        async def use(tokens: Tokens) -> None:
            async with httpx.AsyncClient(auth=BearerAuth(tokens), transport=self.guarded(authsvc)) as http:
                await http.get("http://orders/")

        with authsvc.client() as client, pytest.raises(TypeError, match="AsyncClient"):
            asyncio.run(use(client.tokens("orders")))


class _Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers the authorization that it got."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:  # type: ignore[type-arg]
        got = dict(handler_call_details.invocation_metadata or ()).get("authorization", "")
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: str(got).encode())


@pytest.fixture
def tls_echo() -> Iterator[tuple[str, bytes]]:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    server = grpc.server(ThreadPoolExecutor(2), [_Echo()])
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    yield f"127.0.0.1:{port}", authority.cert_pem.bytes()
    server.stop(None).wait()


def test_call_credentials_carry_the_token(authsvc: FakeAuthsvc, tls_echo: tuple[str, bytes]) -> None:
    address, root = tls_echo
    with authsvc.client() as client:
        tokens = client.tokens("orders")
        both = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(root), tokens.call_credentials())
        with grpc.secure_channel(address, both) as channel:
            answer = channel.unary_unary("/any/Method", None, None)(b"", timeout=10)
        assert answer.decode() == f"Bearer {tokens.token()}"


def test_call_credentials_carry_the_token_awaited(authsvc: FakeAuthsvc, tls_echo: tuple[str, bytes]) -> None:
    address, root = tls_echo

    async def use() -> tuple[str, str]:
        client: AsyncClient = authsvc.async_client()
        async with client:
            tokens = client.tokens("orders")
            both = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(root), tokens.call_credentials())
            async with grpc.aio.secure_channel(address, both) as channel:
                answer = await channel.unary_unary("/any/Method", None, None)(b"", timeout=10)
            return answer.decode(), await tokens.atoken()

    got, token = asyncio.run(use())
    assert got == f"Bearer {token}"


def test_call_credentials_without_a_token_fail_the_call(authsvc: FakeAuthsvc, tls_echo: tuple[str, bytes]) -> None:
    address, root = tls_echo
    with authsvc.client() as client:
        authsvc.stop()
        tokens = client.tokens("orders")
        both = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(root), tokens.call_credentials())
        with grpc.secure_channel(address, both) as channel, pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/any/Method", None, None)(b"", timeout=10)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.standard("J17")
def test_no_repr_of_what_holds_a_token_or_a_secret_shows_it(authsvc: FakeAuthsvc) -> None:
    """Those who log the variables of a frame, as error trackers do, log these."""
    with authsvc.client() as client:
        source = client.operations.source(("orders",))
        token = client.tokens("orders").token()
        request = token_pb2.IssueTokenRequest(
            client_credentials=token_pb2.ClientCredentials(client_id="test", client_secret=client.settings.secret())
        )
        told = repr([vars(source), Lease(token, 1.0, 2.0, 3.0), Send(methods.ISSUE_TOKEN, request, bearer=token)])
        assert token not in told
        assert client.settings.secret() not in told
