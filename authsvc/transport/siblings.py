"""What the workers of one service tell each other, so that any of them answers for all.

Owns: a UNIX socket for each worker: one word asked, one text answered. May import: `api`, `transport`.
A worker that is gone is its supervisor's business; one that is there and does not answer is everybody's.
"""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress

from authsvc.api.http import Operations
from authsvc.api.worker_metrics import together
from authsvc.transport.sharing import Place

ANSWER_SECONDS = 1.0
"""How long a sibling may take where the page is wanted soon: less than a readiness probe waits (2 s)."""
STUCK_SECONDS = 4.0
"""When a sibling counts as stuck, which restarts all: a busy one on a small share of a processor is not. Less than a
liveness probe waits (5 s)."""
_WORD_BYTES = 64
_UNREADY, _METRICS = "unready", "metrics"
_END = "\0"
_SILENT = "it does not answer"


class Siblings:
    """Answers for all workers; see `api.http.Operations`."""

    def __init__(
        self, place: Place, own: Operations, *, answer: float = ANSWER_SECONDS, stuck: float = STUCK_SECONDS
    ) -> None:
        self._place = place
        self._own = own
        self._answer_seconds = answer
        self._stuck_seconds = stuck
        self.version = own.version
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Answer the others from now on."""
        path = self._place.socket_of(self._place.number)
        self._server = await asyncio.start_unix_server(self._answer, path, limit=_WORD_BYTES)

    async def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def unready(self) -> str:
        """Why not all of them want traffic, the first that says so; empty while they do."""
        for number, answer in (await self._ask_all(_UNREADY, self._answer_seconds)).items():
            if answer:
                return f"worker {number}: {answer if isinstance(answer, str) else _SILENT}"
        return ""

    async def stuck(self) -> str:
        """Which of them is there and does not answer; empty where all do that are there."""
        for number, answer in (await self._ask_all(_UNREADY, self._stuck_seconds)).items():
            if isinstance(answer, TimeoutError):
                return f"worker {number}: {_SILENT}"
        return ""

    async def metrics(self) -> bytes:
        """Those of all of them, each sample with the label `worker`."""
        answers = await self._ask_all(_METRICS, self._answer_seconds)
        return together({number: answer if isinstance(answer, str) else None for number, answer in answers.items()})

    async def _ask_all(self, word: str, seconds: float) -> dict[int, str | OSError]:
        numbers = range(1, self._place.count + 1)
        answers = await asyncio.gather(*(self._ask(number, word, seconds) for number in numbers))
        return dict(zip(numbers, answers, strict=True))

    async def _ask(self, number: int, word: str, seconds: float) -> str | OSError:
        """What a worker says to a word; the error where it says nothing for so long."""
        if number == self._place.number:
            return await self._say(word)
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(self._place.socket_of(number))
                with closing(writer):
                    writer.write(f"{word}\n".encode())
                    said = await reader.read()
        except OSError as error:  # TimeoutError is one
            return error
        # One that ends while it answers says less than all.
        return said.decode().removesuffix(_END) if said.endswith(_END.encode()) else ConnectionResetError()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, ValueError):  # who asked has gone, or asks what nobody asks
            word = (await reader.readline()).decode().strip()
            writer.write(f"{await self._say(word)}{_END}".encode())
            await writer.drain()

    async def _say(self, word: str) -> str:
        return (await self._own.metrics()).decode() if word == _METRICS else await self._own.unready()
