"""The record: what is kept for good, as atomic verbs.

Owns: the `Record` protocol and the values that cross it; those of the change log stand in `change_log`. May import:
the standard library and `core`.
`tests/conformance/record.py` certifies every adapter.

Laws of every verb that writes (STATE.md, "Revision and change log"):
- It is one transaction: the head row is locked first, before anything is read; then come the preconditions,
  the rows, one change row with the new values, and the audit event. It happens whole or not at all, and
  once the verb has returned it survives kill -9 and power loss.
- The revision advances by one where the snapshot's content changes, and not where nothing changed; the audit
  event is written in both cases. A refused write leaves neither.
- Functions that the caller hands over (`check`, `change`) run inside the transaction, must be pure, and may
  raise an `AuthsvcError` to refuse: nothing is written then. A `check` sees the state as it will be.
- Verbs block: call them in a thread. A store that is down, full, or locked by others for 2 s is `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from authsvc.core.audit import AuditDraft, AuditEvent, ChainPoint, SealedIdentifier
from authsvc.core.bindings import Binding
from authsvc.core.clients import Client
from authsvc.core.key_manifest import KeyManifest
from authsvc.core.keys import KeyRecord
from authsvc.core.revocations import RevocationKind, revocation_digest
from authsvc.core.values import Revision

if TYPE_CHECKING:
    from authsvc.ports.change_log import Change

Order: TypeAlias = tuple[int, int]
"""`Revision.order`: epoch, then number."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Head:
    """The newest state of the record: its revision, the digest of the last change row, the admin chain's end."""

    revision: Revision
    digest: bytes
    audit: ChainPoint


@dataclass(frozen=True, slots=True)
class Revocation:
    """Refuse a token, or everything minted so far for a subject, client or issuer.

    `value` is the `jti`, the subject (`kind:name`), the client id or the issuer. `expire_time` (unix seconds)
    is when every token concerned has expired by itself; afterwards the revocation is forgotten.
    """

    kind: RevocationKind
    value: str
    expire_time: int

    @property
    def digest(self) -> bytes:
        """See `revocation_digest`."""
        return revocation_digest(self.kind, self.value)


@dataclass(frozen=True, slots=True)
class RevocationMark:
    """A revocation as it is kept: tokens minted below `at` are refused; of kind TOKEN, that token whenever minted."""

    kind: RevocationKind
    digest: bytes
    at: Order
    expire_time: int


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """The policy in force as it was applied; `policy_revision` is what `expected_revision` compares."""

    text: str = ""
    policy_revision: str = ""
    apply_time: int = 0


@dataclass(frozen=True, slots=True)
class KeyRows:
    """All signing keys as the record holds them, unauthenticated; `version` is the revision that last changed one.

    `manifest` is the one of that change, None where there is none.
    """

    keys: tuple[KeyRecord, ...] = ()
    manifest: KeyManifest | None = None
    version: Order = (0, 0)


@dataclass(frozen=True, slots=True)
class RecordState:
    """Everything that a snapshot is built from, as of one moment. Bindings are those in effect.

    A binding that the file and a grant both own comes twice, once a source.
    """

    head: Head
    keys: KeyRows
    clients: tuple[Client, ...]
    policy: PolicyRecord
    bindings: tuple[Binding, ...]
    revocations: tuple[RevocationMark, ...]


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What a key transition changes; `detail` is added to the audit event (kids, no identifiers).

    `manifest` names all keys that are there afterwards. `revocations` hold from the same revision on.
    """

    changed: tuple[KeyRecord, ...]
    forgotten: tuple[str, ...] = ()
    manifest: KeyManifest | None = None
    detail: dict[str, str] = field(default_factory=dict)
    revocations: tuple[Revocation, ...] = ()


@dataclass(frozen=True, slots=True)
class Write:
    """The outcome of a write: the first revision that holds it, and whether it changed anything."""

    revision: Revision
    changed: bool


@dataclass(frozen=True, slots=True)
class KeyWrite:
    """All keys after the verb. `changed` is False where another writer was first: then these are its result."""

    revision: Revision
    changed: bool
    rows: KeyRows


@dataclass(frozen=True, slots=True)
class ClientWrite:
    """The client after the verb."""

    revision: Revision
    client: Client


@dataclass(frozen=True, slots=True)
class PolicyWrite:
    """The policy after the verb."""

    revision: Revision
    policy: PolicyRecord


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list, read at `revision`; `next_after` continues it, None on the last page."""

    items: tuple[T, ...]
    next_after: tuple[str, ...] | None
    revision: Revision


class View(Protocol):
    """The state inside a write's transaction, as it will be once the write commits."""

    def client(self, client_id: str) -> Client | None:
        """The client, or None."""

    def clients(self, client_ids: AbstractSet[str]) -> tuple[Client, ...]:
        """Those of the clients that exist."""

    def bindings(self, *, role: str | None = None, subject: str | None = None) -> tuple[Binding, ...]:
        """The bindings in effect (file and grant, revoked ones left out) of a role, of a subject, or of both."""

    def granted_roles(self) -> frozenset[str]:
        """The roles that grants use; a policy that drops one of them is refused."""

    def policy(self) -> PolicyRecord:
        """The policy in force."""


Check: TypeAlias = Callable[[View], None]


