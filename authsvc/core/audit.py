"""Audit events and the hash chain over them.

Owns: what an audit event holds, the bytes that its hash covers, and the offline check of a chain
(STANDARDS U7, U8). May import: the standard library and `core`. The chain covers ciphertext: a person's
identifiers stand in an event only sealed under that person's key, so destroying the key erases the
person and the chain still verifies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

RECORD_CHAIN = "record"
"""The chain of admin events: its end stands in the record's head row, moved by each admin write."""

GENESIS = bytes(32)
"""The hash before the first event of a chain."""

_DOMAIN = b"authsvc audit event 1"


@dataclass(frozen=True, slots=True)
class AuditDraft:
    """An event as its author knows it; only the record, which seals the identifiers, makes it an event.

    `kind` names the act (a permission such as `authsvc.keys:rotate`, or `token.issued`), `outcome` is one
    word (`done`, `allowed`, `denied`, `failed`), `reason` a `Reason.text` or empty, `time` unix seconds.
    `actor` and `subject` are subjects (`kind:name`) or empty. `private` holds whatever else may identify a
    person (an address, a resource); `detail` may hold nothing that does. `count` is how many like events
    this one stands for.
    """

    kind: str
    outcome: str
    time: int
    actor: str = ""
    subject: str = ""
    reason: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)
    private: Mapping[str, str] = field(default_factory=dict)
    count: int = 1


@dataclass(frozen=True, slots=True)
class SealedIdentifier:
    """An identifier under its subject's key: `key_id` names the key, `keyed_hash` finds equals."""

    key_id: bytes
    keyed_hash: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An event as it is kept: its place in a chain, its content without plain identifiers, its hash.

    `detail` is canonical JSON, `private` a ciphertext under the actor's key or empty.
    """

    chain: str
    sequence: int
    time: int
    kind: str
    outcome: str
    reason: str
    count: int
    actor: SealedIdentifier | None
    subject: SealedIdentifier | None
    private: bytes
    detail: str
    previous: bytes
    hash: bytes = b""


@dataclass(frozen=True, slots=True)
class ChainPoint:
    """How far a chain reaches: the sequence and hash of its last event; what a checkpoint signs."""

    sequence: int = 0
    hash: bytes = GENESIS


@dataclass(frozen=True, slots=True)
class ChainFault:
    """Where a chain breaks, and how, in words for an auditor."""

    sequence: int
    description: str


def canonical(detail: Mapping[str, str]) -> str:
    """One text for equal details."""
    return json.dumps(dict(detail), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def event_hash(event: AuditEvent) -> bytes:
    """SHA-256 over every field but `hash`, each length-prefixed so that no two events share their bytes."""
    digest = hashlib.sha256(_DOMAIN)
    for part in _parts(event):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


def check_chain(
    events: Iterable[AuditEvent], *, after: ChainPoint | None = None, end: ChainPoint | None = None
) -> ChainFault | None:
    """The first fault of a chain, or None where it holds.

    `events` follow `after` (default: the beginning). `end` is a point known from elsewhere (the head row,
    a checkpoint): without it a truncation cannot be seen, as the rest of a cut chain is a chain.
    """
    last = ChainPoint() if after is None else after
    end_seen = end is not None and end == last
    for event in events:
        wanted = last.sequence + 1
        if event.sequence != wanted:
            return ChainFault(wanted, f"expected event {wanted}, found {event.sequence}")
        if event.previous != last.hash:
            return ChainFault(wanted, "does not follow the event before")
        if event_hash(event) != event.hash:
            return ChainFault(wanted, "was edited")
        last = ChainPoint(event.sequence, event.hash)
        if end is not None and end.sequence == last.sequence:
            if end.hash != last.hash:
                return ChainFault(wanted, "is not the event that the known point names")
            end_seen = True
    if end is not None and not end_seen:
        return ChainFault(last.sequence + 1, f"the chain ends before the known point {end.sequence}")
    return None


def _parts(event: AuditEvent) -> Iterable[bytes]:
    yield event.previous
    yield event.chain.encode()
    for number in (event.sequence, event.time, event.count):
        yield str(number).encode()
    for text in (event.kind, event.outcome, event.reason, event.detail):
        yield text.encode()
    for sealed in (event.actor, event.subject):
        if sealed is None:
            yield b"-"
        else:
            yield b"+"
            yield sealed.key_id
            yield sealed.keyed_hash
            yield sealed.ciphertext
    yield event.private
