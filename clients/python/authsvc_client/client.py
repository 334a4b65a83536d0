"""The client, in its two forms.

Owns: `Client` and `AsyncClient`. May import: every module of this package but the integrations. What they do
is in `operations`; here each operation is one line, run by blocking or by awaiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

from authsvc_client.aio import AsyncWire
from authsvc_client.answers import (
    AuthorizeAnswer,
    BearerToken,
    CheckAnswer,
    ConsumeAnswer,
    Consumption,
    DescriptorLike,
)
from authsvc_client.credentials import AsyncTokens, Tokens
from authsvc_client.flow import Flow
from authsvc_client.messages import Context, check_request
from authsvc_client.operations import Operations
from authsvc_client.settings import Settings
from authsvc_client.statistics import Statistics
from authsvc_client.wire import Wire

Item = TypeVar("Item")
T = TypeVar("T")

PREPARE_DEADLINE = 5.0
"""Seconds that `prepare` takes at most, unless told."""


class Client:
    """The client for threads. Safe to make before a fork or at import: it connects at first use.

    Every operation keeps the settings' deadline. Where the service is out of reach `on_unavailable` decides;
    misuse (a malformed question, a missing permission of our own) raises the errors of `authsvc.core.errors`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._wire = Wire(settings)
        self.operations = Operations(settings, self._wire)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """A client by the `AUTHSVC_*` variables; raises InvalidRequest that names what is missing or wrong."""
        return cls(Settings.from_env(environ))

    @property
    def statistics(self) -> Statistics:
        """What was counted since the client was made: retries, and operations that ended without the service."""
        return self.operations.tally.statistics()

    @property
    def watched_revision(self) -> str:
        """The revision whose revocations are known here and fresh; empty where the service is asked instead."""
        return self.operations.watcher.revision

    def prepare(self, deadline: float = PREPARE_DEADLINE) -> None:
        """Connect, have a token and what verifies others' now, for readiness; raises where that fails."""
        self._wire.run(self.operations.prepare(), deadline)

    def check(
        self,
        subject: str,
        permission: str,
        *,
        resource: str = "",
        tenant: str = "",
        groups: Sequence[str] = (),
        scope: Sequence[str] | None = None,
        context: Context | None = None,
        min_revision: str = "",
    ) -> CheckAnswer:
        """Whether the subject holds the permission. `scope` None: not bounded by scopes."""
        request = check_request(
            subject,
            permission,
            resource=resource,
            tenant=tenant,
            groups=groups,
            scope=scope,
            context=context,
            min_revision=min_revision,
        )
        return self.run(self.operations.check(request))

    def authorize(
        self,
        token: str,
        permission: str,
        *,
        resource: str = "",
        tenant: str = "",
        audience: Sequence[str] = (),
        context: Context | None = None,
        consume: Iterable[Consumption] = (),
        min_revision: str = "",
    ) -> AuthorizeAnswer:
        """Verify a token, check its subject, and consume where allowed, in one round trip."""
        return self.run(
            self.operations.authorize(
                token,
                permission,
                consume,
                resource=resource,
                tenant=tenant,
                audience=audience,
                context=context,
                min_revision=min_revision,
            )
        )

    def consume(self, domain: str, *descriptors: DescriptorLike, min_revision: str = "") -> ConsumeAnswer:
        """Take hits from every rule that matches, all or none. Never sent twice."""
        return self.run(self.operations.consume(domain, descriptors, min_revision))

    def peek(self, domain: str, *descriptors: DescriptorLike, min_revision: str = "") -> ConsumeAnswer:
        """What `consume` would answer; takes nothing."""
        return self.run(self.operations.peek(domain, descriptors, min_revision))

    def filter(
        self,
        subject: str,
        permission: str,
        items: Iterable[Item],
        *,
        resource: Callable[[Item], str] = str,
        tenant: str = "",
        scope: Sequence[str] | None = None,
        context: Context | None = None,
        min_revision: str = "",
    ) -> list[Item]:
        """The items whose `resource` the subject may, in their order, by one RPC; at most 10,000."""
        question = _question(subject, permission, resource, tenant=tenant, scope=scope, context=context)
        return self.run(self.operations.filter(items, question, min_revision))

    def verify(self, token: str, *, audience: Sequence[str] = (), required_scope: Sequence[str] = ()) -> BearerToken:
        """Verify here, for the settings' audience unless given; raises TokenRefused.

        By the keys and revocations that are followed, or where those are not fresh, by the service (`Unavailable` where
        that is out of reach). With `AUTHSVC_WATCH=off` by the cached keys alone, which see no revocation.
        """
        return self.run(self.operations.verify(token, audience, required_scope))

    def tokens(self, audience: str, *, scope: Sequence[str] = (), tenant: str = "") -> Tokens:
        """Our own tokens for another service; renewed ahead of their end."""
        return Tokens(self.operations.source((audience,), scope, tenant), self._wire)

    def run(self, flow: Flow[T]) -> T:
        """Run an operation within the settings' deadline."""
        return self._wire.run(flow, self.settings.deadline)

    def close(self) -> None:
        """Close the connections."""
        self.operations.watcher.close()
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """The client for asyncio. Safe to make before a loop exists: it connects at first use, in each loop.

    The operations are those of `Client`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._wire = AsyncWire(settings)
        # Tokens and keys are fetched in threads of their own, so that a flight outlives its loop.
        self._fetching = Wire(settings)
        self.operations = Operations(settings, self._fetching)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """See `Client.from_env`."""
        return cls(Settings.from_env(environ))

    @property
    def statistics(self) -> Statistics:
        """See `Client.statistics`."""
        return self.operations.tally.statistics()

    @property
    def watched_revision(self) -> str:
        """See `Client.watched_revision`."""
        return self.operations.watcher.revision

    async def prepare(self, deadline: float = PREPARE_DEADLINE) -> None:
        """See `Client.prepare`."""
        await self._wire.run(self.operations.prepare(), deadline)

    async def check(
        self,
        subject: str,
        permission: str,
        *,
        resource: str = "",
        tenant: str = "",
        groups: Sequence[str] = (),
        scope: Sequence[str] | None = None,
        context: Context | None = None,
        min_revision: str = "",
    ) -> CheckAnswer:
        """See `Client.check`."""
        request = check_request(
            subject,
            permission,
            resource=resource,
            tenant=tenant,
            groups=groups,
            scope=scope,
            context=context,
            min_revision=min_revision,
        )
        return await self.run(self.operations.check(request))

    async def authorize(
        self,
        token: str,
        permission: str,
        *,
        resource: str = "",
        tenant: str = "",
        audience: Sequence[str] = (),
        context: Context | None = None,
        consume: Iterable[Consumption] = (),
        min_revision: str = "",
    ) -> AuthorizeAnswer:
        """See `Client.authorize`."""
        return await self.run(
            self.operations.authorize(
                token,
                permission,
                consume,
                resource=resource,
                tenant=tenant,
                audience=audience,
                context=context,
                min_revision=min_revision,
            )
        )

    async def consume(self, domain: str, *descriptors: DescriptorLike, min_revision: str = "") -> ConsumeAnswer:
        """See `Client.consume`."""
        return await self.run(self.operations.consume(domain, descriptors, min_revision))

    async def peek(self, domain: str, *descriptors: DescriptorLike, min_revision: str = "") -> ConsumeAnswer:
        """See `Client.peek`."""
        return await self.run(self.operations.peek(domain, descriptors, min_revision))

    async def filter(
        self,
        subject: str,
        permission: str,
        items: Iterable[Item],
        *,
        resource: Callable[[Item], str] = str,
        tenant: str = "",
        scope: Sequence[str] | None = None,
        context: Context | None = None,
        min_revision: str = "",
    ) -> list[Item]:
        """See `Client.filter`."""
        question = _question(subject, permission, resource, tenant=tenant, scope=scope, context=context)
        return await self.run(self.operations.filter(items, question, min_revision))

    async def verify(
        self, token: str, *, audience: Sequence[str] = (), required_scope: Sequence[str] = ()
    ) -> BearerToken:
        """See `Client.verify`."""
        return await self.run(self.operations.verify(token, audience, required_scope))

    def tokens(self, audience: str, *, scope: Sequence[str] = (), tenant: str = "") -> AsyncTokens:
        """See `Client.tokens`."""
        source = self.operations.source((audience,), scope, tenant)
        return AsyncTokens(source, self._fetching, self._wire)

    async def run(self, flow: Flow[T]) -> T:
        """See `Client.run`."""
        return await self._wire.run(flow, self.settings.deadline)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        self.operations.watcher.close()
        await self._wire.close()
        self._fetching.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _question(subject: str, permission: str, resource: Callable[[Item], str], **fields: Any) -> Callable[[Item], Any]:
    return lambda item: check_request(subject, permission, resource=resource(item), **fields)
