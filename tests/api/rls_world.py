"""Envoy's rate-limit row on real parts, without network: policy, counters, engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from authsvc import config
from authsvc.api.calls import Call, Refusal
from authsvc.api.engine import Engine
from authsvc.api.envoy_messages import RATE_LIMIT_SERVICE, RateLimitRequest, RateLimitResponse
from authsvc.api.envoy_rls import FAULTS, EnvoyRateLimits
from authsvc.api.method_table import MethodTable, Service
from authsvc.ports.counters import Counters
from authsvc.storage.counters_memory import MemoryCounters
from authsvc.usecases.limits import Limits
from authsvc.usecases.rls import ProxyQuotas
from tests.api.envoy_world import LOOPBACK, StepRunner, World

SHOULD_RATE_LIMIT = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
POLICY = """
version: 1
limits:
  per_user: {domain: api, match: {user: "*"}, rate: 3/1m}
  vip: {domain: api, match: {user: "vip"}, rate: 2/1h}
  window: {domain: api, match: {path: "*"}, rate: 5/1m, algorithm: fixed_window}
  odd: {domain: api, match: {odd: "*"}, rate: 100/15m, burst: 20}
  weekly: {domain: api, match: {week: "*"}, rate: 10/7d}
  closed: {domain: api, match: {closed: "*"}, rate: 10/1s, on_failure: closed}
  other: {domain: other, match: {user: "*"}, rate: 1/1m}
"""


class Rls:
    """The row on real parts."""

    def __init__(
        self,
        *,
        policy: str = POLICY,
        proxies: Sequence[config.Proxy] = (LOOPBACK,),
        counters: Counters | None = None,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        """`monotonic`: the clock of deadlines, which is a transport's own where one serves the engine."""
        self.world = World(policy, proxies=proxies, monotonic=monotonic)
        handlers = EnvoyRateLimits(ProxyQuotas(Limits(counters or MemoryCounters(self.world.clock))))
        service = Service(RATE_LIMIT_SERVICE, handlers, handlers.deny, FAULTS)
        table = MethodTable.build([service])
        self.engine = Engine(table, self.world.engine._around)
        row = table.get(SHOULD_RATE_LIMIT)
        assert row is not None
        self.row = row

    def serve(self, request: bytes, address: str = "127.0.0.1") -> bytes | Refusal:
        return self.engine.serve(self.row, Call(SHOULD_RATE_LIMIT, address), request, StepRunner())

    def ask(self, *descriptors: Any, domain: str = "api", hits: int = 0) -> Any:
        answer = self.serve(request(*descriptors, domain=domain, hits=hits).SerializeToString())
        assert isinstance(answer, bytes)
        return RateLimitResponse.FromString(answer)

    def refused(self, *descriptors: Any, domain: str = "api") -> int:
        answer = self.serve(request(*descriptors, domain=domain).SerializeToString())
        assert isinstance(answer, Refusal)
        return answer.code


def request(*descriptors: Any, domain: str = "api", hits: int = 0) -> Any:
    message = RateLimitRequest(domain=domain, hits_addend=hits)
    for given_descriptor in descriptors:
        message.descriptors.add().CopyFrom(given_descriptor)
    return message
