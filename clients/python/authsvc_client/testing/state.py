"""What the fake knows.

Owns: policy, keys, clients, revocations and counters of one fake, and their laws. May import: `authsvc.core`,
`authsvc.clock`, `authsvc.storage.counters_memory`. It has no record: it forgets when it ends.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from authsvc.clock import Clock
from authsvc.core import claims, jose
from authsvc.core.bindings import BindingIndex
from authsvc.core.claims import TokenDraft, VerifiedToken
from authsvc.core.consumption import Descriptor, Hit, LimitOutcome, check_descriptors, hits_of
from authsvc.core.errors import Reason, TokenRefused, Unauthenticated
from authsvc.core.policy import CompiledPolicy, Decision, Question, compile_policy, decide
from authsvc.core.policy_document import parse
from authsvc.core.policy_text import load_yaml
from authsvc.core.revocations import RevocationKind, revocation_digest
from authsvc.core.values import SERVICE_AUDIENCE
from authsvc.storage.counters_memory import MemoryCounters
from authsvc.v1 import sync_pb2
from authsvc_client.knowledge import Revoked

_EPOCH = 1
_LEEWAY = 10
_LONGEST_LIFE = 86_400

Document = dict[str, Any]


class State:
    """Everything of one fake, behind one lock; every change advances the revision."""

    def __init__(self, issuer: str, clock: Clock) -> None:
        self.issuer = issuer
        self.clock = clock
        self.clients: dict[str, str] = {}
        self._lock = threading.RLock()
        self._moved = threading.Condition(self._lock)
        self._number = 1
        self._counters = MemoryCounters(clock)
        self._signing = jose.PrivateKey.generate(jose.Algorithm.ES256)
        self._keys = {self._signing.kid: self._signing}
        self._revoked_kids: set[str] = set()
        self._keys_at = 1
        self._revoked = Revoked()
        self._history: list[tuple[int, sync_pb2.Revocation]] = []
        self._document: Document = {}
        self._policy: CompiledPolicy
        self._bindings: BindingIndex
        self.apply({"version": 1})

    @property
    def revision(self) -> str:
        """The present revision."""
        return self._revision(self._number)

    @property
    def key_id(self) -> str:
        """The kid of the key that signs."""
        return self._signing.kid

    def apply(self, document: str | Mapping[str, Any]) -> None:
        """Replace the policy; raises InvalidRequest that names every fault, and keeps the old one."""
        text = document if isinstance(document, str) else json.dumps(document)
        policy = compile_policy(parse(text))
        plain, _ = load_yaml(text)
        with self._lock:
            self._policy, self._bindings = policy, BindingIndex.from_bindings(policy.bindings)
            self._document = dict(plain) if isinstance(plain, Mapping) else {}
            self._move()

    def bind(self, subject: str, permission: str, effect: str, **binding: str) -> None:
        """Add a role that allows or denies one permission, and a binding of it."""
        with self._lock:
            document: Document = json.loads(json.dumps(self._document))
            if "*" not in permission:
                document.setdefault("permissions", {}).setdefault(permission, {})
            roles = document.setdefault("roles", {})
            role = f"{effect}-{len(roles)}"
            roles[role] = {effect: [permission]}
            kept = {name: value for name, value in binding.items() if value}
            document.setdefault("bindings", []).append({"subject": subject, "role": role, **kept})
            self.apply(document)

    def limit(self, name: str, rule: Mapping[str, Any]) -> None:
        """Add a limit rule, or replace the one of that name."""
        with self._lock:
            document: Document = json.loads(json.dumps(self._document))
            document.setdefault("limits", {})[name] = dict(rule)
            self.apply(document)

    def mint(
        self,
        subject: str,
        client_id: str,
        audience: Sequence[str],
        scope: Sequence[str],
        groups: Sequence[str],
        tenant: str,
        ttl: int,
    ) -> str:
        """A signed access token, also one that has expired already (`ttl` below 0)."""
        now = self.clock.now()
        begin = now if ttl > 0 else now + ttl - 1
        with self._lock:
            draft = TokenDraft(
                issuer=self.issuer,
                subject=subject,
                audience=tuple(audience),
                client_id=client_id,
                token_id=secrets.token_hex(16),
                issue_time=begin,
                expire_time=now + ttl,
                minted_at=(_EPOCH, self._number),
                scope=tuple(scope),
                groups=tuple(groups),
                tenant=tenant,
            )
            return claims.sign_token(self._signing, draft)

    def rotate(self) -> str:
        """Sign with a new key, publish it and the ones before; its kid."""
        key = jose.PrivateKey.generate(jose.Algorithm.ES256)
        with self._lock:
            self._signing = key
            self._keys[key.kid] = key
            self._keys_at = self._move()
        return key.kid

    def revoke_key(self, kid: str) -> None:
        """Withdraw a key and refuse its tokens; the one that signs is replaced."""
        with self._lock:
            if kid == self._signing.kid:
                self.rotate()
            self._keys.pop(kid, None)
            self._revoked_kids.add(kid)
            self._keys_at = self._move()

    def revoke_subject(self, subject: str) -> None:
        """Refuse every token minted so far for the subject (STANDARDS J21)."""
        self._revoke(sync_pb2.REVOCATION_KIND_SUBJECT, RevocationKind.SUBJECT, subject)

    def revoke_client(self, client_id: str) -> None:
        """Refuse every token minted so far for the client (STANDARDS J21)."""
        self._revoke(sync_pb2.REVOCATION_KIND_CLIENT, RevocationKind.CLIENT, client_id)

    def revoke_issuer(self) -> None:
        """Refuse every token minted so far."""
        self._revoke(sync_pb2.REVOCATION_KIND_ISSUER, RevocationKind.ISSUER, self.issuer)

    def revoke_token(self, token: str) -> None:
        """Refuse one token."""
        token_id = claims.verify_signature_and_claims(token, self._issuers()).token_id
        self._revoke(sync_pb2.REVOCATION_KIND_TOKEN, RevocationKind.TOKEN, token_id)

    def whole(self) -> tuple[int, sync_pb2.WatchResponse]:
        """Everything for a watcher, and the number of its revision."""
        with self._lock:
            state = sync_pb2.WatchState(keys=self._key_set(), revocations=[each for _, each in self._history])
            return self._number, sync_pb2.WatchResponse(state=state, revision=self.revision)

    def changes(self, since: int) -> tuple[int, sync_pb2.WatchResponse]:
        """What changed above a number, or a heartbeat."""
        with self._lock:
            response = sync_pb2.WatchResponse(revision=self.revision, heartbeat=sync_pb2.WatchHeartbeat())
            if self._number > since:
                delta = sync_pb2.WatchDelta(revocations=[each for number, each in self._history if number > since])
                if self._keys_at > since:
                    delta.keys.CopyFrom(self._key_set())
                response.delta.CopyFrom(delta)
            return self._number, response

    def number_of(self, revision: str) -> int | None:
        """The number of a revision of this fake; None where it is of another, or above the newest."""
        with self._lock:
            number = revision.rpartition(".")[2]
            known = number.isdecimal() and revision == self._revision(int(number)) and int(number) <= self._number
            return int(number) if known else None

    def wait_above(self, number: int, seconds: float, ended: Callable[[], bool]) -> None:
        """Wait until the revision is above a number, it has `ended`, or so many seconds have passed."""
        with self._moved:
            self._moved.wait_for(lambda: self._number > number or ended(), seconds)

    def wake(self) -> None:
        """Let those who wait look whether they have ended."""
        with self._moved:
            self._moved.notify_all()

    def jwks(self) -> str:
        """The published key set."""
        with self._lock:
            return json.dumps({"keys": [key.public_jwk() for key in self._keys.values()]})

    def verify(self, token: str, audience: Sequence[str], required_scope: Sequence[str] = ()) -> VerifiedToken:
        """All rules of verification, revocation included; raises TokenRefused."""
        verified = claims.verify(
            token,
            self._issuers(),
            now=self.clock.now(),
            leeway=_LEEWAY,
            audience=frozenset(audience),
            required_scope=frozenset(required_scope),
        )
        if self._revoked.refuses(verified):
            raise TokenRefused("the token was revoked", Reason.TOKEN_REVOKED)
        return verified

    def principal(self, bearer: str) -> VerifiedToken:
        """Who calls; raises Unauthenticated."""
        try:
            return self.verify(bearer, [SERVICE_AUDIENCE])
        except TokenRefused:
            raise Unauthenticated("the caller is not known") from None

    def decide(self, question: Question) -> Decision:
        """The policy's answer."""
        with self._lock:
            policy, bindings = self._policy, self._bindings
        return decide(policy, bindings, question, now=self.clock.now())

    def consume(
        self, wanted: Sequence[tuple[str, Sequence[Descriptor]]], *, peek: bool = False
    ) -> Sequence[LimitOutcome]:
        """Take from all limits or none; raises InvalidRequest where a descriptor is malformed."""
        hits: list[Hit] = []
        for domain, descriptors in wanted:
            check_descriptors(domain, descriptors)
            hits.extend(hits_of(self._policy.limits, domain, descriptors))
        counting = self._counters.consume(hits, peek=peek)
        try:
            counting.send(None)
        except StopIteration as stop:
            outcomes: Sequence[LimitOutcome] = stop.value
            return outcomes
        raise RuntimeError("counters in memory never wait")

    def _issuers(self) -> dict[str, claims.Issuer]:
        with self._lock:
            keys = {kid: jose.VerificationKey.from_jwk(key.public_jwk()) for kid, key in self._keys.items()}
            revoked = frozenset(self._revoked_kids)
        return {self.issuer: claims.Issuer(self.issuer, keys, jose.SIGNING, revoked_kids=revoked)}

    def _revoke(self, wire_kind: sync_pb2.RevocationKind, kind: RevocationKind, value: str) -> None:
        with self._lock:
            number = self._number + 1
            revocation = sync_pb2.Revocation(
                kind=wire_kind,
                digest=revocation_digest(kind, value),
                before_epoch=_EPOCH,
                before_number=number,
                expire_seconds=self.clock.now() + _LONGEST_LIFE,
            )
            self._revoked.put([revocation])
            self._history.append((number, revocation))
            self._move()

    def _move(self) -> int:
        self._number += 1
        self._moved.notify_all()
        return self._number

    def _key_set(self) -> sync_pb2.KeySet:
        return sync_pb2.KeySet(issuer=self.issuer, jwks=self.jwks(), revoked_kids=sorted(self._revoked_kids))

    def _revision(self, number: int) -> str:
        return f"fa4efa4e-{_EPOCH}.{number}"
