"""Our own access tokens.

Owns: asking for a token, how long it is used, and when it is renewed. May import: `core`, `authsvc.v1` and
the modules of this package that do no I/O. A token is renewed ahead of its end, by one flight; until the
new one is there the old one is used.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from authsvc.core import claims, jose
from authsvc.core.errors import Internal, TokenRefused
from authsvc.v1 import token_pb2
from authsvc_client import methods
from authsvc_client.flow import Flow, Send
from authsvc_client.refreshed import Lease, Refreshed
from authsvc_client.settings import Settings

FETCH_DEADLINE = 2.0
"""Seconds for one request of a flight; its passengers keep their own deadlines."""

Fetch = Callable[[Send], Any]
"""Sends one call of a flight, again where that is allowed, and gives its response; it blocks."""

_RENEW_AT = 0.8
_RENEW_JITTER = 0.1
_MARGIN = 0.05
_MAX_MARGIN = 10.0
_MIN_AGE = 1.0


class TokenSource:
    """Access tokens for one audience, scope and tenant; safe in threads, loops and forks."""

    def __init__(
        self,
        settings: Settings,
        fetch: Fetch,
        monotonic: Callable[[], float],
        audience: Sequence[str],
        scope: Sequence[str] = (),
        tenant: str = "",
    ) -> None:
        self._settings = settings
        self._fetched = fetch
        self._wanted = (tuple(audience), tuple(scope), tenant)
        self._tokens = Refreshed(self._fetch, monotonic)

    def obtain(self) -> Flow[str]:
        """A token that will be valid for a while yet."""
        return self._tokens.obtain()

    def drop(self, token: str) -> None:
        """Renew before the next use, because a server refused this one; not within a second of its issue."""
        self._tokens.drop(token, _MIN_AGE)

    def _fetch(self) -> Lease[str]:
        audience, scope, tenant = self._wanted
        credentials = token_pb2.ClientCredentials(
            client_id=self._settings.client_id, client_secret=self._settings.secret()
        )
        request = token_pb2.IssueTokenRequest(
            client_credentials=credentials, audience=audience, scope=scope, tenant=tenant
        )
        # Client credentials keep nothing at the service, so this may be asked twice.
        response = self._fetched(Send(methods.ISSUE_TOKEN, request))
        token: str = response.access_token
        life = _life(token)
        end = life - min(_MAX_MARGIN, life * _MARGIN)
        # Jitter, so that a fleet that started together does not renew together.
        fresh = end * (_RENEW_AT - _RENEW_JITTER * secrets.randbelow(1000) / 1000)
        return Lease(token, fresh=fresh, due=end, end=end)


def _life(token: str) -> float:
    """Seconds from issue to expiry, by the issuer's clock alone: ours may be wrong."""
    try:
        registered = claims.registered_claims(claims.read_claims(jose.parse_compact(token)))
    except TokenRefused as error:
        raise Internal("IssueToken: the answer holds no access token") from error
    if registered.issue_time is None or registered.issue_time >= registered.expire_time:
        raise Internal("IssueToken: the token has no life")
    return float(registered.expire_time - registered.issue_time)
