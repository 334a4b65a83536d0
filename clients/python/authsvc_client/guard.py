"""Who may come in: the rules of interceptors and web dependencies, written once.

Owns: what a method or route requires, how a bearer is judged, and the closed set of refusals. May import:
`core`, `answers`, `operations`, `flow`. The edges translate a refusal into a gRPC status or an HTTP answer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from authsvc.core.errors import AuthsvcError, InvalidRequest, Reason, TokenRefused
from authsvc_client import messages
from authsvc_client.answers import AuthorizeAnswer, BearerToken, Consumption
from authsvc_client.flow import Flow
from authsvc_client.operations import Operations
from authsvc_client.settings import Settings
from authsvc_client.settings import Verify as Verify  # noqa: PLC0414 - callers of 0.1.0 import it from here

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)
_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")
_RETRY_UNAVAILABLE = 1.0

_current: ContextVar[BearerToken | None] = ContextVar("authsvc_token", default=None)
_log = logging.getLogger("authsvc_client")


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that wants in. `variables` gives a template's values: request fields or path parameters."""

    method: str
    request: Any
    metadata: Mapping[str, str]
    variables: Callable[[str], object]
    token: BearerToken | None = None


@dataclass(frozen=True, slots=True)
class Require:
    """What a call must have: a valid token, and where `permission` is set, the permission.

    `resource` is a name, a template such as `orders/{order_id}` (a value with a slash is denied), or a
    function. A call that lacks what a template or function reads is denied, and a warning says what. `consume`
    is taken only where allowed. Unset `audience`: the settings', else the client's own as the service knows it.
    Unset `tenant`: the token's.
    """

    permission: str = ""
    resource: str | Callable[[Asked], str] = ""
    tenant: str | Callable[[Asked], str] = ""
    audience: tuple[str, ...] = ()
    context: Callable[[Asked], Mapping[str, Any]] | None = None
    consume: Sequence[Consumption] | Callable[[Asked], Iterable[Consumption]] = ()

    def __post_init__(self) -> None:
        if not self.permission and (self.consume or self.resource or self.tenant or self.context):
            raise ValueError("resource, tenant, context and consume need a permission")


class Public(Enum):
    """The one value that says: this is open to everybody. Nothing is open by omission."""

    PUBLIC = "public"


PUBLIC = Public.PUBLIC

Rules = Mapping[str, Require | Public]
"""Full method names, `/package.Service/Method`, and what each requires."""


class RefusalKind(Enum):
    """Every way not to come in."""

    NO_CREDENTIAL = "no credential"
    INVALID_CREDENTIAL = "the token is not valid"
    FORBIDDEN = "not permitted"
    INSUFFICIENT_SCOPE = "the token's scope does not cover this"
    LIMITED = "a limit is reached"
    UNAVAILABLE = "authorization is not available"


class Refused(Exception):
    """The call may not come in. It says no more than its kind (STANDARDS J17); `retry_after` in seconds."""

    def __init__(self, kind: RefusalKind, retry_after: float | None = None) -> None:
        super().__init__(kind.value)
        self.kind = kind
        self.retry_after = retry_after


def current_token() -> BearerToken | None:
    """The verified token of the call that is being handled; None outside, and in public methods."""
    return _current.get()


def set_current_token(token: BearerToken | None) -> None:
    """For edges whose calls each have a context of their own."""
    _current.set(token)


@contextmanager
def holding(token: BearerToken | None) -> Iterator[None]:
    """Let `current_token` give the token within; for edges whose calls share a thread."""
    before = _current.get()
    _current.set(token)
    try:
        yield
    finally:
        _current.set(before)


def check_settings(settings: Settings, rules: Iterable[Require], verify: Verify) -> None:
    """Raise InvalidRequest that names what the settings lack for `verify`, before the first call is refused for it."""
    if verify is Verify.LOCAL:
        for rule in rules:
            settings.local_audience(rule.audience)


def bearer_of(headers: Sequence[str | bytes]) -> str:
    """The token of the `authorization` values of a call; raises Refused unless there is exactly one."""
    if not headers:
        raise Refused(RefusalKind.NO_CREDENTIAL)
    (first, *others) = headers
    match = _BEARER.fullmatch(first) if isinstance(first, str) and not others else None
    if match is None:
        raise Refused(RefusalKind.INVALID_CREDENTIAL)
    return match[1]


def admit(operations: Operations, rule: Require, asked: Asked, credential: str, verify: Verify) -> Flow[BearerToken]:
    """The verified token of a call that may come in; raises Refused."""
    audience = rule.audience or operations.settings.audience
    try:
        if verify is Verify.LOCAL:
            token = yield from operations.verify(credential, audience)
            asked = replace(asked, token=token)
        if rule.permission:
            answer = yield from _authorize(operations, rule, asked, credential, audience)
            return _judged(answer, asked.token)
        if asked.token is not None:
            return asked.token
        verified = yield from operations.introspect(credential, audience)
    except TokenRefused:
        raise Refused(RefusalKind.INVALID_CREDENTIAL) from None
    except InvalidRequest as error:
        # A part of the call went into the question and cannot be asked about.
        _log.warning("%s denied: %s", asked.method, error.message)
        raise Refused(RefusalKind.FORBIDDEN) from None
    except AuthsvcError as error:
        _log.error("%s refused without a decision: %s", asked.method, error.message)
        raise Refused(RefusalKind.UNAVAILABLE, _RETRY_UNAVAILABLE) from None
    if not verified.valid:
        raise Refused(RefusalKind.INVALID_CREDENTIAL)
    return messages.read_token(verified.token)


def _authorize(
    operations: Operations, rule: Require, asked: Asked, credential: str, audience: Sequence[str]
) -> Flow[AuthorizeAnswer]:
    try:
        consume = list(rule.consume(asked) if callable(rule.consume) else rule.consume)
        resource, tenant = _text(rule.resource, asked), _text(rule.tenant, asked)
        context = rule.context(asked) if rule.context is not None else None
    except (Refused, AuthsvcError):
        raise
    except Exception as error:  # noqa: BLE001 - the rule's functions are the host's, and no fault lets in
        _log.warning("%s denied: the rule cannot be asked: %s: %s", asked.method, type(error).__name__, error)
        raise Refused(RefusalKind.FORBIDDEN) from None
    return operations.authorize(
        credential, rule.permission, consume, resource=resource, tenant=tenant, audience=audience, context=context
    )


def _judged(answer: AuthorizeAnswer, known: BearerToken | None) -> BearerToken:
    token = answer.token or known
    if answer.unavailable and not answer.allowed:
        raise Refused(RefusalKind.UNAVAILABLE, _RETRY_UNAVAILABLE)
    if answer.allowed and token is not None:
        return token
    if answer.reason in (Reason.SCOPE_INSUFFICIENT, Reason.TOKEN_SCOPE_INSUFFICIENT):
        raise Refused(RefusalKind.INSUFFICIENT_SCOPE)
    if answer.reason.name.startswith("TOKEN_"):
        raise Refused(RefusalKind.INVALID_CREDENTIAL)
    if answer.reason is Reason.LIMIT_EXCEEDED:
        raise Refused(RefusalKind.LIMITED, answer.retry_after)
    raise Refused(RefusalKind.FORBIDDEN)


def _text(given: str | Callable[[Asked], str], asked: Asked) -> str:
    if not isinstance(given, str):
        return given(asked)

    def value(match: re.Match[str]) -> str:
        text = str(asked.variables(match[1]))
        if not text or "/" in text:
            raise Refused(RefusalKind.FORBIDDEN)
        return text

    return _VARIABLE.sub(value, given)
