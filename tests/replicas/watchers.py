"""Watchers of SyncService, many of them in one loop, that note when they heard of each revision.

Owns: their streams and clocks. A watcher acknowledges each answer, as the thin client does.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import grpc

from authsvc.v1 import sync_pb2
from tests.support.waiting import wait_for

_A_CONNECTION = 25
"""Watchers that share one."""


class Heard(NamedTuple):
    """An answer: when it came (`time.monotonic`), and the number of the revision that the watcher holds with it."""

    at: float
    number: int


class Watchers:
    """`count` watchers, spread evenly over the services at `addresses`, each with `token`."""

    def __init__(self, addresses: Sequence[str], token: str, count: int) -> None:
        self.heard: list[list[Heard]] = [[] for _ in range(count)]
        self.faults: list[str] = []
        self._addresses = addresses
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="watchers")
        self._ended = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self.faults or all(self.heard), 30.0, "every watcher's first answer")
        assert not self.faults, self.faults[0]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def reached(self, number: int) -> bool:
        """Whether each holds a revision of this number, or a later one."""
        return all(heard[-1].number >= number for heard in self.heard)

    def seconds_after(self, begun: float, number: int) -> list[float]:
        """For each watcher, the seconds from `begun` until it held a revision of this number, or a later one."""
        return [next(one.at for one in heard if one.number >= number) - begun for heard in self.heard]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._watch_all())
        self._loop.close()

    async def _watch_all(self) -> None:
        # Connections that are alike would be one.
        options = (("grpc.use_local_subchannel_pool", 1),)
        count = len(self.heard)
        lanes = max(len(self._addresses), -(-count // _A_CONNECTION))
        channels = [
            grpc.aio.insecure_channel(self._addresses[lane % len(self._addresses)], options) for lane in range(lanes)
        ]
        tasks = [asyncio.create_task(self._watch(channels[index % lanes], index)) for index in range(count)]
        await self._ended.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close(None) for channel in channels))

    async def _watch(self, channel: grpc.aio.Channel, index: int) -> None:
        open_stream: Any = channel.stream_stream(
            "/authsvc.v1.SyncService/Watch",
            request_serializer=sync_pb2.WatchRequest.SerializeToString,
            response_deserializer=sync_pb2.WatchResponse.FromString,
        )
        stream = open_stream(metadata=self._metadata)
        try:
            await stream.write(sync_pb2.WatchRequest(open=sync_pb2.WatchOpen(keys=True, revocations=True)))
            async for answer in stream:
                self.heard[index].append(Heard(time.monotonic(), number_of(answer.revision)))
                acknowledged = sync_pb2.WatchAcknowledgement(revision=answer.revision)
                await stream.write(sync_pb2.WatchRequest(acknowledgement=acknowledged))
        except grpc.aio.AioRpcError as error:
            self.faults.append(f"{error.code().name} {error.details()}")


def number_of(revision: str) -> int:
    """The number of a revision, which callers otherwise take as opaque."""
    return int(revision.rpartition(".")[2])
