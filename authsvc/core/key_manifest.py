"""Which key rows belong together.

Owns: the manifest of all signing keys as of their last change, and which rows it vouches for (STANDARDS K12). May
import: the standard library, `core`. A row's own MAC tells that the row was ours once; the manifest tells that it still
is. Without it an old row, put back in the database, would undo a rotation or a revocation. What nothing in the record
can tell is the whole record put back as it was, its head included.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from authsvc.core.framing import length_prefixed
from authsvc.core.keys import KeyRecord, is_authentic


@dataclass(frozen=True, slots=True)
class KeyManifest:
    """All keys as of the change at `order` (epoch, number): each kid with the MAC of its row.

    `mac` is HMAC-SHA-256 under the key of the rows' MACs.
    """

    order: tuple[int, int]
    macs: Mapping[str, bytes]
    mac: bytes = b""


def make_manifest(mac_key: bytes, keys: Iterable[KeyRecord], order: tuple[int, int]) -> KeyManifest:
    """The manifest of keys that carry their MACs."""
    macs = {key.kid: key.mac for key in sorted(keys, key=lambda key: key.kid)}
    return KeyManifest(order, macs, _mac(mac_key, order, macs))


def authentic(
    mac_key: bytes, keys: Iterable[KeyRecord], manifest: KeyManifest | None, order: tuple[int, int]
) -> tuple[KeyRecord, ...]:
    """Those keys whose MAC is right and that the manifest names as they are.

    None at all where the manifest is missing, altered, or of another change than the last one, `order`.
    """
    if manifest is None or manifest.order != order:
        return ()
    if not hmac.compare_digest(_mac(mac_key, manifest.order, manifest.macs), manifest.mac):
        return ()
    return tuple(key for key in keys if manifest.macs.get(key.kid) == key.mac and is_authentic(mac_key, key))


def _mac(mac_key: bytes, order: tuple[int, int], macs: Mapping[str, bytes]) -> bytes:
    named = (field for kid in sorted(macs) for field in (kid.encode("utf-8", "surrogatepass"), macs[kid]))
    text = length_prefixed(b"authsvc key manifest 1", b"%d.%d" % order, *named)
    return hmac.digest(mac_key, text, hashlib.sha256)
