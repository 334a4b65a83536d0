"""Local verification that follows the service's revocations, over a real stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from authsvc_client import AsyncClient, Client, Reason, TokenRefused, Unavailable
from authsvc_client.methods import WATCH
from authsvc_client.operations import Operations
from authsvc_client.testing import FakeAuthsvc
from authsvc_client.testing.rows import Rows
from authsvc_client.watching import IDLE, PROOF, SILENCE
from authsvc_client.wire import Wire
from tests.client.conftest import PATIENT
from tests.support.waiting import wait_for

REVOKE: dict[str, Callable[[FakeAuthsvc, str], None]] = {
    "token": lambda fake, token: fake.revoke(token),
    "subject": lambda fake, _: fake.revoke_subject("user:ann"),
    "client": lambda fake, _: fake.revoke_client("test"),
    "issuer": lambda fake, _: fake.revoke_issuer(),
    "key": lambda fake, _: fake.revoke_key(fake.key_id),
}


class Verifier:
    """Operations on the fake whose monotonic clock a test turns."""

    def __init__(self, authsvc: FakeAuthsvc, **variables: str) -> None:
        self.now = 1000.0
        settings = authsvc.settings(**variables)
        self._wire = Wire(settings)
        self.operations = Operations(settings, self._wire, monotonic=lambda: self.now)

    def __call__(self, token: str, deadline: float = 10.0) -> str:
        return self._wire.run(self.operations.verify(token), deadline).subject

    def follow(self, authsvc: FakeAuthsvc) -> None:
        """Until what the fake has is known here."""
        self.operations.watcher.known()
        authsvc.wait_acknowledged(10.0)

    def asked(self) -> int:
        """How often the service was asked about a token."""
        return self.operations.tally.statistics().asked

    def close(self) -> None:
        self.operations.watcher.close()
        self._wire.close()


@pytest.fixture
def verifier(authsvc: FakeAuthsvc) -> Iterator[Verifier]:
    verifier = Verifier(authsvc)
    yield verifier
    verifier.close()


def refused(verify: Callable[[str], Any], token: str) -> Reason:
    with pytest.raises(TokenRefused) as error:
        verify(token)
    return error.value.reason


@pytest.mark.parametrize("what", REVOKE)
@pytest.mark.standard("J21", "K9")
def test_whatever_is_revoked_is_refused_here_once_it_was_pushed(authsvc: FakeAuthsvc, what: str) -> None:
    token = authsvc.token("user:ann")
    with authsvc.client(AUTHSVC_DEADLINE=PATIENT) as client:
        client.prepare()
        assert client.verify(token).subject == "user:ann"
        REVOKE[what](authsvc, token)
        authsvc.wait_acknowledged()
        reason = refused(client.verify, token)
        assert reason is (Reason.TOKEN_KEY_REVOKED if what == "key" else Reason.TOKEN_REVOKED)
        assert client.verify(authsvc.token("user:ann")).subject == "user:ann"
        assert client.watched_revision == authsvc.state.revision
    assert authsvc.received("VerifyToken") == authsvc.received("GetJwks") == 0


def test_the_awaiting_client_follows_too(authsvc: FakeAuthsvc) -> None:
    token = authsvc.token("user:ann")

    async def use() -> None:
        client: AsyncClient = authsvc.async_client(AUTHSVC_DEADLINE=PATIENT)
        async with client:
            await client.prepare()
            assert (await client.verify(token)).subject == "user:ann"
            authsvc.revoke(token)
            await asyncio.to_thread(authsvc.wait_acknowledged)
            with pytest.raises(TokenRefused):
                await client.verify(token)

    asyncio.run(use())
    assert authsvc.received("VerifyToken") == 0


def test_before_a_state_has_come_the_service_is_asked(authsvc: FakeAuthsvc, verifier: Verifier) -> None:
    authsvc.watchers.mute = True
    token, revoked = authsvc.token("user:ann"), authsvc.token("user:ann")
    authsvc.revoke(revoked)
    assert verifier(token) == "user:ann"
    assert refused(verifier, revoked) is Reason.TOKEN_REVOKED
    assert refused(verifier, "rubbish") is Reason.TOKEN_MALFORMED
    assert (verifier.asked(), authsvc.received("VerifyToken")) == (2, 2)


@pytest.mark.standard("U12")
def test_a_watcher_that_heard_nothing_for_max_stale_asks_the_service_or_refuses(
    authsvc: FakeAuthsvc, verifier: Verifier
) -> None:
    token = authsvc.token("user:ann")
    verifier.follow(authsvc)
    authsvc.watchers.mute = True
    verifier.now += 29.9
    assert verifier(token) == "user:ann"
    assert verifier.asked() == 0
    verifier.now += 0.2
    authsvc.revoke(token)
    assert refused(verifier, token) is Reason.TOKEN_REVOKED
    assert verifier.asked() == 1
    authsvc.stop()
    with pytest.raises(Unavailable):
        verifier(token, 1.0)


def test_a_stream_that_is_silent_is_given_up_for_another(authsvc: FakeAuthsvc, verifier: Verifier) -> None:
    token = authsvc.token("user:ann")
    verifier.follow(authsvc)
    authsvc.watchers.mute = True
    authsvc.revoke(token)
    verifier.now += SILENCE + 0.1
    verifier.operations.watcher.known()
    authsvc.wait_received("Watch", 2)
    authsvc.watchers.mute = False
    authsvc.state.wake()
    wait_for(lambda: verifier.operations.watcher.revision == authsvc.state.revision)
    assert refused(verifier, token) is Reason.TOKEN_REVOKED
    assert verifier.asked() == 0


@pytest.mark.standard("U12")
def test_a_stream_that_shows_not_how_old_its_answers_are_is_asked_anew(
    authsvc: FakeAuthsvc, verifier: Verifier
) -> None:
    authsvc.watchers.heartbeat = 0.02
    verifier.follow(authsvc)
    watcher = verifier.operations.watcher
    assert watcher._stream is not None
    # As long as this process may have stood still: what is read next may lie there since.
    verifier.now += 1.5 * PROOF
    authsvc.wait_received("Watch", 2)
    verifier.now += 29.0
    wait_for(lambda: authsvc.received("Watch") >= 3)
    wait_for(lambda: watcher.revision == authsvc.state.revision)
    assert verifier(authsvc.token("user:ann")) == "user:ann"
    assert verifier.asked() == 0


def test_what_was_revoked_while_the_service_was_away_is_learnt_when_it_is_back(authsvc: FakeAuthsvc) -> None:
    token = authsvc.token("user:ann")
    with authsvc.client(AUTHSVC_DEADLINE=PATIENT) as client:
        client.prepare()
        authsvc.stop()
        # What is fresh is decided by without the service.
        assert client.verify(token).subject == "user:ann"
        authsvc.revoke(token)
        authsvc.start()
        authsvc.wait_acknowledged(10.0)
        assert refused(client.verify, token) is Reason.TOKEN_REVOKED
        assert client.statistics.watches >= 2
    assert authsvc.received("VerifyToken") == 0


def test_a_hundred_verifications_at_once_open_one_stream(authsvc: FakeAuthsvc) -> None:
    token = authsvc.token("user:ann")
    with authsvc.client(AUTHSVC_DEADLINE=PATIENT) as client, ThreadPoolExecutor(20) as pool:
        assert {bearer.subject for bearer in pool.map(client.verify, [token] * 100)} == {"user:ann"}
        authsvc.wait_received("Watch", 1)
    assert authsvc.received("Watch") == 1


def test_nobody_follows_for_a_client_that_verifies_no_more(authsvc: FakeAuthsvc, verifier: Verifier) -> None:
    authsvc.watchers.heartbeat = 0.02
    verifier.follow(authsvc)
    verifier.now += IDLE + 1.0
    wait_for(lambda: verifier.operations.watcher._stream is None)
    verifier.operations.watcher.known()
    authsvc.wait_received("Watch", 2)


def test_our_own_token_that_is_not_taken_any_more_is_renewed_for_the_stream(
    authsvc: FakeAuthsvc, verifier: Verifier
) -> None:
    verifier.follow(authsvc)
    verifier.now += 60.0
    authsvc.revoke_subject("client:test")
    authsvc.stop()
    authsvc.start()
    authsvc.wait_acknowledged(10.0)
    wait_for(lambda: authsvc.received("Watch") >= 3)
    assert authsvc.received("IssueToken") == 2


class _Older(Rows):
    """A service of a release that has no Watch."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return None if handler_call_details.method == WATCH.path else super().service(handler_call_details)


