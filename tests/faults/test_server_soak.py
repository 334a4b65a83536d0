"""Hours of everyday calls in small: memory, descriptors and threads of the process stay where they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.api.standard_messages import HealthCheckRequest
from authsvc.v1 import authz_pb2, key_pb2, limit_pb2, token_pb2
from tests.support.embedded import Caller, Refused
from tests.support.loaded import entries, memory
from tests.support.process import Serving, children, page, serving
from tests.support.scale import CAMPAIGN
from tests.support.transports import TRANSPORTS, skip_where_missing
from tests.support.waiting import wait_for

SECONDS = 1_800.0 if CAMPAIGN else 6.0
WARM_UP = SECONDS / 4
CALLERS = 4
MIB = 1024 * 1024
MOST_GROWTH = (64 if CAMPAIGN else 16) * MIB
"""What caches of bounded size may still take after the warm-up; a leak of 1 KiB a call would be several times this."""

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


class Everyday:
    """What services, verifiers and probes do all day, mistakes included."""

    def __init__(self, service: Serving) -> None:
        service.apply()
        self._service = service
        self._admin = service.admin()
        self._secret = service.create_client("shop", audience=["orders"])
        self.stop = threading.Event()

    def work(self, number: int) -> int:
        """Rounds on one connection after the other until the stop; how many rounds."""
        rounds = 0
        while not self.stop.is_set():
            with grpc.insecure_channel(self._service.grpc, OPTIONS) as channel:
                for _ in range(20):
                    self._round(Caller(channel), f"{number}-{rounds}")
                    rounds += 1
        return rounds

    def _round(self, call: Caller, name: str) -> None:
        grant = token_pb2.ClientCredentials(client_id="shop", client_secret=self._secret)
        token = call("TokenService/IssueToken", token_pb2.IssueTokenRequest(client_credentials=grant)).access_token
        verify = token_pb2.VerifyTokenRequest(token=token, audience=["orders"])
        assert call("TokenService/VerifyToken", verify, self._admin).valid
        assert not call("TokenService/VerifyToken", token_pb2.VerifyTokenRequest(token="a.b.c"), self._admin).valid
        call(
            "AuthzService/Check", authz_pb2.CheckRequest(subject=f"user:{name}", permission="orders:read"), self._admin
        )
        hits = [limit_pb2.Descriptor(entries=[limit_pb2.Entry(key="user", value=f"user:{name}")])]
        call("LimitService/Consume", limit_pb2.ConsumeRequest(domain="api", descriptors=hits), self._admin)
        call("KeyService/GetJwks", key_pb2.GetJwksRequest())
        page(f"http://{self._service.http}/.well-known/jwks.json")
        page(f"http://{self._service.ops}/metrics")
        for _mistake in self._mistakes(call):
            pass
        watch = call.channel.unary_stream(
            "/grpc.health.v1.Health/Watch", request_serializer=None, response_deserializer=None
        )
        watched: Any = watch(HealthCheckRequest().SerializeToString(), timeout=10.0)
        next(iter(watched))
        watched.cancel()

    def _mistakes(self, call: Caller) -> Iterator[None]:
        for method, request, token in (
            ("authsvc.v1.AuthzService/Check", b"\xff", self._admin),
            ("authsvc.v1.AuthzService/Check", b"", "no.such.token"),
            ("authsvc.v1.Nothing/Here", b"", ""),
            ("authsvc.v1.PolicyAdminService/RevokeRole", b"\x0a\x01x", self._admin),
        ):
            with suppress(Refused):
                call.raw(method, request, token=token)
            yield


@pytest.mark.standard("U3")
@pytest.mark.timeout(2_400)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_memory_descriptors_and_threads_stay_flat_under_everyday_calls(tmp_path: Path, transport: str) -> None:
    skip_where_missing(transport)
    settings = {"server.auth_failures": "100000/1s", "server.transport": transport}
    with serving(tmp_path / "data", settings) as service:
        everyday = Everyday(service)
        # On pyvoy the service is in its Envoy.
        pid = (children(service.pid) or [service.pid])[0]
        before = entries(pid, "fd")
        with ThreadPoolExecutor(CALLERS) as pool:
            running = [pool.submit(everyday.work, number) for number in range(CALLERS)]
            try:
                begun = time.monotonic()
                wait_for(lambda: time.monotonic() - begun > WARM_UP, WARM_UP + 10, "the warm-up")
                warm, warm_threads = memory(pid), entries(pid, "task")
                wait_for(lambda: time.monotonic() - begun > SECONDS, SECONDS + 10, "the end")
                grown = memory(pid) - warm
            finally:
                everyday.stop.set()
            rounds = sum(one.result(30) for one in running)
        assert rounds > CALLERS
        assert grown < MOST_GROWTH, f"{grown / MIB:.1f} MiB in {rounds} rounds"
        assert entries(pid, "task") <= warm_threads + CALLERS
        # The record's pool of connections holds a file or two each; what callers opened is gone with them.
        wait_for(lambda: entries(pid, "fd") <= before + 24, 20.0, lambda: f"{before} again, {entries(pid, 'fd')}")
