"""Every published advisory on JWT libraries is a class of attack; each is refused here, or is a version floor.

`ATTACKS` and `FLOORS` together name every entry of cves.json: a new entry there fails until it is answered here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.protobuf.internal import api_implementation

from authsvc.core.claims import verify
from authsvc.core.errors import Reason
from tests.support.forge import (
    AUDIENCE,
    DRAFT,
    ES256,
    ISSUER,
    NOW,
    OTHER,
    RS256,
    b64,
    forge,
    header,
    payload,
    reason_of,
    trust,
)

TRUST = trust(ES256, RS256)
BOTH = (ES256, RS256)
Attack = Iterator[str]


def published(form: str) -> Iterator[tuple[int, bytes]]:
    """The public keys in one of the forms that libraries took for a secret."""
    encodings = {
        "spki-pem": (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        "spki-der": (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        "pkcs1-pem": (serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
        "ssh": (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
    }
    for index, key in enumerate(BOTH):
        public = TRUST[ISSUER].keys[key.kid].public_key
        if form == "jwk-json":
            yield index, json.dumps(key.public_jwk()).encode()
        elif form != "pkcs1-pem" or key is RS256:
            yield index, public.public_bytes(*encodings[form])


def macs(secrets: Iterator[tuple[int, bytes]]) -> Attack:
    for index, secret in secrets:
        for shape in (secret, secret.strip()):
            for name, digest in (("HS256", hashlib.sha256), ("HS384", hashlib.sha384), ("HS512", hashlib.sha512)):

                def mac(data: bytes, secret: bytes = shape, digest: Callable[[], object] = digest) -> bytes:
                    return hmac.digest(secret, data, digest().name)  # type: ignore[attr-defined]

                for alg in (name, BOTH[index].algorithm.value):
                    yield forge(header(BOTH[index], alg=alg), payload(), mac)


def confusion(*forms: str) -> Callable[[], Attack]:
    return lambda: (token for form in forms for token in macs(published(form)))


def alg_none() -> Attack:
    for alg in ("none", "None", "NONE", "nOnE", "", None, [], ["none"]):
        for signature in (b"", b"x"):
            yield forge(header() | {"alg": alg}, payload(), lambda _, s=signature: s)  # type: ignore[misc]


def issuers() -> Attack:
    for name in (ISSUER[:-1], ISSUER[8:], ISSUER + "x", "", "a", [ISSUER], ISSUER.upper()):
        yield forge(header(), payload() | {"iss": name})


def short_keys() -> Attack:
    for secret in (b"", b"secret", b"\0"):
        yield from macs(iter([(0, secret)]))


def critical(*names: str) -> Callable[[], Attack]:
    return lambda: (forge(header() | {"crit": [name], name: True}, payload()) for name in names)


def addresses() -> Attack:
    for member in ("jku", "x5u"):
        for address in ("file:///etc/passwd", "ftp://a.example/", "data:,{}", "https://a.example/jwks.json"):
            yield forge(header(kid="unknown") | {member: address}, payload(), OTHER)
            yield forge(header() | {member: address}, payload(), OTHER)


def key_of_another_algorithm() -> Attack:
    private = RS256._key
    assert isinstance(private, rsa.RSAPrivateKey)

    def pss(data: bytes) -> bytes:
        return private.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())

    yield forge(header(RS256, alg="PS256"), payload(), pss)
    yield forge(header(RS256), payload(), pss)
    yield forge(header(ES256, alg="RS256"), payload(), RS256)
    yield forge(header(RS256, alg="ES256"), payload(), ES256)
    yield forge(header(ES256, alg="ES384"), payload(), ES256)


def unencoded() -> Attack:
    protected = b64(json.dumps(header() | {"b64": False, "crit": ["b64"]}))
    yield forge(header() | {"b64": False, "crit": ["b64"]}, payload())
    yield forge(header() | {"b64": False}, payload())
    yield f"{protected}.{json.dumps(payload())}.{b64(ES256.sign(b'x'))}"
    yield f"{protected}..{b64(ES256.sign(protected.encode() + b'.'))}"


def embedded_key() -> Attack:
    for kid in ("unknown", OTHER.kid, ES256.kid, None):
        yield forge(header(OTHER, kid=kid) | {"jwk": OTHER.public_jwk()}, payload(), OTHER)


def polyglot() -> Attack:
    good = forge(header(), payload()).split(".")
    forged = b64(json.dumps(payload(sub="user:root")))
    yield json.dumps({"protected": good[0], "payload": good[1], "signature": good[2]})
    yield f'{{" {good[0]}.{forged}." : "", "protected":"{good[0]}", "payload":"{good[1]}","signature":"{good[2]}"}}'
    yield f"{good[0]}.{forged}.{good[2]}"


def no_signature() -> Attack:
    signing_input = forge(header(), payload()).rpartition(".")[0]
    yield from (signing_input, signing_input + ".", signing_input + ".AA", signing_input + ".bnVsbA")


def psychic() -> Attack:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    values = (0, 1, order - 1, order, order + 1, 2**256 - 1)
    for r in values:
        for s in values:
            raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
            yield forge(header(), payload(), lambda _, raw=raw: raw)  # type: ignore[misc]


def encrypted(**members: object) -> Callable[[], Attack]:
    def tokens() -> Attack:
        for key in BOTH:
            protected = b64(json.dumps(header(key) | members))
            yield ".".join([protected, b64(b"key"), b64(b"nonce"), b64(json.dumps(payload())), b64(b"tag")])
            yield forge(header(key) | members, payload(), key) if "alg" in members else protected + "...."

    return tokens


def huge_integers() -> Attack:
    text = json.dumps(header())[:-1] + ', "x": ' + "9" * 5000 + "}"
    yield forge(text, payload())
    for name in ("exp", "iat", "x"):
        yield forge(header(), json.dumps(payload() | {name: 12321}).replace("12321", "9" * 4301))
        yield forge(header(), json.dumps(payload() | {name: 12321}).replace("12321", "9" * 300))


ATTACKS: dict[str, Callable[[], Attack]] = {
    "CVE-2015-9235 / CVE-2016-10555": confusion("spki-pem", "spki-der", "pkcs1-pem", "ssh", "jwk-json"),
    "CVE-2015-2951": alg_none,
    "CVE-2017-11424": confusion("pkcs1-pem"),
    "CVE-2022-29217": confusion("ssh"),
    "CVE-2024-53861": issuers,
    "CVE-2025-45768": short_keys,
    "CVE-2026-32597 / GHSA-752w-5fwx-jx9f": critical("bork", "cnf", "exp", "http://example.com/UNDEFINED"),
    "CVE-2026-48522 / GHSA-993g-76c3-p5m4": addresses,
    "CVE-2026-48523 / GHSA-jq35-7prp-9v3f": key_of_another_algorithm,
    "CVE-2026-48525 / GHSA-w7vc-732c-9m39": unencoded,
    "CVE-2026-48526 / GHSA-xgmm-8j9v-c9wx": confusion("jwk-json"),
    "CVE-2022-39227": polyglot,
    "CVE-2024-33663 (+DER bypass, unfixed)": confusion("spki-der"),
    "CVE-2024-37568": confusion("spki-pem", "jwk-json"),
    "CVE-2025-59420 / GHSA-9ggr-2464-2j32": critical("bork", "cnf"),
    "CVE-2026-27962 / GHSA-wvwj-cvrp-7pv5": embedded_key,
    "CVE-2018-0114": embedded_key,
    "CVE-2019-20933": short_keys,
    "CVE-2020-28042": no_signature,
    "CVE-2022-21449": psychic,
    "CVE-2023-51774": encrypted(alg="RSA-OAEP-256", enc="A256GCM"),
    "CVE-2023-6681": encrypted(alg="PBES2-HS256+A128KW", enc="A256GCM", p2c=2**31 - 1, p2s="AAAA"),
    "CVE-2024-28102 / CVE-2026-39373": encrypted(alg="dir", enc="A256GCM", zip="DEF"),
    "CVE-2020-10735": huge_integers,
}

FLOORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "CVE-2026-48524 / GHSA-fhv5-28vv-h8m8": ("PyJWT", (2, 13)),
    "CVE-2026-26007": ("cryptography", (46, 0, 5)),
    "CVE-2026-39892": ("cryptography", (46, 0, 7)),
    "CVE-2025-4565": ("protobuf", (6, 31)),
    "CVE-2026-0994": ("protobuf", (6, 33, 5)),
}
"""Advisories that a version answers. PyJWT's key fetching is not used at all; the thin client has its own tests."""


