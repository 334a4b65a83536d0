"""A value that is fetched, kept for a while, and renewed ahead of its end by one flight.

Owns: when to fetch again, what a failure leaves behind, and that one fetch is under way at a time. May
import: the standard library, `core.errors`, `flow`, `forks`. The access token and the key set are both such
values. A flight has a thread of its own, so that neither a caller's deadline nor its cancellation nor the
end of its event loop stops it for the others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from authsvc.core.errors import AuthsvcError, Unavailable
from authsvc_client import forks
from authsvc_client.flow import Flow, Wait

T = TypeVar("T")

_log = logging.getLogger("authsvc_client")

FIRST_BACKOFF = 0.1
"""Seconds from a failed fetch to the next; it doubles with each further failure."""

LAST_BACKOFF = 5.0
"""The most that the backoff grows to."""


@dataclass(frozen=True, slots=True)
class Lease(Generic[T]):
    """A fetched value and its ages, in seconds from before the fetch was asked.

    Until `fresh` it is used as it is; until `due` it is used while a flight renews it; until `end` it is
    used only where the flight fails; afterwards never. No `repr` shows the value: it may be a token.
    """

    value: T = field(repr=False)
    fresh: float
    due: float
    end: float


@dataclass(frozen=True, slots=True)
class _Held(Generic[T]):
    lease: Lease[T]
    since: float


class Refreshed(Generic[T]):
    """The value of `fetch`, renewed. `clock` is monotonic, in seconds; safe in threads, loops and forks."""

    def __init__(self, fetch: Callable[[], Lease[T]], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._held: _Held[T] | None = None
        self._begun: float | None = None
        self._failure: AuthsvcError | None = None
        self._failures = 0
        self._not_before = 0.0
        self.renew_after_fork()
        forks.watch(self)

    def renew_after_fork(self) -> None:
        """The value may stay; a flight's thread did not come along."""
        self._lock = threading.Lock()
        self._flight: Future[T] | None = None

    def obtain(self) -> Flow[T]:
        """The value; waits only where there is none that may be used."""
        held = self._held
        now = self._clock()
        if held is not None and now - held.since < held.lease.fresh:
            return held.lease.value
        flight = self._start(held, now)
        if held is not None and now - held.since < held.lease.due:
            return held.lease.value
        return (yield from self._land(held, flight))

    def newer(self, than: T, interval: float) -> Flow[T]:
        """A value fetched after `than`, but no fetch begins within `interval` seconds of the last one.

        Where that forbids it, or it fails, the value held.
        """
        held = self._held
        if held is None or held.lease.value is not than:
            return (yield from self.obtain())
        return (yield from self._land(held, self._start(held, self._clock(), interval=interval)))

    def drop(self, value: T, interval: float) -> None:
        """Forget `value`, because its reader refused it; not where it is younger than `interval` seconds."""
        with self._lock:
            held = self._held
            if held and held.lease.value is value and self._clock() - held.since >= interval:
                self._held = None

    def _land(self, held: _Held[T] | None, flight: Future[T] | None) -> Flow[T]:
        try:
            if flight is None:
                failure = self._failure or Unavailable("the last fetch was too short a while ago")
                # One object raised again and again would keep every traceback.
                raise failure.with_traceback(None)
            value: T = yield Wait(flight)
        except AuthsvcError:
            if held is not None and self._clock() - held.since < held.lease.end:
                return held.lease.value
            raise
        return value

    def _start(self, seen: _Held[T] | None, now: float, *, interval: float = 0.0) -> Future[T] | None:
        """The flight under way, or a new one; None while a failure or `interval` holds it back.

        Where one landed after the caller looked and saw `seen`, that one.
        """
        flight: Future[T] = Future()
        flight.set_running_or_notify_cancel()
        with self._lock:
            if self._flight is not None:
                return self._flight
            if self._held is not None and self._held is not seen:
                flight.set_result(self._held.lease.value)
                return flight
            too_soon = self._begun is not None and now - self._begun < interval
            if too_soon or now < self._not_before:
                return None
            self._begun = now
            self._flight = flight
        # Daemon: a fetch must not hold the interpreter's exit.
        threading.Thread(target=self._fly, args=(flight, now), name="authsvc-renewal", daemon=True).start()
        return flight

    def _fly(self, flight: Future[T], since: float) -> None:
        try:
            lease = self._fetch()
        except AuthsvcError as error:
            self._settle(None, error)
            flight.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - a fault of ours must free the passengers too
            _log.exception("a renewal failed")
            unknown = Unavailable(f"a renewal failed: {type(error).__name__}")
            self._settle(None, unknown)
            flight.set_exception(unknown)
        else:
            self._settle(_Held(lease, since), None)
            flight.set_result(lease.value)

    def _settle(self, held: _Held[T] | None, error: AuthsvcError | None) -> None:
        with self._lock:
            self._flight = None
            self._failure = error
            if held is not None:
                self._held, self._failures, self._not_before = held, 0, 0.0
            else:
                self._failures += 1
                pause = min(LAST_BACKOFF, FIRST_BACKOFF * 2 ** (self._failures - 1))
                self._not_before = self._clock() + pause
