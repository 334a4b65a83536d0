"""Following the service: one stream, in a thread of its own, for both forms of the client.

Owns: when the stream is opened, ended and opened again, and its acknowledgements. May import: grpc, `knowledge`,
`wire` and the modules that do no I/O. The stream begins with the first local verification and ends where nobody
verified for a while, so that a client that is only dropped leaves nothing behind.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final

import grpc

from authsvc.core.errors import (
    AuthsvcError,
    DeadlineExceeded,
    Exhausted,
    Unauthenticated,
)
from authsvc.v1 import sync_pb2
from authsvc_client import forks, methods
from authsvc_client.channels import call_metadata
from authsvc_client.failures import Unanswered, from_rpc
from authsvc_client.knowledge import PROMISED, Known, Watched
from authsvc_client.pins import Roots
from authsvc_client.statistics import Event, Tally
from authsvc_client.wire import Wire

SILENCE: Final = PROMISED + 3.0
"""Seconds without an answer after which the stream is given up for another one."""

IDLE: Final = 600.0
"""Seconds without a verification after which nobody follows any more."""

PROOF: Final = 10.0
"""Seconds, or up to half as many more, after which a stream that shows not how old its answers are is asked anew.

With the longer ones still less than the shortest `sync.max_stale`, 20 s.
"""

_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
_MISUSE_PAUSE: Final = 60.0

_log = logging.getLogger("authsvc_client")


class _Stream:
    """One thread's streams, one after another, and what they add up to; `cut` and `end` from any thread."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self.roots: Roots | None = None
        self.answered = False
        """Whether the present one has brought anything that could be taken."""
        self._ended = threading.Event()
        self._call: Any = None

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def wait(self, seconds: float) -> None:
        self._ended.wait(seconds)

    def carry(self, call: Any) -> None:
        self._call, self.answered = call, False
        if self.ended:
            call.cancel()

    def cut(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def end(self) -> None:
        self._ended.set()
        self.cut()


class _Requests:
    """What the watcher says, for gRPC's own thread, which waits for more until it is told that none come."""

    def __init__(self, first: sync_pb2.WatchRequest) -> None:
        self._queue: SimpleQueue[sync_pb2.WatchRequest | None] = SimpleQueue()
        self._queue.put(first)

    def put(self, request: sync_pb2.WatchRequest | None) -> None:
        self._queue.put(request)

    def __iter__(self) -> Iterator[sync_pb2.WatchRequest]:
        return iter(self._queue.get, None)


class Watcher:
    """What is known of revocations and keys, kept fresh; safe in threads, loops and forks.

    `bearer` gives our token for the service, `refused` hears that it was not taken, `roots` gives what to believe after
    a stream that believed in something was lost. `clock` never goes back, `now` is
    unix seconds, `jitter` gives a number from 0 to 1.
    """

    def __init__(
        self,
        issuer: str,
        wire: Wire,
        *,
        bearer: Callable[[], str],
        refused: Callable[[str], None],
        roots: Callable[[Roots | None], Roots | None],
        tally: Tally,
        clock: Callable[[], float],
        now: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._issuer = issuer
        self._wire = wire
        self._bearer = bearer
        self._refused = refused
        self._roots = roots
        self._tally = tally
        self._clock = clock
        self._now = now
        self._jitter = jitter
        self.renew_after_fork()
        forks.watch(self)

    def renew_after_fork(self) -> None:
        """The stream's thread did not come along: a child begins anew."""
        self._lock = threading.Lock()
        self._watched = Watched(self._issuer)
        self._stream: _Stream | None = None
        self._used = 0.0
        self._first: Future[None] = Future()
        # Running from its start on, so that the cancellation of one who waits does not reach it.
        self._first.set_running_or_notify_cancel()
        self._warned = False

    @property
    def revision(self) -> str:
        """The revision that is held and fresh; empty where there is none."""
        watched = self._watched
        return watched.revision if watched.usable(self._clock()) else ""

    @property
    def last(self) -> Known | None:
        """The last state, however old."""
        return self._watched.last

    def known(self) -> Known | None:
        """The state to decide by, None where it is not fresh; from now on it is followed."""
        now = self._used = self._clock()
        watched, stream = self._watched, self._stream
        if stream is None:
            self._start(now)
        elif now - watched.heard > SILENCE:
            # Another stream may be heard where this one is not.
            stream.cut()
        return watched.usable(now)

    def first(self) -> Future[None]:
        """Done once a state came, or the first attempt failed."""
        self.known()
        return self._first

    def close(self) -> None:
        """End the stream; the next verification would open a new one."""
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.end()

    def _start(self, now: float) -> None:
        with self._lock:
            if self._stream is not None:
                return
            # Of its own: a thread that ends may still take an answer.
            self._watched = self._watched.again()
            self._watched.heard = now
            stream = self._stream = _Stream(self._watched)
        # Daemon: following must not hold the interpreter's exit.
        threading.Thread(target=self._follow, args=(stream,), name="authsvc-watch", daemon=True).start()

    def _follow(self, stream: _Stream) -> None:
        failures = 0
        while not stream.ended:
            pause = 0.0
            try:
                self._watch(stream)
            except AuthsvcError as error:
                failures = 1 if stream.answered else failures + 1
                pause = self._pause(error, failures)
            except Exception:  # noqa: BLE001 - a fault of ours must not leave a state that nobody follows
                _log.exception("following the service failed")
                pause = _MISUSE_PAUSE
            self._came()
            stream.wait(pause)

    def _watch(self, stream: _Stream) -> None:
        """One stream, until it breaks, is cut because nobody is interested any more, or has to be asked anew."""
        bearer, watched = self._bearer(), stream.watched
        proof = PROOF * (1.0 + 0.5 * self._jitter())
        stream.roots = self._roots(stream.roots)
        said = _Requests(sync_pb2.WatchRequest(open=watched.begin(self._clock())))
        call: Any = self._wire.channel(stream.roots).stream_stream(
            methods.WATCH.path,
            request_serializer=sync_pb2.WatchRequest.SerializeToString,
            response_deserializer=methods.WATCH.response_type.FromString,
        )(iter(said), metadata=call_metadata(bearer), wait_for_ready=stream.roots is None)
        self._tally.add(Event.WATCH)
        try:
            stream.carry(call)
            while watched.unproven(self._clock()) < proof:
                begun = self._clock()
                response = next(call)
                revision = watched.take(response, begun, self._clock(), int(self._now()))
                stream.answered = True
                if revision:
                    held = sync_pb2.WatchAcknowledgement(revision=revision)
                    said.put(sync_pb2.WatchRequest(acknowledgement=held))
                    self._came()
                if self._clock() - self._used > IDLE:
                    self.close()
            # Not lost, so that no certificate has to be looked at for it.
            stream.roots = None
        except StopIteration:
            raise Unanswered("Watch: the stream has ended", metadata={}, taken=False) from None
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                self._refused(bearer)
            raise from_rpc(error, methods.WATCH.name) from None
        finally:
            said.put(None)
            call.cancel()

    def _came(self) -> None:
        if not self._first.done():
            self._first.set_result(None)

    def _pause(self, error: AuthsvcError, failures: int) -> float:
        """Seconds until the next stream. At once, nearly, where one that went well ended.

        Long where asking again changes nothing, which is told once: that it is not permitted, or not served, or that
        what the service tells is not what the settings say.
        """
        if isinstance(error, Exhausted) and error.retry_after is not None:
            return float(error.retry_after * (1.0 + self._jitter()))
        if isinstance(error, Unanswered | DeadlineExceeded | Unauthenticated | Exhausted):
            return float(min(_LAST_PAUSE, _FIRST_PAUSE * 2 ** min(failures - 1, 10)) * self._jitter())
        if not self._warned:
            self._warned = True
            _log.warning("revocations are not followed, so the service is asked about each token: %s", error.message)
        return _MISUSE_PAUSE * (0.5 + self._jitter())
