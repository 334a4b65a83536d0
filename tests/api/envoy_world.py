"""A whole ext_authz row on real parts, without network or record: keys, tokens, policy, counters, engine."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from authsvc import config
from authsvc.api.calls import Call, Refusal
from authsvc.api.engine import Engine, State, Surroundings
from authsvc.api.envoy_authz import EnvoyAuthorization
from authsvc.api.envoy_messages import AUTHORIZATION, CheckRequest, CheckResponse
from authsvc.api.method_table import MethodTable, Service
from authsvc.api.throttle import FailedAuthentications
from authsvc.clock import FakeClock
from authsvc.core import keys
from authsvc.core.audit import AuditDraft, ChainPoint
from authsvc.core.bindings import BindingIndex, make_binding
from authsvc.core.claims import TokenDraft, sign_token
from authsvc.core.clients import Client
from authsvc.core.envelopes import PRIVATE_KEY, Kek, seal
from authsvc.core.errors import Reason
from authsvc.core.jose import Algorithm, PrivateKey
from authsvc.core.rates import Rate
from authsvc.core.revocations import RevocationKind
from authsvc.core.values import Revision
from authsvc.ports.counters import Counters
from authsvc.ports.record import Head, KeyRows, PolicyRecord, RecordState, Revocation, RevocationMark
from authsvc.state.snapshot import Snapshot, build
from authsvc.storage.counters_memory import MemoryCounters
from authsvc.usecases.envoy import Gate
from authsvc.usecases.keyring import Keyring
from authsvc.usecases.limits import Limits
from authsvc.usecases.principals import Authenticator
from authsvc.usecases.tokens import Tokens

ISSUER = "https://issuer.test"
CHECK = "envoy.service.auth.v3.Authorization/Check"
PSEUDONYM_KEY = b"p" * 32
LOOPBACK = config.Proxy(peer="loopback")

POLICY = """
version: 1
permissions: {"orders:read": {}, "orders:write": {}, "orders:audit": {}}
roles:
  viewer: {allow: ["orders:read"]}
  writer: {inherits: [viewer], allow: ["orders:write"]}
  barred: {deny: ["orders:write"]}
bindings:
  - {subject: "client:web", role: writer}
  - {subject: "client:web", role: barred,
     condition: "'frozen' in context.request.extensions && context.request.extensions.frozen == 'yes'"}
