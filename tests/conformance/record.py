"""The suite that every `Record` adapter passes, concurrency included.

An adapter joins by subclassing `RecordSuite` and giving a `bench` fixture: a fresh record, opened as often as asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Protocol, TypeVar

import pytest

from authsvc.core import keys as key_rules
from authsvc.core.audit import GENESIS, RECORD_CHAIN, ChainPoint, check_chain
from authsvc.core.bindings import Binding, BindingSource
from authsvc.core.errors import Conflict, InvalidRequest, NotFound, Reason
from authsvc.core.keys import KeyRecord, KeyState
from authsvc.core.revocations import RevocationKind, revocation_digest
from authsvc.ports.change_log import (
    BindingPut,
    BindingRemoved,
    Change,
    ClientDeleted,
    KeyManifestPut,
    KeyPut,
    RevocationPut,
)
from authsvc.ports.record import KeyChange, KeyRows, Order, Record, Revocation, View
from tests.support.record_values import (
    ADMIN,
    NOW,
    POLICY,
    SCHEDULE,
    client,
    draft,
    file_binding,
    granted,
    key,
    keys_change,
)
from tests.support.scale import scale

T = TypeVar("T")


class Bench(Protocol):
    """A fresh record of the adapter, and as many instances over it as asked for."""

    def open(self) -> Record:
        """Another instance, as another replica would open one."""


def refuse(view: View) -> None:
    """A check that refuses."""
    raise Conflict("refused by the check")


def all_changes(record: Record) -> tuple[Change, ...]:
    """The whole change log."""
    return record.changes_from(0, 100_000)


def is_whole(record: Record) -> bool:
    """Whether the change log and the admin chain are unbroken, from their beginnings to the head."""
    head = record.head()
    rows = all_changes(record)
    linked = all(row.previous == before.digest for before, row in pairwise(rows))
    events = record.audit_events(RECORD_CHAIN, 0, 100_000)
    return (
        linked
        and [row.number for row in rows] == list(range(head.revision.number + 1))
        and rows[-1].digest == head.digest
        and check_chain(events, end=head.audit) is None
    )


def together(count: int, work: Callable[[int], T]) -> list[T | Exception]:
    """Run the work in threads that start at the same moment; what each gave or raised."""
    barrier = threading.Barrier(count)

    def run(index: int) -> T | Exception:
        barrier.wait()
        try:
            return work(index)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def bound(record: Record, subject: str) -> list[tuple[str, BindingSource]]:
    """The roles in effect for a subject, with their owners."""
    return sorted((b.role, b.source) for b in record.load().bindings if b.subject == subject)


class RecordSuite:
    """The laws of `ports.record`."""

    @pytest.fixture
    def bench(self) -> Bench:
        """Given by the adapter."""
        raise NotImplementedError

    @pytest.fixture
    def record(self, bench: Bench) -> Record:
        """One instance."""
        return bench.open()

    # Writes as such.

    def test_a_fresh_record_is_at_number_0_and_its_log_has_a_row_for_it(self, record: Record) -> None:
        head = record.head()
        assert head.revision.order == (1, 0)
        assert head.audit == ChainPoint(0, GENESIS)
        assert [row.digest for row in all_changes(record)] == [head.digest]

    @pytest.mark.standard("U7")
    def test_a_write_is_one_revision_one_change_row_and_one_event(self, record: Record) -> None:
        written = record.grant(granted(), draft())
        assert (written.changed, written.revision.order) == (True, (1, 1))
        assert record.head().revision == written.revision
        assert [row.order for row in all_changes(record)] == [(1, 0), (1, 1)]
        assert [event.kind for event in record.audit_events(RECORD_CHAIN, 0, 9)] == ["authsvc.roles:grant"]
        assert is_whole(record)

    def test_a_write_that_changes_nothing_leaves_the_revision_and_is_audited(self, record: Record) -> None:
        first = record.grant(granted(), draft())
        again = record.grant(granted(), draft())
        assert (again.changed, again.revision) == (False, first.revision)
        assert record.head().audit.sequence == 2
        assert is_whole(record)

    @pytest.mark.standard("U5")
    def test_a_refused_write_leaves_nothing(self, record: Record) -> None:
        record.create_client(client(), [granted("client:billing")], draft())
        before, state = record.head(), record.load()
        refused: list[Callable[[], object]] = [
            lambda: record.grant(granted("user:bob"), draft(), check=refuse),
            lambda: record.create_client(client("b"), [granted("client:b")], draft(), check=refuse),
            lambda: record.change_client("billing", lambda c: replace(c, scope=()), draft(), check=refuse),
            lambda: record.delete_client("billing", draft(), revocation_expire_time=NOW + 9, check=refuse),
            lambda: record.apply_policy(POLICY, [file_binding()], draft(), expected_revision=None, check=refuse),
            lambda: record.revoke_binding(granted("client:billing").binding_id, draft(), check=refuse),
            lambda: record.revoke([Revocation(RevocationKind.SUBJECT, "user:a", NOW)], draft(), check=refuse),
        ]
        for write in refused:
            with pytest.raises(Conflict):
                write()
            assert (record.head(), record.load()) == (before, state)

    def test_a_check_sees_the_state_as_it_will_be(self, record: Record) -> None:
        seen: list[object] = []

        def look(view: View) -> None:
            found = view.client("billing")
            seen.append(found and found.display_name)
            seen.append([b.role for b in view.bindings(subject="client:billing")])
            seen.append([b.subject for b in view.bindings(role="viewer")])
            seen.append(view.granted_roles())
            seen.append([c.client_id for c in view.clients({"billing", "nobody"})])
            seen.append(view.policy().text)

        record.create_client(client(display_name="B"), [granted("client:billing")], draft(), check=look)
        viewers = ["client:billing"]
        assert seen == ["B", ["viewer"], viewers, {"viewer"}, ["billing"], ""]

    def test_writers_at_once_lose_nothing_and_number_without_gaps(self, bench: Bench) -> None:
        record = bench.open()
        record.create_client(client(display_name="0"), [], draft())
        instances = [bench.open() for _ in range(4)]
        rounds = max(3, scale(100))

        def count(index: int) -> list[int]:
            return [
                instances[index % 4]
                .change_client("billing", lambda c: replace(c, display_name=str(int(c.display_name) + 1)), draft())
                .revision.number
                for _ in range(rounds)
            ]

        numbers = [n for done in together(8, count) if not isinstance(done, Exception) for n in done]
        assert sorted(numbers) == list(range(2, 8 * rounds + 2))
        assert record.load().clients[0].display_name == str(8 * rounds)
        assert is_whole(record)

    # Keys.

    def test_a_key_is_kept_to_the_byte(self, record: Record) -> None:
        made = key("k1")
        record.change_keys(keys_change(made), draft(), expected=None)
        rows = record.load().keys
        assert rows.keys == (made,)
        assert rows.manifest is not None
        assert all_changes(record)[-1].edits == (KeyPut(made), KeyManifestPut(rows.manifest))

    @pytest.mark.standard("K4")
    def test_of_three_rotations_at_once_one_wins_and_the_others_see_its_keys(self, bench: Bench) -> None:
        first = bench.open()
        active, standby = key("k1", state=KeyState.ACTIVE), key("k2")
        start = first.change_keys(keys_change(active, standby), draft(), expected=None)
        instances = [bench.open() for _ in range(3)]

        def rotate(index: int) -> tuple[bool, tuple[KeyRecord, ...]]:
            def change(found: KeyRows, order: Order) -> KeyChange:
                moved = key_rules.rotate(
                    found.keys, key(f"new-{index}"), now=NOW, schedule=SCHEDULE, force=True, actor=ADMIN
                )
                return keys_change(*moved.changed, forgotten=moved.forgotten)(found, order)

            written = instances[index].change_keys(change, draft(), expected=start.rows.version)
            return written.changed, written.rows.keys

        outcomes = [done for done in together(3, rotate) if not isinstance(done, Exception)]
        assert sorted(changed for changed, _ in outcomes) == [False, False, True]
        assert len({repr(keys) for _, keys in outcomes}) == 1
        states = sorted((k.state, k.kid[:3]) for k in first.load().keys.keys)
        assert states == [(KeyState.ACTIVE, "k2"), (KeyState.PENDING, "new"), (KeyState.RETIRING, "k1")]
        assert first.head().audit.sequence == 2

    def test_a_key_change_that_changes_nothing_leaves_no_event(self, record: Record) -> None:
        before = record.head()
        written = record.change_keys(lambda _rows, _order: KeyChange(()), draft(), expected=None)
        assert (written.changed, written.rows.version) == (False, (0, 0))
        assert record.head() == before

    def test_a_key_change_that_raises_leaves_nothing(self, record: Record) -> None:
        def change(_rows: KeyRows, _order: Order) -> KeyChange:
            raise Conflict("not now", Reason.KEY_LEAD_NOT_PASSED)

        before = record.head()
        with pytest.raises(Conflict):
            record.change_keys(change, draft(), expected=None)
        assert record.head() == before

    def test_the_version_of_the_keys_is_the_revision_that_changed_them(self, record: Record) -> None:
        record.grant(granted(), draft())
        written = record.change_keys(keys_change(key("k1"), key("k2")), draft(), expected=(0, 0))
        record.grant(granted("user:bob"), draft())
        assert record.load().keys.version == written.rows.version == written.revision.order
        forgot = record.change_keys(keys_change(forgotten=("k2",)), draft(), expected=written.rows.version)
        assert forgot.rows.version == record.load().keys.version == forgot.revision.order
        assert [k.kid for k in forgot.rows.keys] == ["k1"]

    # Clients.

    def test_a_client_is_kept_whole_with_its_grants(self, record: Record) -> None:
        made = record.create_client(client(), [granted("client:billing")], draft()).client
        assert record.load().clients == (made,) == (client(),)
        assert bound(record, "client:billing") == [("viewer", BindingSource.GRANT)]

    def test_a_client_id_is_never_used_twice(self, record: Record) -> None:
        record.create_client(client(), [], draft())
        record.create_client(client("gone"), [], draft())
        record.delete_client("gone", draft(), revocation_expire_time=NOW + 60)
        for client_id in ("billing", "gone"):
            with pytest.raises(Conflict) as refused:
                record.create_client(client(client_id), [], draft())
            assert refused.value.reason is Reason.CLIENT_EXISTS

    def test_client_ids_are_case_sensitive(self, record: Record) -> None:
        record.create_client(client("a"), [], draft())
        record.create_client(client("A"), [], draft())
        assert [c.client_id for c in record.load().clients] == ["A", "a"]

    @pytest.mark.standard("J21")
    def test_deleting_a_client_takes_its_bindings_and_revokes_its_tokens(self, record: Record) -> None:
        record.create_client(client(), [granted("client:billing")], draft())
        written = record.delete_client("billing", draft(), revocation_expire_time=NOW + 60)
        state = record.load()
        assert (state.clients, state.bindings) == ((), ())
        assert [(m.kind, m.at, m.expire_time) for m in state.revocations] == [
            (RevocationKind.CLIENT, written.revision.order, NOW + 60)
        ]
        kinds = [type(edit) for edit in all_changes(record)[-1].edits]
        assert kinds == [ClientDeleted, RevocationPut, BindingRemoved]

    def test_an_unknown_client_is_not_found(self, record: Record) -> None:
        with pytest.raises(NotFound):
            record.change_client("nobody", lambda c: c, draft())
        with pytest.raises(NotFound):
            record.delete_client("nobody", draft(), revocation_expire_time=NOW)

    # Bindings.

    def test_a_file_replaces_only_its_own_bindings(self, record: Record) -> None:
        record.grant(granted("user:bob", "editor"), draft())
        record.apply_policy(POLICY, [file_binding(), file_binding("user:bob")], draft(), expected_revision=None)
        record.apply_policy(POLICY, [file_binding("user:cy")], draft(), expected_revision=None)
        assert bound(record, "user:ann") == []
        assert bound(record, "user:bob") == [("editor", BindingSource.GRANT)]
        assert bound(record, "user:cy") == [("viewer", BindingSource.FILE)]

    def test_a_binding_of_both_file_and_grant_stays_while_one_owns_it(self, record: Record) -> None:
        record.apply_policy(POLICY, [file_binding()], draft(), expected_revision=None)
        record.grant(granted(), draft())
        assert len(bound(record, "user:ann")) == 2
        record.apply_policy(POLICY, [], draft(), expected_revision=None)
        assert bound(record, "user:ann") == [("viewer", BindingSource.GRANT)]

    def test_a_revoked_file_binding_stays_revoked_over_later_applies(self, record: Record) -> None:
        one = file_binding()
        record.apply_policy(POLICY, [one], draft(), expected_revision=None)
        assert record.revoke_binding(one.binding_id, draft()).changed
        for bindings in ([one], [], [one]):
            record.apply_policy(POLICY, bindings, draft(), expected_revision=None)
            assert bound(record, "user:ann") == []
        assert record.list_bindings(None, 9).items == (replace(one, revoked=True),)
        assert not record.revoke_binding(one.binding_id, draft()).changed

    def test_a_grant_lifts_the_revocation_of_its_file_binding(self, record: Record) -> None:
        one = file_binding()
        record.apply_policy(POLICY, [one], draft(), expected_revision=None)
        record.revoke_binding(one.binding_id, draft())
        record.grant(granted(), draft())
        assert len(bound(record, "user:ann")) == 2
        assert all_changes(record)[-1].edits == (BindingPut(granted()), BindingPut(one))

    def test_revoking_takes_grant_and_file_alike(self, record: Record) -> None:
        record.apply_policy(POLICY, [file_binding()], draft(), expected_revision=None)
        record.grant(granted(), draft())
        record.revoke_binding(granted().binding_id, draft())
        assert bound(record, "user:ann") == []
        assert [(b.source, b.revoked) for b in record.list_bindings(None, 9).items] == [(BindingSource.FILE, True)]

    def test_an_unknown_binding_is_not_found(self, record: Record) -> None:
        with pytest.raises(NotFound):
            record.revoke_binding("nothing", draft())

    def test_a_subject_cannot_hold_more_than_a_snapshot_takes(self, record: Record) -> None:
        many = [replace(file_binding(role="r"), binding_id=str(i), expire_time=NOW + i) for i in range(1_001)]
        with pytest.raises(InvalidRequest):
            record.apply_policy(POLICY, many, draft(), expected_revision=None)
        assert record.head().revision.number == 0

    @pytest.mark.standard("P11")
    def test_of_two_revocations_at_once_one_leaves_the_last_admin(self, bench: Bench) -> None:
        record = bench.open()
        admins = [granted("user:ann", "authsvc.admin"), granted("user:bob", "authsvc.admin")]
        for admin in admins:
            record.grant(admin, draft())
        instances = [bench.open(), bench.open()]

        def keeps_one(view: View) -> None:
            if not view.bindings(role="authsvc.admin"):
                raise Conflict("the last admin", Reason.LAST_ADMIN)

        outcomes = together(
            2, lambda index: instances[index].revoke_binding(admins[index].binding_id, draft(), check=keeps_one)
        )
        assert [isinstance(outcome, Conflict) for outcome in outcomes].count(True) == 1
        assert len(record.load().bindings) == 1

    # Policy.

    @pytest.mark.standard("P9")
    def test_apply_is_compare_and_set_on_the_policy_in_force(self, record: Record) -> None:
        assert record.policy().policy_revision == ""
        first = record.apply_policy(POLICY, [], draft(), expected_revision="")
        second = record.apply_policy(POLICY + "#\n", [], draft(), expected_revision=first.policy.policy_revision)
        assert second.policy.policy_revision != first.policy.policy_revision
        for stale in ("", first.policy.policy_revision):
            with pytest.raises(Conflict) as refused:
                record.apply_policy(POLICY, [], draft(), expected_revision=stale)
            assert refused.value.reason is Reason.POLICY_REVISION_CONFLICT
        assert record.policy() == second.policy == record.load().policy

    @pytest.mark.standard("P9")
    def test_of_several_applies_at_once_on_one_revision_one_wins(self, bench: Bench) -> None:
        instances = [bench.open() for _ in range(3)]
        outcomes = together(3, lambda i: instances[i].apply_policy(POLICY, [], draft(), expected_revision=""))
        assert [isinstance(outcome, Conflict) for outcome in outcomes].count(True) == 2

    # Revocations.

    @pytest.mark.standard("J21")
    def test_a_revocation_refuses_below_the_revision_of_its_write(self, record: Record) -> None:
        written = record.revoke([Revocation(RevocationKind.SUBJECT, "user:ann", NOW + 60)], draft())
        (mark,) = record.load().revocations
        assert mark.at == written.revision.order
        assert mark.digest == revocation_digest(RevocationKind.SUBJECT, "user:ann")

    @pytest.mark.standard("J21")
    def test_a_second_revocation_moves_on_and_is_kept_as_long_as_the_longer(self, record: Record) -> None:
        record.revoke([Revocation(RevocationKind.CLIENT, "billing", NOW + 600)], draft())
        later = record.revoke([Revocation(RevocationKind.CLIENT, "billing", NOW + 60)], draft())
        (mark,) = record.load().revocations
        assert (mark.at, mark.expire_time) == (later.revision.order, NOW + 600)

    def test_expired_revocations_are_forgotten_without_a_revision(self, record: Record) -> None:
        ends = {"old": NOW, "new": NOW + 1}
        record.revoke([Revocation(RevocationKind.TOKEN, name, end) for name, end in ends.items()], draft())
        before = record.head()
        record.forget_expired(NOW)
        assert [m.digest for m in record.load().revocations] == [revocation_digest(RevocationKind.TOKEN, "new")]
        assert record.head() == before
        assert is_whole(record)

    # The epoch.

    def test_a_demanded_epoch_comes_with_the_next_write_and_goes_on(self, bench: Bench) -> None:
        record, other = bench.open(), bench.open()
        record.grant(granted("user:a"), draft())
        record.demand_epoch(1)
        other.grant(granted("user:b"), draft())
        assert record.grant(granted("user:c"), draft()).revision.order == (2, 3)
        assert other.grant(granted("user:d"), draft()).revision.order == (2, 4)
        record.demand_epoch(1)
        assert record.grant(granted("user:e"), draft()).revision.order == (2, 5)
        assert [row.order for row in all_changes(record)][-3:] == [(2, 3), (2, 4), (2, 5)]

    # Audit.

    @pytest.mark.standard("U8")
    def test_an_event_opens_to_its_identifiers_and_holds_none_in_plain(self, record: Record) -> None:
        record.grant(granted("user:ann"), draft(subject="user:ann"))
        (event,) = record.audit_events(RECORD_CHAIN, 0, 9)
        assert "ann" not in repr(event)
        assert event.actor is not None
        assert event.subject is not None
        assert record.open_identifier(event.actor) == ADMIN
        assert record.open_identifier(event.subject) == "user:ann"

    @pytest.mark.standard("U8")
    def test_equal_identifiers_have_equal_hashes_and_different_ciphertexts(self, bench: Bench) -> None:
        record = bench.open()
        record.append_audit("replica", [draft(), draft(subject=ADMIN)])
        bench.open().append_audit("replica", [draft()])
        actors = [event.actor for event in record.audit_events("replica", 0, 9)]
        assert len({actor.keyed_hash for actor in actors if actor}) == 1
        assert len({actor.ciphertext for actor in actors if actor}) == 3

    @pytest.mark.standard("U8")
    def test_known_subjects_have_a_key_of_their_own_and_strangers_share_one_a_day(self, record: Record) -> None:
        record.create_client(client(), [granted("client:billing")], draft())
        record.apply_policy(POLICY, [file_binding("user:ann")], draft(), expected_revision=None)
        day = 86_400
        who = ["client:billing", "user:ann", "user:x", "user:y"]
        record.append_audit("r", [*(draft(actor=actor) for actor in who), draft(actor="user:x", time=NOW + day)])
        keys = [event.actor.key_id for event in record.audit_events("r", 0, 9) if event.actor]
        assert keys[2] == keys[3]
        assert len(set(keys)) == 4

    @pytest.mark.standard("U7")
    def test_a_replica_has_a_chain_of_its_own_without_a_revision(self, record: Record) -> None:
        before = record.head()
        record.append_audit("one", [draft(), draft()])
        end = record.append_audit("one", [draft()])
        record.append_audit("two", [draft()])
        assert record.append_audit("one", []) == end == record.chain_end("one")
        assert end.sequence == 3
        assert check_chain(record.audit_events("one", 0, 9), end=end) is None
        assert check_chain(record.audit_events("two", 0, 9), end=record.chain_end("two")) is None
        assert record.head() == before
        assert record.chain_end("three") == ChainPoint()

    def test_nobody_writes_into_the_records_own_chain(self, record: Record) -> None:
        with pytest.raises(ValueError, match="own chain"):
            record.append_audit(RECORD_CHAIN, [draft()])

    def test_events_are_read_in_pages(self, record: Record) -> None:
        record.append_audit("one", [draft() for _ in range(5)])
        assert [event.sequence for event in record.audit_events("one", 1, 3)] == [2, 3, 4]

    # Secrets.

    def test_a_named_secret_is_the_same_for_everybody(self, bench: Bench) -> None:
        instances = [bench.open() for _ in range(3)]
        assert len(set(map(repr, together(3, lambda i: instances[i].secret("clients.hash"))))) == 1
        assert len(instances[0].secret("clients.hash")) == 32
        assert instances[0].secret("clients.hash") != instances[0].secret("keys.mac")

    # Lists.

    def test_bindings_come_in_pages_by_subject_and_id(self, record: Record) -> None:
        made = [granted(f"user:{name}", role) for name in "bAa" for role in ("viewer", "editor")]
        for binding in made:
            record.grant(binding, draft())
        seen: list[Binding] = []
        after: tuple[str, ...] | None = None
        while True:
            page = record.list_bindings(after, 2)
            assert page.revision == record.head().revision
            seen.extend(page.items)
            after = page.next_after
            if after is None:
                break
        assert seen == sorted(made, key=lambda b: (b.subject, b.binding_id))

    def test_filters_of_bindings_are_exact(self, record: Record) -> None:
        for binding in (granted("user:ann"), granted("user:anna"), granted("user:ann", "editor", "acme")):
            record.grant(binding, draft())
        assert len(record.list_bindings(None, 9, subject="user:ann").items) == 2
        assert [b.tenant for b in record.list_bindings(None, 9, subject="user:ann", role="editor").items] == ["acme"]
        assert len(record.list_bindings(None, 9, tenant="acme").items) == 1

    def test_clients_come_in_pages_by_id(self, record: Record) -> None:
        for client_id in "bca":
            record.create_client(client(client_id), [], draft())
        first = record.list_clients(None, 2)
        rest = record.list_clients(first.next_after, 2)
        assert [c.client_id for c in (*first.items, *rest.items)] == ["a", "b", "c"]
        assert rest.next_after is None
