"""A watcher of SyncService by grpcio's own client, which holds what it is told as a real one does.

For tests that look at what a watcher knows; `watch_load` has many of them in a process of their own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from authsvc.v1 import sync_pb2
from tests.support.embedded import Refused, refused
from tests.support.waiting import wait_for

METHOD = "/authsvc.v1.SyncService/Watch"
Response = sync_pb2.WatchResponse
Held = dict[tuple[int, bytes], sync_pb2.Revocation]


def opening(**wanted: Any) -> sync_pb2.WatchRequest:
    """The first request."""
    return sync_pb2.WatchRequest(open=sync_pb2.WatchOpen(**wanted))


def acknowledging(revision: str) -> sync_pb2.WatchRequest:
    """A later one."""
    return sync_pb2.WatchRequest(acknowledgement=sync_pb2.WatchAcknowledgement(revision=revision))


class Watching:
    """One stream. `acknowledges` is whether it says what it holds, by itself."""

    def __init__(
        self, channel: grpc.Channel, token: str, first: sync_pb2.WatchRequest, *, acknowledges: bool = True
    ) -> None:
        self.responses: list[Response] = []
        self.revision = ""
        self.digest = b""
        self.keys = sync_pb2.KeySet()
        self.revocations: Held = {}
        self.remote = False
        self.ended: Refused | None = None
        self._parts: Held = {}
        self._acknowledges = acknowledges
        self._requests: queue.Queue[sync_pb2.WatchRequest | None] = queue.Queue()
        self.send(first)
        method = channel.stream_stream(
            METHOD, request_serializer=sync_pb2.WatchRequest.SerializeToString, response_deserializer=None
        )
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._call = method(iter(self._requests.get, None), metadata=metadata)
        self._thread = threading.Thread(target=self._run, name="watching", daemon=True)
        self._thread.start()

    def send(self, request: sync_pb2.WatchRequest) -> None:
        """Say something."""
        self._requests.put(request)

    def close(self) -> None:
        """Leave."""
        self._call.cancel()  # type: ignore[no-untyped-call]  # the stubs leave it out
        self._thread.join(10)

    def holds(self, revision: str) -> bool:
        """Wait until it holds this revision or a later one of the same epoch."""
        return wait_for(lambda: number(self.revision) >= number(revision), what=f"a watcher at {revision}")

    def heard(self, count: int) -> Response:
        """Wait for the response of this number, counted from 1."""
        wait_for(lambda: len(self.responses) >= count or self.ended, what=f"response {count}")
        assert len(self.responses) >= count, self.ended
        return self.responses[count - 1]

    def end(self) -> Refused:
        """Wait for its end; why."""
        wait_for(lambda: self.ended is not None, what="the end of a watcher")
        assert self.ended is not None
        return self.ended

    def _run(self) -> None:
        try:
            for answer in self._call:
                self._take(Response.FromString(answer))
        except grpc.RpcError as error:
            self.ended = refused(error)
        finally:
            # grpcio waits for the next request until there is none.
            self._requests.put(None)

    def _take(self, response: Response) -> None:
        match response.WhichOneof("response"):
            case "state":
                self._parts.update(keyed(response.state.revocations))
                if not response.state.partial:
                    self.keys, self.remote = response.state.keys, response.state.remote
                    self.revocations, self._parts = ({} if self.remote else self._parts), {}
            case "delta":
                if response.delta.HasField("keys"):
                    self.keys = response.delta.keys
                self.revocations = {**self.revocations, **keyed(response.delta.revocations)}
        whole = not response.state.partial
        if whole:
            moved = response.revision != self.revision
            self.digest, self.revision = response.digest, response.revision
            if moved and self._acknowledges:
                self.send(acknowledging(response.revision))
        self.responses.append(response)


def keyed(revocations: Any) -> Held:
    """Revocations by what they refuse."""
    return {(one.kind, one.digest): one for one in revocations}


def number(revision: str) -> int:
    """The number of a revision, -1 for none."""
    return int(revision.rpartition(".")[2]) if revision else -1


@contextmanager
def watching(channel: grpc.Channel, token: str, *, acknowledges: bool = True, **wanted: Any) -> Iterator[Watching]:
    """A watcher for the block; by default of keys and revocations."""
    first = opening(**(wanted or {"keys": True, "revocations": True}))
    watcher = Watching(channel, token, first, acknowledges=acknowledges)
    try:
        yield watcher
    finally:
        watcher.close()
