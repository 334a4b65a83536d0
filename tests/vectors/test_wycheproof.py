"""Project Wycheproof's vectors against the signature layer and against a whole verification.

A refusal by policy counts as agreeing: `REFUSED_BY_POLICY` says which valid vectors those are, and why.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from authsvc.core.jose import Algorithm, VerificationKey
from authsvc.core.offline import NOT_A_JWT, Expectations, verify_lines

_SYMMETRIC = "HS256: there is no symmetric algorithm here, since whoever verifies could also sign"

REFUSED_BY_POLICY = {348: _SYMMETRIC, 352: _SYMMETRIC, 358: _SYMMETRIC, 376: _SYMMETRIC}
"""Valid JWS cases that are refused, by `tcId`."""

PRIMITIVES = {
    "ecdsa_secp256r1_sha256_p1363_test.json": Algorithm.ES256,
    "ed25519_test.json": Algorithm.EDDSA,
    "rsa_pss_2048_sha256_mgf1_32_test.json": Algorithm.PS256,
    "rsa_signature_2048_sha256_test.json": Algorithm.RS256,
}


def read(corpora: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((corpora / "wycheproof" / name).read_text())
    return loaded


def key_of(group: dict[str, Any], algorithm: Algorithm) -> VerificationKey:
    der = load_der_public_key(bytes.fromhex(group["publicKeyDer"]))
    key = VerificationKey("none", algorithm, der)  # type: ignore[arg-type]
    for name in ("publicKeyJwk", "keyJwk"):
        if name in group:
            assert VerificationKey.from_jwk(group[name]) == key
    return key


@pytest.mark.standard("J6", "J18")
@pytest.mark.parametrize("name", PRIMITIVES)
def test_the_signature_layer_agrees_with_every_vector(corpora: Path, name: str) -> None:
    vectors, seen = read(corpora, name), 0
    for group in vectors["testGroups"]:
        key = key_of(group, PRIMITIVES[name])
        for case in group["tests"]:
            seen += 1
            verifies = key.verifies(bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
            if case["result"] != "acceptable":
                assert verifies == (case["result"] == "valid"), (case["tcId"], case["comment"])
    assert seen == vectors["numberOfTests"]


def jws_cases(corpora: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for group in read(corpora, "json_web_signature_even_test.json")["testGroups"]:
        for case in group["tests"]:
            yield group.get("public") or group["private"], case


def verifies_jws(members: dict[str, Any], case: dict[str, Any]) -> bool:
    answer = verify_lines(json.dumps({"keys": [members]}), Expectations(), lambda: 0)(case["jws"])
    return bool(answer["valid"] or answer["reason"] == NOT_A_JWT)


@pytest.mark.standard("J2", "J3", "J6", "J7", "J8", "J10")
def test_every_jws_case_agrees_but_for_the_refusals_by_policy(corpora: Path) -> None:
    cases = list(jws_cases(corpora))
    disagree = [case["tcId"] for members, case in cases if verifies_jws(members, case) != (case["result"] == "valid")]
    assert disagree == sorted(REFUSED_BY_POLICY)
    assert len(cases) == read(corpora, "json_web_signature_even_test.json")["numberOfTests"]
