"""A dependency for FastAPI that guards a route and shows in its OpenAPI document.

Owns: the security scheme, and a refusal as an HTTP answer. May import: fastapi (extra `fastapi`), `guard`,
`client`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBearer

from authsvc_client.answers import BearerToken, Consumption
from authsvc_client.client import AsyncClient
from authsvc_client.guard import (
    Asked,
    RefusalKind,
    Refused,
    Require,
    admit,
    bearer_of,
    check_settings,
    set_current_token,
)
from authsvc_client.settings import Verify


class _Documented(HTTPBearer):
    """The scheme as the document shows it; the credential is read by `authorized`, of whatever connection."""

    async def __call__(self, _connection: HTTPConnection) -> None:
        return None


_SCHEME = _Documented(
    scheme_name="authsvc", bearerFormat="JWT", description="An access token of authsvc.", auto_error=False
)

_ANSWERS: Mapping[RefusalKind, tuple[int, str | None]] = {
    # RFC 6750 section 3.1: no error code where there was no credential.
    RefusalKind.NO_CREDENTIAL: (401, "Bearer"),
    RefusalKind.INVALID_CREDENTIAL: (401, 'Bearer error="invalid_token"'),
    RefusalKind.FORBIDDEN: (403, None),
    RefusalKind.INSUFFICIENT_SCOPE: (403, 'Bearer error="insufficient_scope"'),
    RefusalKind.LIMITED: (429, None),
    RefusalKind.UNAVAILABLE: (503, None),
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"description": "No valid access token."},
    403: {"description": "The token's subject may not do this."},
    429: {"description": "A limit is reached; Retry-After says when to come back."},
    503: {"description": "Authorization is not available."},
}
"""For `responses=` of an application, router or route, so that the document tells of the refusals too."""


def requires(
    client: AsyncClient,
    permission: str = "",
    *,
    resource: str | Callable[[Asked], str] = "",
    tenant: str | Callable[[Asked], str] = "",
    audience: tuple[str, ...] = (),
    context: Callable[[Asked], Mapping[str, Any]] | None = None,
    consume: Sequence[Consumption] | Callable[[Asked], Iterable[Consumption]] = (),
    verify: Verify | None = None,
) -> Callable[..., Awaitable[BearerToken]]:
    """A dependency that answers the verified token; see `Require` for the parts of the rule.

    `Annotated[BearerToken, Depends(requires(client, "orders:read", resource="orders/{order_id}"))]`.
    `verify` unset is the settings'. It refuses with 401 and WWW-Authenticate, 403, 429 and Retry-After, or 503. Raises
    InvalidRequest where the client's settings lack what `verify` needs, and RuntimeError on a WebSocket route, which it
    cannot guard.
    """
    rule = Require(permission, resource, tenant, audience, context, consume)
    where = verify or client.settings.verify
    check_settings(client.settings, [rule], where)

    async def authorized(
        request: HTTPConnection,
        _scheme: Annotated[None, Depends(_SCHEME)],
    ) -> BearerToken:
        if not isinstance(request, Request):
            raise RuntimeError("requires() guards HTTP routes only: this WebSocket is not let in")  # noqa: TRY004 - not a type's fault
        metadata = {name: value for name, value in request.headers.items() if name != "authorization"}
        asked = Asked(request.url.path, request, metadata, request.path_params.__getitem__)
        try:
            # Read from the request itself: FastAPI's reader takes the first of two headers.
            credential = bearer_of(request.headers.getlist("authorization"))
            token = await client.run(admit(client.operations, rule, asked, credential, where))
        except Refused as refused:
            raise _answer(refused) from None
        set_current_token(token)
        return token

    return authorized


def _answer(refused: Refused) -> HTTPException:
    status, challenge = _ANSWERS[refused.kind]
    headers = {"WWW-Authenticate": challenge} if challenge else {}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refused.retry_after)))
    return HTTPException(status, refused.kind.value, headers)
