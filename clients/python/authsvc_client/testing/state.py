"""What the fake knows.

Owns: policy, keys, clients, revocations and counters of one fake, and their laws. May import: `authsvc.core`,
`authsvc.clock`, `authsvc.storage.counters_memory`. It has no record: it forgets when it ends.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
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
from authsvc.core.values import SERVICE_AUDIENCE
from authsvc.storage.counters_memory import MemoryCounters

_EPOCH = 1
_LEEWAY = 10

Document = dict[str, Any]


class State:
    """Everything of one fake, behind one lock; every change advances the revision."""

    def __init__(self, issuer: str, clock: Clock) -> None:
        self.issuer = issuer
        self.clock = clock
        self.clients: dict[str, str] = {}
        self._lock = threading.RLock()
        self._number = 1
        self._counters = MemoryCounters(clock)
        self._signing = jose.PrivateKey.generate(jose.Algorithm.ES256)
        self._keys = {self._signing.kid: self._signing}
        self._revoked_ids: set[str] = set()
        self._revoked_before: dict[str, int] = {}
        self._document: Document = {}
        self._policy: CompiledPolicy
        self._bindings: BindingIndex
        self.apply({"version": 1})

    @property
    def revision(self) -> str:
        """The present revision."""
        return f"fa4efa4e-{_EPOCH}.{self._number}"

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
            self._number += 1

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
            self._number += 1
        return key.kid

    def revoke_key(self, kid: str) -> None:
        """Withdraw a key; the one that signs is replaced."""
        with self._lock:
            if kid == self._signing.kid:
                self.rotate()
            self._keys.pop(kid, None)
            self._number += 1

    def revoke_subject(self, subject: str) -> None:
        """Refuse every token minted so far for the subject (STANDARDS J21)."""
        with self._lock:
            self._number += 1
            self._revoked_before[subject] = self._number

    def revoke_token(self, token: str) -> None:
        """Refuse one token."""
        token_id = claims.verify_signature_and_claims(token, self._issuers()).token_id
        with self._lock:
            self._number += 1
            self._revoked_ids.add(token_id)

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
        _, minted_at = verified.minted_at or (0, 0)
        if verified.token_id in self._revoked_ids or minted_at < self._revoked_before.get(verified.subject, 0):
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
        return {self.issuer: claims.Issuer(self.issuer, keys, jose.SIGNING)}
