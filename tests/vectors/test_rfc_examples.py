"""The examples of RFC 7515, 7520, 7638, 7797 and 8037."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from authsvc.core import jwk
from authsvc.core.errors import InvalidRequest, Reason
from authsvc.core.jose import Algorithm, VerificationKey, parse_compact, verify_signature
from authsvc.core.offline import NOT_A_JWT, Expectations, verify_lines
from tests.support.forge import refused

_SYMMETRIC = "there is no symmetric algorithm here"
_OTHER_FORM = "only the compact form with its payload in it is a token (STANDARDS J8)"

REFUSED_BY_POLICY = {
    "RFC7515-A.1-HS256": _SYMMETRIC,
    "4_4.hmac-sha2_integrity_protection": _SYMMETRIC,
    "4_5.signature_with_detached_content": _OTHER_FORM,
    "4_6.protecting_specific_header_fields": _OTHER_FORM,
    "4_7.protecting_content_only": _OTHER_FORM,
    "4_8.multiple_signatures": _OTHER_FORM,
}
"""Valid examples that are refused, and why."""


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def answer(token: str, *keys: dict[str, Any], now: int = 0, algorithm: str = "") -> str:
    expect = Expectations(algorithm=Algorithm(algorithm)) if algorithm else Expectations()
    return str(verify_lines(json.dumps({"keys": keys}), expect, lambda: now)(token)["reason"])


@pytest.mark.standard("J2", "J9")
def test_examples_of_rfc_7515_and_8037(corpora: Path) -> None:
    good = {"", NOT_A_JWT}
    for example in load(corpora / "rfc" / "rfc_vectors.json")["jws"]:
        keys = [example["jwk"]] if example["jwk"] else []
        verified = answer(example["token"], *keys) in good
        expected = example["expect"] == "valid-signature" and example["id"] not in REFUSED_BY_POLICY
        assert verified == expected, example["id"]
        if "exp" in example["note"] and verified:
            assert answer(example["token"], *keys, now=1_300_819_380) == "token_expired"


def test_thumbprints_of_rfc_7638_and_8037(corpora: Path) -> None:
    for example in load(corpora / "rfc" / "rfc_vectors.json")["thumbprints"]:
        assert jwk.thumbprint(example["jwk"]) == example["sha256_thumbprint"]
        bare = {name: value for name, value in example["jwk"].items() if name != "kid"}
        assert VerificationKey.from_jwk(bare).kid == example["sha256_thumbprint"]


@pytest.mark.standard("J3", "J20")
@pytest.mark.parametrize(
    ("name", "jwk_name"),
    [("4_1.rsa_v15_signature", "3_3.rsa_public_key"), ("4_2.rsa-pss_signature", "3_3.rsa_public_key"),
     ("4_3.ecdsa_signature", "3_1.ec_public_key")],
)  # fmt: skip
def test_signatures_of_rfc_7520_verify_and_are_no_jwt(corpora: Path, name: str, jwk_name: str) -> None:
    example = load(corpora / "rfc" / "jws" / f"{name}.json")
    public = load(corpora / "rfc" / "jwk" / f"{jwk_name}.json")
    token, algorithm = example["output"]["compact"], example["input"]["alg"]
    assert answer(token, public, algorithm=algorithm) == NOT_A_JWT
    assert answer(token, example["input"]["key"], algorithm=algorithm) == NOT_A_JWT
    assert parse_compact(token).payload.decode() == example["input"]["payload"]
    # An RSA key that does not say otherwise is an RS256 key: without --algorithm, RS256 alone verifies.
    expected = "token_algorithm_refused" if algorithm == "PS384" else NOT_A_JWT
    assert answer(token, public) == expected


def test_ed25519_of_rfc_8037_verifies_and_is_no_jwt(corpora: Path) -> None:
    example = load(corpora / "rfc" / "curve25519" / "jws.json")
    assert answer(example["output"]["compact"], example["input"]["key"]) == NOT_A_JWT


@pytest.mark.standard("J8")
@pytest.mark.parametrize("name", sorted(name for name in REFUSED_BY_POLICY if name.startswith("4_")))
def test_other_forms_of_rfc_7520_are_refused(corpora: Path, name: str) -> None:
    example = load(corpora / "rfc" / "jws" / f"{name}.json")
    key = example["input"]["key"]
    keys = key if isinstance(key, list) else [key]
    for form in example["output"].values():
        text = form if isinstance(form, str) else json.dumps(form)
        for one in keys:
            assert answer(text, one) in {"token_malformed", "token_key_unknown", "token_algorithm_refused"}


@pytest.mark.standard("J9")
@pytest.mark.parametrize("name", ["4.2.hmac-sha2_b64_false", "hmac-sha2_b64_false"])
def test_unencoded_payloads_of_rfc_7797_are_refused(corpora: Path, name: str) -> None:
    example = load(corpora / "rfc" / "rfc7797" / f"{name}.json")
    for form in example["output"].values():
        text = form if isinstance(form, str) else json.dumps(form)
        assert answer(text, example["input"]["key"]) in {"token_malformed", "token_header_refused"}


def test_public_keys_of_rfc_7520_are_read_and_others_are_not(corpora: Path) -> None:
    for path in sorted((corpora / "rfc" / "jwk").glob("*.json")):
        members = load(path)
        if "public" in path.name:
            key = VerificationKey.from_jwk(members)
            assert {**members, **jwk.public_members(key.public_key)} == members
        else:
            with pytest.raises(InvalidRequest):
                VerificationKey.from_jwk(members)


def test_a_detached_signature_is_not_one_over_an_empty_payload(corpora: Path) -> None:
    example = load(corpora / "rfc" / "jws" / "4_1.rsa_v15_signature.json")
    header, _, signature = example["output"]["compact"].split(".")
    key = VerificationKey.from_jwk(load(corpora / "rfc" / "jwk" / "3_3.rsa_public_key.json"))
    refused(Reason.TOKEN_SIGNATURE_INVALID, lambda: verify_signature(parse_compact(f"{header}..{signature}"), key))
