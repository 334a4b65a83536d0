"""Answers that are encoded once and given many times.

Owns: the bytes of decisions and verifications, which say the same for every caller of a revision. May import: `core`,
`v1`, `api.convert`. The revision is the last member of these messages, so its bytes may stand after those of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Generic, TypeVar

from authsvc.api import convert
from authsvc.core.claims import VerifiedToken
from authsvc.core.errors import Reason
from authsvc.core.policy import Decision
from authsvc.v1 import authz_pb2, token_pb2, types_pb2

_K = TypeVar("_K")
_V = TypeVar("_V")

MOST_TOKENS = 8_192


class Remembered(Generic[_K, _V]):
    """What was made of an immutable object, found again by the object's identity; a full memory begins anew.

    An entry holds its object, so that no other can have its identity meanwhile.
    """

    __slots__ = ("_made", "_make", "_most")

    def __init__(self, make: Callable[[_K], _V], most: int) -> None:
        self._make = make
        self._most = most
        self._made: dict[int, tuple[_K, _V]] = {}

    def __call__(self, of: _K) -> _V:
        """What `make` gives for it, made at most once while it is remembered."""
        found = self._made.get(id(of))
        if found is None:
            if len(self._made) >= self._most:
                self._made = {}
            found = self._made[id(of)] = (of, self._make(of))
        return found[1]


@lru_cache(1_024)
def decision(reason: Reason, allowed: bool, revision: str) -> bytes:  # noqa: FBT001 - a keyword costs a cache more
    """CheckResponse without what only those may read who hold `authsvc.authz:explain`."""
    return authz_pb2.CheckResponse(
        decision=types_pb2.DECISION_ALLOW if allowed else types_pb2.DECISION_DENY,
        reason=convert.reason(reason),
        revision=revision,
    ).SerializeToString()


def decisions(made: Iterable[Decision], revision: str) -> bytes:
    """BatchCheckResponse of decisions, each as `decision` says it: the parts of a message stand one behind another."""
    parts = [_one_of_many(one.reason, one.allowed) for one in made]
    return b"".join((*parts, authz_pb2.BatchCheckResponse(revision=revision).SerializeToString()))


@lru_cache(256)
def _one_of_many(reason: Reason, allowed: bool) -> bytes:  # noqa: FBT001 - as for `decision`
    one = authz_pb2.CheckResponse.FromString(decision(reason, allowed, ""))
    return authz_pb2.BatchCheckResponse(results=[one]).SerializeToString()


@lru_cache(1_024)
def refused_token(reason: Reason, revision: str) -> bytes:
    """VerifyTokenResponse for a token that did not verify."""
    return token_pb2.VerifyTokenResponse(reason=convert.reason(reason), revision=revision).SerializeToString()


class ValidTokens:
    """VerifyTokenResponse for tokens that verified."""

    def __init__(self) -> None:
        self._encoded = Remembered(_valid, MOST_TOKENS)

    def __call__(self, verified: VerifiedToken, revision: str) -> bytes:
        """The answer of this revision."""
        return self._encoded(verified) + _verified_at(revision)


def _valid(verified: VerifiedToken) -> bytes:
    token = convert.token_message(verified)
    return token_pb2.VerifyTokenResponse(valid=True, token=token).SerializeToString()


@lru_cache(64)
def _verified_at(revision: str) -> bytes:
    return token_pb2.VerifyTokenResponse(revision=revision).SerializeToString()
