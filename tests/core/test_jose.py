"""The syntax of a JWS, and what one key verifies."""

from __future__ import annotations

import hashlib
import hmac
import json
from functools import partial

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core import jose
from authsvc.core.claims import verify_signature_and_claims
from authsvc.core.errors import Internal, Reason, TokenRefused
from authsvc.core.jose import SIGNING, Algorithm, PrivateKey, VerificationKey, parse_compact, verify_signature
from authsvc.core.jwk import decode_base64url
from authsvc.core.values import MAX_TOKEN
from tests.support.forge import EDDSA, ES256, OTHER, RS256, b64, forge, header, payload, public, refused, trust

OUR_KEYS = (ES256, EDDSA, RS256)
TOKEN = forge(header(), payload())
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def verify(token: str, *keys: PrivateKey) -> object:
    return verify_signature_and_claims(token, trust(*(keys or (ES256,))))


@pytest.mark.parametrize("key", OUR_KEYS, ids=lambda key: key.algorithm.value)
def test_a_key_verifies_what_it_signed_and_nothing_else(key: PrivateKey) -> None:
    signature = key.sign(b"data")
    assert public(key).verifies(b"data", signature)
    assert not public(key).verifies(b"data.", signature)
    assert not public(key).verifies(b"data", signature[:-1])
    assert not public(key).verifies(b"data", b"")


@pytest.mark.parametrize("key", OUR_KEYS, ids=lambda key: key.algorithm.value)
def test_our_tokens_verify_with_another_implementation(key: PrivateKey) -> None:
    token = key.sign_compact("at+jwt", json.dumps(payload()).encode())
    decoded = jwt.PyJWS().decode_complete(token, jwt.PyJWK(key.public_jwk()), algorithms=[key.algorithm.value])
    assert decoded["header"] == {"alg": key.algorithm.value, "kid": key.kid, "typ": "at+jwt"}
    assert json.loads(decoded["payload"]) == payload()


@pytest.mark.standard("J2")
@pytest.mark.parametrize(
    "alg",
    [
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        "es256",
        "ES256 ",
        "HS256",
        "RSA-OAEP",
        None,
        ["ES256"],
        256,
        {"alg": "ES256"},
    ],
)
def test_alg_is_compared_case_sensitively_and_none_never_verifies(alg: object) -> None:
    members = header() | {"alg": alg}
    refused(Reason.TOKEN_ALGORITHM_REFUSED, lambda: verify(forge(members, payload())))
    refused(Reason.TOKEN_ALGORITHM_REFUSED, lambda: verify(forge(members, payload(), lambda _: b"")))
    refused(Reason.TOKEN_ALGORITHM_REFUSED, lambda: verify(forge(header(alg=None), payload())))


@pytest.mark.standard("J3")
@pytest.mark.parametrize("signer", OUR_KEYS, ids=lambda key: key.algorithm.value)
@pytest.mark.parametrize("named", OUR_KEYS, ids=lambda key: key.algorithm.value)
@pytest.mark.parametrize("alg", list(Algorithm))
def test_the_key_found_by_kid_fixes_the_algorithm(signer: PrivateKey, named: PrivateKey, alg: Algorithm) -> None:
    token = forge(header(signer, alg=alg.value, kid=named.kid), payload(), signer)
    if signer is named and alg is named.algorithm:
        verify(token, *OUR_KEYS)
        return
    expected = Reason.TOKEN_SIGNATURE_INVALID if alg is named.algorithm else Reason.TOKEN_ALGORITHM_REFUSED
    refused(expected, lambda: verify(token, *OUR_KEYS))


@pytest.mark.standard("J3")
def test_one_rsa_key_verifies_one_rsa_algorithm() -> None:
    token_of = RS256._key
    assert isinstance(token_of, rsa.RSAPrivateKey)

    def pss(data: bytes) -> bytes:
        return token_of.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())

    as_pss = VerificationKey.from_jwk(RS256.public_jwk() | {"alg": "PS256"})
    parsed = parse_compact(forge(header(RS256, alg="PS256"), payload(), pss))
    verify_signature(parsed, as_pss)
    refused(Reason.TOKEN_ALGORITHM_REFUSED, lambda: verify_signature(parsed, public(RS256)))


