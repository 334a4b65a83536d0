"""What a token claims, and when it is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from authsvc.core import claims
from authsvc.core.claims import (
    ACCESS_TOKEN_TYPES,
    IGNORE,
    Issuer,
    VerifiedToken,
    check_now,
    sign_token,
    verify,
    verify_signature_and_claims,
)
from authsvc.core.errors import Reason
from authsvc.core.jose import Algorithm, PrivateKey, parse_compact
from tests.support.forge import (
    AUDIENCE,
    DRAFT,
    EDDSA,
    ES256,
    ISSUER,
    NOW,
    OTHER,
    RS256,
    draft,
    forge,
    header,
    payload,
    public,
    refused,
    trust,
)

TRUST = trust(ES256)


def read(**changes: Any) -> VerifiedToken:
    return verify_signature_and_claims(forge(header(), payload(**changes)), TRUST)


def check(token: VerifiedToken, now: int = NOW, leeway: int = 0, **changes: Any) -> None:
    check_now(token, now=now, leeway=leeway, **{"audience": AUDIENCE, **changes})


@pytest.mark.standard("A1", "A2", "A3", "A5", "J12", "J21")
@pytest.mark.parametrize("key", [ES256, EDDSA, RS256], ids=lambda key: key.algorithm.value)
def test_what_is_signed_is_what_is_verified(key: PrivateKey) -> None:
    verified = verify(sign_token(key, DRAFT), trust(key), now=NOW, leeway=0, audience=AUDIENCE)
    assert verified.key_id == key.kid
    assert verified.not_before is None
    assert {name: getattr(verified, name) for name in (f.name for f in dataclasses.fields(DRAFT))} == {
        f.name: getattr(DRAFT, f.name) for f in dataclasses.fields(DRAFT)
    }


@pytest.mark.standard("A1", "A6", "J12")
def test_a_token_holds_the_claims_of_rfc_9068_and_no_personal_data() -> None:
    full = draft(groups=("eu-desk",), audience=("orders", "invoices"))
    bare = draft(scope=(), roles=(), tenant="")
    required = {"iss", "exp", "aud", "sub", "client_id", "iat", "jti", "authsvc_rev"}
    much, little = json.loads(full.payload()), json.loads(bare.payload())
    assert little.keys() == required
    assert much.keys() == required | {"scope", "groups", "roles", "tenant"}
    assert much["aud"] == ["orders", "invoices"]
    assert little["aud"] == "orders"
    assert much["authsvc_rev"] == "3.41"
    assert parse_compact(sign_token(ES256, full)).header.members == {"alg": "ES256", "kid": ES256.kid, "typ": "at+jwt"}


@pytest.mark.standard("A1", "J12")
@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": ""}, {"subject": ""}, {"client_id": ""}, {"token_id": ""}, {"audience": ()}, {"audience": ("",)},
        {"expire_time": NOW}, {"expire_time": NOW - 1},
    ],
)  # fmt: skip
def test_a_token_without_a_required_claim_is_never_drafted(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a token"):
        draft(**changes)


@pytest.mark.standard("J1")
@pytest.mark.parametrize("changes", [{"algorithms": frozenset()}, {"types": frozenset()}, {"issuer": ""}])
def test_an_issuer_without_an_allowlist_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowlist"):
        Issuer(**{"issuer": ISSUER, "keys": {}, "algorithms": frozenset({Algorithm.ES256}), **changes})


@pytest.mark.standard("J1", "J5")
def test_an_algorithm_off_the_issuers_allowlist_is_refused_though_the_key_is_there() -> None:
    issuers = trust(ES256, EDDSA, algorithms=frozenset({Algorithm.EDDSA}))
    refused(Reason.TOKEN_ALGORITHM_REFUSED, lambda: verify_signature_and_claims(sign_token(ES256, DRAFT), issuers))
    assert verify_signature_and_claims(sign_token(EDDSA, DRAFT), issuers).key_id == EDDSA.kid


@pytest.mark.standard("J5")
def test_the_same_kid_under_two_issuers_does_not_cross() -> None:
    mine, theirs = "https://a.example", "https://b.example"
    issuers = {
        mine: Issuer(mine, {"k1": public(ES256)}, frozenset({Algorithm.ES256})),
        theirs: Issuer(theirs, {"k1": public(OTHER)}, frozenset({Algorithm.ES256})),
    }
    for name, key, other in ((mine, ES256, OTHER), (theirs, OTHER, ES256)):
        good = forge(header(kid="k1"), payload(iss=name), key)
        assert verify_signature_and_claims(good, issuers).issuer == name
        crossed = forge(header(kid="k1"), payload(iss=name), other)
        refused(Reason.TOKEN_SIGNATURE_INVALID, partial(verify_signature_and_claims, crossed, issuers))


@pytest.mark.standard("J5")
@pytest.mark.parametrize(
    "name",
    [
        ISSUER + "/", ISSUER[:-1], ISSUER.upper(), ISSUER + "\0", " " + ISSUER, "", "https://auth", [ISSUER],
        {ISSUER: 1}, None, 1, True,
    ],
)  # fmt: skip
def test_iss_is_compared_exactly(name: object) -> None:
    members = payload() | {"iss": name}
    refused(Reason.TOKEN_ISSUER_UNKNOWN, lambda: verify_signature_and_claims(forge(header(), members), TRUST))
    refused(Reason.TOKEN_ISSUER_UNKNOWN, lambda: read(iss=None))


@pytest.mark.standard("K9")
def test_a_revoked_key_is_refused_by_name() -> None:
    issuers = trust(ES256, OTHER, revoked_kids=frozenset({OTHER.kid}))
    refused(Reason.TOKEN_KEY_REVOKED, lambda: verify_signature_and_claims(sign_token(OTHER, DRAFT), issuers))
    assert verify_signature_and_claims(sign_token(ES256, DRAFT), issuers).key_id == ES256.kid


@pytest.mark.standard("J12")
@pytest.mark.parametrize(
    ("aud", "reason"),
    [
        (None, Reason.TOKEN_AUDIENCE_MISMATCH), ([], Reason.TOKEN_AUDIENCE_MISMATCH), ("", Reason.TOKEN_CLAIM_INVALID),
        ("Orders", Reason.TOKEN_AUDIENCE_MISMATCH), ("orders2", Reason.TOKEN_AUDIENCE_MISMATCH),
        (["invoices"], Reason.TOKEN_AUDIENCE_MISMATCH), ("order", Reason.TOKEN_AUDIENCE_MISMATCH),
        (["orders", 1], Reason.TOKEN_CLAIM_INVALID), ({"orders": 1}, Reason.TOKEN_CLAIM_INVALID),
        (["orders", ""], Reason.TOKEN_CLAIM_INVALID), (7, Reason.TOKEN_CLAIM_INVALID),
        ("orders", None), (["invoices", "orders"], None),
    ],
)  # fmt: skip
def test_a_missing_or_foreign_audience_is_refused(aud: object, reason: Reason | None) -> None:
    token = forge(header(), payload(aud=aud))

    def run() -> object:
        return verify(token, TRUST, now=NOW, leeway=0, audience=AUDIENCE)

    if reason is None:
        run()
    else:
        refused(reason, run)


@pytest.mark.standard("J12")
def test_audience_is_ignored_only_on_purpose_and_nobody_is_no_audience() -> None:
    token = read()
    check(token, audience=IGNORE)
    refused(Reason.TOKEN_AUDIENCE_MISMATCH, partial(read, aud=None))
    refused(Reason.TOKEN_AUDIENCE_MISMATCH, partial(read, aud=[]))
    refused(Reason.TOKEN_AUDIENCE_MISMATCH, lambda: check(token, audience=frozenset()))
    null = forge(header(), json.dumps(payload() | {"aud": None}))
    refused(Reason.TOKEN_CLAIM_INVALID, lambda: verify_signature_and_claims(null, TRUST))


KINDS: dict[str, str | None] = {
    "access token": "at+jwt",
    "access token, long form": "application/at+jwt",
    "any JWT": "JWT",
    "no type": None,
    "id token": "id_token+jwt",
    "client assertion": "client-authentication+jwt",
    "proof of possession": "dpop+jwt",
    "logout token": "logout+jwt",
    "security event": "secevent+jwt",
    "refresh token": "rt+jwt",
    "introspection answer": "token-introspection+jwt",
    "authorization grant": "authorization-grant+jwt",
    "page token": "page+jwt",
    "SPIFFE identity": "JOSE",
}
ENDPOINTS = {"access token": ACCESS_TOKEN_TYPES} | {
    kind: frozenset({typ.lower(), f"application/{typ.lower()}"})
    for kind, typ in KINDS.items()
    if typ and "/" not in typ
}


@pytest.mark.standard("J13")
@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_refused_where_another_is_expected(kind: str, endpoint: str) -> None:
    issuers = trust(ES256, types=ENDPOINTS[endpoint])
    token = forge(header(typ=KINDS[kind]), payload())
    if kind.removesuffix(", long form") == endpoint.removesuffix(", long form"):
        verify_signature_and_claims(token, issuers)
    else:
        refused(Reason.TOKEN_TYPE_REFUSED, lambda: verify_signature_and_claims(token, issuers))


@pytest.mark.standard("J13")
@pytest.mark.parametrize("typ", ["AT+JWT", "Application/at+jwt", "at+jwt ", "at", "", "a\u0165+jwt", 1, ["at+jwt"]])
def test_typ_is_a_media_type_without_regard_to_case(typ: object) -> None:
    token = forge(header() | {"typ": typ}, payload())
    if isinstance(typ, str) and typ.lower() in ACCESS_TOKEN_TYPES:
        verify_signature_and_claims(token, TRUST)
    else:
        refused(Reason.TOKEN_TYPE_REFUSED, lambda: verify_signature_and_claims(token, TRUST))


@pytest.mark.standard("J14")
@pytest.mark.parametrize(
    "text",
    [
        b"not json", b"", b"null", b"[1]", json.dumps(payload()).encode("utf-16"),
        json.dumps(payload()).encode("utf-32"),
        json.dumps(payload())[:-1].encode() + b',"sub":"user:ann"}', json.dumps(payload())[:-1].encode() + b',"x":NaN}',
        json.dumps(payload())[:-1].encode() + b',"x":' + b"[" * 99 + b"]" * 99 + b"}",
        json.dumps(payload())[:-1].encode() + b',"x":' + b"9" * 4000 + b"}",
        json.dumps(payload())[:-1].encode() + b',"x":"\xff"}',
    ],
)  # fmt: skip
def test_a_payload_is_one_strict_json_object(text: bytes) -> None:
    refused(Reason.TOKEN_MALFORMED, lambda: verify_signature_and_claims(forge(header(), text), TRUST))


@pytest.mark.standard("J15", "A1")
@pytest.mark.parametrize("name", ["exp", "iat", "sub", "client_id", "jti"])
def test_a_required_claim_is_required(name: str) -> None:
    refused(Reason.TOKEN_CLAIM_INVALID, lambda: read(**{name: None}))


BAD_TIMES = [True, False, "1800000900", "", [NOW], {}, -1, -0.5, claims.MAX_TIME + 1, 1e300, 10**18]


@pytest.mark.standard("J15")
@pytest.mark.parametrize("value", BAD_TIMES)
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_times_are_numbers_in_range(name: str, value: object) -> None:
    refused(Reason.TOKEN_CLAIM_INVALID, lambda: read(**{name: value}))
    null = forge(header(), json.dumps(payload() | {name: None}))
    refused(Reason.TOKEN_CLAIM_INVALID, lambda: verify_signature_and_claims(null, TRUST))


@pytest.mark.standard("J14", "J15")
@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "9" * 400])
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_times_are_finite(name: str, value: str) -> None:
    text = json.dumps(payload(**{name: 12321})).replace("12321", value)
    refused(Reason.TOKEN_MALFORMED, lambda: verify_signature_and_claims(forge(header(), text), TRUST))


@pytest.mark.standard("J15")
def test_a_fraction_is_rounded_to_the_side_that_refuses() -> None:
    token = read(exp=NOW + 9.9, nbf=NOW + 0.1, iat=NOW - 0.9)
    assert (token.expire_time, token.not_before, token.issue_time) == (NOW + 9, NOW + 1, NOW)


@pytest.mark.standard("J15")
@pytest.mark.parametrize("leeway", [0, 10, 60])
def test_the_edges_of_time(leeway: int) -> None:
    token = read(nbf=NOW + 5)
    check(token, NOW + 900 + leeway - 1, leeway)
    refused(Reason.TOKEN_EXPIRED, lambda: check(token, NOW + 900 + leeway, leeway))
    check(token, NOW + 5 - leeway, leeway)
    refused(Reason.TOKEN_NOT_YET_VALID, lambda: check(token, NOW + 5 - leeway - 1, leeway))
    plain = read()
    check(plain, NOW - leeway, leeway)
    refused(Reason.TOKEN_NOT_YET_VALID, lambda: check(plain, NOW - leeway - 1, leeway))


@pytest.mark.standard("J15")
@pytest.mark.parametrize("leeway", [-1, 61, 3600])
def test_a_leeway_is_capped(leeway: int) -> None:
    with pytest.raises(ValueError, match="leeway"):
        check(read(), leeway=leeway)


BAD_CLAIMS: dict[str, list[object]] = {
    "sub": ["", 1, [], "a\0b", "a\nb", "x" * 1025],
    "client_id": ["", 1, "a\x7f"],
    "jti": ["", 1, ["j"]],
    "tenant": ["", 1, "a\u2028b"],
    "scope": [1, ["a"], " a", "a ", "a  b", 'a"b', "a\\b", "é", "a\tb"],
    "groups": ["g", [1], [""], {"g": 1}, 1],
    "roles": ["r", [None], [["r"]], 1],
    "authsvc_rev": [1, "", "1", "0.1", "1.", "1.01", "-1.1", "1.1.1", [1, 1], 1.5],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_CLAIMS.items() for value in values])
def test_a_claim_of_the_wrong_shape_is_refused(name: str, value: object) -> None:
    refused(Reason.TOKEN_CLAIM_INVALID, lambda: read(**{name: value}))


@pytest.mark.standard("J21")
def test_the_revision_a_token_was_minted_at_orders_by_epoch_and_number() -> None:
    orders = [(1, 9), (1, 10), (2, 0), (10, 1)]
    minted = [verify_signature_and_claims(sign_token(ES256, draft(minted_at=o)), TRUST).minted_at for o in orders]
    assert minted == orders == sorted(orders)
    assert read(authsvc_rev=None).minted_at is None


@pytest.mark.standard("J12", "A4")
def test_required_scopes_are_all_required() -> None:
    token = read(scope="orders.read orders.write")
    check(token, required_scope=frozenset())
    check(token, required_scope=frozenset({"orders.read", "orders.write"}))
    for missing in ({"orders"}, {"orders.read", "orders.delete"}, {"orders.read orders.write"}):
        refused(Reason.TOKEN_SCOPE_INSUFFICIENT, partial(check, token, required_scope=frozenset(missing)))
    refused(Reason.TOKEN_SCOPE_INSUFFICIENT, lambda: check(read(scope=None), required_scope=frozenset({"a"})))


def test_only_verification_makes_a_verified_token() -> None:
    token = read()
    values = {field.name: getattr(token, field.name) for field in dataclasses.fields(VerifiedToken) if field.init}
    make: Callable[..., VerifiedToken] = VerifiedToken
    with pytest.raises(TypeError, match="only verification"):
        make(**values)
    with pytest.raises(TypeError):
        make(**values, mint=object())
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(token, subject="user:root")
