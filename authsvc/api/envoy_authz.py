"""envoy.service.auth.v3.Authorization: Envoy's question in, its explicit answer out.

Owns: the conversion of ext_authz messages, the identity headers, the dynamic metadata and the denials
(STANDARDS E1 to E8). May import: `core`, `usecases`, `api`.

Envoy looks at `status.code` alone: every refusal has one that is not 0, and a `denied_response`. `error_response` and
`clear_route_cache` are never set: the first is let through under `failure_mode_allow`, the second routes again after
the decision.

What the service behind Envoy gets: `IDENTITY_HEADERS`, each set from the verified token or removed, so that none is
ever the client's own; every spelling of them with `_` is removed, since CGI and WSGI read both alike. Text outside
visible ASCII, `%` and `,` stand percent-encoded in them. The Authorization header is passed on as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from http import HTTPStatus
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from authsvc.api.envoy_messages import CheckResponse, HeaderValueOption
from authsvc.api.errors import Code
from authsvc.api.rate_limit_headers import rate_limit_fields
from authsvc.core.errors import Reason
from authsvc.core.routes import RequestLine
from authsvc.usecases.envoy import HttpRequest, ProxyAnswer, RequestDetails

if TYPE_CHECKING:
    from authsvc.api.calls import Context
    from authsvc.core.claims import VerifiedToken
    from authsvc.core.consumption import LimitOutcome
    from authsvc.usecases.envoy import Gate

SUBJECT = "x-authsvc-subject"
CLIENT_ID = "x-authsvc-client-id"
SCOPE = "x-authsvc-scope"
TENANT = "x-authsvc-tenant"
TOKEN_ID = "x-authsvc-token-id"  # noqa: S105 - a header's name
IDENTITY_HEADERS = (SUBJECT, CLIENT_ID, SCOPE, TENANT, TOKEN_ID)
"""Subject (`kind:name`), client, scopes between spaces, tenant, `jti`. One without a value is absent."""

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""The problem type of draft-ietf-httpapi-ratelimit-headers-10 section 7.1."""

RETRY_SECONDS = "1"

_OVERWRITE = (
    HeaderValueOption.DESCRIPTOR.fields_by_name["append_action"]
    .enum_type.values_by_name["OVERWRITE_IF_EXISTS_OR_ADD"]
    .number
)

_PLAIN = re.compile(r"[\x21-\x24\x26-\x2b\x2d-\x7e]*\Z")
_KEPT = "".join(map(chr, range(0x21, 0x7F))).replace("%", "").replace(",", "")


def _underscored(name: str) -> list[str]:
    """Every spelling of a header in which at least one hyphen is an underscore."""
    first, *rest = name.split("-")
    marks = product("-_", repeat=len(rest))
    return [first + "".join(map("".join, zip(chosen, rest, strict=True))) for chosen in marks if "_" in chosen]


_SPELLINGS = tuple(spelling for name in IDENTITY_HEADERS for spelling in _underscored(name))

_HTTP_STATUS: Mapping[Reason, int] = MappingProxyType(
    {
        Reason.REQUEST_INVALID: 400,
        Reason.CALLER_UNAUTHENTICATED: 401,
        **{reason: 401 for reason in Reason if reason.name.startswith("TOKEN_")},
        Reason.LIMIT_EXCEEDED: 429,
        Reason.COUNTERS_UNAVAILABLE: 503,
    }
)
"""The HTTP status of a decision that refuses; 403 for every reason that is not here (E7)."""

_CODES: Mapping[int, Code] = MappingProxyType(
    {
        400: Code.INVALID_ARGUMENT,
        401: Code.UNAUTHENTICATED,
        403: Code.PERMISSION_DENIED,
        429: Code.RESOURCE_EXHAUSTED,
        503: Code.UNAVAILABLE,
    }
)

_DETAIL: Mapping[int, str] = MappingProxyType(
    {
        400: "the request cannot be read safely",
        401: "a valid access token is required",
        403: "access is denied",
        429: "a limit is reached",
        503: "authorization is not available now",
    }
)
"""One sentence a status, whatever the cause: the cause is in the dynamic metadata (STANDARDS J17)."""

_CHALLENGE = 'Bearer realm="authsvc"'
_INVALID_TOKEN = f'{_CHALLENGE}, error="invalid_token"'
_INSUFFICIENT_SCOPE = f'{_CHALLENGE}, error="insufficient_scope"'


_NO_ID = "-" * 32
"""Stands in a ready answer where the decision's id, as long, will stand."""
_MOST_READY = 8_192
_AUTHORIZATION_LENGTH = len("authorization")


@dataclass(frozen=True, slots=True)
class _Ready:
    """An answer's bytes before and after its decision's id."""

    token: VerifiedToken
    before: bytes
    after: bytes


