"""Unambiguous bytes from several fields.

Owns: the length-prefixed encoding under every MAC, keyed hash and associated data of the core.
May import: the standard library. Each field is preceded by its length, so that no two lists of fields have the
same bytes: `("ab", "c")` and `("a", "bc")` differ.
"""

from __future__ import annotations


def length_prefixed(*fields: bytes) -> bytes:
    """Every field after its length in 4 bytes, big-endian."""
    return b"".join([len(field).to_bytes(4, "big") + field for field in fields])