def published_forms(key: PrivateKey) -> list[bytes]:
    half = public(key).public_key
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    forms = [half.public_bytes(pem, spki), half.public_bytes(der, spki), json.dumps(key.public_jwk()).encode()]
    forms += [forms[0].strip(), json.dumps({"keys": [key.public_jwk()]}).encode(), b""]
    forms.append(half.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
    if key is RS256:
        forms.append(half.public_bytes(pem, serialization.PublicFormat.PKCS1))
    return forms


@pytest.mark.standard("J4")
@pytest.mark.parametrize("key", OUR_KEYS, ids=lambda key: key.algorithm.value)
@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_a_published_key_is_never_a_mac_secret(key: PrivateKey, alg: str) -> None:
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[alg]
    for secret in published_forms(key):

        def mac(data: bytes, secret: bytes = secret) -> bytes:
            return hmac.digest(secret, data, digest)

        token = forge(header(key, alg=alg), payload(), mac)
        refused(Reason.TOKEN_ALGORITHM_REFUSED, partial(verify, token, key))
        token = forge(header(key), payload(), mac)
        refused(Reason.TOKEN_SIGNATURE_INVALID, partial(verify, token, key))


@pytest.mark.standard("J6")
def test_an_ecdsa_signature_is_r_and_s_of_fixed_length() -> None:
    signature = ES256.sign(b"data")
    r, s = signature[:32], signature[32:]
    key = public(ES256)
    order = P256_ORDER.to_bytes(32, "big")
    hostile = [
        r + s[:-1], r + s + b"\0", b"\0" + r + s, r + b"\0" + s, bytes(64), bytes(32) + s, r + bytes(32), order + s,
        r + order, order + order, b"\xff" * 64, (int.from_bytes(r, "big") + 1).to_bytes(32, "big") + s, b"",
        key.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    ]  # fmt: skip
    assert not any(key.verifies(b"data", forged) for forged in hostile)


@pytest.mark.standard("J6")
def test_high_s_verifies_so_a_token_has_two_texts() -> None:
    signature = ES256.sign(b"data")
    other = signature[:32] + (P256_ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert other != signature
    assert public(ES256).verifies(b"data", other)


@pytest.mark.standard("J7", "J8")
@pytest.mark.parametrize(
    "token",
    [
        json.dumps(dict(zip(("protected", "payload", "signature"), TOKEN.split("."), strict=True))),
        "", ".", "..", "...", "a", "a.b", TOKEN + ".", "." + TOKEN, TOKEN + ".e30", TOKEN + ".e30.e30",
        TOKEN + "=", TOKEN + " ", " " + TOKEN, TOKEN + "\n", TOKEN.replace(".", ". "), TOKEN.replace(".", ".\n"),
        TOKEN.replace(".", ".="), TOKEN.replace(".", "=."), TOKEN + "\0", "Bearer " + TOKEN, f'"{TOKEN}"',
        TOKEN.replace(".", "\u3002"), TOKEN + "é", "\ud800" + TOKEN, TOKEN[:-2] + "+/", TOKEN.replace(".", ".."),
        f"  {TOKEN} : {{ }} . . ", TOKEN + "," + TOKEN,
    ],
)  # fmt: skip
def test_only_three_parts_of_base64url_are_a_token(token: str) -> None:
    refused(Reason.TOKEN_MALFORMED, lambda: verify(token))
    refused(Reason.TOKEN_MALFORMED, lambda: parse_compact(token.encode("utf-8", "surrogatepass")))


@pytest.mark.standard("J7")
@pytest.mark.parametrize("alg", ["RSA-OAEP-256", "dir", "PBES2-HS256+A128KW", "ES256"])
def test_an_encrypted_token_never_verifies(alg: str) -> None:
    members = header(alg=alg, enc="A256GCM", zip="DEF", p2c=2**31)
    parts = [b64(json.dumps(members)), b64(b"key"), b64(b"nonce"), b64(json.dumps(payload())), b64(b"tag")]
    refused(Reason.TOKEN_MALFORMED, lambda: verify(".".join(parts)))


@pytest.mark.standard("J8")
@given(data=st.binary(max_size=64), bit=st.integers(1, 15))
def test_a_byte_string_has_one_text(data: bytes, bit: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    text = b64(data)
    assert decode_base64url(text.encode()) == data
    unused = {0: 0, 1: 4, 2: 2}[len(data) % 3]
    if bit % (1 << unused):
        other = text[:-1] + alphabet[alphabet.index(text[-1]) + bit % (1 << unused)]
        with pytest.raises(ValueError, match="base64url"):
            decode_base64url(other.encode())


@pytest.mark.standard("J9")
@pytest.mark.parametrize("crit", [["exp"], ["b64"], ["bork"], ["cnf"], [], "exp", None, {}, [1], ["alg", "alg"]])
def test_no_critical_header_is_understood(crit: object) -> None:
    members = header() | {"crit": crit, "bork": True}
    refused(Reason.TOKEN_HEADER_REFUSED, lambda: verify(forge(members, payload())))


@pytest.mark.standard("J9")
@pytest.mark.parametrize("b64_member", [False, True, None, "false"])
def test_an_unencoded_payload_is_refused(b64_member: object) -> None:
    refused(Reason.TOKEN_HEADER_REFUSED, lambda: verify(forge(header() | {"b64": b64_member}, payload())))
    members = header() | {"b64": b64_member, "crit": ["b64"]}
    refused(Reason.TOKEN_HEADER_REFUSED, lambda: verify(forge(members, payload())))


@pytest.mark.standard("J10")
@pytest.mark.parametrize("kid", [ES256.kid, OTHER.kid, None], ids=["known", "unknown", "absent"])
def test_keys_and_addresses_in_a_header_are_never_used(kid: str | None) -> None:
    members = header(OTHER, kid=kid) | {
        "jwk": OTHER.public_jwk(),
        "jku": "file:///etc/passwd",
        "x5u": "https://attacker.example/",
        "x5c": ["MIIB"],
    }
    expected = Reason.TOKEN_SIGNATURE_INVALID if kid == ES256.kid else Reason.TOKEN_KEY_UNKNOWN
    refused(expected, lambda: verify(forge(members, payload(), OTHER)))


@pytest.mark.standard("J11")
@pytest.mark.parametrize(
    "kid",
    [
        "", "../../dev/null", "/etc/passwd", ".", "..", ".hidden", "a/b", "a?b", "a#b", "a%2e", "a\\b", "a b", "a'--",
        "a\0", "a\n", "ключ", "k" * 129, "|id", "${jndi}", None, 1, ["a"], {"a": 1}, True,
    ],
)  # fmt: skip
def test_a_kid_is_hostile(kid: object) -> None:
    members = header() | {"kid": kid}
    parsed = parse_compact(forge(members, payload()))
    assert parsed.header.kid is None
    refused(Reason.TOKEN_KEY_UNKNOWN, lambda: verify(forge(members, payload())))
    refused(Reason.TOKEN_KEY_UNKNOWN, lambda: verify(forge(header(kid=None), payload())))


@pytest.mark.standard("J14")
@pytest.mark.parametrize(
    "members",
    [
        '{"alg":"ES256","alg":"none","typ":"at+jwt"}', "[]", "null", '"ES256"', "", "{", "{}}", '{"alg":"ES256",}',
        '{"a":NaN,"alg":"ES256"}', '{"a":' + "[" * 20 + "]" * 20 + "}", '{"a":' + "9" * 5000 + "}", b"\xff\xfe{}",
        '{"alg":"ES256"}'.encode("utf-16"), b"\xef\xbb\xbf{}", "{'alg':'ES256'}", '{"alg":"ES256"}//',
    ],
)  # fmt: skip
def test_a_header_is_one_strict_json_object(members: str | bytes) -> None:
    refused(Reason.TOKEN_MALFORMED, lambda: parse_compact(forge(members, payload())))


@pytest.mark.standard("J16")
def test_size_is_judged_before_anything_is_parsed() -> None:
    refused(Reason.TOKEN_TOO_LARGE, lambda: parse_compact("." * (MAX_TOKEN + 1)))
    refused(Reason.TOKEN_MALFORMED, lambda: parse_compact("." * MAX_TOKEN))
    refused(Reason.TOKEN_TOO_LARGE, lambda: verify(forge(header(), payload(pad="x" * MAX_TOKEN))))
    refused(Reason.TOKEN_TOO_LARGE, lambda: parse_compact(TOKEN, max_bytes=len(TOKEN) - 1))
    assert parse_compact(TOKEN, max_bytes=len(TOKEN)).header.kid == ES256.kid


@pytest.mark.standard("J19")
def test_our_rsa_keys_have_3072_bits_and_foreign_ones_2048() -> None:
    assert RS256.public_jwk()["n"].__len__() >= 3072 // 6
    short = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    der = short.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(Internal):
        PrivateKey.from_der(Algorithm.RS256, der)


@pytest.mark.standard("J20")
@pytest.mark.parametrize("alg", ["EdDSA", "Ed25519"])
def test_both_names_of_ed25519_are_understood(alg: str) -> None:
    assert Algorithm(alg) is Algorithm.EDDSA
    verify(forge(header(EDDSA, alg=alg), payload(), EDDSA), EDDSA)
    published = VerificationKey.from_jwk(EDDSA.public_jwk() | {"alg": alg})
    verify_signature(parse_compact(forge(header(EDDSA), payload(), EDDSA)), published)
    refused(
        Reason.TOKEN_ALGORITHM_REFUSED, lambda: verify(forge(header(EDDSA, alg="ed25519"), payload(), EDDSA), EDDSA)
    )


@pytest.mark.standard("J18")
def test_the_signature_layer_is_one_configured_instance() -> None:
    assert set(jose._JWS.get_algorithms()) == {algorithm.value for algorithm in Algorithm}
    assert "none" not in jose._JWS.get_algorithms()
    assert not any(name.startswith("HS") for name in jose._JWS.get_algorithms())


@pytest.mark.parametrize("algorithm", sorted(SIGNING))
def test_a_private_key_survives_its_der_and_fits_one_algorithm(algorithm: Algorithm) -> None:
    key = {Algorithm.ES256: ES256, Algorithm.EDDSA: EDDSA, Algorithm.RS256: RS256}[algorithm]
    again = PrivateKey.from_der(algorithm, key.to_der())
    assert again.kid == key.kid == public(key).kid
    assert public(key).verifies(b"data", again.sign(b"data"))
    for other in Algorithm:
        if other is not algorithm:
            with pytest.raises(Internal):
                PrivateKey.from_der(other, key.to_der())
    with pytest.raises(Internal):
        PrivateKey.from_der(algorithm, key.to_der()[:-1])


@pytest.mark.standard("J17")
def test_no_repr_and_no_error_shows_a_secret_or_a_token() -> None:
    assert repr(ES256) == f"PrivateKey(kid='{ES256.kid}', algorithm='ES256')"
    parsed = parse_compact(TOKEN)
    assert TOKEN.split(".")[1] not in repr(parsed)
    for token in (TOKEN + "!", forge(header(), payload(), OTHER), forge(header(kid="nobody"), payload())):
        with pytest.raises(TokenRefused) as caught:
            verify(token)
        assert not any(part and part in str(caught.value) for part in token.split("."))


def test_generate_makes_each_algorithm_of_ours_and_no_other() -> None:
    with pytest.raises(ValueError, match="fit"):
        PrivateKey.generate(Algorithm.PS256)