def test_every_advisory_is_answered(corpora: Path) -> None:
    entries = [entry["id"] for entry in json.loads((corpora / "cves.json").read_text())]
    assert sorted(entries) == sorted([*ATTACKS, *FLOORS])


@pytest.mark.standard("J2", "J3", "J4", "J5", "J6", "J7", "J8", "J9", "J10", "J14")
@pytest.mark.parametrize("advisory", ATTACKS)
def test_every_token_of_an_advisory_is_refused(advisory: str) -> None:
    tokens = list(ATTACKS[advisory]())
    assert tokens
    for token in tokens:
        reason = reason_of(lambda token=token: verify(token, TRUST, now=NOW, leeway=60, audience=AUDIENCE))  # type: ignore[misc]
        assert isinstance(reason, Reason), token


def test_the_same_token_without_an_attack_is_valid() -> None:
    for key in BOTH:
        token = forge(header(key), payload(), key)
        assert verify(token, TRUST, now=NOW, leeway=60, audience=AUDIENCE).subject == DRAFT.subject


@pytest.mark.parametrize("advisory", FLOORS)
def test_installed_versions_are_above_the_floor(advisory: str) -> None:
    name, floor = FLOORS[advisory]
    assert tuple(int(part) for part in version(name).split(".")[: len(floor)]) >= floor
    assert name != "protobuf" or api_implementation.Type() == "upb"