@contextmanager
def older(authsvc: FakeAuthsvc) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), [_Older(authsvc._service, authsvc._arrive)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_service_without_it_is_asked_about_each_token_and_a_warning_says_so(
    authsvc: FakeAuthsvc, caplog: pytest.LogCaptureFixture
) -> None:
    token = authsvc.token("user:ann")
    with older(authsvc) as address, authsvc.client(AUTHSVC_ADDRESS=address, AUTHSVC_DEADLINE=PATIENT) as client:
        client.prepare()
        assert [client.verify(token).subject for _ in range(3)] == ["user:ann"] * 3
        assert client.statistics.asked == 3
        assert client.watched_revision == ""
    told = [record for record in caplog.records if "revocations are not followed" in record.message]
    assert [record.levelno for record in told] == [logging.WARNING]


def test_a_wrong_issuer_is_told_once_and_opens_no_stream_after_another(
    authsvc: FakeAuthsvc, caplog: pytest.LogCaptureFixture
) -> None:
    token, wrong = authsvc.token("user:ann"), "https://wrong.test"
    with authsvc.client(AUTHSVC_ISSUER=wrong, AUTHSVC_DEADLINE=PATIENT) as client:
        client.prepare()
        wait_for(lambda: caplog.records)
        for _ in range(20):
            assert client.verify(token).subject == "user:ann"
        assert client.statistics.asked == 20
        assert client.watched_revision == ""
    assert authsvc.received("Watch") == 1
    (told,) = (record.message for record in caplog.records if "revocations are not followed" in record.message)
    assert all(part in told for part in ("AUTHSVC_ISSUER", wrong, authsvc.state.issuer))


def test_it_ends_with_the_client(authsvc: FakeAuthsvc) -> None:
    begun = time.monotonic()
    for _ in range(3):
        with authsvc.client(AUTHSVC_DEADLINE=PATIENT) as client:
            client.prepare()
            watcher = client.operations.watcher
        assert watcher._stream is None
    assert time.monotonic() - begun < 10.0


def test_a_client_that_is_used_again_after_its_end_follows_again(authsvc: FakeAuthsvc) -> None:
    client = Client(authsvc.settings(AUTHSVC_DEADLINE=PATIENT))
    token = authsvc.token("user:ann")
    for streams in (1, 2):
        client.verify(token)
        authsvc.wait_received("Watch", streams)
        client.close()
