"""Client secrets: what is kept of them, and how a presented one is compared.

Owns: the keyed hash of a client secret and its comparison (STANDARDS S9). May import: the standard library, `core`.
A secret has 256 random bits, so that one HMAC under a wrapped key is enough and costs a microsecond.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache

from authsvc.core.clients import ClientSecret
from authsvc.core.framing import length_prefixed

MAX_LIVE_SECRETS = 2
"""Secrets of one client that may be live at a time, so that one can be replaced without an interruption."""

LEAST_CHARACTERS = 32
"""Of a secret's text. What is shorter is none, so an unknown client's id may be written down where it is."""

_NO_SECRET = ClientSecret(secret_id="", keyed_hash=bytes(32), create_time=0, expire_time=0)


def keyed_hash(hash_key: bytes, client_id: str, secret: str) -> bytes:
    """HMAC-SHA-256 over client and secret, so that a hash moved to another client proves nothing."""
    message = length_prefixed(
        b"authsvc client secret",
        client_id.encode("utf-8", "surrogatepass"),
        secret.encode("utf-8", "surrogatepass"),
    )
    mac = _keyed(hash_key).copy()
    mac.update(message)
    return mac.digest()


@lru_cache(4)
def _keyed(hash_key: bytes) -> hmac.HMAC:
    """The key taken in once. `hmac.digest` takes it in each time, and lets go of the interpreter's lock meanwhile."""
    return hmac.new(hash_key, digestmod=hashlib.sha256)


def proves(presented: bytes, secrets: Sequence[ClientSecret], *, now: int) -> bool:
    """Whether a presented keyed hash is that of a live secret.

    Every comparison is made whatever the outcome of those before, at least `MAX_LIVE_SECRETS` of them: an unknown
    client (no secrets) and a wrong secret take the same time.
    """
    missing = MAX_LIVE_SECRETS - len(secrets)
    proved = False
    for secret in (*secrets, *(_NO_SECRET,) * missing):
        proved |= hmac.compare_digest(presented, secret.keyed_hash) & secret.live(now)
    return proved
