"""Which calls are sent again, how often, and how soon.

Owns: the rules of repetition, written once for both edges. May import: `core`, `chains` and the modules
of this package that do no I/O.

gRPC repeats by itself only what never left this process, or what the peer has declared not begun (a GOAWAY below the
call, REFUSED_STREAM: RFC 9113 sections 6.8 and 8.7), so nothing is ever counted twice by it (STANDARDS R7). Everything
else is decided here:

- A replica that drains refuses with SHUTTING_DOWN before it looks at the call: every call goes to another one, at
  once, then after short pauses until the deadline.
- A replica that was lost, or that cannot answer (UNAVAILABLE): what may be repeated is, `ATTEMPTS` times in all.
  What counts is not: it may have been counted, and whoever asked is told that nobody knows.
- Nothing is sent before the first one failed (no hedging), and a reached limit or an overload is never asked again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from authsvc.core.errors import DeadlineExceeded
from authsvc_client.chains import PinnedRoots
from authsvc_client.failures import Unanswered
from authsvc_client.flow import Flow, Pause, Send
from authsvc_client.pins import Roots
from authsvc_client.statistics import Event, Tally

ATTEMPTS: Final = 5
"""How often a call is sent in all where replicas are lost."""

_MOST_ATTEMPTS: Final = 40
"""As `ATTEMPTS`, where each refused before it looked at the call: by then a replica that stops is out of the turn. And
where keys are pinned: no call waits for a connection there, since that would believe in what it began with."""

_FIRST_PAUSE: Final = 0.01
_LAST_PAUSE: Final = 0.08
_LAST_DRAINED_PAUSE: Final = 0.02


class Retries:
    """Sends calls, again where the rules allow it. `jitter` gives a number from 0 to 1.

    With `pinned` roots a lost call looks first whether a replica has another certificate by now.
    """

    def __init__(
        self, tally: Tally, jitter: Callable[[], float] = random.random, pinned: PinnedRoots | None = None
    ) -> None:
        self._tally = tally
        self._jitter = jitter
        self._pinned = pinned

    def roots(self, lost: Roots | None = None) -> Flow[Roots | None]:
        """What to believe; after a call was lost that believed in `lost`, perhaps more."""
        if self._pinned is None:
            return None
        if lost is None:
            return (yield from self._pinned.obtain())
        return (yield from self._pinned.newer(lost))

    def send(self, step: Send, *, once: bool = False, patient: bool = True) -> Flow[Any]:
        """The response, or the error of the last sending. `once`: it counts, so it must not be begun twice.

        The first sending of what may be repeated does not wait for a connection, so that an error can say why there is
        none; all others wait for one until the deadline where `patient`.
        """
        attempt = 0
        step = replace(step, patient=once, roots=(yield from self.roots()))
        patient = patient and (once or self._pinned is None)
        lost: Unanswered | None = None
        try:
            while True:
                try:
                    if lost is not None and attempt > 1:
                        yield Pause(self._pause(attempt, lost))
                    return (yield step)
                except Unanswered as error:
                    lost = error
                except DeadlineExceeded:
                    if lost is None:
                        raise
                    # What went wrong before says more than that time passed meanwhile.
                    raise lost from None
                attempt += 1
                if attempt >= self._most(lost) or (once and lost.taken):
                    raise lost
                self._tally.add(Event.RETRY if lost.taken else Event.DRAINED)
                roots = step.roots
                if attempt > 1 and lost.taken:
                    # Not after the first loss: another replica may be there, and looking takes a handshake.
                    roots = yield from self.roots(roots)
                step = replace(step, patient=patient, roots=roots)
        finally:
            # An error that its own traceback's frame holds would hold the call, and the call its connection.
            lost = None

    def _most(self, lost: Unanswered) -> int:
        return ATTEMPTS if lost.taken and self._pinned is None else _MOST_ATTEMPTS

    def _pause(self, attempt: int, lost: Unanswered) -> float:
        longest = _LAST_PAUSE if lost.taken else _LAST_DRAINED_PAUSE
        return min(longest, _FIRST_PAUSE * 2.0 ** (attempt - 2)) * self._jitter()
