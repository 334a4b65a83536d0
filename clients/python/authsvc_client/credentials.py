"""Our own tokens, for calls to other services.

Owns: what hands a token source to the outside, and gRPC's call credentials. May import: grpc, the edges,
`tokens`. For httpx see `authsvc_client.httpx`.
"""

from __future__ import annotations

import grpc

from authsvc.core.errors import AuthsvcError
from authsvc_client.aio import AsyncWire
from authsvc_client.tokens import FETCH_DEADLINE, TokenSource
from authsvc_client.wire import Wire


class Tokens:
    """Access tokens for one audience; each is used until shortly before its end, and renewed ahead of it."""

    def __init__(self, source: TokenSource, wire: Wire) -> None:
        self._source = source
        self._wire = wire

    def token(self) -> str:
        """A token that is valid for a while yet; raises where none can be had."""
        return self._wire.run(self._source.obtain(), FETCH_DEADLINE)

    def drop(self, token: str) -> None:
        """Say that a server refused this token; the next one asked for is new."""
        self._source.drop(token)

    def call_credentials(self) -> grpc.CallCredentials:
        """Credentials that put the token into `authorization`, for sync and asyncio channels under TLS."""
        return grpc.metadata_call_credentials(_Plugin(self), "authsvc")


class AsyncTokens(Tokens):
    """The same, awaited. `token` blocks: it is for the threads that gRPC asks for credentials in."""

    def __init__(self, source: TokenSource, wire: Wire, awaiting: AsyncWire) -> None:
        super().__init__(source, wire)
        self._awaiting = awaiting

    async def atoken(self) -> str:
        """A token that is valid for a while yet; raises where none can be had."""
        return await self._awaiting.run(self._source.obtain(), FETCH_DEADLINE)


class _Plugin(grpc.AuthMetadataPlugin):
    """Called by gRPC in a thread of its own, so it may wait for the token's flight."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __call__(self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        try:
            token = self._tokens.token()
        except AuthsvcError as error:
            callback((), error)
        else:
            callback((("authorization", f"Bearer {token}"),), None)
