"""The whole service, embedded in the tests' process, spoken to over real gRPC on loopback."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from authsvc import config
from authsvc.bootstrap.foundation import Foundation, lay_foundation
from authsvc.bootstrap.service import Addresses, AuthorizationService
from authsvc.clock import Clock, FakeClock
from authsvc.v1 import client_admin_pb2, policy_admin_pb2, token_pb2

ISSUER = "http://authsvc.test"
LOOPBACK = {
    "issuer": ISSUER,
    "server.listen": "127.0.0.1:0",
    "server.http_listen": "127.0.0.1:0",
    "server.ops_listen": "127.0.0.1:0",
    "audit.stdout": "false",
}


@dataclass(eq=False)  # not frozen: Python writes the traceback into an exception that passes a context manager
class Refused(Exception):
    """An RPC error as a caller sees it, its details parsed."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: Mapping[str, str]
    fields: tuple[str, ...]
    retry_after: float | None

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason} {self.message}"


class Caller:
    """Calls RPCs of a service by name."""

    def __init__(self, channel: grpc.Channel, package: str = "authsvc.v1") -> None:
        self.channel = channel
        self._package = package

    def raw(
        self,
        method: str,
        request: bytes,
        *,
        token: str = "",
        metadata: tuple[tuple[str, str], ...] = (),
        timeout: float = 10.0,
    ) -> bytes:
        """Bytes in, bytes out; raises Refused."""
        if token:
            metadata = (*metadata, ("authorization", f"Bearer {token}"))
        call = self.channel.unary_unary(f"/{method}", request_serializer=None, response_deserializer=None)
        try:
            answer: bytes = call(request, metadata=metadata, timeout=timeout)
        except grpc.RpcError as error:
            raise refused(error) from None
        return answer

    def __call__(self, method: str, request: Any, token: str = "", **options: Any) -> Any:
        """`Service/Method` with a request message."""
        service, _, name = method.partition("/")
        descriptor = _service(request, service).methods_by_name[name]
        response = getattr(__import__(_module(request), fromlist=["x"]), descriptor.output_type.name)
        answer = self.raw(f"{self._package}.{method}", request.SerializeToString(), token=token, **options)
        return response.FromString(answer)


def _module(request: Any) -> str:
    return type(request).__module__


def _service(request: Any, service: str) -> Any:
    return request.DESCRIPTOR.file.services_by_name[service]


def refused(error: grpc.RpcError) -> Refused:
    """An RPC error with its google.rpc.Status parsed."""
    status = status_pb2.Status()
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    fields = tuple(violation.field for violation in bad.field_violations)
    return Refused(error.code(), error.details() or "", info.reason, dict(info.metadata), fields, retry_after)


@dataclass
class Embedded:
    """A running service and ways to speak to it."""

    foundation: Foundation
    service: AuthorizationService
    addresses: Addresses
    loop: asyncio.AbstractEventLoop
    directory: Path
    call: Caller

    @property
    def admin_credentials(self) -> dict[str, str]:
        """The first admin's client id and secret."""
        found: dict[str, str] = json.loads((self.directory / "admin.json").read_text())
        return found

    def admin(self) -> str:
        """A token of the first admin."""
        found = self.admin_credentials
        return self.token(found["client_id"], found["client_secret"], audience=["authsvc"])

    def token(self, client_id: str, client_secret: str, **request: Any) -> str:
        """A token by client credentials."""
        return str(self.issue(client_id, client_secret, **request).access_token)

    def issue(self, client_id: str, client_secret: str, **request: Any) -> Any:
        """IssueToken by client credentials."""
        grant = token_pb2.ClientCredentials(client_id=client_id, client_secret=client_secret)
        return self.call("TokenService/IssueToken", token_pb2.IssueTokenRequest(client_credentials=grant, **request))

    def advance(self, clock: FakeClock, seconds: int) -> None:
        """Move the clock, and let the replica see that its state is still the newest."""
        clock.advance(seconds)
        self.foundation.tail.advance()

    def create_client(self, client_id: str, **request: Any) -> str:
        """Make a client; its secret."""
        wanted = client_admin_pb2.CreateClientRequest(client_id=client_id, **request)
        return str(self.call("ClientAdminService/CreateClient", wanted, self.admin()).client_secret)

    def caller(self, client_id: str, **request: Any) -> str:
        """Make a client; a token of it for this service."""
        return self.token(client_id, self.create_client(client_id, **request), audience=["authsvc"])

    def apply(self, policy: str) -> Any:
        """Put a policy in force."""
        wanted = policy_admin_pb2.ApplyPolicyRequest(policy=policy)
        return self.call("PolicyAdminService/ApplyPolicy", wanted, self.admin())


@contextmanager
def embedded(
    directory: Path, *, clock: Clock | None = None, settings: Mapping[str, str] | None = None, toml: str = ""
) -> Iterator[Embedded]:
    """Run the service in a loop of its own thread until the block ends; it is stopped gracefully."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="embedded-loop", daemon=True)
    thread.start()

    def on_loop(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    try:
        loaded = config.load(toml, {}, {**LOOPBACK, **(settings or {})})
        foundation = lay_foundation(loaded, directory, clock=clock)
        service = AuthorizationService(foundation, environment={})
        addresses = on_loop(service.start())
        try:
            with grpc.insecure_channel(addresses.grpc) as channel:
                yield Embedded(foundation, service, addresses, loop, directory, Caller(channel))
        finally:
            on_loop(service.stop(5.0))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
