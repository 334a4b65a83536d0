"""OAuth clients and their secrets.

Owns: who may make which client, and the life of a secret. May import: `core`, `state`, `ports`, `usecases`.
A secret is 256 bits of the system's generator, shown once, kept as a keyed hash; two live at a time
(STANDARDS S9).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from authsvc.core import values
from authsvc.core.bindings import make_binding
from authsvc.core.client_secrets import MAX_LIVE_SECRETS, keyed_hash, proves
from authsvc.core.clients import Client, ClientSecret
from authsvc.core.errors import Conflict, FieldViolation, InvalidRequest, PermissionDenied, Reason
from authsvc.core.roles_builtin import ADMIN, BUILTIN_ROLES, CALLER, PROXY
from authsvc.usecases.writes import Act, Writer

if TYPE_CHECKING:
    from authsvc.core.values import Revision
    from authsvc.ports.record import Page, Record, View
    from authsvc.usecases.principals import Principal

DEFAULT_OVERLAP = 86_400
MAX_OVERLAP = 30 * 86_400


@dataclasses.dataclass(frozen=True, slots=True)
class NewSecret:
    """A secret on its way to its owner, once; its text is never in a repr."""

    secret_id: str
    client_secret: str
    revision: Revision
    client: Client
    previous_expire_time: int | None = None

    def __repr__(self) -> str:
        return f"NewSecret(secret_id={self.secret_id!r})"


def check_service_roles(roles: Sequence[str], field: str) -> None:
    """Raise InvalidRequest unless every role is built in and can be held by a client."""
    faults = [
        FieldViolation(f"{field}[{i}]", "is not a built-in role a client can hold")
        for i, role in enumerate(roles)
        if role not in BUILTIN_ROLES or role == PROXY
    ]
    if faults:
        raise InvalidRequest(faults, Reason.ROLE_UNKNOWN)


def require_holds(principal: Principal, role: str) -> None:
    """A granter gives only what it holds (STANDARDS P12)."""
    missing = BUILTIN_ROLES[role] - principal.permissions
    if missing:
        raise PermissionDenied(
            f"the caller does not hold all that `{role}` gives",
            Reason.GRANT_EXCEEDS_GRANTER,
            metadata={"role": role, "permission": min(missing)},
        )


class Clients:
    """The administrator's verbs on clients."""

    def __init__(
        self,
        writer: Writer,
        *,
        max_token_ttl: int,
        secret_hash_key: bytes,
        new_secret: Callable[[], str],
        random_id: Callable[[], str],
    ) -> None:
        self._writer = writer
        self._max_token_ttl = max_token_ttl
        self._secret_hash_key = secret_hash_key
        self._new_secret = new_secret
        self._random_id = random_id

    async def create(
        self, principal: Principal, wanted: Client, roles: Sequence[str], *, now: int, deadline: float
    ) -> NewSecret:
        """Make a client with its roles and first secret, in one write.

        Raises InvalidRequest ROLE_UNKNOWN, or for a life of tokens above the configured maximum, PermissionDenied
        GRANT_EXCEEDS_GRANTER, Conflict CLIENT_EXISTS.
        """
        if wanted.token_ttl is not None and wanted.token_ttl > self._max_token_ttl:
            raise InvalidRequest.of("token_ttl", f"is above tokens.max_ttl, {self._max_token_ttl} s")
        roles = tuple(dict.fromkeys(roles or (CALLER,)))
        check_service_roles(roles, "roles")
        for role in roles:
            require_holds(principal, role)
        for tenant in wanted.tenants:
            principal.require_tenant(tenant)
        secret = self._new_secret()
        client, kept = self._with_secret(wanted, secret, now)
        grants = [make_binding(client.subject, role) for role in roles]
        act = Act(
            "authsvc.clients:create",
            principal.subject,
            now,
            subject=client.subject,
            detail={"roles": " ".join(roles)},
        )
        write = await self._writer.write(partial(self._writer.record.create_client, client, grants), act, deadline)
        return NewSecret(kept.secret_id, secret, write.revision, write.client)

    async def rotate_secret(
        self, principal: Principal, client_id: str, *, overlap: int, now: int, deadline: float
    ) -> NewSecret:
        """A new secret; the one before lives on for `overlap` seconds.

        Raises NotFound CLIENT_NOT_FOUND, Conflict SECRETS_EXHAUSTED, PermissionDenied where the client holds
        more than the caller: its secret would be a way to those rights.
        """
        secret = self._new_secret()
        kept = self._keep(client_id, secret, now)
        previous_expire = now + overlap

        def change(client: Client) -> Client:
            live = [s for s in client.secrets if s.live(now)]
            if len(live) >= MAX_LIVE_SECRETS and overlap > 0:
                raise Conflict(
                    "two secrets are live already; wait until one expires, or rotate with overlap 0s",
                    Reason.SECRETS_EXHAUSTED,
                )
            ending = tuple(_ending(s, previous_expire) for s in live) if overlap else ()
            return dataclasses.replace(client, secrets=(*ending, kept))

        def check(view: View) -> None:
            for binding in view.bindings(subject=f"client:{client_id}"):
                if binding.role in BUILTIN_ROLES:
                    require_holds(principal, binding.role)

        act = Act(
            "authsvc.clients:rotate_secret",
            principal.subject,
            now,
            subject=f"client:{client_id}",
            detail={"secret_id": kept.secret_id},
        )
        verb = partial(self._writer.record.change_client, client_id, change, check=check)
        write = await self._writer.write(verb, act, deadline)
        return NewSecret(kept.secret_id, secret, write.revision, write.client, previous_expire)

    async def page(self, after: tuple[str, ...] | None, limit: int) -> Page[Client]:
        """A page of clients by id."""
        return await self._writer.read(partial(self._writer.record.list_clients, after, limit))

    async def roles_of(self, client_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The built-in roles that each client holds by an unconditional grant."""

        def read() -> dict[str, tuple[str, ...]]:
            return {client_id: granted_roles(self._writer.record, client_id) for client_id in client_ids}

        return await self._writer.read(read)

    def ensure_admin(self, client_id: str, secret: str, *, now: int) -> Client:
        """Make sure of an admin client with this secret, by compare-and-set; blocks. Replicas agree.

        Where the client exists its other secrets stay; a secret that it has already is not added again.
        """
        record = self._writer.record
        wanted = Client(client_id, display_name="bootstrap administrator", create_time=now)
        client, kept = self._with_secret(wanted, secret, now)
        act = Act("authsvc.clients:bootstrap", "service:authsvc", now, subject=client.subject)
        try:
            grants = [make_binding(client.subject, ADMIN)]
            return self._writer.write_now(partial(record.create_client, client, grants), act).client
        except Conflict:
            pass

        def change(found: Client) -> Client:
            if proves(kept.keyed_hash, found.secrets, now=now):
                return found
            live = [s for s in found.secrets if s.live(now)][-(MAX_LIVE_SECRETS - 1) :]
            return dataclasses.replace(found, secrets=(*live, kept))

        return self._writer.write_now(partial(record.change_client, client_id, change), act).client

    def _with_secret(self, wanted: Client, secret: str, now: int) -> tuple[Client, ClientSecret]:
        kept = self._keep(wanted.client_id, secret, now)
        audience = tuple(dict.fromkeys((*wanted.audience, values.SERVICE_AUDIENCE)))
        return dataclasses.replace(wanted, audience=audience, create_time=now, secrets=(kept,)), kept

    def _keep(self, client_id: str, secret: str, now: int) -> ClientSecret:
        return ClientSecret(self._random_id(), keyed_hash(self._secret_hash_key, client_id, secret), create_time=now)


def granted_roles(record: Record, client_id: str) -> tuple[str, ...]:
    """The built-in roles of a client; reads the record."""
    page = record.list_bindings(None, 1000, subject=f"client:{client_id}")
    return tuple(sorted(b.role for b in page.items if b.role in BUILTIN_ROLES and not b.revoked))


def _ending(secret: ClientSecret, at: int) -> ClientSecret:
    if secret.expire_time is not None and secret.expire_time <= at:
        return secret
    return dataclasses.replace(secret, expire_time=at)
