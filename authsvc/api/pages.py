"""Pages of lists.

Owns: `page_size` and the sealed `page_token`. May import: `core`, cryptography. A token is sealed (AES-256-GCM) for its
list and its filters: callers cannot read it, forge it, or carry it to another list.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from authsvc.core.errors import InvalidRequest

DEFAULT_SIZE = 100
MAX_SIZE = 1_000
MAX_TOKEN = 4_096

_NONCE = 12


def page_size(asked: int) -> int:
    """Items of a page; 0 is unset."""
    if not 0 <= asked <= MAX_SIZE:
        raise InvalidRequest.of("page_size", f"is not between 0 and {MAX_SIZE}")
    return asked or DEFAULT_SIZE


class PageTokens:
    """Seals and opens page tokens under a key that all replicas share."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, after: tuple[str, ...] | None, *listing: str) -> str:
        """The `next_page_token` that continues after `after`; empty on the last page (None).

        `listing` names the list and its filters.
        """
        if after is None:
            return ""
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, json.dumps(after).encode(), _associated(listing))
        return base64.urlsafe_b64encode(nonce + sealed).decode().rstrip("=")

    def open(self, token: str, *listing: str) -> tuple[str, ...] | None:
        """Where a page begins; None for the first. Raises InvalidRequest for a token that is not of this list."""
        if not token:
            return None
        refused = InvalidRequest.of("page_token", "is not a page token of this list and its filters")
        if len(token) > MAX_TOKEN:
            raise refused
        try:
            blob = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            text = self._cipher.decrypt(blob[:_NONCE], blob[_NONCE:], _associated(listing))
        except (binascii.Error, ValueError, InvalidTag):
            raise refused from None
        return tuple(json.loads(text))


def _associated(listing: tuple[str, ...]) -> bytes:
    return json.dumps(listing).encode()
