"""Public keys as JWKs, and key sets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from authsvc.core import jwk
from authsvc.core.errors import InvalidRequest
from authsvc.core.jose import OWN_RSA_BITS, Algorithm, VerificationKey, verification_keys
from tests.support.forge import EDDSA, ES256, OTHER, RS256

EC, OKP, RSA = ES256.public_jwk(), EDDSA.public_jwk(), RS256.public_jwk()
SHORT_RSA = jwk.public_members(rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key())


def key_set(*keys: object) -> str:
    return json.dumps({"keys": keys})


@pytest.mark.parametrize("members", [EC, OKP, RSA], ids=["EC", "OKP", "RSA"])
def test_a_published_key_is_read_back(members: dict[str, str]) -> None:
    key = VerificationKey.from_jwk(members, minimum_rsa_bits=OWN_RSA_BITS)
    assert {**jwk.public_members(key.public_key), "kid": key.kid, "alg": key.algorithm.value, "use": "sig"} == members
    assert members["kid"] == jwk.thumbprint(members)
    bare = {name: value for name, value in members.items() if name not in {"kid", "alg", "use"}}
    assert VerificationKey.from_jwk(bare) == key


@pytest.mark.standard("J3")
def test_the_jwk_fixes_the_algorithm() -> None:
    for algorithm in (a for a in Algorithm if a.value[:2] in {"RS", "PS"}):
        assert VerificationKey.from_jwk(RSA | {"alg": algorithm.value}).algorithm is algorithm
        bare = {name: value for name, value in RSA.items() if name != "alg"}
        assert VerificationKey.from_jwk(bare, algorithm=algorithm).algorithm is algorithm
    assert VerificationKey.from_jwk(RSA, algorithm=Algorithm.PS256).algorithm is Algorithm.RS256
    unfit = {name: value for name, value in EC.items() if name != "alg"}
    assert VerificationKey.from_jwk(unfit, algorithm=Algorithm.RS256).algorithm is Algorithm.ES256


@pytest.mark.parametrize(("curve", "algorithm"), [(ec.SECP384R1(), Algorithm.ES384), (ec.SECP521R1(), Algorithm.ES512)])
def test_each_curve_has_its_algorithm(curve: ec.EllipticCurve, algorithm: Algorithm) -> None:
    members = jwk.public_members(ec.generate_private_key(curve).public_key())
    assert VerificationKey.from_jwk(members).algorithm is algorithm
    with pytest.raises(InvalidRequest):
        VerificationKey.from_jwk(members | {"alg": "ES256"})


@pytest.mark.standard("J19")
def test_rsa_keys_have_a_least_size() -> None:
    assert VerificationKey.from_jwk(SHORT_RSA).algorithm is Algorithm.RS256
    with pytest.raises(InvalidRequest, match="3072"):
        VerificationKey.from_jwk(SHORT_RSA, minimum_rsa_bits=OWN_RSA_BITS)
    tiny = SHORT_RSA | {"n": jwk.encode_base64url(b"\xc1" * 128)}
    huge = SHORT_RSA | {"n": jwk.encode_base64url(b"\xc1" * 2048)}
    even = SHORT_RSA | {"e": jwk.encode_base64url(b"\x02")}
    for members in (tiny, huge, even):
        with pytest.raises(InvalidRequest):
            VerificationKey.from_jwk(members)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"d": "AA"}, "d"), ({"k": "AA"}, "d"), ({"use": "enc"}, "use"), ({"use": 1}, "use"),
        ({"key_ops": ["sign"]}, "key_ops"), ({"key_ops": "verify"}, "key_ops"),
        ({"kty": "oct"}, "kty"), ({"kty": None}, "kty"), ({"kty": ["EC"]}, "kty"),
        ({"crv": "secp256k1"}, "kty"), ({"crv": "P-384"}, "x"), ({"crv": "Ed25519"}, "kty"), ({"crv": 1}, "kty"),
        ({"x": EC["y"]}, "x"), ({"x": EC["x"][:-1]}, "x"), ({"x": EC["x"] + "="}, "x"), ({"y": 7}, "y"),
        ({"y": ""}, "y"), ({"x": "é" * 43}, "x"), ({"alg": "HS256"}, "alg"), ({"alg": "none"}, "alg"),
        ({"alg": None}, "alg"), ({"alg": "RS256"}, "alg"), ({"alg": ["ES256"]}, "alg"), ({"kid": "../a"}, "kid"),
        ({"kid": ""}, "kid"), ({"kid": 1}, "kid"),
    ],
)  # fmt: skip
def test_a_key_that_is_not_for_verification_is_refused_by_member(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        VerificationKey.from_jwk(EC | changes)
    assert caught.value.violations[0].field == field


def test_a_set_leaves_out_what_cannot_be_used() -> None:
    symmetric = {"kty": "oct", "k": "AA", "kid": "mac"}
    keys = verification_keys(key_set(EC, symmetric, {}, EC | {"use": "enc"}, OTHER.public_jwk(), RSA, OKP))
    assert keys.keys() == {ES256.kid, OTHER.kid, RS256.kid, EDDSA.kid}
    assert verification_keys(key_set(SHORT_RSA), minimum_rsa_bits=OWN_RSA_BITS) == {}


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"keys": {}}', '{"keys": [1]}', '{"keys": [], "keys": []}', "\ud800", b"\xff", "null",
        key_set(EC, EC), key_set(EC, OTHER.public_jwk() | {"kid": ES256.kid}), key_set(*[{}] * (jwk.MAX_KEYS + 1)),
        " " * (jwk.MAX_JWKS + 1),
    ],
)  # fmt: skip
def test_what_is_no_key_set_is_refused_whole(text: str | bytes) -> None:
    with pytest.raises(InvalidRequest):
        verification_keys(text)
