"""The snapshot: all that a decision reads, as of one revision.

Owns: what a snapshot holds and how one is built from the record. May import: immutables, `core`, `ports`. It is
frozen through and through, because handlers in several threads read it without a lock: the next one is made by
`changes.apply` and swapped in. A part that a change leaves alone stays the same object, so identity can key a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from immutables import Map

from authsvc.core.bindings import BindingIndex
from authsvc.core.policy import CompiledPolicy, compile_policy
from authsvc.core.policy_document import parse
from authsvc.state.revocations import Revocations

if TYPE_CHECKING:
    from authsvc.core.claims import VerifiedToken
    from authsvc.core.clients import Client
    from authsvc.core.keys import KeyRecord
    from authsvc.core.values import Revision
    from authsvc.ports.record import KeyRows, Order, PolicyRecord, RecordState

KeyVerifier: TypeAlias = Callable[["KeyRows"], "tuple[KeyRecord, ...]"]
"""Which of the rows are authentic (STANDARDS K12)."""

NO_POLICY = "version: 1\n"
"""What is in force where no policy was applied: the built-in roles alone."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at `revision`; `digest` is that of the change row that led here.

    `keys` are those whose rows are authentic, by kid; `broken_kids` the others, and those that are missing, which are
    never published and never sign. `keys_version` is what `Record.change_keys` compares. `policy_record` is the text
    behind `policy`.
    """

    revision: Revision
    digest: bytes
    keys: Map[str, KeyRecord]
    keys_version: Order
    broken_kids: frozenset[str]
    clients: Map[str, Client]
    policy_record: PolicyRecord
    policy: CompiledPolicy
    bindings: BindingIndex
    revocations: Revocations
    revision_text: str = field(init=False, repr=False)
    """The revision as answers carry it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "revision_text", str(self.revision))

    def is_revoked(self, token: VerifiedToken) -> bool:
        """Whether the token, its subject, client or issuer was revoked after it was minted (STANDARDS J21).

        Keys that were revoked are not looked at here: their tokens do not verify.
        """
        return self.revocations.refuse(token)


def build(state: RecordState, verify_keys: KeyVerifier) -> Snapshot:
    """The snapshot of a record's state. Raises `InvalidRequest` where its policy does not compile here."""
    keys, broken_kids = sorted_out(state.keys, verify_keys)
    return Snapshot(
        revision=state.head.revision,
        digest=state.head.digest,
        keys=keys,
        keys_version=state.keys.version,
        broken_kids=broken_kids,
        clients=Map({client.client_id: client for client in state.clients}),
        policy_record=state.policy,
        policy=compiled(state.policy),
        bindings=BindingIndex.from_bindings(state.bindings),
        revocations=Revocations.of(state.revocations),
    )


def sorted_out(
    rows: KeyRows, verify_keys: KeyVerifier, broken: frozenset[str] = frozenset()
) -> tuple[Map[str, KeyRecord], frozenset[str]]:
    """The authentic keys by kid, and the kids of all others; `broken` are others whose rows nobody kept."""
    authentic = Map({key.kid: key for key in verify_keys(rows)})
    named = () if rows.manifest is None else rows.manifest.macs
    kids = broken.union((key.kid for key in rows.keys), named)
    return authentic, frozenset(kid for kid in kids if kid not in authentic)


def compiled(policy: PolicyRecord) -> CompiledPolicy:
    """The policy in the form that decides."""
    # Whether a policy may grant service roles was settled when it was applied, by the settings of that moment.
    return compile_policy(parse(policy.text or NO_POLICY, service_roles=True))
