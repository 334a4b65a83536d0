"""LimitService: descriptors in, outcomes out.

Owns: the conversion of its messages. May import: `core`, `usecases`, `v1`, `api.convert`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from authsvc.api import convert
from authsvc.core.consumption import DecidedBy, Descriptor, LimitOutcome, check_descriptors
from authsvc.core.errors import InvalidRequest
from authsvc.usecases.limits import Consumed, Wanted
from authsvc.v1 import limit_pb2

MAX_HITS = 2**32
"""Hits of one descriptor: more than any rule admits, and far below where integers of a store end."""

_DECIDED_BY: Mapping[DecidedBy, limit_pb2.DecidedBy] = MappingProxyType(
    {
        DecidedBy.STORE: limit_pb2.DECIDED_BY_STORE,
        DecidedBy.LOCAL: limit_pb2.DECIDED_BY_LOCAL,
        DecidedBy.FAILED_OPEN: limit_pb2.DECIDED_BY_FAILED_OPEN,
        DecidedBy.FAILED_CLOSED: limit_pb2.DECIDED_BY_FAILED_CLOSED,
    }
)


def wanted(message: limit_pb2.Consumption | limit_pb2.ConsumeRequest | limit_pb2.PeekRequest) -> Wanted:
    """What to consume in one domain; raises InvalidRequest with paths of the message."""
    descriptors = []
    for place, given in enumerate(message.descriptors):
        hits = given.hits if given.HasField("hits") else 1
        if hits > MAX_HITS:
            raise InvalidRequest.of(f"descriptors[{place}].hits", f"is above {MAX_HITS}")
        descriptors.append(Descriptor(tuple([(entry.key, entry.value) for entry in given.entries]), hits))
    check_descriptors(message.domain, descriptors)
    return Wanted(message.domain, tuple(descriptors))


def consumptions(messages: Sequence[limit_pb2.Consumption], field: str, most: int) -> tuple[Wanted, ...]:
    """Several domains at once."""
    convert.capped(messages, field, most)
    found = []
    for place, message in enumerate(messages):
        try:
            found.append(wanted(message))
        except InvalidRequest as error:
            raise convert.under(f"{field}[{place}]", error) from None
    return tuple(found)


def consume(request: limit_pb2.ConsumeRequest) -> Wanted:
    """What Consume takes."""
    convert.not_served(request, "idempotency_key")
    return wanted(request)


def consumed(answer: Consumed) -> limit_pb2.ConsumeResponse:
    """The answer of Consume; the engine adds the revision."""
    message = limit_pb2.ConsumeResponse(allowed=answer.allowed)
    put_results(message.results, answer.outcomes)
    return message


def peeked(answer: Consumed) -> limit_pb2.PeekResponse:
    """The answer of Peek; the engine adds the revision."""
    message = limit_pb2.PeekResponse(allowed=answer.allowed)
    put_results(message.results, answer.outcomes)
    return message


def put_results(results: Any, outcomes: Iterable[LimitOutcome]) -> None:
    """Append one result a rule; `retry_after` of 0 seconds says that waiting does not help."""
    for outcome in outcomes:
        result = results.add(
            rule=outcome.rule.name,
            limit=outcome.limit,
            remaining=outcome.remaining,
            decided_by=_DECIDED_BY[outcome.decided_by],
            allowed=outcome.allowed,
        )
        convert.put_microseconds(result.reset_after, outcome.reset_after_us)
        if not outcome.allowed:
            convert.put_microseconds(result.retry_after, outcome.retry_after_us or 0)
