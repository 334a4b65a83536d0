"""Threads for rows.

Owns: `WorkPool`. May import: the standard library, `core.errors`. More threads than a few only cost (1 / 4 / 8 / 64
served 4.5k / 7.0k / 6.7k / 5.0k calls/s), but a thread that waits for a revision must not hold up the others: it says
so by `blocking`, and a spare one works meanwhile.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from authsvc.core.errors import Exhausted, Reason

WAITING_THREADS = 64
"""Threads of a pool that may wait at once, whoever called."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


class WorkPool(futures.ThreadPoolExecutor):
    """So many threads at work, however many others wait.

    A ThreadPoolExecutor by type, because grpcio accepts no other for a behaviour of its own; its threads and
    its queue are these.
    """

    def __init__(self, threads: int, name: str, *, most_waiting: int = sys.maxsize) -> None:
        """A call that comes when `most_waiting` wait is `late`: it runs at once, in a thread for such calls alone."""
        super().__init__(max_workers=threads, thread_name_prefix=name)
        self._most_waiting = most_waiting
        self._local = threading.local()
        self._late = futures.ThreadPoolExecutor(1, f"{name}-late", initializer=self._begin_late)
        self._size = threads
        self._lent = 0
        self._name = name
        self._work: SimpleQueue[tuple[futures.Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._count_lock = threading.Lock()
        self._alive: set[threading.Thread] = set()
        self._waiting = 0
        self._idle = 0
        self._closed = False

    @property
    def depth(self) -> int:
        """How many calls no thread has taken up yet."""
        return self._work.qsize()

    @property
    def late(self) -> bool:
        """Whether the call that this thread carries came when too many waited: it is to be refused, and quickly."""
        return getattr(self._local, "late", False)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> futures.Future[_T]:
        """Queue a call; a thread is started where none is idle, so that there are never more than were busy at once."""
        if self.depth >= self._most_waiting:
            return self._late.submit(fn, *args, **kwargs)
        future: futures.Future[_T] = futures.Future()
        if self._closed:
            raise RuntimeError("the pool is shut down")
        self._work.put((future, lambda: fn(*args, **kwargs)))
        if self.depth > self._idle:
            self._grow()
        return future

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Surrounds a wait of one of this pool's threads; raises Exhausted where too many wait already."""
        with self._count_lock:
            if self._waiting >= WAITING_THREADS:
                raise Exhausted("too many calls wait for a revision", Reason.WAITERS_EXHAUSTED, retry_after=1.0)
            self._waiting += 1
        try:
            if self.depth > self._idle:
                self._grow()
            yield
        finally:
            with self._count_lock:
                self._waiting -= 1

    def lend(self, threads: int) -> None:
        """So many more may work from now on, since others of this pool wait for what may never come."""
        self._lent = threads
        # As many as have work: who waits for them should not wait for one after the other.
        for _ in range(min(self.depth, threads)):
            self._grow()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's
        """End every thread once the queue is worked off; `cancel_futures` empties it first."""
        self._closed = True
        if cancel_futures:
            while not self._work.empty():
                item = self._work.get()
                if item is not None:
                    item[0].cancel()
        self._late.shutdown(wait, cancel_futures=cancel_futures)
        with self._count_lock:
            threads = tuple(self._alive)
        for _ in threads:
            self._work.put(None)
        if wait:
            for thread in threads:
                thread.join()
        super().shutdown(wait=wait)

    def _begin_late(self) -> None:
        self._local.late = True

    def _grow(self) -> None:
        with self._count_lock:
            if self._closed or len(self._alive) - self._waiting >= self._size + self._lent:
                return
            thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._alive)}", daemon=True)
            self._alive.add(thread)
            self._idle += 1
        thread.start()

    def _run(self) -> None:
        while True:
            item = self._work.get()
            with self._count_lock:
                self._idle -= 1
            if item is None:
                return
            if self.depth > self._idle:
                # Queued while this thread still counted as idle.
                self._grow()
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as fault:  # noqa: BLE001 - handed to whoever holds the future
                    future.set_exception(fault)
            del item, future, call
            with self._count_lock:
                if len(self._alive) - self._waiting > self._size + self._lent:
                    self._alive.discard(threading.current_thread())
                    return
                self._idle += 1
