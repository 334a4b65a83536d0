"""The keys of a snapshot in the form that signs and verifies.

Owns: unwrapping of private keys and the parsed public keys of the key set in force. May import: `core`,
`state`. Both are derived from the snapshot's keys and made once per key set: the identity of the mapping
is the cache key, since a snapshot never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from authsvc.core import claims, jose
from authsvc.core.envelopes import PRIVATE_KEY, open_envelope
from authsvc.core.errors import Reason, Unavailable
from authsvc.core.keys import PUBLISHED, KeyRecord, KeyState

if TYPE_CHECKING:
    from authsvc.core.envelopes import Kek
    from authsvc.state.snapshot import Snapshot


class Keyring:
    """Signers and verifiers of whichever key set a snapshot holds."""

    def __init__(self, kek: Kek) -> None:
        self._kek = kek
        self._verifiers: tuple[object, Mapping[str, claims.Issuer]] = (None, {})
        self._signer: tuple[object, jose.PrivateKey | None] = (None, None)

    def issuers(self, snapshot: Snapshot, issuer: str) -> Mapping[str, claims.Issuer]:
        """The trusted issuers: this one, with every published key and the kids that were revoked."""
        keys, issuers = self._verifiers
        if keys is not snapshot.keys:
            issuers = {issuer: _own_issuer(issuer, snapshot.keys)}
            self._verifiers = (snapshot.keys, issuers)
        return issuers

    def signer(self, snapshot: Snapshot) -> jose.PrivateKey:
        """The private key of the active key.

        Raises Unavailable where no key is active: nothing is ever signed with another (STANDARDS K5).
        """
        keys, signer = self._signer
        if keys is not snapshot.keys or signer is None:
            signer = self._unwrap(snapshot.keys)
            self._signer = (snapshot.keys, signer)
        return signer

    def _unwrap(self, keys: Mapping[str, KeyRecord]) -> jose.PrivateKey:
        active = next((key for key in keys.values() if key.state is KeyState.ACTIVE), None)
        if active is None or active.envelope is None:
            raise Unavailable("no signing key is active", Reason.RECORD_UNAVAILABLE)
        der = open_envelope(
            self._kek, active.envelope, purpose=PRIVATE_KEY, name=active.kid, algorithm=active.algorithm
        )
        return jose.PrivateKey.from_der(active.algorithm, der)


def _own_issuer(issuer: str, keys: Mapping[str, KeyRecord]) -> claims.Issuer:
    published = {
        kid: jose.VerificationKey.from_jwk(record.public_jwk, minimum_rsa_bits=jose.OWN_RSA_BITS)
        for kid, record in keys.items()
        if record.state in PUBLISHED
    }
    return claims.Issuer(
        issuer=issuer,
        keys=published,
        algorithms=frozenset(key.algorithm for key in published.values()),
        types=claims.ACCESS_TOKEN_TYPES,
        revoked_kids=frozenset(kid for kid, r in keys.items() if r.state is KeyState.REVOKED),
    )
