"""Local verification against the published keys."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator

import pytest

from authsvc.core import claims, jose
from authsvc.core.errors import Reason, TokenRefused, Unavailable
from authsvc_client import Client, InvalidRequest, Settings
from authsvc_client.keyset import REFETCH_INTERVAL, KeyCache
from authsvc_client.methods import GET_JWKS
from authsvc_client.testing import FakeAuthsvc
from authsvc_client.wire import Wire
from tests.client.conftest import PATIENT, Ask
from tests.support.scale import scale
from tests.support.waiting import wait_for


class Verifier:
    """A key cache on the fake whose monotonic clock a test turns."""

    def __init__(self, authsvc: FakeAuthsvc) -> None:
        self.now = 1000.0
        self._authsvc = authsvc
        self._wire = Wire(authsvc.settings())
        self._keys = KeyCache(authsvc.settings(), lambda step: self._wire.send(step, 10.0), lambda: self.now)

    def __call__(self, token: str) -> str:
        now = self._authsvc.state.clock.now()
        return self._wire.run(self._keys.verify(token, (), (), now), 10.0).subject

    def settle(self) -> None:
        wait_for(lambda: self._keys._sets._flight is None)

    def close(self) -> None:
        self._wire.close()


@pytest.fixture
def verifier(authsvc: FakeAuthsvc) -> Iterator[Verifier]:
    verifier = Verifier(authsvc)
    yield verifier
    verifier.close()


def refused(verifier: Verifier, token: str) -> Reason:
    with pytest.raises(TokenRefused) as error:
        verifier(token)
    return error.value.reason


def with_kid(token: str, kid: str) -> str:
    _, payload, signature = token.split(".")
    header = json.dumps({"alg": "ES256", "kid": kid, "typ": "at+jwt"}).encode()
    return f"{base64.urlsafe_b64encode(header).rstrip(b'=').decode()}.{payload}.{signature}"


def test_both_forms_verify_what_the_token_says(authsvc: FakeAuthsvc, ask: Ask) -> None:
    token = authsvc.token("user:ann", scope=["a", "b"], tenant="acme")
    settings = authsvc.settings(AUTHSVC_DEADLINE=PATIENT)
    bearer = ask(settings, lambda c: c.verify(token, required_scope=["a"]))
    assert (bearer.subject, bearer.scope, bearer.tenant) == ("user:ann", ("a", "b"), "acme")
    with pytest.raises(TokenRefused) as error:
        ask(settings, lambda c: c.verify(token, required_scope=["c"]))
    assert error.value.reason is Reason.TOKEN_SCOPE_INSUFFICIENT


@pytest.mark.standard("J5", "J12", "J15")
def test_what_is_not_ours_is_refused(authsvc: FakeAuthsvc, verifier: Verifier) -> None:
    assert refused(verifier, authsvc.token("user:ann", audience=["elsewhere"])) is Reason.TOKEN_AUDIENCE_MISMATCH
    assert refused(verifier, authsvc.token("user:ann", ttl=-60)) is Reason.TOKEN_EXPIRED
    assert refused(verifier, "rubbish") is Reason.TOKEN_MALFORMED
    good = authsvc.token("user:ann")
    assert refused(verifier, good[:-6] + "AAAAAA") is Reason.TOKEN_SIGNATURE_INVALID
    stranger = jose.PrivateKey.generate(jose.Algorithm.ES256)
    now = authsvc.state.clock.now()
    draft = claims.TokenDraft("https://other", "user:ann", ("app",), "test", "id", now, now + 60, (1, 1))
    assert refused(verifier, claims.sign_token(stranger, draft)) is Reason.TOKEN_ISSUER_UNKNOWN


def test_a_flood_of_unknown_kids_makes_one_fetch_an_interval(authsvc: FakeAuthsvc, verifier: Verifier) -> None:
    good = authsvc.token("user:ann")
    verifier(good)
    assert authsvc.received("GetJwks") == 1
    for _ in range(scale(2000)):
        assert refused(verifier, with_kid(good, secrets.token_urlsafe(32))) is Reason.TOKEN_KEY_UNKNOWN
    assert authsvc.received("GetJwks") == 1
    verifier.now += REFETCH_INTERVAL
    for _ in range(scale(2000)):
        assert refused(verifier, with_kid(good, secrets.token_urlsafe(32))) is Reason.TOKEN_KEY_UNKNOWN
    assert authsvc.received("GetJwks") == 2
    assert verifier(good) == "user:ann"


def test_a_new_key_is_found_by_its_kid(authsvc: FakeAuthsvc, verifier: Verifier) -> None:
    before = authsvc.token("user:ann")
    verifier(before)
    authsvc.rotate_key()
    after = authsvc.token("user:bob")
    verifier.now += REFETCH_INTERVAL
    assert (verifier(after), verifier(before)) == ("user:bob", "user:ann")


def test_max_age_is_honoured_so_that_a_withdrawn_key_goes(authsvc: FakeAuthsvc, verifier: Verifier) -> None:
    authsvc.publish_for(100)
    token = authsvc.token("user:ann")
    kid = authsvc.key_id
    verifier(token)
    authsvc.revoke_key(kid)
    verifier.now += 79
    assert verifier(token) == "user:ann"
    assert authsvc.received("GetJwks") == 1
    verifier.now += 2
    verifier(token)
    verifier.settle()
    assert authsvc.received("GetJwks") == 2
    assert refused(verifier, token) is Reason.TOKEN_KEY_UNKNOWN


@pytest.mark.standard("K9")
def test_a_set_is_used_until_its_max_age_and_no_longer_also_without_the_service(
    authsvc: FakeAuthsvc, verifier: Verifier
) -> None:
    authsvc.publish_for(100)
    token = authsvc.token("user:ann")
    verifier(token)
    authsvc.stop()
    verifier.now += 99
    assert verifier(token) == "user:ann"
    verifier.now += 1
    with pytest.raises(Unavailable):
        verifier(token)


@pytest.mark.standard("U13")
def test_what_was_verified_once_still_expires(authsvc: FakeAuthsvc) -> None:
    wire = Wire(authsvc.settings())
    cache = KeyCache(authsvc.settings(), lambda step: wire.send(step, 10.0), lambda: 1000.0)
    token = authsvc.token("user:ann", ttl=60)
    now = authsvc.state.clock.now()
    assert wire.run(cache.verify(token, (), (), now), 10.0).subject == "user:ann"
    with pytest.raises(TokenRefused) as error:
        wire.run(cache.verify(token, (), (), now + 71), 10.0)
    assert error.value.reason is Reason.TOKEN_EXPIRED
    with pytest.raises(TokenRefused) as error:
        wire.run(cache.verify(token, ("other",), (), now), 10.0)
    assert error.value.reason is Reason.TOKEN_AUDIENCE_MISMATCH
    wire.close()


@pytest.mark.parametrize("jwks", ["", "{}", '{"keys": []}', "not json", '{"keys": [{"kty": "oct", "k": "AA"}]}'])
def test_an_unusable_key_set_verifies_nothing_and_is_no_crash(jwks: str) -> None:
    settings = Settings("127.0.0.1:1", issuer="https://i", audience=("app",))
    answer = GET_JWKS.response_type(jwks=jwks, max_age=60)
    wire = Wire(settings)
    cache = KeyCache(settings, lambda _step: answer, lambda: 1000.0)
    with pytest.raises(Exception, match="GetJwks"):
        wire.run(cache.verify("a.b.c", (), (), 0), 10.0)


@pytest.mark.parametrize("missing", ["AUTHSVC_ISSUER", "AUTHSVC_AUDIENCE"])
def test_what_local_verification_needs_is_named(authsvc: FakeAuthsvc, missing: str) -> None:
    with Client(authsvc.settings(**{missing: ""})) as client, pytest.raises(InvalidRequest, match=missing):
        client.verify(authsvc.token("user:ann"))
