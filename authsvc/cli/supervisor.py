"""The process above the ones that serve: it starts them, starts them again, and drains them.

Owns: `Supervisor`. May import: `transport`, the standard library. It imports nothing of the service and stays small.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from authsvc.cli.faults import CommandFault, Exit, Fault
from authsvc.cli.orphans import Orphans

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 30.0
"""Before a worker that has ended starts again; doubled each time."""
STEADY_S: Final = 60.0
"""A worker that has served for so long begins anew with the first pause."""

_T = TypeVar("_T")


class Worker(Protocol):
    """One process that serves."""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Its process, once it was begun."""

    def begin(self) -> None:
        """Start it, quickly. Raises ListenFault."""

    def await_ready(self) -> Mapping[str, Any]:
        """Block until it serves; what it tells. Raises ListenFault and StartFault; it has ended then."""

    def drain(self, grace: float) -> None:
        """Block until it has finished what is in flight, at most `grace` seconds, and is gone."""

    def kill(self) -> None:
        """End it now, and give up what is kept for it."""


class Supervisor:
    """Keeps `count` workers running until it drains them. Use it on one loop."""

    def __init__(
        self,
        make: Callable[[int], Worker],
        count: int,
        *,
        grace: float,
        orphans: Orphans,
        say: Callable[[int, str], None],
    ) -> None:
        """`make` gives the worker of a number, from 1; `say` is told what becomes of one, in a line."""
        self._make = make
        self._count = count
        self._grace = grace
        self._orphans = orphans
        self._say = say
        self._workers: dict[int, Worker] = {}
        self._serving: set[int] = set()
        self._stopping = asyncio.Event()
        # One waits for each worker's end, one for its start or its drain.
        self._threads = ThreadPoolExecutor(2 * count, thread_name_prefix="worker")

    async def start(self) -> Mapping[str, Any]:
        """Start all; what the first told. Raises ListenFault and StartFault as the first that fails does.

        The first one starts alone: what only a first start makes is made once, and a fault is said once.
        """
        told = await self._begin(1)
        others = [asyncio.create_task(self._begin(number)) for number in range(2, self._count + 1)]
        try:
            await asyncio.gather(*others)
        except BaseException:
            self._kill()
            await asyncio.gather(*others, return_exceptions=True)
            # One of them may have become ready in this moment.
            for worker in self._workers.values():
                worker.kill()
            raise
        return told

    async def run(self, stopped: asyncio.Event) -> None:
        """Start again what ends, until `stopped`; then drain all.

        A lone worker that ends by itself ends this too: raises CommandFault.
        """
        keepers = {number: asyncio.create_task(self._keep(number)) for number in range(1, self._count + 1)}
        asked = asyncio.create_task(stopped.wait())
        await asyncio.wait([*keepers.values(), asked], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        self._stopping.set()
        await asyncio.gather(*(self._see_off(number, keeper) for number, keeper in keepers.items()))
        await asyncio.gather(*keepers.values())
        for worker in self._workers.values():
            worker.kill()

    async def _see_off(self, number: int, keeper: asyncio.Task[None]) -> None:
        """Drain one, within the grace. One that starts listens before it tells so: it is drained once it does."""
        end = time.monotonic() + self._grace
        if number not in self._serving:
            await asyncio.wait([keeper], timeout=self._grace)
        worker = self._workers[number]
        if number in self._serving:
            await self._in_thread(worker.drain, max(0.0, end - time.monotonic()))
        else:
            worker.process.kill()

    async def _keep(self, number: int) -> None:
        pause = FIRST_PAUSE_S
        while True:
            since = time.monotonic()
            why = await self._end_of(number)
            if self._stopping.is_set():
                return
            if self._count == 1:
                raise CommandFault(Fault(f"what serves has {why} by itself"), Exit.REFUSED)
            if time.monotonic() - since > STEADY_S:
                pause = FIRST_PAUSE_S
            while number not in self._serving:
                self._say(number, f"has {why}; it starts again in {pause:g} s")
                await self._wait_stopping(pause)
                if self._stopping.is_set():
                    return
                pause = min(2 * pause, LONGEST_PAUSE_S)
                why = await self._begin_again(number)
                if self._stopping.is_set():
                    return
            self._say(number, "is ready again")

    async def _begin_again(self, number: int) -> str:
        """Empty where it serves, else why it does not."""
        try:
            await self._begin(number)
        except Exception as fault:  # noqa: BLE001 - a full disk, no more processes: the other workers go on
            return f"not started: {fault}"
        return ""

    async def _begin(self, number: int) -> Mapping[str, Any]:
        worker = self._make(number)
        worker.begin()
        # In the thread that hears of children that end, so none of ours is taken for another's.
        self._workers[number] = worker
        self._orphans.own(worker.process.pid)
        try:
            told = await self._in_thread(worker.await_ready)
        except BaseException:
            self._orphans.ended(worker.process.pid)
            raise
        self._serving.add(number)
        return told

    async def _end_of(self, number: int) -> str:
        """How it ended, once it has."""
        worker = self._workers[number]
        code = await self._in_thread(worker.process.wait)
        self._serving.discard(number)
        self._orphans.ended(worker.process.pid)
        if not self._stopping.is_set():
            await self._in_thread(worker.kill)
        return f"been ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    def _kill(self) -> None:
        for number, worker in self._workers.items():
            if number in self._serving:
                worker.kill()
            else:
                # Whoever waits for it to be ready gives up the rest.
                worker.process.kill()

    async def _wait_stopping(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _in_thread(self, work: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