scopes: {"orders.read": ["orders:read"], "orders.write": ["orders:write"], "orders.audit": ["orders:audit"]}
routes:
  - {name: mesh, match: {destination: "spiffe://*/ns/shop/sa/orders", path: "/mesh/**"},
     permission: "orders:read", audience: orders}
  - {name: read, match: {method: GET, path: "/v1/orders/{id}"},
     permission: "orders:read", resource: "orders/{id}", audience: orders}
  - {name: head, match: {method: HEAD, path: "/v1/orders/{id}"},
     permission: "orders:audit", resource: "orders/{id}", audience: orders}
  - {name: write, match: {method: POST, path: "/v1/orders"}, permission: "orders:write", audience: orders}
  - {name: metered, match: {method: GET, path: "/v1/metered"},
     permission: "orders:read", audience: orders, limits: [per_user, per_address]}
  - {name: admin, match: {path: "/admin/**"}, permission: "orders:audit", audience: orders}
  - {name: nobody's, match: {path: "/no-audience"}, permission: "orders:read"}
limits:
  per_user: {domain: api, match: {subject: "*"}, rate: 3/1m}
  per_address: {domain: api, match: {remote_address: "*", path: "/v1/metered"}, rate: 100/1h, burst: 100}
"""

_MAC_KEY = b"m" * 32
_KEK = Kek(b"k" * 32)
_SIGNER = PrivateKey.generate(Algorithm.ES256)


def stranger() -> PrivateKey:
    """A key that the service does not know."""
    return PrivateKey.generate(Algorithm.ES256)


class HeldState:
    """The state of a service that stands still."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.current = snapshot

    def reached(self, revision: Revision) -> bool:
        return revision <= self.current.revision

    def reach(self, revision: Revision, deadline: float | None, caller: str = "") -> None:
        assert self.reached(revision)

    async def wait_for(self, revision: Revision, caller: str, deadline: float | None) -> None:
        assert self.reached(revision)


@dataclass
class Kept:
    """What was audited, observed and logged."""

    events: list[AuditDraft] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    def record(self, draft: AuditDraft) -> None:
        self.events.append(draft)

    def observe(self, method: str, code: int, reason: Reason, seconds: float) -> None:
        self.reasons.append(reason)

    def fault(self, request_id: str, method: str, exception: BaseException) -> None:
        self.faults.append(exception)


class StepRunner:
    """Runs work that never suspends, as in-process counters do not."""

    async def run(self, work: Coroutine[Any, Any, Any], call: Call, deadline: float) -> Any:
        try:
            work.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("the work suspended")

    async def reach(self, state: State, revision: Revision, caller: str, deadline: float) -> None:
        state.reach(revision, deadline, caller)


class World:
    """The row, and everybody around it."""

    def __init__(
        self,
        policy: str = POLICY,
        *,
        proxies: Sequence[config.Proxy] = (LOOPBACK,),
        counters: Counters | None = None,
        grants: Sequence[tuple[str, str]] = (),
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.kept = Kept()
        self.seconds = 0.0
        self.state = HeldState(self._snapshot(policy, grants))
        keyring = Keyring(_KEK)
        tokens = Tokens(
            issuer=ISSUER,
            settings=config.Tokens(),
            state_age=lambda: 0.0,
            keyring=keyring,
            secret_hash_key=b"s" * 32,
            random_id=lambda: secrets.token_hex(16),
        )
        limits = Limits(counters or MemoryCounters(self.clock))
        handlers = EnvoyAuthorization(Gate(tokens, limits), pseudonym_key=PSEUDONYM_KEY)
        table = MethodTable.build([Service(AUTHORIZATION, handlers, handlers.deny)])
        self.engine = Engine(
            table,
            Surroundings(
                authenticator=Authenticator(tokens, (), proxies),
                state=self.state,
                audit=self.kept,
                metrics=self.kept,
                log=self.kept,
                clock=self.clock,
                failures=FailedAuthentications(Rate(20, 60_000_000)),
                monotonic=monotonic or (lambda: self.seconds),
            ),
        )
        row = table.get(CHECK)
        assert row is not None
        self.row = row

    def _snapshot(self, policy: str, grants: Sequence[tuple[str, str]]) -> Snapshot:
        now = self.clock.now()
        sealed = seal(
            _KEK,
            _SIGNER.to_der(),
            purpose=PRIVATE_KEY,
            name=_SIGNER.kid,
            algorithm=Algorithm.ES256,
            nonce=secrets.token_bytes(12),
        )
        pending = keys.new_key(
            kid=_SIGNER.kid,
            algorithm=Algorithm.ES256,
            public_jwk=_SIGNER.public_jwk(),
            envelope=sealed,
            now=now,
            activate_after=now,
            actor="service:authsvc",
        )
        active = keys.with_mac(_MAC_KEY, replace(pending, state=keys.KeyState.ACTIVE, activate_time=now))
        state = RecordState(
            head=Head(Revision("0123abcd", 1, 7), b"", ChainPoint()),
            keys=KeyRows((active,), version=(1, 1)),
            clients=(Client("web"),),
            policy=PolicyRecord(policy, "p1", now),
            bindings=(),
            revocations=(),
        )
        snapshot = build(state, lambda rows: rows.keys)
        bindings = BindingIndex.from_bindings(
            [*snapshot.policy.bindings, *(make_binding(subject, role) for subject, role in grants)]
        )
        return replace(snapshot, bindings=bindings)

    def token(self, *, signer: PrivateKey = _SIGNER, ttl: int = 600, **claims: Any) -> str:
        """A token of `client:web` for audience `orders`, unless `claims` says otherwise."""
        now = self.clock.now()
        values: dict[str, Any] = {
            "issuer": ISSUER,
            "subject": "client:web",
            "audience": ("orders",),
            "client_id": "web",
            "token_id": secrets.token_hex(16),
            "scope": ("orders.read", "orders.write"),
            "issue_time": now,
            "expire_time": now + ttl,
            "minted_at": self.state.current.revision.order,
        } | claims
        return sign_token(signer, TokenDraft(**values))

    def revoke(self, kind: RevocationKind, value: str) -> None:
        """Revoke as of the next revision."""
        snapshot = self.state.current
        revision = replace(snapshot.revision, number=snapshot.revision.number + 1)
        revocation = Revocation(kind, value, self.clock.now() + 3600)
        mark = RevocationMark(kind, revocation.digest, revision.order, revocation.expire_time)
        self.state.current = replace(snapshot, revision=revision, revocations=snapshot.revocations.put(mark))

    def serve(self, request: bytes, **call: Any) -> bytes | Refusal:
        """The row's answer to raw bytes, from a peer on loopback unless `call` says otherwise."""
        known = {"peer_address": "127.0.0.1"} | call
        return self.engine.serve(self.row, Call(CHECK, **known), request, StepRunner())

    def ask(self, request: Any, **call: Any) -> Any:
        """The row's answer as a message."""
        answer = self.serve(request.SerializeToString(), **call)
        assert isinstance(answer, bytes), "Envoy's rows never answer by an RPC error"
        return CheckResponse.FromString(answer)


def check_request(
    method: str = "GET",
    path: str | bytes = "/v1/orders/7",
    *,
    token: str | None = None,
    headers: Sequence[tuple[str, bytes]] = (),
    raw: bool = False,
    extensions: Mapping[str, str] | None = None,
    destination: str = "",
    remote_address: str = "192.0.2.7",
) -> Any:
    """A CheckRequest as Envoy builds it (research/authz.md 2.2).

    As a map duplicates are joined by commas and bytes that are not UTF-8 become `!`; with `encode_raw_headers` (`raw`)
    each comes by itself, as bytes.
    """
    request = CheckRequest()
    attributes = request.attributes
    attributes.source.address.socket_address.address = remote_address
    attributes.destination.principal = destination
    attributes.context_extensions.update(extensions or {})
    http = attributes.request.http
    raw_path = path if isinstance(path, bytes) else path.encode()
    http.method, http.path, http.host, http.scheme = method, _as_text(raw_path), "orders.example", "https"
    given = [(":path", raw_path), *((name.lower(), value) for name, value in headers)]
    if token is not None:
        given.append(("authorization", f"Bearer {token}".encode()))
    for name, value in given:
        if raw:
            http.header_map.headers.add(key=name, raw_value=value)
        else:
            text = _as_text(value)
            http.headers[name] = f"{http.headers[name]},{text}" if name in http.headers else text
    return request


def _as_text(value: bytes) -> str:
    return value.decode("utf-8", "replace").replace("\ufffd", "!")
