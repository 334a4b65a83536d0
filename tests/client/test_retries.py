"""What is sent again, how often and how soon: the rules, without a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from google.protobuf.message import Message

from authsvc.core.errors import AuthsvcError, DeadlineExceeded, Exhausted, Reason, Unavailable
from authsvc.v1 import authz_pb2
from authsvc_client import Settings, Statistics, methods
from authsvc_client.aio import AsyncWire
from authsvc_client.failures import Unanswered
from authsvc_client.flow import Flow, Pause, Send
from authsvc_client.retries import ATTEMPTS, Retries
from authsvc_client.statistics import Tally
from authsvc_client.wire import Wire

ANSWER = authz_pb2.CheckResponse(revision="r.1")
LOST = Unanswered("Check: Socket closed", metadata={}, taken=True)
DRAINS = Unanswered("Check: this replica drains", Reason.SHUTTING_DOWN, metadata={}, taken=False)


@dataclass
class Played:
    """A flow whose sendings end as told, the last way for ever; `left` seconds may be paused."""

    ends: Sequence[AuthsvcError | Message]
    left: float = 1e9
    sent: list[bool] = field(default_factory=list)
    """Whether each was patient."""
    paused: list[float] = field(default_factory=list)
    statistics: Statistics = field(init=False)

    def run(self, *, once: bool = False, patient: bool = True) -> Message:
        tally = Tally()
        flow = Retries(tally, lambda: 1.0).send(
            Send(methods.CHECK, authz_pb2.CheckRequest()), once=once, patient=patient
        )
        try:
            step = next(flow)
            while True:
                outcome = self._take(step)
                step = flow.throw(outcome) if isinstance(outcome, AuthsvcError) else flow.send(outcome)
        except StopIteration as stop:
            answer: Message = stop.value
            return answer
        finally:
            self.statistics = tally.statistics()

    def _take(self, step: object) -> AuthsvcError | Message | None:
        if isinstance(step, Pause):
            self.left -= step.seconds
            self.paused.append(step.seconds)
            return DeadlineExceeded("no time is left") if self.left < 0 else None
        assert isinstance(step, Send)
        self.sent.append(step.patient)
        return self.ends[min(len(self.sent), len(self.ends)) - 1]


def test_a_lost_call_goes_to_another_replica_at_once_and_then_waits_for_one() -> None:
    played = Played([LOST, ANSWER])
    assert played.run() is ANSWER
    assert (played.sent, played.paused) == ([False, True], [])
    assert played.statistics == Statistics(retries=1, drained=0, unanswered=0)


def test_where_replicas_are_lost_one_after_another_the_last_error_is_told() -> None:
    played = Played([LOST])
    with pytest.raises(Unavailable, match="Socket closed"):
        played.run()
    assert len(played.sent) == ATTEMPTS
    assert played.paused == sorted(played.paused)
    assert sum(played.paused) < 0.2
    assert played.statistics.retries == ATTEMPTS - 1


@pytest.mark.standard("R7")
def test_what_counts_is_not_sent_again_where_it_may_have_counted() -> None:
    played = Played([LOST, ANSWER])
    with pytest.raises(Unavailable):
        played.run(once=True)
    assert played.sent == [True]


@pytest.mark.standard("R7")
def test_what_counts_is_sent_again_where_a_replica_that_drains_refused_to_look_at_it() -> None:
    played = Played([DRAINS, DRAINS, ANSWER])
    assert played.run(once=True) is ANSWER
    assert played.statistics == Statistics(retries=0, drained=2, unanswered=0)
    lost = Played([DRAINS, LOST, ANSWER])
    with pytest.raises(Unavailable, match="Socket closed"):
        lost.run(once=True)


def test_a_replica_that_drains_is_asked_until_the_deadline_and_its_refusal_is_told() -> None:
    played = Played([DRAINS], left=0.25)
    with pytest.raises(Unavailable, match="drains"):
        played.run()
    assert 10 < len(played.sent) < 25


def test_a_deadline_that_passes_meanwhile_tells_what_went_wrong_before() -> None:
    with pytest.raises(Unavailable, match="Socket closed"):
        Played([LOST, DeadlineExceeded("Check: Deadline Exceeded")]).run()
    with pytest.raises(DeadlineExceeded):
        Played([DeadlineExceeded("Check: Deadline Exceeded")]).run()


@pytest.mark.parametrize("answer", [Exhausted("too many", Reason.OVERLOADED, retry_after=1.0), Unavailable("a bug")])
def test_nothing_else_is_sent_again(answer: AuthsvcError) -> None:
    played = Played([answer])
    with pytest.raises(type(answer)):
        played.run()
    assert len(played.sent) == 1


def test_flights_do_not_wait_for_a_connection() -> None:
    played = Played([LOST, ANSWER])
    played.run(patient=False)
    assert played.sent == [False, False]


def waiting() -> Flow[None]:
    """Waits longer than any deadline here."""
    yield Pause(60.0)


def test_a_pause_that_would_outlast_the_deadline_ends_at_once_on_both_edges() -> None:
    settings = Settings("127.0.0.1:1")
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        Wire(settings).run(waiting(), 30.0)
    with pytest.raises(DeadlineExceeded):
        asyncio.run(AsyncWire(settings).run(waiting(), 30.0))
    assert time.monotonic() - begun < 10.0
