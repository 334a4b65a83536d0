"""How much a test does: full counts in a campaign, a small share of them otherwise."""

from __future__ import annotations

import os

CAMPAIGN = os.environ.get("AUTHSVC_CAMPAIGN") == "1"
"""Whether this run is a campaign (`make campaign`)."""

_SHARE = 20


def scale(full: int) -> int:
    """The count for a law whose full count is `full`: all of it in a campaign, else a twentieth, at least one."""
    return full if CAMPAIGN else max(1, full // _SHARE)