class EnvoyAuthorization:
    """The handlers of the service.

    `pseudonym_key`, 16 to 64 random bytes, keys the pseudonyms of subjects in the dynamic metadata.
    """

    def __init__(self, gate: Gate, *, pseudonym_key: bytes) -> None:
        if not 16 <= len(pseudonym_key) <= 64:
            raise ValueError("the pseudonym key has 16 to 64 bytes")
        self._gate = gate
        self._pseudonym_key = pseudonym_key
        self._ready: dict[tuple[int, str, str], _Ready] = {}

    def check(self, request: Any, context: Context) -> Any:
        """Answer one CheckRequest of a peer that is a proxy of ours: a message, or a coroutine that gives it.

        A plain function, because most routes have no limits and then nothing waits: on grpcio a coroutine costs the
        way to the loop and back: 1,200 - 1,600 calls a second where plain ones made 1,700 - 1,800.
        """
        answer = self._decide(request, context)
        if isinstance(answer, ProxyAnswer):
            return self._message(answer, request, context)
        return self._awaited(answer, request, context)

    @staticmethod
    def deny(reason: Reason, http_status: int) -> bytes:
        """The explicit denial for what went wrong around the row, ready made (STANDARDS E2)."""
        message = _deny(reason, http_status, (), "", with_body=True)
        message.dynamic_metadata.fields["decision"].string_value = "deny"
        message.dynamic_metadata.fields["reason"].string_value = reason.text
        serialized: bytes = message.SerializeToString()
        return serialized

    def _decide(self, request: Any, context: Context) -> ProxyAnswer | Coroutine[Any, Any, ProxyAnswer]:
        if context.proxy is None:
            return ProxyAnswer(allowed=False, reason=Reason.CALLER_NOT_PERMITTED)
        if not request.attributes.request.HasField("http"):
            # Envoy's network filter asks so: there is no request that a route could match.
            return ProxyAnswer(allowed=False, reason=Reason.REQUEST_INVALID)
        return self._gate.decide(context.snapshot, context.proxy, _http_request(request), now=context.now)

    async def _awaited(self, answer: Coroutine[Any, Any, ProxyAnswer], request: Any, context: Context) -> Any:
        return self._message(await answer, request, context)

    def _message(self, answer: ProxyAnswer, request: Any, context: Context) -> Any:
        context.decided(answer.reason, allowed=answer.allowed)
        if answer.token is not None:
            context.subject = answer.token.subject
        if answer.allowed and answer.token is not None:
            if not answer.limits:
                return self._let_through(answer, answer.token, context.request_id)
            message = _allow(answer.token, answer.limits)
        else:
            message = _deny(
                answer.reason,
                _HTTP_STATUS.get(answer.reason, 403),
                answer.limits,
                context.request_id,
                with_body=request.attributes.request.http.method != "HEAD",
            )
        self._describe(message, answer, context.request_id)
        return message

    def _let_through(self, answer: ProxyAnswer, token: VerifiedToken, decision_id: str) -> bytes:
        """The answer that lets through: the same for a token, a route and a role but for the decision's id."""
        key = (id(token), answer.route, "" if answer.decision is None else answer.decision.role)
        ready = self._ready.get(key)
        if ready is None or ready.token is not token:
            message = _allow(token, ())
            self._describe(message, answer, _NO_ID)
            before, _, after = message.SerializeToString().partition(_NO_ID.encode())
            if len(self._ready) >= _MOST_READY:
                self._ready = {}
            # The token is held, so that no other can have its identity meanwhile.
            ready = self._ready[key] = _Ready(token, before, after)
        return b"%b%b%b" % (ready.before, decision_id.encode(), ready.after)

    def _describe(self, message: Any, answer: ProxyAnswer, decision_id: str) -> None:
        """Dynamic metadata, for Envoy's access log and later filters: no identifier of a person (STANDARDS E8, U8)."""
        fields = message.dynamic_metadata.fields
        fields["decision"].string_value = "allow" if answer.allowed else "deny"
        fields["reason"].string_value = answer.reason.text
        fields["decision_id"].string_value = decision_id
        if answer.route:
            fields["route"].string_value = answer.route
        if answer.decision is not None and answer.decision.role:
            fields["role"].string_value = answer.decision.role
        if answer.token is not None:
            subject = answer.token.subject.encode("utf-8", "surrogatepass")
            pseudonym = blake2b(subject, key=self._pseudonym_key, digest_size=16)
            fields["subject_pseudonym"].string_value = pseudonym.hexdigest()
        if answer.limits:
            nearest = min(answer.limits, key=lambda outcome: (outcome.allowed, outcome.remaining))
            fields["rule"].string_value = nearest.rule.name
            fields["remaining"].number_value = nearest.remaining
            fields["decided_by"].string_value = nearest.decided_by


