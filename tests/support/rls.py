"""Envoy's rate-limit service as its callers see it: requests, answers, and callers that never pause.

Speaks by grpcio's own client to a service that runs as a process.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from authsvc.api.envoy_messages import RateLimitRequest, RateLimitResponse
from authsvc.storage.redis_target import DEADLINE_S
from tests.support.waiting import wait_for

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
OK, OVER_LIMIT = 1, 2
CALLERS = 6
POLICY = "version: 1\nlimits:\n" + "".join(
    f'  caller{n}: {{domain: api, match: {{caller{n}: "*"}}, rate: 1000000/365d}}\n' for n in range(CALLERS)
)
"""A rule a caller, which repays a hit in half a minute: what was counted can be read afterwards."""


def descriptor(
    key: str, value: str = "x", *, hits: int | None = None, back: bool = False, limit: tuple[int, int] | None = None
) -> Any:
    """One descriptor of one entry."""
    made = RateLimitRequest().descriptors.add()
    made.entries.add(key=key, value=value)
    if hits is not None:
        made.hits_addend.value = hits
    made.is_negative_hits = back
    if limit is not None:
        made.limit.requests_per_unit, made.limit.unit = limit
    return made


def request(*descriptors: Any, domain: str = "api", hits: int = 0) -> Any:
    """One request."""
    message = RateLimitRequest(domain=domain, hits_addend=hits)
    for one in descriptors:
        message.descriptors.add().CopyFrom(one)
    return message


def decided_by(answer: Any) -> str:
    """Who decided."""
    return str(answer.dynamic_metadata.fields["decided_by"].string_value)


def remaining(answer: Any) -> list[int]:
    """What is left, a descriptor."""
    return [status.limit_remaining for status in answer.statuses]


class Proxy:
    """A caller of the service, as Envoy is one."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.ask_for: Any = channel.unary_unary(
            METHOD, lambda message: message.SerializeToString(), RateLimitResponse.FromString
        )

    def ask(self, *descriptors: Any, hits: int = 0, timeout: float = 10.0) -> Any:
        """One call."""
        return self.ask_for(request(*descriptors, hits=hits), timeout=timeout)


@contextmanager
def proxy(address: str) -> Iterator[Proxy]:
    """Over a connection of its own, without retries of the library's."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
    with grpc.insecure_channel(address, options) as channel:
        yield Proxy(channel)


@dataclass
class Answered:
    """What one of the callers was told, when, and how long it waited."""

    at: float
    seconds: float
    decided_by: str
    allowed: bool
    rule: str


@dataclass
class Callers:
    """Callers that ask one after the other without a pause, each by a rule of its own."""

    answers: list[list[Answered]] = field(default_factory=lambda: [[] for _ in range(CALLERS)])
    faults: list[grpc.RpcError] = field(default_factory=list)

    def last(self) -> set[str]:
        """Who decided the last answers; empty while somebody has none."""
        if not all(self.answers):
            return set()
        return {given[-1].decided_by for given in self.answers}

    def since(self, moment: float) -> list[Answered]:
        """Answers to calls that were made since then."""
        return [one for given in self.answers for one in given if one.at >= moment]

    def unheard(self, since: float = 0.0) -> int:
        """How many calls waited for the store in vain, which may count them after all: each once."""
        return sum(one.decided_by == "local" and one.seconds >= DEADLINE_S for one in self.since(since))

    def by(self, caller: int, since: float = 0.0) -> Counter[str]:
        """How many answers of a caller each decided."""
        return Counter(one.decided_by for one in self.answers[caller] if one.at >= since)


@contextmanager
def asking(address: str) -> Iterator[Callers]:
    """Callers at work, each in a thread of its own, until the end of the block."""
    told, over = Callers(), threading.Event()

    def work(number: int, caller: Proxy) -> None:
        while not over.is_set():
            begun = time.monotonic()
            try:
                answer = caller.ask(descriptor(f"caller{number}"))
            except grpc.RpcError as fault:
                told.faults.append(fault)
                return
            fields = answer.dynamic_metadata.fields
            told.answers[number].append(
                Answered(
                    begun,
                    time.monotonic() - begun,
                    decided_by(answer),
                    answer.overall_code == OK,
                    fields["rule"].string_value,
                )
            )

    with ExitStack() as stack:
        callers = [stack.enter_context(proxy(address)) for _ in range(CALLERS)]
        threads = [threading.Thread(target=work, args=(n, caller)) for n, caller in enumerate(callers)]
        for thread in threads:
            thread.start()
        try:
            yield told
        finally:
            over.set()
            for thread in threads:
                thread.join()


def left(caller: Proxy) -> list[int]:
    """What the store says is left of each caller's rule; on a busy machine it is asked again."""

    def asked() -> Any:
        answer = caller.ask(*(descriptor(f"caller{n}", hits=0) for n in range(CALLERS)))
        return answer if decided_by(answer) == "store" else None

    return remaining(wait_for(asked, what="the store"))


def taken(caller: Proxy, before: Sequence[int]) -> list[int]:
    """How many hits of each caller's rule the store holds more than `before`; repaid ones aside."""
    return [was - now for was, now in zip(before, left(caller), strict=True)]
