"""Values that tests of the record write, each the smallest that means something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from authsvc.core.audit import AuditDraft
from authsvc.core.bindings import Binding, BindingSource, make_binding
from authsvc.core.clients import Client, ClientSecret
from authsvc.core.jose import Algorithm
from authsvc.core.key_manifest import authentic, make_manifest
from authsvc.core.keys import KeyRecord, KeySchedule, KeyState, new_key, with_mac
from authsvc.ports.record import KeyChange, KeyRows, Order

NOW = 1_800_000_000
ADMIN = "client:root"
MAC_KEY = b"m" * 32
SCHEDULE = KeySchedule(key_ttl=86_400, publish_lead=600, max_token_ttl=3_600, leeway=30, jwks_max_age=300)

POLICY = """\
version: 1
permissions: {"orders:read": {}, "orders:write": {}}
roles:
  viewer: {allow: ["orders:read"]}
  editor: {inherits: [viewer], allow: ["orders:write"]}
bindings:
  - {subject: "user:ann", role: viewer}
"""


def draft(kind: str = "authsvc.roles:grant", *, time: int = NOW, actor: str = ADMIN, subject: str = "") -> AuditDraft:
    """An audit event of an admin's act."""
    return AuditDraft(kind, "done", time, actor=actor, subject=subject)


def file_binding(subject: str = "user:ann", role: str = "viewer", tenant: str = "") -> Binding:
    """A binding of the policy file."""
    return make_binding(subject, role, tenant, source=BindingSource.FILE)


def granted(subject: str = "user:ann", role: str = "viewer", tenant: str = "") -> Binding:
    """A binding of a grant."""
    return make_binding(subject, role, tenant)


def client(client_id: str = "billing", *, display_name: str = "") -> Client:
    """A client with one secret and everything else set."""
    return Client(
        client_id,
        display_name=display_name,
        audience=("orders", "authsvc"),
        own_audience=("billing",),
        scope=("orders.read",),
        tenants=("acme",),
        domains=("api",),
        token_ttl=300,
        create_time=NOW,
        secrets=(ClientSecret("s-1", b"\x00hash", NOW, NOW + 9),),
    )


def key(kid: str, *, state: KeyState = KeyState.PENDING, now: int = NOW) -> KeyRecord:
    """A key as the record keeps it; it need not sign, so its public half is a name."""
    made = new_key(
        kid=kid,
        algorithm=Algorithm.ES256,
        public_jwk={"kty": "EC", "kid": kid},
        envelope=b"\x01envelope " + kid.encode(),
        now=now,
        activate_after=now + SCHEDULE.publish_lead,
        actor=ADMIN,
    )
    return with_mac(MAC_KEY, replace(made, state=state))


def verify_keys(rows: KeyRows) -> tuple[KeyRecord, ...]:
    """The authentic ones."""
    return authentic(MAC_KEY, rows.keys, rows.manifest, rows.version)


def keys_put(*changed: KeyRecord, forgotten: tuple[str, ...] = ()) -> Callable[[KeyRows, Order], KeyChange]:
    """A change of keys with the MACs that they carry, and its manifest."""

    def change(rows: KeyRows, order: Order) -> KeyChange:
        after = {key.kid: key for key in (*verify_keys(rows), *changed) if key.kid not in forgotten}
        return KeyChange(changed, forgotten, make_manifest(MAC_KEY, after.values(), order))

    return change


def keys_change(*changed: KeyRecord, forgotten: tuple[str, ...] = ()) -> Callable[[KeyRows, Order], KeyChange]:
    """A change of keys, each with its right MAC."""
    return keys_put(*(with_mac(MAC_KEY, record) for record in changed), forgotten=forgotten)
