"""Public keys as members of a JSON Web Key.

Owns: base64url, the members of public EC, OKP and RSA keys (RFC 7518 section 6, RFC 8037 section 2), the thumbprint
(RFC 7638), and the shape of a JWKS. May import: the standard library, `cryptography`, `core`. Which algorithm a key
may verify is decided in `core.jose`.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from authsvc.core import strict_json
from authsvc.core.errors import InvalidRequest

MAX_JWKS = 1 << 20
"""Bytes of a JWKS that are read at all."""

MAX_KEYS = 256
"""Keys of a JWKS that are read at all."""

MAX_RSA_BITS = 8192

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

_LAST_OF_ONE_BYTE = b"AQgw"
_LAST_OF_TWO_BYTES = b"AEIMQUYcgkosw048"
_TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/!!!")
_KID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:@=+~-]{0,127}")
_CURVES: Mapping[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_CURVE_NAMES = {curve.name: name for name, curve in _CURVES.items()}
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def encode_base64url(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(data: bytes) -> bytes:
    """The inverse of `encode_base64url`, for its own outputs only; raises ValueError for other bytes.

    Refused: every character outside the alphabet, padding and white space included, and trailing bits that are not
    zero, with which one token would have several texts (STANDARDS J8).
    """
    match len(data) % 4:
        case 0:
            return a2b_base64(data.translate(_TO_BASE64), strict_mode=True)
        case 2 if data[-1] in _LAST_OF_ONE_BYTE:
            return a2b_base64(data.translate(_TO_BASE64) + b"==", strict_mode=True)
        case 3 if data[-1] in _LAST_OF_TWO_BYTES:
            return a2b_base64(data.translate(_TO_BASE64) + b"=", strict_mode=True)
        case _:
            raise ValueError("is not canonical base64url")


def is_kid(text: object) -> bool:
    """Whether this may be a key id at all: short, printable, never a path, a query or an escape (STANDARDS J11)."""
    return isinstance(text, str) and _KID.fullmatch(text) is not None


def thumbprint(members: Mapping[str, str]) -> str:
    """The SHA-256 thumbprint of a public key (RFC 7638 section 3); other members are not looked at."""
    required = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
    chosen = {name: members[name] for name in required[members["kty"]]}
    return encode_base64url(sha256(json.dumps(chosen, separators=(",", ":")).encode("ascii")).digest())


def public_members(key: PublicKey) -> dict[str, str]:
    """`kty` and the members that make the public key."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(key.public_bytes_raw())}
    if isinstance(key, ec.EllipticCurvePublicKey):
        point, size = key.public_numbers(), (key.curve.key_size + 7) // 8
        return {
            "kty": "EC",
            "crv": _CURVE_NAMES[key.curve.name],
            "x": encode_base64url(point.x.to_bytes(size, "big")),
            "y": encode_base64url(point.y.to_bytes(size, "big")),
        }
    numbers = key.public_numbers()
    return {"kty": "RSA", "n": _encode_integer(numbers.n), "e": _encode_integer(numbers.e)}


def key_id(members: Mapping[str, Any], key: PublicKey) -> str:
    """The JWK's `kid`, or the thumbprint where it has none; raises InvalidRequest for a hostile one."""
    if "kid" not in members:
        return thumbprint(public_members(key))
    kid = members["kid"]
    if not is_kid(kid):
        raise InvalidRequest.of("kid", "is not a key id")
    return str(kid)


def public_key(members: Mapping[str, Any]) -> PublicKey:
    """The public key of a JWK for signatures, or raise InvalidRequest that names the member at fault.

    Refused: a private or symmetric key, `use` other than `sig`, `key_ops` without `verify`, an unknown `kty` or
    curve, a point off the curve, coordinates that do not have the curve's length.
    """
    if not _PRIVATE_MEMBERS.isdisjoint(members):
        raise InvalidRequest.of("d", "a key with a private part is not read")
    if members.get("use", "sig") != "sig":
        raise InvalidRequest.of("use", "is not `sig`")
    operations = members.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise InvalidRequest.of("key_ops", "does not hold `verify`")
    match members.get("kty"), members.get("crv"):
        case "OKP", "Ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(_octets(members, "x", 32))
        case "EC", str(name) if name in _CURVES:
            return _ec_key(members, _CURVES[name])
        case "RSA", _:
            return _rsa_key(members)
        case _:
            raise InvalidRequest.of("kty", "this kind of key is not served")


def without_private(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members without those of a private key, for a person's own data; a trusted issuer never shows them."""
    return {name: value for name, value in members.items() if name not in _PRIVATE_MEMBERS}


def key_set(text: str | bytes) -> list[Mapping[str, Any]]:
    """The members of each key of a JWKS (RFC 7517 section 5); raises InvalidRequest where the text is none."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MAX_JWKS:
        raise InvalidRequest.of("", f"the JWKS has more than {MAX_JWKS} bytes")
    try:
        keys = strict_json.parse_object(data).get("keys")
    except ValueError as fault:
        raise InvalidRequest.of("", "the JWKS is not a JSON object") from fault
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise InvalidRequest.of("keys", "is not a list of objects")
    if len(keys) > MAX_KEYS:
        raise InvalidRequest.of("keys", f"holds more than {MAX_KEYS} keys")
    return keys


def _ec_key(members: Mapping[str, Any], curve: ec.EllipticCurve) -> PublicKey:
    size = (curve.key_size + 7) // 8
    x, y = (int.from_bytes(_octets(members, name, size), "big") for name in ("x", "y"))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    except ValueError:
        raise InvalidRequest.of("x", "is not a point of the curve") from None


def _rsa_key(members: Mapping[str, Any]) -> PublicKey:
    n, e = (int.from_bytes(_octets(members, name), "big") for name in ("n", "e"))
    if n.bit_length() > MAX_RSA_BITS:
        raise InvalidRequest.of("n", f"has more than {MAX_RSA_BITS} bits")
    try:
        return rsa.RSAPublicNumbers(e, n).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest.of("n", "is not an RSA public key") from None


def _octets(members: Mapping[str, Any], name: str, size: int | None = None) -> bytes:
    text = members.get(name)
    try:
        octets = decode_base64url(text.encode("ascii")) if isinstance(text, str) else b""
    except ValueError:
        raise InvalidRequest.of(name, "is not base64url") from None
    if len(octets) != size and (size is not None or not octets):
        raise InvalidRequest.of(name, "is missing, or does not have the length that the key needs")
    return octets


def _encode_integer(value: int) -> str:
    return encode_base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))
