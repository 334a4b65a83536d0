"""IP addresses as text.

Owns: what counts as this machine. May import: the standard library.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache


def is_address(text: str) -> bool:
    """Whether the text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=4096)
def is_loopback_address(address: str) -> bool:
    """Whether the IP address is this machine's own, an IPv4 address mapped into IPv6 included.

    A listener on `[::]` sees an IPv4 peer as `::ffff:127.0.0.1`, which `ipaddress` before Python 3.13 calls no
    loopback. What is no address, the empty text of a UNIX socket for one, is not.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
