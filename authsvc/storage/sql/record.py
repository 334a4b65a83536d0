"""The record on SQL: each verb of `ports.record.Record` and `ports.replicas.Replicas` as one transaction.

Owns: `SqlRecord`. May import: SQLAlchemy, `core`, `ports`. Use `opening.open_record` to get one: it checks that
the database is this service's, of this release's schema, and under this key-encryption key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from authsvc.core.audit import RECORD_CHAIN, AuditDraft, AuditEvent, ChainPoint, SealedIdentifier
from authsvc.core.errors import Conflict, NotFound, Reason
from authsvc.core.revocations import RevocationKind
from authsvc.core.values import Revision
from authsvc.ports.change_log import (
    Change,
    ClientDeleted,
    ClientPut,
    KeyForgotten,
    KeyManifestPut,
    KeyPut,
    PolicyPut,
    RevocationPut,
)
from authsvc.ports.record import (
    Check,
    ClientWrite,
    Head,
    KeyChange,
    KeyRows,
    KeyWrite,
    Order,
    Page,
    PolicyRecord,
    PolicyWrite,
    RecordState,
    Revocation,
    RevocationMark,
    Write,
    no_check,
)
from authsvc.storage.sql import audit_rows, binding_rows, dialects, replica_rows, rows, secret_rows
from authsvc.storage.sql.subject_keys import HASH_SECRET, SubjectKeys
from authsvc.storage.sql.writing import Writer, Writing

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from authsvc.core.bindings import Binding
    from authsvc.core.clients import Client
    from authsvc.core.envelopes import Kek
    from authsvc.ports.replicas import Replica

_T = TypeVar("_T")

KEPT_CHANGES = 10_000
KEPT_SECONDS = 86_400
"""A change row is kept while it is one of the newest so many, or younger than this."""


class SqlRecord:
    """`Record` over an engine whose database `opening` has made sure of."""

    def __init__(self, engine: Engine, kek: Kek, issuer: str) -> None:
        self.issuer = issuer
        """The issuer that this record remembers."""
        self._engine = engine
        self._kek = kek
        with dialects.writing(engine) as connection:
            rows.head(connection, lock=True)
            hash_key = secret_rows.secret(connection, kek, HASH_SECRET)
        self._audit = audit_rows.AuditRows(SubjectKeys(kek, hash_key))
        self._writer = Writer(engine, self._audit)
        self._stop_listening: Callable[[], None] = _nothing

    # Reading.

    def head(self) -> Head:
        """See `Record.head`."""
        with dialects.reading(self._engine) as connection:
            found = rows.head(connection)
        self._writer.saw(found)
        return found

    def load(self) -> RecordState:
        """See `Record.load`."""
        with dialects.reading(self._engine) as connection:
            return rows.state(connection)

    def changes_from(self, number: int, limit: int) -> tuple[Change, ...]:
        """See `Record.changes_from`."""
        with dialects.reading(self._engine) as connection:
            return rows.changes(connection, number, limit)

    def demand_epoch(self, above: int) -> None:
        """See `Record.demand_epoch`."""
        self._writer.demand_epoch(above)

    def list_clients(self, after: tuple[str, ...] | None, limit: int) -> Page[Client]:
        """See `Record.list_clients`."""
        with dialects.reading(self._engine) as connection:
            found = rows.clients(connection, after[0] if after else "", limit + 1)
            return _page(found, limit, rows.head(connection).revision, lambda client: (client.client_id,))

    def list_bindings(
        self,
        after: tuple[str, ...] | None,
        limit: int,
        *,
        subject: str | None = None,
        role: str | None = None,
        tenant: str | None = None,
    ) -> Page[Binding]:
        """See `Record.list_bindings`."""
        with dialects.reading(self._engine) as connection:
            found = binding_rows.page(connection, after, limit + 1, subject=subject, role=role, tenant=tenant)
            return _page(found, limit, rows.head(connection).revision, binding_rows.page_key)

    # Keys.

    def change_keys(
        self,
        change: Callable[[KeyRows, Order], KeyChange],
        audit: AuditDraft,
        *,
        expected: Order | None,
    ) -> KeyWrite:
        """See `Record.change_keys`."""
        with self._writer.write(audit, no_check) as write:
            found = rows.keys(write.connection)
            decides = expected is None or expected == found.version
            wanted = change(found, write.order) if decides else KeyChange(())
            write.add(KeyPut(key) for key in wanted.changed)
            write.add(KeyForgotten(kid) for kid in wanted.forgotten)
            if wanted.manifest is not None:
                write.add([KeyManifestPut(wanted.manifest)])
            write.add(_mark(write, revocation) for revocation in wanted.revocations)
            write.note(wanted.detail)
            write.silent = not write.changed
            found = rows.keys(write.connection)
        return KeyWrite(write.revision, write.changed, found)

    # Clients.

    def create_client(
        self, client: Client, bindings: Sequence[Binding], audit: AuditDraft, *, check: Check = no_check
    ) -> ClientWrite:
        """See `Record.create_client`."""
        with self._writer.write(audit, check) as write:
            if rows.client_id_used(write.connection, client.client_id):
                raise Conflict(
                    "the client id is in use, or was once",
                    Reason.CLIENT_EXISTS,
                    metadata={"client_id": client.client_id},
                )
            write.know([client.subject])
            write.add([ClientPut(client)])
            self._grant(write, bindings)
        return ClientWrite(write.revision, client)

    def change_client(
        self, client_id: str, change: Callable[[Client], Client], audit: AuditDraft, *, check: Check = no_check
    ) -> ClientWrite:
        """See `Record.change_client`."""
        with self._writer.write(audit, check) as write:
            before = _existing(rows.client(write.connection, client_id), client_id)
            after = change(before)
            if after.client_id != client_id:
                raise ValueError("a change of a client must leave its id")
            if after != before:
                write.add([ClientPut(after)])
        return ClientWrite(write.revision, after)

    def delete_client(
        self, client_id: str, audit: AuditDraft, *, revocation_expire_time: int, check: Check = no_check
    ) -> Write:
        """See `Record.delete_client`."""
        with self._writer.write(audit, check) as write:
            client = _existing(rows.client(write.connection, client_id), client_id)
            revocation = Revocation(RevocationKind.CLIENT, client_id, revocation_expire_time)
            rows.bury_client(write.connection, client_id, audit.time)
            write.add([ClientDeleted(client_id), _mark(write, revocation)])
            write.add(binding_rows.remove_subject(write.connection, client.subject))
        return Write(write.revision, write.changed)

    # Policy and bindings.

    def policy(self) -> PolicyRecord:
        """See `Record.policy`."""
        with dialects.reading(self._engine) as connection:
            return rows.policy(connection)

    def apply_policy(
        self,
        text: str,
        bindings: Sequence[Binding],
        audit: AuditDraft,
        *,
        expected_revision: str | None,
        check: Check = no_check,
    ) -> PolicyWrite:
        """See `Record.apply_policy`."""
        with self._writer.write(audit, check) as write:
            now = rows.policy(write.connection).policy_revision
            if expected_revision is not None and expected_revision != now:
                raise Conflict(
                    "the policy in force is another one than expected",
                    Reason.POLICY_REVISION_CONFLICT,
                    metadata={"policy_revision": now},
                )
            revision = str(Revision(write.before.revision.record, *write.order))
            policy = PolicyRecord(text, revision, audit.time)
            write.add([PolicyPut(policy)])
            write.add(binding_rows.replace_file(write.connection, bindings))
            binding_rows.check_room(write.connection)
            write.know(binding.subject for binding in bindings)
        return PolicyWrite(write.revision, policy)

    def grant(self, binding: Binding, audit: AuditDraft, *, check: Check = no_check) -> Write:
        """See `Record.grant`."""
        with self._writer.write(audit, check) as write:
            self._grant(write, [binding])
        return Write(write.revision, write.changed)

    def revoke_binding(self, binding_id: str, audit: AuditDraft, *, check: Check = no_check) -> Write:
        """See `Record.revoke_binding`."""
        with self._writer.write(audit, check) as write:
            removed = binding_rows.revoke(write.connection, binding_id, audit.time)
            for edit in removed:
                write.note({"role": edit.binding.role}, subject=edit.binding.subject)
            write.add(removed)
        return Write(write.revision, write.changed)

    # Revocations.

    def revoke(self, revocations: Sequence[Revocation], audit: AuditDraft, *, check: Check = no_check) -> Write:
        """See `Record.revoke`."""
        with self._writer.write(audit, check) as write:
            write.add(_mark(write, revocation) for revocation in revocations)
        return Write(write.revision, write.changed)

    # Audit.

    def append_audit(self, chain: str, drafts: Sequence[AuditDraft]) -> ChainPoint:
        """See `Record.append_audit`."""
        if chain == RECORD_CHAIN:
            raise ValueError("the record's own chain moves with its writes only")
        with self._writer.locked() as connection:
            return self._audit.move_end(connection, chain, drafts)

    def chain_end(self, chain: str) -> ChainPoint:
        """See `Record.chain_end`."""
        with dialects.reading(self._engine) as connection:
            if chain == RECORD_CHAIN:
                return rows.head(connection).audit
            return audit_rows.chain_end(connection, chain) or ChainPoint()

    def audit_events(self, chain: str, after: int, limit: int) -> tuple[AuditEvent, ...]:
        """See `Record.audit_events`."""
        with dialects.reading(self._engine) as connection:
            return audit_rows.events(connection, chain, after, limit)

    def open_identifier(self, sealed: SealedIdentifier) -> str | None:
        """See `Record.open_identifier`."""
        with dialects.reading(self._engine) as connection:
            return self._audit.open_identifier(connection, sealed)

    # Secrets and upkeep.

    def secret(self, name: str) -> bytes:
        """See `Record.secret`."""
        with self._writer.locked() as connection:
            rows.head(connection, lock=True)
            return secret_rows.secret(connection, self._kek, name)

    def forget_expired(self, now: int) -> None:
        """See `Record.forget_expired`."""
        with self._writer.locked() as connection:
            newest = rows.head(connection).revision.number
            rows.forget_expired(connection, now, (newest - KEPT_CHANGES, now - KEPT_SECONDS))

    # Replicas. Outside the writers' turn: a report that hangs must not hold up a change.

    def report_replica(self, replica: Replica, *, forget_after: float) -> tuple[Replica, ...]:
        """See `Replicas.report_replica`."""
        with dialects.writing(self._engine) as connection:
            replica_rows.forget(connection, forget_after)
            replica_rows.put(connection, replica)
            return replica_rows.rows(connection)

    def replicas(self) -> tuple[Replica, ...]:
        """See `Replicas.replicas`."""
        with dialects.reading(self._engine) as connection:
            return replica_rows.rows(connection)

    def withdraw_replica(self, replica_id: str) -> None:
        """See `Replicas.withdraw_replica`."""
        with dialects.writing(self._engine) as connection:
            replica_rows.remove(connection, replica_id)

    def listen(self, hint: Callable[[], None]) -> None:
        """Call `hint`, in a thread of its own, soon after each write of any instance, where the database can tell.

        Only quicker, never needed: a hint may be lost, and there are none on SQLite.
        """
        self._stop_listening()
        self._stop_listening = dialects.listener(self._engine, hint)

    def close(self) -> None:
        """See `Record.close`."""
        self._stop_listening()
        self._engine.dispose()

    def _grant(self, write: Writing, bindings: Sequence[Binding]) -> None:
        for binding in bindings:
            write.add(binding_rows.grant(write.connection, binding))
        write.know(binding.subject for binding in bindings)


def _nothing() -> None:
    """Nobody listens."""


def _mark(write: Writing, revocation: Revocation) -> RevocationPut:
    # A later revocation of the same thing refuses more, and must not be forgotten before the earlier one.
    old = rows.revocation(write.connection, revocation.kind, revocation.digest)
    expire_time = max(revocation.expire_time, 0 if old is None else old.expire_time)
    return RevocationPut(RevocationMark(revocation.kind, revocation.digest, write.order, expire_time))


def _existing(client: Client | None, client_id: str) -> Client:
    if client is None:
        raise NotFound("no such client", Reason.CLIENT_NOT_FOUND, metadata={"client_id": client_id})
    return client


def _page(found: Sequence[_T], limit: int, revision: Revision, key: Callable[[_T], tuple[str, ...]]) -> Page[_T]:
    items = tuple(found[:limit])
    return Page(items, key(items[-1]) if len(found) > limit else None, revision)
