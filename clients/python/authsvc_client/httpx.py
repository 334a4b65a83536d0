"""Our own tokens on httpx requests.

Owns: the httpx authentication (extra `httpx`). May import: httpx, `credentials`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import httpx

from authsvc_client.credentials import AsyncTokens, Tokens

_UNAUTHORIZED = 401


class BearerAuth(httpx.Auth):
    """Sets `Authorization: Bearer`; after a 401 it renews the token and sends the request once more.

    A request whose body is a stream that can be read only once is not sent again.

    `httpx.Client(auth=BearerAuth(client.tokens("orders")))`, and the same with `httpx.AsyncClient` and
    `AsyncClient.tokens`.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Of httpx."""
        token = self._tokens.token()
        response = yield _with(request, token)
        if _refused(request, response):
            self._tokens.drop(token)
            newer = self._tokens.token()
            if newer != token:
                yield _with(request, newer)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Of httpx; needs the tokens of an `AsyncClient`."""
        if not isinstance(self._tokens, AsyncTokens):
            raise TypeError("httpx.AsyncClient needs the tokens of an AsyncClient")
        token = await self._tokens.atoken()
        response = yield _with(request, token)
        if _refused(request, response):
            self._tokens.drop(token)
            newer = await self._tokens.atoken()
            if newer != token:
                yield _with(request, newer)


def _refused(request: httpx.Request, response: httpx.Response) -> bool:
    return response.status_code == _UNAUTHORIZED and isinstance(request.stream, httpx.ByteStream)


def _with(request: httpx.Request, token: str) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {token}"
    return request
