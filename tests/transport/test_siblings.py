"""Workers that answer for each other, where one of them is slow."""

from __future__ import annotations

import asyncio
from pathlib import Path

from authsvc.transport.sharing import Place
from authsvc.transport.siblings import Siblings


class Operations:
    """Those of a worker that says something once it is let."""

    version = "1"

    def __init__(self) -> None:
        self.let = asyncio.Event()

    async def unready(self) -> str:
        """Ready, when it comes to say so."""
        await self.let.wait()
        return ""

    async def stuck(self) -> str:
        """Nothing."""
        return ""

    async def metrics(self) -> bytes:
        """None."""
        return b""


def place(folder: Path, number: int) -> Place:
    """One of two."""
    return Place(number, 2, folder, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")


def test_a_slow_worker_is_not_ready_long_before_it_counts_as_stuck(tmp_path: Path) -> None:
    async def run() -> None:
        quick, slow = Operations(), Operations()
        quick.let.set()
        first = Siblings(place(tmp_path, 1), quick, answer=0.05, stuck=30)
        second = Siblings(place(tmp_path, 2), slow)
        await second.start()
        try:
            stuck = asyncio.create_task(first.stuck())
            assert await first.unready() == "worker 2: it does not answer"
            assert not stuck.done()
            slow.let.set()
            assert await stuck == ""
            assert await first.unready() == ""
            slow.let.clear()
            patient_no_more = Siblings(place(tmp_path, 1), quick, answer=0.05, stuck=0.05)
            assert await patient_no_more.stuck() == "worker 2: it does not answer"
        finally:
            slow.let.set()
            await second.stop()

    asyncio.run(run())
