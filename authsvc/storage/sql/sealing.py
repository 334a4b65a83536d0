"""Envelopes with fresh nonces.

Owns: the randomness that `core.envelopes` takes as an argument. May import: `core`.
"""

from __future__ import annotations

import os

from authsvc.core import envelopes


def seal(kek: envelopes.Kek, plaintext: bytes, purpose: str, name: str) -> bytes:
    """An envelope bound to its purpose and name (STANDARDS K6)."""
    return envelopes.seal(kek, plaintext, purpose, name, nonce=os.urandom(envelopes.NONCE_BYTES))


def unseal(kek: envelopes.Kek, envelope: bytes, purpose: str, name: str) -> bytes:
    """What an envelope holds. Raises `Internal` where it does not open under this key, purpose and name."""
    return envelopes.open_envelope(kek, envelope, purpose, name)
