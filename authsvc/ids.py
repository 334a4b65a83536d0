"""Random ids.

Owns: `random_id`. May import: the standard library only.
"""

from __future__ import annotations

import os
import secrets
from collections import deque

_BYTES = 16
_AT_A_TIME = 256

_drawn: deque[str] = deque()
# A child must not give the ids that its parent gives.
os.register_at_fork(after_in_child=_drawn.clear)


def random_id() -> str:
    """128 random bits in hexadecimal; thread-safe.

    The system is asked for many at a time: to ask it for each would cost as much as a token's claims.
    """
    try:
        return _drawn.pop()
    except IndexError:
        bits = secrets.token_hex(_BYTES * _AT_A_TIME)
        size = 2 * _BYTES
        _drawn.extend(bits[at : at + size] for at in range(size, len(bits), size))
        return bits[:size]
