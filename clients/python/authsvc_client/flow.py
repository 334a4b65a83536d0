"""Operations written once for both worlds.

Owns: the steps that an operation asks its edge to take. May import: the standard library, `methods`, `pins`.
An operation is a generator: it yields a step and receives its outcome, so it holds all the logic and no
I/O; `wire.py` takes the steps by blocking, `aio.py` by awaiting. Time is the edge's: one deadline spans all
the steps of an operation.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import Message

from authsvc_client.methods import Method
from authsvc_client.pins import Roots

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Send one RPC; its outcome is the response, or an error of `authsvc.core.errors`.

    `patient`: where no replica is connected it waits for one until the deadline, else it fails at once and says why.
    `roots`: the only certificates to believe; None: those of the settings.
    No `repr` shows the request: it may hold a secret or somebody's token.
    """

    method: Method
    request: Message = field(repr=False)
    bearer: str = field(default="", repr=False)
    patient: bool = False
    roots: Roots | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Let `seconds` pass; DeadlineExceeded, at once, where the deadline would."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a flight that may have other passengers; its outcome is the flight's."""

    flight: Future[Any]


Step = Send | Pause | Wait
Flow = Generator[Step, Any, T]
