"""The HTTP applications: what verifiers fetch, and what operators look at.

Owns: the routes of `http_listen` and of `ops_listen`, their headers and their answers to errors. May import: `core`,
starlette. It knows no socket; URLs come from configuration, never from the Host header.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from authsvc.core.errors import AuthsvcError
from authsvc.telemetry import OPENMETRICS

JWKS_PATH = "/.well-known/jwks.json"

_PROBLEM = "application/problem+json"
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
_HSTS = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")


class FaultLog(Protocol):
    """Where exceptions go instead of into the answer."""

    def fault(self, request_id: str, method: str, exception: BaseException) -> None:
        """Write it down, without tokens or secrets."""


class KeySet(Protocol):
    """A JWKS as it is published."""

    @property
    def text(self) -> str:
        """JSON, the same for the same keys."""

    @property
    def etag(self) -> str:
        """Its entity tag, quoted."""

    @property
    def max_age(self) -> int:
        """For how many seconds it may be cached, jitter included."""


class Operations(Protocol):
    """What the ops listener shows: of one process, or of several that answer for each other."""

    @property
    def version(self) -> str:
        """The release."""

    async def unready(self) -> str:
        """Why the replica wants no traffic; empty while it does."""

    async def stuck(self) -> str:
        """What only a restart mends; empty while there is nothing."""

    async def metrics(self) -> bytes:
        """OpenMetrics text."""


class OwnOperations:
    """Those of this process; `unready` says why it wants no traffic."""

    def __init__(self, unready: Callable[[], str], metrics: Callable[[], bytes], version: str) -> None:
        self._unready = unready
        self._metrics = metrics
        self.version = version

    async def unready(self) -> str:
        """See `Operations`."""
        return self._unready()

    async def stuck(self) -> str:
        """Nothing: a process that is stuck does not get here."""
        return ""

    async def metrics(self) -> bytes:
        """See `Operations`."""
        return self._metrics()


def public_application(key_set: Callable[[], KeySet], log: FaultLog, *, tls: bool) -> ASGIApp:
    """The application of `http_listen`. `key_set` must be quick: it runs on the loop."""

    async def jwks(request: Request) -> Response:
        published = key_set()
        headers = {
            "etag": published.etag,
            "cache-control": f"public, max-age={published.max_age}",
            # Verifiers in browsers fetch keys too, and they are public.
            "access-control-allow-origin": "*",
        }
        if _matches(request.headers.get("if-none-match", ""), published.etag):
            return Response(status_code=304, headers=headers)
        return Response(published.text, media_type="application/jwk-set+json", headers=headers)

    return _application([Route(JWKS_PATH, jwks, methods=["GET"])], log, tls=tls)


def ops_application(operations: Operations, log: FaultLog) -> ASGIApp:
    """The application of `ops_listen`; plain HTTP, no identifier in any answer."""

    async def livez(_request: Request) -> Response:
        why = await operations.stuck()
        return _text(why, 503) if why else _text("alive")

    async def readyz(_request: Request) -> Response:
        why = await operations.unready()
        return _text(why, 503) if why else _text("ready")

    async def metrics(_request: Request) -> Response:
        return Response(await operations.metrics(), media_type=OPENMETRICS, headers={"cache-control": "no-store"})

    async def version(_request: Request) -> Response:
        return Response(json.dumps({"version": operations.version}), media_type="application/json")

    routes = [
        Route("/livez", livez, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/version", version, methods=["GET"]),
    ]
    return _application(routes, log, tls=False)


def _application(routes: list[Route], log: FaultLog, *, tls: bool) -> ASGIApp:
    async def refused(_request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        headers = error.headers if isinstance(error, HTTPException) else None
        return _problem(status, headers)

    async def unavailable(_request: Request, _error: Exception) -> Response:
        return _problem(503, {"retry-after": "1"})

    async def failed(_request: Request, error: Exception) -> Response:
        request_id = secrets.token_hex(16)
        log.fault(request_id, "http", error)
        return _problem(500, request_id=request_id)

    application = Starlette(
        routes=routes,
        exception_handlers={HTTPException: refused, AuthsvcError: unavailable, Exception: failed},
    )
    # Trailing slashes are other paths: a redirect would be built from the Host header.
    application.router.redirect_slashes = False
    return _Hardened(application, tls=tls)


class _Hardened:
    """Puts the security headers on every answer, errors too."""

    def __init__(self, inner: ASGIApp, *, tls: bool) -> None:
        self._inner = inner
        self._headers = (*_HEADERS, _HSTS) if tls else _HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def hardened(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            await send(message)

        try:
            await self._inner(scope, receive, hardened)
        except Exception:
            # Starlette raises again after it has answered, for servers that log; the fault is in our log already.
            if not started:
                raise


def _matches(header: str, tag: str) -> bool:
    """If-None-Match (RFC 9110 section 13.1.2): weak comparison, a list, or `*`."""
    given = [item.strip().removeprefix("W/") for item in header.split(",")]
    return tag in given or given == ["*"]


def _text(text: str, status: int = 200) -> Response:
    return Response(text + "\n", status, media_type="text/plain", headers={"cache-control": "no-store"})


def _problem(status: int, headers: Mapping[str, str] | None = None, *, request_id: str | None = None) -> Response:
    """A problem document (RFC 9457) without inner text."""
    body: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if request_id is not None:
        body["request_id"] = request_id
    return Response(
        json.dumps(body), status, media_type=_PROBLEM, headers={"cache-control": "no-store", **(headers or {})}
    )
