"""JOSE: the compact serialisation, verification and signing with one key.

Owns: the strict syntax of a JWS (RFC 7515), which algorithms exist, and a key as a value bound to one of them.
JWK members are in `core.jwk`. May import: the standard library, `cryptography`, PyJWT's signature layer, `core`.
`PrivateKey.generate` draws on the system's randomness, the one exception in the core.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from jwt.algorithms import Algorithm as SignatureAlgorithm
from jwt.api_jws import PyJWS

from authsvc.core import jwk, strict_json
from authsvc.core.errors import Internal, InvalidRequest, Reason, TokenRefused
from authsvc.core.jwk import PublicKey, decode_base64url
from authsvc.core.values import MAX_TOKEN

OWN_RSA_BITS = 3072
FOREIGN_RSA_BITS = 2048


class Algorithm(StrEnum):
    """The asymmetric signature algorithms (RFC 7518, RFC 8037); there is no symmetric one and no `none`.

    `Algorithm("Ed25519")` (RFC 9864) is `EDDSA`: the one curve served under that older name.
    """

    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    EDDSA = "EdDSA"
    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"

    @classmethod
    def _missing_(cls, value: object) -> Algorithm | None:
        return cls.EDDSA if value == "Ed25519" else None


SIGNING = frozenset({Algorithm.ES256, Algorithm.EDDSA, Algorithm.RS256})
"""What our own keys sign with."""

HEADER_ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {**{algorithm.value: algorithm for algorithm in Algorithm}, "Ed25519": Algorithm.EDDSA}
)
"""Every `alg` of a header that is understood, compared case-sensitively (STANDARDS J2, J20)."""

_JWS = PyJWS(algorithms=[algorithm.value for algorithm in Algorithm])
_SIGNATURES: Mapping[Algorithm, SignatureAlgorithm] = {
    algorithm: _JWS.get_algorithm_by_name(algorithm.value) for algorithm in Algorithm
}


@dataclass(frozen=True, slots=True)
class Header:
    """A JOSE header, read: what of it is ever used, and all of it in `members` to be shown.

    `algorithm` is None where `alg` is missing or not served (STANDARDS J2), `kid` where it is missing or cannot be a
    key id (J11), `typ`, lower case, where it is missing or no ASCII text. `jku`, `jwk`, `x5u`, `x5c` are never used
    (J10).
    """

    algorithm: Algorithm | None
    kid: str | None
    typ: str | None
    members: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ParsedToken:
    """A JWS in compact form, taken apart; nothing in it is verified."""

    header: Header
    payload: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_compact(token: str | bytes, max_bytes: int = MAX_TOKEN) -> ParsedToken:
    """Take a JWS in compact form apart (RFC 7515 section 3.1), or raise TokenRefused.

    Strict (STANDARDS J7 to J9, J14, J16): size first; three parts of canonical base64url without padding or white
    space; a header that is one JSON object without duplicates. No `crit` and no `b64` is understood, so that either is
    refused. Payload and signature may be any bytes.
    """
    if len(token) > max_bytes:
        raise TokenRefused(f"the token is longer than {max_bytes} bytes", Reason.TOKEN_TOO_LARGE)
    try:
        data = token.encode("ascii") if isinstance(token, str) else token
        signing_input, _, signature = data.rpartition(b".")
        protected, _, payload = signing_input.partition(b".")
        return ParsedToken(_header(protected), decode_base64url(payload), signing_input, decode_base64url(signature))
    except ValueError:
        raise TokenRefused("the token is not a JWS in compact form", Reason.TOKEN_MALFORMED) from None


@lru_cache(maxsize=256)
def _header(protected: bytes) -> Header:
    """The header of its encoded form; remembered, because all tokens of a key have the same."""
    members = strict_json.parse_object(decode_base64url(protected))
    if "crit" in members or "b64" in members:
        raise TokenRefused("the header holds `crit` or `b64`", Reason.TOKEN_HEADER_REFUSED)
    algorithm, kid, typ = members.get("alg"), members.get("kid"), members.get("typ")
    return Header(
        algorithm=HEADER_ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else None,
        kid=kid if jwk.is_kid(kid) else None,
        typ=typ.lower() if isinstance(typ, str) and typ.isascii() else None,
        members=MappingProxyType(members),
    )


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key that verifies one algorithm and no other (STANDARDS J3)."""

    kid: str
    algorithm: Algorithm
    public_key: PublicKey = field(repr=False)
    _signatures: SignatureAlgorithm = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_signatures", _SIGNATURES[self.algorithm])

    @classmethod
    def from_jwk(
        cls,
        members: Mapping[str, Any],
        *,
        minimum_rsa_bits: int = FOREIGN_RSA_BITS,
        algorithm: Algorithm | None = None,
    ) -> VerificationKey:
        """The key of a JWK (RFC 7517 section 4), or raise InvalidRequest that names the member at fault.

        The JWK's `alg` fixes the algorithm; where it has none, `algorithm` does if it fits, else the key's type:
        an EC key's curve, EdDSA for Ed25519, RS256 for RSA. A JWK without `kid` gets its RFC 7638 thumbprint.
        """
        public_key = jwk.public_key(members)
        if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size < minimum_rsa_bits:
            raise InvalidRequest.of("n", f"has less than {minimum_rsa_bits} bits")
        fitting = _algorithms_of(public_key)
        if "alg" in members:
            named = members["alg"]
            algorithm = HEADER_ALGORITHMS.get(named) if isinstance(named, str) else None
            if algorithm not in fitting:
                raise InvalidRequest.of("alg", "does not fit the key, or is not served")
        if algorithm not in fitting:
            algorithm = fitting[0]
        return cls(jwk.key_id(members, public_key), algorithm, public_key)

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over these bytes. High s of ECDSA verifies (STANDARDS J6)."""
        return self._signatures.verify(signing_input, self.public_key, signature)


_EC_ALGORITHMS = {256: Algorithm.ES256, 384: Algorithm.ES384, 521: Algorithm.ES512}
_RSA_ALGORITHMS = (
    Algorithm.RS256,
    Algorithm.RS384,
    Algorithm.RS512,
    Algorithm.PS256,
    Algorithm.PS384,
    Algorithm.PS512,
)


def _algorithms_of(key: PublicKey) -> tuple[Algorithm, ...]:
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA_ALGORITHMS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return (_EC_ALGORITHMS[key.curve.key_size],)
    return (Algorithm.EDDSA,)


def verification_keys(
    text: str | bytes,
    *,
    minimum_rsa_bits: int = FOREIGN_RSA_BITS,
    algorithm: Algorithm | None = None,
    ignore_private: bool = False,
) -> dict[str, VerificationKey]:
    """The usable keys of a JWKS text by `kid`.

    Keys that this release cannot use (symmetric, short, for encryption, of unknown kind) are left out, as RFC 7517
    section 5 says; so are those that show their private part, unless `ignore_private`. Raises InvalidRequest where the
    text is no JWKS or two usable keys have one `kid`.
    """
    found: dict[str, VerificationKey] = {}
    for members in jwk.key_set(text):
        public = jwk.without_private(members) if ignore_private else members
        try:
            key = VerificationKey.from_jwk(public, minimum_rsa_bits=minimum_rsa_bits, algorithm=algorithm)
        except InvalidRequest:
            continue
        if key.kid in found:
            raise InvalidRequest.of("keys", "two keys have the same `kid`")
        found[key.kid] = key
    return found


def verify_signature(parsed: ParsedToken, key: VerificationKey) -> None:
    """Raise TokenRefused unless the header names the key's algorithm and the signature is the key's."""
    if parsed.header.algorithm is not key.algorithm:
        raise TokenRefused("`alg` is not the algorithm of the key", Reason.TOKEN_ALGORITHM_REFUSED)
    if not key.verifies(parsed.signing_input, parsed.signature):
        raise TokenRefused("the signature does not verify", Reason.TOKEN_SIGNATURE_INVALID)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_ES256 = ec.ECDSA(hashes.SHA256())
_PKCS1 = padding.PKCS1v15()
_SHA256 = hashes.SHA256()


class PrivateKey:
    """A signing key of ours: one algorithm of `SIGNING`. Its repr shows no secret."""

    __slots__ = ("_key", "algorithm", "kid")

    def __init__(
        self,
        algorithm: Algorithm,
        key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey,
    ) -> None:
        """Bind a key to its algorithm; raises ValueError where they do not fit."""
        fits = (
            (algorithm is Algorithm.EDDSA and isinstance(key, ed25519.Ed25519PrivateKey))
            or (
                algorithm is Algorithm.ES256
                and isinstance(key, ec.EllipticCurvePrivateKey)
                and isinstance(key.curve, ec.SECP256R1)
            )
            or (algorithm is Algorithm.RS256 and isinstance(key, rsa.RSAPrivateKey) and key.key_size >= OWN_RSA_BITS)
        )
        if not fits:
            raise ValueError("the key does not fit the algorithm")
        self._key = key
        self.algorithm = algorithm
        self.kid = jwk.thumbprint(jwk.public_members(key.public_key()))

    def __repr__(self) -> str:
        return f"PrivateKey(kid={self.kid!r}, algorithm={self.algorithm.value!r})"

    @classmethod
    def generate(cls, algorithm: Algorithm) -> PrivateKey:
        """A new key from the system's randomness; RSA has 3,072 bits (STANDARDS J19)."""
        if algorithm is Algorithm.ES256:
            return cls(algorithm, ec.generate_private_key(ec.SECP256R1()))
        if algorithm is Algorithm.EDDSA:
            return cls(algorithm, ed25519.Ed25519PrivateKey.generate())
        return cls(algorithm, rsa.generate_private_key(public_exponent=65537, key_size=OWN_RSA_BITS))

    @classmethod
    def from_der(cls, algorithm: Algorithm, der: bytes) -> PrivateKey:
        """Read `to_der`'s bytes; raises Internal where they are broken or another algorithm's."""
        try:
            return cls(algorithm, serialization.load_der_private_key(der, None))  # type: ignore[arg-type]
        except ValueError:
            raise Internal("a stored private key does not fit its row") from None

    def to_der(self) -> bytes:
        """PKCS #8, not encrypted: only ever put into an envelope (STANDARDS K6)."""
        return self._key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def public_jwk(self) -> dict[str, str]:
        """The public half as a JWKS holds it: with `kid`, `alg` and `use` (RFC 7517 section 4)."""
        members = jwk.public_members(self._key.public_key())
        return {**members, "kid": self.kid, "alg": self.algorithm.value, "use": "sig"}

    def sign(self, data: bytes) -> bytes:
        """The JWS signature of the bytes; ECDSA as r||s of fixed length (RFC 7518 section 3.4)."""
        key = self._key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(key.sign(data, _ES256))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(data, _PKCS1, _SHA256)
        return key.sign(data)

    def sign_compact(self, typ: str, payload: bytes) -> str:
        """A JWS in compact form whose header holds `alg`, `kid` and `typ`."""
        signing_input = _protected(self.algorithm, self.kid, typ) + _base64url(payload)
        signature = _base64url(self.sign(signing_input))
        return (signing_input + b"." + signature).decode("ascii")


@lru_cache(maxsize=64)
def _protected(algorithm: Algorithm, kid: str, typ: str) -> bytes:
    header = f'{{"alg":"{algorithm.value}","kid":"{kid}","typ":"{typ}"}}'
    return _base64url(header.encode("ascii")) + b"."


def _base64url(data: bytes) -> bytes:
    """Base64url without padding (RFC 7515 section 2), in one pass over what `binascii` gives."""
    return b2a_base64(data, newline=False).translate(_URL_SAFE, b"=")
