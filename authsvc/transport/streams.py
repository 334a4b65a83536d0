"""One open stream of a transport that gives each a thread.

Owns: `Stream`: its requests, its end, and who wants to be told. May import: the standard library.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final

_END: Final = None
READ_AHEAD = 8
"""Requests that are read before the handler asks for them."""


class Stream:
    """A stream ends when its caller goes, when the transport drains, or when its handler is done.

    Requests are read by a thread of their own: a handler that waits for the next one must see a drain too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._inbox: queue.Queue[bytes | None] = queue.Queue(READ_AHEAD)

    def ended(self) -> bool:
        """Whether it was ended from outside or is done."""
        return self._ended.is_set()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back once at the end; at once where it has come."""
        with self._lock:
            if not self._ended.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def end(self) -> None:
        """End it; a second time does nothing."""
        with self._lock:
            if self._ended.is_set():
                return
            self._ended.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def reads(self, source: Iterator[bytes]) -> Iterator[bytes]:
        """The caller's messages of `source`, until it has no more or the stream ends."""
        self.on_end(self._wake)
        threading.Thread(target=self._read, args=(source,), name="stream-reader", daemon=True).start()
        while not self._ended.is_set():
            item = self._inbox.get()
            if item is _END:
                return
            yield item

    def _read(self, source: Iterator[bytes]) -> None:
        try:
            for item in source:
                if not self._put(item):
                    return
        except Exception:  # noqa: BLE001 - grpcio raises a bare Exception here when the caller has gone
            self.end()
        self._put(_END)

    def _put(self, item: bytes | None) -> bool:
        while not self._ended.is_set():
            try:
                self._inbox.put(item, timeout=1.0)
            except queue.Full:
                continue
            return True
        return False

    def _wake(self) -> None:
        try:
            self._inbox.put_nowait(_END)
        except queue.Full:
            # The handler finds an item, and then that the stream has ended.
            return
