"""What the client answers.

Owns: the public values. May import: the standard library and `core`. A value that says yes or no is true
only where it says yes, so that `if client.check(...)` means what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from authsvc.core.consumption import DecidedBy, Descriptor
from authsvc.core.errors import Reason

DescriptorLike = Descriptor | Mapping[str, str]
"""A descriptor, or its entries; then one hit."""


@dataclass(frozen=True, slots=True)
class BearerToken:
    """What a verified access token says (RFC 9068), never the token itself. Times are unix seconds."""

    issuer: str
    subject: str
    audience: tuple[str, ...]
    client_id: str
    scope: tuple[str, ...]
    groups: tuple[str, ...]
    roles: tuple[str, ...]
    tenant: str
    token_id: str
    key_id: str
    issue_time: int
    expire_time: int


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """Whether the subject may. `unavailable`: nobody could say, and `on_unavailable` decided."""

    allowed: bool
    reason: Reason
    revision: str = ""
    matched_role: str = ""
    matched_binding: str = ""
    unavailable: bool = False

    def __bool__(self) -> bool:
        """True only where allowed."""
        return self.allowed


@dataclass(frozen=True, slots=True)
class LimitResult:
    """The answer of one rule; durations in seconds. `retry_after` is None where these hits never pass."""

    rule: str
    allowed: bool
    limit: int
    remaining: int
    reset_after: float
    retry_after: float | None
    decided_by: DecidedBy


@dataclass(frozen=True, slots=True)
class ConsumeAnswer:
    """Whether all limits admit; a refusal took nothing. `unavailable` as in CheckAnswer."""

    allowed: bool
    results: tuple[LimitResult, ...] = ()
    revision: str = ""
    unavailable: bool = False

    def __bool__(self) -> bool:
        """True only where allowed."""
        return self.allowed

    @property
    def retry_after(self) -> float | None:
        """Seconds until all would admit; None where allowed or where waiting does not help."""
        return wait_for(self.results)


@dataclass(frozen=True, slots=True)
class AuthorizeAnswer:
    """Token, permission and limits in one: allowed only where all three hold.

    `token` is set where it is valid, also in a denial. `unavailable` as in CheckAnswer.
    """

    allowed: bool
    reason: Reason
    token: BearerToken | None = None
    limits: tuple[LimitResult, ...] = ()
    decision_id: str = ""
    revision: str = ""
    unavailable: bool = False

    def __bool__(self) -> bool:
        """True only where allowed."""
        return self.allowed

    @property
    def retry_after(self) -> float | None:
        """Seconds until all limits would admit; None where none refuses or waiting does not help."""
        return wait_for(self.limits)


@dataclass(frozen=True, slots=True)
class Consumption:
    """What to consume in one domain."""

    domain: str
    descriptors: Sequence[DescriptorLike]


def wait_for(results: Sequence[LimitResult]) -> float | None:
    """The longest wait of the rules that refuse; None where none does or one never admits."""
    waits = [result.retry_after for result in results if not result.allowed]
    known = [wait for wait in waits if wait is not None]
    return max(known) if known and len(known) == len(waits) else None