def no_check(view: View) -> None:
    """The check of verbs that have nothing to refuse."""


class Record(Protocol):
    """The record's verbs; the module's docstring holds the laws of all of them."""

    # Reading.

    def head(self) -> Head:
        """The newest committed head, by one cheap read."""

    def load(self) -> RecordState:
        """All that a snapshot holds, in one read transaction."""

    def changes_from(self, number: int, limit: int) -> tuple[Change, ...]:
        """The change rows from `number` on, that one included, in order, at most `limit`.

        The reader compares the first with the row it holds: missing or of another digest means that commits
        were lost, and the reader loads anew and calls `demand_epoch`.
        """

    def demand_epoch(self, above: int) -> None:
        """The next write through this instance raises the epoch unless it is above `above` by then."""

    def list_clients(self, after: tuple[str, ...] | None, limit: int) -> Page[Client]:
        """Clients by id, by code point."""

    def list_bindings(
        self,
        after: tuple[str, ...] | None,
        limit: int,
        *,
        subject: str | None = None,
        role: str | None = None,
        tenant: str | None = None,
    ) -> Page[Binding]:
        """Bindings by subject, id, source: file and grant alike, revoked ones of the file too. Filters are exact."""

    # Keys.

    def change_keys(
        self,
        change: Callable[[KeyRows, Order], KeyChange],
        audit: AuditDraft,
        *,
        expected: Order | None,
    ) -> KeyWrite:
        """Compare-and-set on all keys at once (STANDARDS K4).

        `expected` is the `KeyRows.version` that the caller decided on: where the record's differs, nothing happens,
        no audit event either, and the answer holds the winner's keys with `changed` False. None: whatever is there.
        `change` gets the rows as they are, so it must check which are authentic before it trusts one (K12), and the
        revision that it would make, for its manifest. An empty KeyChange changes nothing and leaves no event.
        """

    # Clients.

    def create_client(
        self, client: Client, bindings: Sequence[Binding], audit: AuditDraft, *, check: Check = no_check
    ) -> ClientWrite:
        """A new client with its grants, in one write.

        Raises `Conflict` CLIENT_EXISTS where the id is, or ever was, in use.
        """

    def change_client(
        self, client_id: str, change: Callable[[Client], Client], audit: AuditDraft, *, check: Check = no_check
    ) -> ClientWrite:
        """Replace a client by a function of itself (rotate a secret, set an expiry); equal means no revision.

        Raises `NotFound` CLIENT_NOT_FOUND.
        """

    def delete_client(
        self, client_id: str, audit: AuditDraft, *, revocation_expire_time: int, check: Check = no_check
    ) -> Write:
        """Remove a client and its bindings, and revoke its tokens (STANDARDS J21), in one write; its id stays used.

        Raises `NotFound` CLIENT_NOT_FOUND.
        """

    # Policy and bindings.

    def policy(self) -> PolicyRecord:
        """The policy in force, of the newest state."""

    def apply_policy(
        self,
        text: str,
        bindings: Sequence[Binding],
        audit: AuditDraft,
        *,
        expected_revision: str | None,
        check: Check = no_check,
    ) -> PolicyWrite:
        """Put a policy in force and replace the file's bindings, leaving the grants (STANDARDS P9).

        A file binding that was revoked stays revoked. `expected_revision` None: whatever is in force.
        Raises `Conflict` POLICY_REVISION_CONFLICT.
        """

    def grant(self, binding: Binding, audit: AuditDraft, *, check: Check = no_check) -> Write:
        """Add a grant; it lifts the revocation of an equal file binding. One that is there already changes nothing.

        Raises `InvalidRequest` where the subject would hold more than an index takes, as the verbs below and above do.
        """

    def revoke_binding(self, binding_id: str, audit: AuditDraft, *, check: Check = no_check) -> Write:
        """Take a binding away: a grant's row goes, a file's stays as revoked, over later applies too.

        The event names its subject and role. Revoking what is revoked changes nothing. Raises `NotFound`
        BINDING_NOT_FOUND.
        """

    # Revocations.

    def revoke(self, revocations: Sequence[Revocation], audit: AuditDraft, *, check: Check = no_check) -> Write:
        """Refuse what is named, all at the revision of this write."""

    # Audit.

    def append_audit(self, chain: str, drafts: Sequence[AuditDraft]) -> ChainPoint:
        """Append events to a replica's own chain, in order, without a revision; the new end of the chain."""

    def chain_end(self, chain: str) -> ChainPoint:
        """How far a chain reaches."""

    def audit_events(self, chain: str, after: int, limit: int) -> tuple[AuditEvent, ...]:
        """The events of a chain whose sequence is above `after`, in order, at most `limit`."""

    def open_identifier(self, sealed: SealedIdentifier) -> str | None:
        """The identifier in plain; None once its key was destroyed."""

    # Secrets and upkeep.

    def secret(self, name: str) -> bytes:
        """The named 32-byte secret of this record, made on first use by compare-and-set, kept as an envelope.

        Every instance gets the same one. Raises `Internal` where its envelope does not open.
        """

    def forget_expired(self, now: int) -> None:
        """Drop revocations that expired and change rows that no replica can still need, without a revision."""

    def close(self) -> None:
        """Give up the connections."""
