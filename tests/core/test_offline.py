"""Verification of any JWT against a JWKS text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from authsvc.core.errors import InvalidRequest, Reason
from authsvc.core.jose import Algorithm, PrivateKey, verification_keys
from authsvc.core.offline import NOT_A_JWT, Expectations, verify_lines
from tests.support.forge import EDDSA, ES256, ISSUER, NOW, OTHER, RS256, forge, header, payload

ALL = Expectations(issuer=ISSUER, audience="orders", typ="at+jwt", algorithm=Algorithm.ES256)


def answer(token: str, *keys: PrivateKey, expect: Expectations = ALL, now: int = NOW) -> str:
    text = json.dumps({"keys": [key.public_jwk() for key in keys or (ES256, OTHER)]})
    given = verify_lines(text, expect, lambda: now)(token)
    assert given.keys() == {"valid", "reason"}
    assert given["valid"] is (given["reason"] == "")
    return str(given["reason"])


def test_a_good_token_is_valid_in_a_line() -> None:
    assert answer(forge(header(), payload())) == ""
    assert answer(f"  {forge(header(), payload())}\r\n") == ""
    assert answer(forge(header(EDDSA), payload(), EDDSA), EDDSA, expect=Expectations()) == ""
    assert answer(forge(header(RS256), payload(), RS256), RS256, expect=Expectations()) == ""


@pytest.mark.standard("J1", "J3", "J5", "J12", "J13", "J15", "J16", "J17")
@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (forge(header(), payload(iss="https://other.example")), Reason.TOKEN_ISSUER_UNKNOWN),
        (forge(header(), payload(iss=None)), Reason.TOKEN_ISSUER_UNKNOWN),
        (forge(header(), payload(iss=1)), Reason.TOKEN_CLAIM_INVALID),
        (forge(header(), payload(aud="invoices")), Reason.TOKEN_AUDIENCE_MISMATCH),
        (forge(header(), payload(aud=None)), Reason.TOKEN_AUDIENCE_MISMATCH),
        (forge(header(typ="JWT"), payload()), Reason.TOKEN_TYPE_REFUSED),
        (forge(header(typ=None), payload()), Reason.TOKEN_TYPE_REFUSED),
        (forge(header(), payload(exp=NOW)), Reason.TOKEN_EXPIRED),
        (forge(header(), payload(exp=None)), Reason.TOKEN_CLAIM_INVALID),
        (forge(header(), payload(nbf=NOW + 1)), Reason.TOKEN_NOT_YET_VALID),
        (forge(header(), payload(), OTHER), Reason.TOKEN_SIGNATURE_INVALID),
        (forge(header(EDDSA), payload(), EDDSA), Reason.TOKEN_KEY_UNKNOWN),
        (forge(header(kid=None), payload()), Reason.TOKEN_KEY_UNKNOWN),
        (forge(header(kid="../a"), payload()), Reason.TOKEN_KEY_UNKNOWN),
        (forge(header(alg="none"), payload()), Reason.TOKEN_ALGORITHM_REFUSED),
        (forge(header(alg="RS256"), payload()), Reason.TOKEN_ALGORITHM_REFUSED),
        (forge(header() | {"crit": ["exp"]}, payload()), Reason.TOKEN_HEADER_REFUSED),
        ("x" * 9000, Reason.TOKEN_TOO_LARGE),
        ("", Reason.TOKEN_MALFORMED),
    ],
)
def test_a_bad_token_is_refused_with_its_reason(token: str, reason: Reason) -> None:
    assert answer(token) == reason.text


def test_what_is_not_given_is_not_checked_but_syntax_signature_and_time_are() -> None:
    bare = Expectations()
    assert answer(forge(header(typ=None), {"exp": NOW + 1}), expect=bare) == ""
    assert answer(forge(header(typ="JWT"), payload(iss="x", aud=["y"])), expect=bare) == ""
    assert answer(forge(header(), payload(), OTHER), expect=bare) == "token_signature_invalid"
    assert answer(forge(header(), payload(exp=NOW - 1)), expect=bare) == "token_expired"
    assert answer(forge(header(), payload(exp=NOW - 1)), expect=Expectations(leeway=60)) == ""


@pytest.mark.standard("J3")
def test_without_an_algorithm_the_key_fixes_it_and_with_one_the_key_must_be_of_it() -> None:
    token = forge(header(EDDSA), payload(), EDDSA)
    assert answer(token, EDDSA, expect=Expectations(algorithm=Algorithm("Ed25519"))) == ""
    assert answer(token, EDDSA, expect=Expectations(algorithm=Algorithm.ES256)) == "token_algorithm_refused"
    assert answer(forge(header(EDDSA, alg="ES256"), payload(), EDDSA), EDDSA, expect=Expectations()) == (
        "token_algorithm_refused"
    )


def test_a_set_of_one_key_needs_no_kid() -> None:
    token = forge(header(kid=None), payload())
    assert answer(token, ES256) == ""
    assert answer(token, OTHER) == "token_signature_invalid"
    assert answer(forge(header(kid="another"), payload()), ES256) == "token_key_unknown"


def test_a_private_part_in_a_persons_own_key_set_is_not_looked_at() -> None:
    text = json.dumps({"keys": [ES256.public_jwk() | {"d": "AAAA"}]})
    assert verify_lines(text, ALL, lambda: NOW)(forge(header(), payload()))["valid"]
    assert verification_keys(text) == {}


@pytest.mark.standard("J14")
@pytest.mark.parametrize("text", ["Payload", "", "[1]", '{"exp":1,"exp":2}', b"\xff"])
def test_a_signature_over_something_else_than_claims_is_good_and_no_jwt(text: str | bytes) -> None:
    assert answer(forge(header(), text)) == NOT_A_JWT == "signature good, not a JWT"
    assert answer(forge(header(), text, OTHER)) == "token_signature_invalid"


def test_a_text_that_is_no_key_set_is_refused_and_a_set_without_usable_keys_knows_no_token() -> None:
    with pytest.raises(InvalidRequest):
        verify_lines("{}", ALL, lambda: NOW)
    keys: list[dict[str, Any]] = [{"kty": "oct", "k": "AAAA", "kid": ES256.kid}]
    checked = verify_lines(json.dumps({"keys": keys}), ALL, lambda: NOW)
    assert checked(forge(header(), payload())) == {"valid": False, "reason": "token_key_unknown"}