def _http_request(request: Any) -> HttpRequest:
    attributes = request.attributes
    http = attributes.request.http
    return HttpRequest(
        RequestLine(http.method, _path(http), http.host, attributes.destination.principal),
        _authorization(http),
        lambda: RequestDetails(
            http.scheme,
            attributes.source.address.socket_address.address,
            dict(attributes.context_extensions),
        ),
    )


def _path(http: Any) -> str:
    """The path as the service will get it, or nothing, which no route matches and which is refused.

    Envoy writes `!` for bytes that are not UTF-8, which HTTP/2 lets through: the decision would be about another path
    than the service serves. So a `!` counts only where the raw header shows that it is one.
    """
    path: str = http.path
    if "!" in path and "!" in path.partition("?")[0]:
        raw = [header.raw_value for header in http.header_map.headers if header.key == ":path"]
        if raw != [path.encode("utf-8")]:
            return ""
    return path


def _authorization(http: Any) -> tuple[str, ...]:
    """Every Authorization header, from `headers` or, under `encode_raw_headers`, from `header_map`."""
    found = [http.headers["authorization"]] if "authorization" in http.headers else []
    for header in http.header_map.headers:
        key = header.key
        # The length first, for it tells nearly all others apart.
        if len(key) == _AUTHORIZATION_LENGTH and key.lower() == "authorization":
            found += [text for text in (header.raw_value.decode("latin-1"), header.value) if text] or [""]
    return tuple(found)


def _allow(token: VerifiedToken, limits: Sequence[LimitOutcome]) -> Any:
    message = CheckResponse()
    message.status.code = int(Code.OK)
    allowed = message.ok_response
    values = (
        (SUBJECT, _header_text(token.subject)),
        (CLIENT_ID, _header_text(token.client_id)),
        (SCOPE, " ".join(map(_header_text, token.scope))),
        (TENANT, _header_text(token.tenant)),
        (TOKEN_ID, _header_text(token.token_id)),
    )
    for name, value in values:
        if value:
            _put(allowed.headers, name, value)
        else:
            # Envoy may drop an empty value and keep the client's header: it is removed instead (E4).
            allowed.headers_to_remove.append(name)
    allowed.headers_to_remove.extend(_SPELLINGS)
    for name, value in rate_limit_fields(limits):
        _put(allowed.response_headers_to_add, name, value)
    return message


def _deny(
    reason: Reason, http_status: int, limits: Sequence[LimitOutcome], decision_id: str, *, with_body: bool
) -> Any:
    message = CheckResponse()
    message.status.code = int(_CODES[http_status])
    denied = message.denied_response
    denied.status.code = http_status
    headers = denied.headers
    _put(headers, "cache-control", "no-store")
    if http_status == HTTPStatus.UNAUTHORIZED:
        _put(headers, "www-authenticate", _CHALLENGE if reason is Reason.CALLER_UNAUTHENTICATED else _INVALID_TOKEN)
    elif reason is Reason.SCOPE_INSUFFICIENT:
        _put(headers, "www-authenticate", _INSUFFICIENT_SCOPE)
    elif http_status == HTTPStatus.SERVICE_UNAVAILABLE:
        _put(headers, "retry-after", RETRY_SECONDS)
    elif http_status == HTTPStatus.TOO_MANY_REQUESTS:
        for name, value in rate_limit_fields(limits):
            _put(headers, name, value)
    if with_body:
        _put(headers, "content-type", "application/problem+json")
        denied.body = _problem(http_status, limits, decision_id)
    return message


def _problem(http_status: int, limits: Sequence[LimitOutcome], decision_id: str) -> str:
    """The body of a denial (RFC 9457); the decision's id finds the cause in audit and logs."""
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(http_status).phrase,
        "status": http_status,
        "detail": _DETAIL[http_status],
    }
    if http_status == HTTPStatus.TOO_MANY_REQUESTS:
        problem["type"] = QUOTA_EXCEEDED
        problem["violated-policies"] = [outcome.rule.name for outcome in limits if not outcome.allowed]
    if decision_id:
        problem["decision_id"] = decision_id
    return json.dumps(problem, separators=(",", ":"))


def _put(headers: Any, name: str, value: str) -> None:
    """Add a header that replaces whatever stood there, on every version of Envoy (E4)."""
    option = headers.add()
    option.header.key = name
    option.header.value = value
    option.append.SetInParent()
    option.append_action = _OVERWRITE


def _header_text(text: str) -> str:
    """The text as it may stand in a header, one to one."""
    return text if _PLAIN.match(text) else quote(text, safe=_KEPT, errors="surrogatepass")
