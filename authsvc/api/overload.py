"""What a caller is told whose call came when too many waited.

Owns: refusals that were made before, since the less one costs, the more is left for those that are served. May import:
`core`, `api`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from authsvc.api.calls import Refusal
from authsvc.api.errors import GRPC_CODE, refusal
from authsvc.api.method_table import Row
from authsvc.core.errors import Exhausted, Reason

if TYPE_CHECKING:
    from authsvc.api.engine import Metrics

TEXT = "too many calls wait"
RETRY_SECONDS = (1.0, 1.5, 2.0, 2.5, 3.0)
"""One of them each: callers who were refused together do not come back together."""

_CODE = GRPC_CODE[Reason.OVERLOADED]
_REFUSALS = tuple(refusal(Exhausted(TEXT, retry_after=seconds), "") for seconds in RETRY_SECONDS)


class Overload:
    """Refuses without work, and counts it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def refuse(self, row: Row) -> bytes | Refusal | None:
        """The answer in the row's own way; None where it depends on who calls, which `Engine.refuse` finds out."""
        if row.errors:
            return None
        self._metrics.observe(row.name, _CODE, Reason.OVERLOADED, 0.0)
        # Chance spreads them; it is no secret.
        return random.choice(_REFUSALS) if row.denials is None else row.denials[Reason.OVERLOADED]  # noqa: S311
