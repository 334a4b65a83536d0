"""What goes into a row and what comes out.

Owns: `Call` (what a transport knows of one call), `Context` (what a handler gets besides its request), `Unread` and
`Refusal` (what a transport hands over, and puts on the wire, instead of a message). May import: `core`, `state`,
`usecases`.

A handler is `def handler(request, context) -> response` where it only reads the snapshot, `async def` where it
waits for a store (a `def` that seldom waits may return a coroutine then), and an async generator for a stream. The
response is a message, or the bytes of one that was ready (`api.ready`).
It raises errors of `core.errors`; anything else becomes INTERNAL with a request id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from authsvc.core.errors import DeadlineExceeded, Reason, Unauthenticated
from authsvc.ids import random_id

if TYPE_CHECKING:
    from authsvc.state.snapshot import Snapshot
    from authsvc.usecases.principals import Principal, ProxyGrant

_T = TypeVar("_T")

_NO_METADATA: Mapping[str, str | bytes] = MappingProxyType({})


def _never_cancelled() -> bool:
    return False


def _never_ends(_callback: Callable[[], None]) -> None:
    return None


class Call(NamedTuple):
    """One call as a transport sees it; everything in it but the peer's identities is the caller's word.

    A named tuple, because one is made a call and a frozen dataclass takes four times as long to make.
    """

    method: str
    """`package.Service/Method`, without a leading slash."""
    peer_address: str = ""
    """The textual IP address, without port; empty for a UNIX socket."""
    peer_identities: tuple[str, ...] = ()
    """From the verified client certificate: `spiffe://...` and `dns:NAME`; empty without one."""
    authorization: tuple[str, ...] = ()
    """Every value of that metadata key, in order: two are refused (RFC 6750 section 2)."""
    metadata: Mapping[str, str | bytes] = _NO_METADATA
    """The other keys, lower case; of a key that came twice the last value."""
    deadline: float | None = None
    """The caller's deadline on the monotonic clock, seconds; None where it gave none."""
    cancelled: Callable[[], bool] = _never_cancelled
    """Whether the caller has gone or the transport has ended the call."""
    on_end: Callable[[Callable[[], None]], None] = _never_ends
    """Asks to be told when the call ends, for whatever reason; told at once where it has ended already."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A message that a transport did not read, since its length alone is above the row's cap."""

    size: int
    """Bytes, as the caller announced them."""

    def __len__(self) -> int:
        return self.size


Received = bytes | Unread
"""A request as a transport hands it over."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An RPC error: `code` is the number of a gRPC status code, `details` a serialised google.rpc.Status."""

    code: int
    message: str
    details: bytes


class Context:
    """One call in work. `snapshot` is taken before the handler runs and does not change under it: a stream moves it on
    by `look_again`, which looks at the caller anew too and raises Unauthenticated or PermissionDenied.

    `decided`, `subject` and `private` are for the handler to fill, and go to the audit event: whether a
    decision let through and why, whom it concerned (`kind:name`), and what else may identify a person
    (sealed there, STANDARDS U8). Never tokens or secrets.
    """

    __slots__ = (
        "_monotonic",
        "_request_id",
        "allowed",
        "call",
        "deadline",
        "look_again",
        "now",
        "principal",
        "private",
        "proxy",
        "reason",
        "snapshot",
        "subject",
    )

    snapshot: Snapshot
    look_again: Callable[[], None]

    def __init__(self, call: Call, now: int, deadline: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.call = call
        self._monotonic = monotonic
        self.now = now
        """Unix seconds."""
        self.deadline = deadline
        """On the monotonic clock, seconds; the row's own where the caller gave none."""
        self.principal: Principal | None = None
        """Who calls; None on public rows and on Envoy's."""
        self.proxy: ProxyGrant | None = None
        """What an Envoy peer may ask for; None on every other row."""
        self.allowed: bool | None = None
        self.reason = Reason.UNSPECIFIED
        self.subject = ""
        self.private: dict[str, str] = {}
        self._request_id = ""

    @property
    def request_id(self) -> str:
        """128 random bits, made on first use: joins answer, log line and audit event."""
        if not self._request_id:
            self._request_id = random_id()
        return self._request_id

    @property
    def caller(self) -> Principal:
        """The principal of a row that is not public."""
        if self.principal is None:
            raise Unauthenticated("the caller is not authenticated")
        return self.principal

    def while_wanted(self, items: Iterable[_T]) -> Iterator[_T]:
        """The items of a batch; raises DeadlineExceeded once the deadline has passed or the caller has gone.

        A batch may hold hours of work: it ends between two items rather than keep a thread that nobody waits for.
        """
        monotonic, deadline, cancelled = self._monotonic, self.deadline, self.call.cancelled
        for item in items:
            if monotonic() > deadline or cancelled():
                raise DeadlineExceeded("the deadline passed within the batch")
            yield item

    def decided(self, reason: Reason, *, allowed: bool) -> None:
        """Notes the decision for audit and metrics."""
        self.reason = reason
        self.allowed = allowed
