"""What a watcher knows and for how long: the rules, answer by answer, without a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from authsvc.core import claims, jose
from authsvc.core.claims import TokenDraft
from authsvc.core.errors import Internal, Reason, TokenRefused
from authsvc.core.revocations import RevocationKind, revocation_digest
from authsvc.v1 import sync_pb2
from authsvc_client.knowledge import MAX_STALE, PROMISED, WAITED, Known, Watched

ISSUER, AUDIENCE = "https://auth.test", frozenset({"app"})
NOW = 1_700_000_000
KEY = jose.PrivateKey.generate(jose.Algorithm.ES256)
OTHER = jose.PrivateKey.generate(jose.Algorithm.ES256)

KINDS = {
    "subject": (sync_pb2.REVOCATION_KIND_SUBJECT, RevocationKind.SUBJECT, "user:ann"),
    "client": (sync_pb2.REVOCATION_KIND_CLIENT, RevocationKind.CLIENT, "shop"),
    "issuer": (sync_pb2.REVOCATION_KIND_ISSUER, RevocationKind.ISSUER, ISSUER),
}


def token(minted_at: tuple[int, int] = (1, 5), key: jose.PrivateKey = KEY, token_id: str = "t1") -> str:
    draft = TokenDraft(ISSUER, "user:ann", ("app",), "shop", token_id, NOW, NOW + 300, minted_at)
    return claims.sign_token(key, draft)


def key_set(*keys: jose.PrivateKey, revoked: Sequence[str] = (), issuer: str = ISSUER) -> sync_pb2.KeySet:

    jwks = json.dumps({"keys": [key.public_jwk() for key in keys]})
    return sync_pb2.KeySet(issuer=issuer, jwks=jwks, revoked_kids=revoked)


def revocation(kind: str = "subject", before: tuple[int, int] = (1, 6), end: int = NOW + 300) -> sync_pb2.Revocation:
    number, core, value = KINDS[kind]
    digest = revocation_digest(core, value)
    return sync_pb2.Revocation(
        kind=number, digest=digest, before_epoch=before[0], before_number=before[1], expire_seconds=end
    )


def of_token(token_id: str = "t1") -> sync_pb2.Revocation:
    digest = revocation_digest(RevocationKind.TOKEN, token_id)
    return sync_pb2.Revocation(kind=sync_pb2.REVOCATION_KIND_TOKEN, digest=digest, expire_seconds=NOW + 300)


def whole(*revocations: sync_pb2.Revocation, revision: str = "r-1.5", **state: Any) -> sync_pb2.WatchResponse:
    state = {"keys": key_set(KEY), **state}
    response = sync_pb2.WatchResponse(
        state=sync_pb2.WatchState(revocations=revocations, **state), revision=revision, digest=b"d"
    )
    response.max_stale.FromSeconds(30)
    return response


def delta(*revocations: sync_pb2.Revocation, revision: str = "r-1.6", **fields: Any) -> sync_pb2.WatchResponse:
    change = sync_pb2.WatchDelta(revocations=revocations, **fields)
    response = sync_pb2.WatchResponse(delta=change, revision=revision, digest=b"e")
    response.max_stale.FromSeconds(30)
    return response


def heartbeat(revision: str = "r-1.5", age: float = 0.0) -> sync_pb2.WatchResponse:
    response = sync_pb2.WatchResponse(heartbeat=sync_pb2.WatchHeartbeat(), revision=revision)
    response.max_stale.FromSeconds(30)
    response.age.FromMilliseconds(round(age * 1000))
    return response


class Reader:
    """Reads answers at times that a test chooses; each was waited for unless it says so."""

    def __init__(self, *answers: sync_pb2.WatchResponse) -> None:
        self.watched = Watched(ISSUER)
        self.watched.begin(100.0)
        for answer in answers:
            self.read(answer, 100.0)

    def read(self, answer: sync_pb2.WatchResponse, at: float, *, waited: float = 1.0, now: int = NOW) -> str:
        return self.watched.take(answer, at - waited, at, now)

    def known(self, at: float = 100.0) -> Known:
        known = self.watched.usable(at)
        assert known is not None
        return known

    def refused(self, text: str, at: float = 100.0) -> Reason | None:
        """Why a token is refused; None where it is not."""
        try:
            self.known(at).verify(text, AUDIENCE, (), NOW)
        except TokenRefused as refused:
            return refused.reason
        return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.standard("J21")
def test_tokens_minted_below_a_revocation_are_refused_whatever_clocks_say(kind: str) -> None:
    reader = Reader(whole(), delta(revocation(kind, (2, 3))))
    assert reader.refused(token((2, 2))) is Reason.TOKEN_REVOKED
    assert reader.refused(token((1, 999))) is Reason.TOKEN_REVOKED
    assert reader.refused(token((2, 3))) is None
    assert reader.refused(token((3, 0))) is None


def test_one_token_is_refused_by_its_id() -> None:
    reader = Reader(whole(of_token()))
    assert reader.refused(token()) is Reason.TOKEN_REVOKED
    assert reader.refused(token(token_id="t2")) is None


@pytest.mark.standard("K9")
def test_a_key_that_left_verifies_nothing_at_once_and_a_new_one_does() -> None:
    reader = Reader(whole())
    assert reader.refused(token()) is None
    assert reader.refused(token(key=OTHER)) is Reason.TOKEN_KEY_UNKNOWN
    reader.read(delta(keys=key_set(OTHER, revoked=[KEY.kid])), 101.0)
    assert reader.refused(token(), 101.0) is Reason.TOKEN_KEY_REVOKED
    assert reader.refused(token(key=OTHER), 101.0) is None


def test_claims_are_checked_each_time() -> None:
    known = Reader(whole()).known()
    good = token()
    assert known.verify(good, AUDIENCE, (), NOW).subject == "user:ann"
    with pytest.raises(TokenRefused, match="expired"):
        known.verify(good, AUDIENCE, (), NOW + 311)
    with pytest.raises(TokenRefused, match="audience"):
        known.verify(good, frozenset({"other"}), (), NOW)
    with pytest.raises(TokenRefused, match="scope"):
        known.verify(good, AUDIENCE, ("write",), NOW)


@pytest.mark.standard("U12")
def test_a_state_counts_until_max_stale_after_the_service_knew_it_to_be_the_newest() -> None:
    reader = Reader(whole())
    assert reader.watched.usable(129.9)
    assert reader.watched.usable(130.0) is None
    reader.read(heartbeat(age=4.0), 110.0)
    assert reader.watched.usable(135.9)
    assert reader.watched.usable(136.0) is None
    # A service that reaches its record no more keeps nothing fresh.
    reader.read(heartbeat(age=14.0), 120.0)
    assert reader.watched.usable(136.0) is None


def test_an_answer_that_does_not_say_how_long_it_counts_counts_for_the_default() -> None:
    answer = whole()
    answer.ClearField("max_stale")
    reader = Reader(answer)
    assert reader.watched.usable(100.0 + MAX_STALE - 0.1)
    assert reader.watched.usable(100.0 + MAX_STALE) is None


@pytest.mark.standard("U12")
def test_what_lay_in_the_socket_while_the_process_was_frozen_proves_nothing() -> None:
    reader = Reader(whole())
    # Frozen for ten minutes: what is read first was sent before, or meanwhile.
    assert reader.watched.usable(700.0) is None
    for _ in range(3):
        reader.read(heartbeat(), 700.0, waited=0.0)
        assert reader.watched.usable(700.0) is None
    reader.read(heartbeat(), 709.0)
    assert reader.watched.usable(709.0)


def test_the_first_wait_after_a_silence_proves_nothing_either() -> None:
    reader = Reader(whole())
    reader.read(heartbeat(), 100.0 + PROMISED + 20.0, waited=PROMISED + 20.0)
    assert reader.watched.usable(100.0 + PROMISED + 20.0) is None


@pytest.mark.standard("U12")
def test_a_reader_that_lags_behind_a_stream_without_a_pause_keeps_nothing_fresh() -> None:
    reader, read = Reader(whole()), 100.0
    # Twenty changes a second come, five are read: each lay there already, and none is silent for long.
    for number in range(1, 150):
        read += 0.2
        reader.read(delta(revision=f"r-1.{number}"), read, waited=WAITED - 0.01)
    assert reader.watched.revision == "r-1.149"
    assert reader.watched.usable(129.9)
    assert reader.watched.usable(130.0) is None
    assert reader.watched.unproven(read) == pytest.approx(read - 100.0)


@pytest.mark.standard("U12")
def test_a_reader_that_keeps_up_stays_fresh_by_the_pauses_of_a_busy_stream() -> None:
    reader, read = Reader(whole()), 100.0
    for number in range(1, 100):
        read += 1.0
        reader.read(delta(revision=f"r-1.{2 * number}"), read, waited=WAITED)
        reader.read(delta(revision=f"r-1.{2 * number + 1}"), read, waited=0.0)
        assert reader.watched.usable(read + 29.9)
        assert reader.watched.unproven(read) == 0.0


@pytest.mark.standard("U12")
def test_the_first_answers_of_a_stream_are_no_older_than_its_opening() -> None:
    reader = Reader(whole())
    reader.watched.begin(200.0)
    reader.read(heartbeat(), 220.0, waited=0.0)
    assert reader.watched.usable(229.9)
    assert reader.watched.usable(230.0) is None


def test_nothing_has_to_be_proven_before_a_state_is_whole_or_where_none_can_be_decided_by() -> None:
    reader = Reader(whole(partial=True))
    assert reader.watched.unproven(900.0) == 0.0
    reader.read(whole(remote=True), 100.0)
    assert reader.watched.unproven(900.0) == 0.0
    reader.read(whole(), 100.0)
    assert reader.watched.unproven(900.0) == 800.0


def test_a_state_in_parts_takes_effect_with_the_last() -> None:
    reader = Reader(whole(revision="r-1.4"))
    part = whole(revocation(), partial=True)
    part.state.ClearField("keys")
    assert reader.read(part, 101.0) == ""
    assert reader.refused(token(), 101.0) is None
    assert reader.watched.revision == "r-1.4"
    assert reader.read(whole(of_token("t9")), 102.0) == "r-1.5"
    assert reader.refused(token(), 102.0) is Reason.TOKEN_REVOKED
    assert reader.refused(token((1, 6), token_id="t9"), 102.0) is Reason.TOKEN_REVOKED


def test_parts_of_a_stream_that_broke_are_forgotten() -> None:
    reader = Reader()
    reader.read(whole(revocation(), partial=True), 100.0)
    opening = reader.watched.begin(101.0)
    assert opening.known_revision == ""
    reader.read(whole(), 102.0)
    assert reader.refused(token(), 102.0) is None


def test_a_whole_state_replaces_everything_even_where_it_is_older() -> None:
    reader = Reader(whole(revocation(), revision="r-2.9"))
    reader.read(whole(revision="r-1.3"), 101.0)
    assert reader.refused(token(), 101.0) is None
    assert reader.watched.begin(102.0).known_revision == "r-1.3"


def test_each_revision_is_acknowledged_once_a_stream() -> None:
    reader = Reader()
    assert reader.read(whole(), 100.0) == "r-1.5"
    assert reader.read(heartbeat(), 101.0) == ""
    assert reader.read(delta(), 102.0) == "r-1.6"
    opening = reader.watched.begin(103.0)
    assert (opening.known_revision, opening.known_digest) == ("r-1.6", b"e")
    assert reader.read(heartbeat("r-1.6"), 104.0) == "r-1.6"


@pytest.mark.parametrize("answer", [delta(revision="r-2.1"), delta(revision="other-1.6"), heartbeat("r-2.1")])
def test_a_change_of_another_record_or_epoch_forgets_everything(answer: sync_pb2.WatchResponse) -> None:
    reader = Reader(whole())
    with pytest.raises(Internal):
        reader.read(answer, 101.0)
    assert reader.watched.usable(101.0) is None
    assert reader.watched.begin(102.0).known_revision == ""


def test_a_change_before_any_state_is_a_fault() -> None:
    with pytest.raises(Internal):
        Reader(delta())


@pytest.mark.parametrize(
    "answer",
    [
        whole(remote=True),
        whole(sync_pb2.Revocation(digest=b"x")),
        delta(sync_pb2.Revocation(digest=b"x")),
        sync_pb2.WatchResponse(revision="r-1.6"),
    ],
    ids=["left out", "unknown kind", "unknown kind later", "unknown answer"],
)
def test_what_is_not_understood_or_left_out_asks_the_service_until_the_next_whole_state(
    answer: sync_pb2.WatchResponse,
) -> None:
    reader = Reader(whole())
    assert reader.read(answer, 101.0) in {"", "r-1.6"}
    assert reader.watched.usable(101.0) is None
    reader.read(delta(revision="r-1.7"), 102.0)
    assert reader.watched.usable(102.0) is None
    assert reader.watched.begin(102.5).known_revision == ""
    reader.read(whole(revision="r-1.8"), 103.0)
    assert reader.watched.usable(103.0)


def test_a_fault_of_the_issuer_names_the_setting_and_both_in_one_short_line() -> None:
    with pytest.raises(Internal) as error:
        Reader(whole(keys=key_set(KEY, issuer="https://other.test\n" + "x" * 9999)))
    assert "AUTHSVC_ISSUER" in error.value.message
    assert repr(ISSUER) in error.value.message
    assert "https://other.test" in error.value.message
    assert "\n" not in error.value.message
    assert len(error.value.message) < 400


@pytest.mark.parametrize(
    "keys", [key_set(), key_set(KEY, issuer="https://other.test"), sync_pb2.KeySet(issuer=ISSUER, jwks="rubbish")]
)
def test_keys_that_cannot_verify_our_issuer_are_a_fault(keys: sync_pb2.KeySet) -> None:
    reader = Reader(whole())
    with pytest.raises(Internal, match="Watch"):
        reader.read(delta(keys=keys), 101.0)
    assert reader.watched.usable(101.0) is None


@pytest.mark.standard("J21")
def test_a_token_older_than_any_may_be_is_refused_since_its_revocation_may_be_forgotten() -> None:
    reader, answer = Reader(whole()), heartbeat()
    assert reader.known().verify(token(), AUDIENCE, (), NOW + 200).subject == "user:ann"
    answer.max_token_age.FromSeconds(100)
    reader.read(answer, 101.0)
    assert reader.known(101.0).verify(token(), AUDIENCE, (), NOW + 99).subject == "user:ann"
    with pytest.raises(TokenRefused, match="older than any"):
        reader.known(101.0).verify(token(), AUDIENCE, (), NOW + 100)


def test_what_concerns_expired_tokens_only_is_forgotten() -> None:
    reader = Reader(whole(revocation(end=NOW + 10), of_token()))
    known = reader.known()
    assert len(known.revoked) == 2
    reader.read(heartbeat(), 101.0, now=NOW + 400)
    assert len(known.revoked) == 0


def test_another_thread_begins_with_what_is_held() -> None:
    reader = Reader(whole(revocation()))
    other = reader.watched.again()
    assert other.usable(129.0) is not None
    assert other.begin(101.0).known_revision == "r-1.5"


class _Looked(str):
    """An issuer that runs something when answers are compared with it: what another thread does meanwhile."""

    __slots__ = ("meanwhile",)
    meanwhile: Callable[[], None]

    def __ne__(self, other: object) -> bool:
        self.meanwhile()
        return str.__ne__(self, other)

    __eq__ = str.__eq__
    __hash__ = str.__hash__


@pytest.mark.standard("U12")
def test_another_thread_that_begins_while_a_state_is_read_decides_by_what_it_hears() -> None:
    issuer, others = _Looked(ISSUER), list[Watched]()
    issuer.meanwhile = lambda: None
    reader = Reader()
    reader.watched = Watched(issuer)
    reader.watched.begin(100.0)
    reader.read(whole(revision="r-1.4"), 100.0)
    issuer.meanwhile = lambda: others.append(reader.watched.again())
    reader.read(whole(), 101.0)
    reader.watched = others[0]
    assert reader.watched.begin(102.0).known_revision == "r-1.4"
    reader.read(delta(revocation()), 102.0)
    assert reader.refused(token(), 102.0) is Reason.TOKEN_REVOKED
