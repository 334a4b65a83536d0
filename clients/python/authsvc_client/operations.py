"""What the client does, written once.

Owns: every operation as a flow, and what an answer is where the service is out of reach. May import:
`core`, `authsvc.v1` and the modules of this package that do no I/O. `client.py` runs the flows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from authsvc.core.errors import AuthsvcError, InvalidRequest, Reason, Unauthenticated, Unavailable
from authsvc.core.values import SERVICE_AUDIENCE
from authsvc.v1 import authz_pb2, limit_pb2, token_pb2
from authsvc_client import messages, methods
from authsvc_client.answers import (
    AuthorizeAnswer,
    BearerToken,
    CheckAnswer,
    ConsumeAnswer,
    Consumption,
    DescriptorLike,
)
from authsvc_client.failures import out_of_reach
from authsvc_client.flow import Flow, Send
from authsvc_client.keyset import KeyCache
from authsvc_client.methods import Method
from authsvc_client.retries import Retries
from authsvc_client.settings import OnUnavailable, Settings
from authsvc_client.statistics import Event, Tally
from authsvc_client.tokens import FETCH_DEADLINE, TokenSource

Item = TypeVar("Item")

Run = Callable[[Flow[Any], float], Any]
"""Runs a flow within so many seconds, and blocks meanwhile; for flights, which have threads of their own."""

MAX_BATCH = 10_000
"""The most questions in one BatchCheck."""

_log = logging.getLogger("authsvc_client")


class Operations:
    """The operations of one client. `now` is the wall clock in unix seconds, which claims are held to."""

    def __init__(
        self,
        settings: Settings,
        run: Run,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.tally = Tally()
        self._run = run
        self._retries = Retries(self.tally)
        self._monotonic = monotonic
        self._now = now
        self._sources: dict[tuple[tuple[str, ...], tuple[str, ...], str], TokenSource] = {}
        self._keys = KeyCache(settings, self._fetch, monotonic)
        if settings.on_unavailable is OnUnavailable.ALLOW:
            _log.warning("on_unavailable is `allow`: without the service everybody may do everything")

    def source(self, audience: Sequence[str], scope: Sequence[str] = (), tenant: str = "") -> TokenSource:
        """The token source of these; one for all who ask for the same."""
        key = (tuple(audience), tuple(scope), tenant)
        known = self._sources.get(key)
        if known is None:
            made = TokenSource(self.settings, self._fetch, self._monotonic, *key)
            # Of two threads at once the first one's counts.
            known = self._sources.setdefault(key, made)
        return known

    def prepare(self) -> Flow[None]:
        """Have a token, and where an issuer is set its keys, before the first request needs them."""
        yield from self._bearer()
        if self.settings.issuer:
            yield from self._keys.obtain()

    def check(self, request: authz_pb2.CheckRequest) -> Flow[CheckAnswer]:
        """One question."""
        try:
            response = yield from self._call(methods.CHECK, request)
        except AuthsvcError as error:
            return CheckAnswer(self._without_service(error, "check"), error.reason, unavailable=True)
        return messages.read_check(response)

    def authorize(
        self,
        token: str,
        permission: str,
        consume: Iterable[Consumption],
        *,
        audience: Sequence[str] = (),
        **fields: Any,
    ) -> Flow[AuthorizeAnswer]:
        """Verify, check, consume; sent once where it consumes.

        Without the service a token that the cached keys do not verify is denied, whatever `on_unavailable` says:
        else anybody could come as anybody.
        """
        request = messages.authorize_request(token, permission, audience=audience, consume=consume, **fields)
        try:
            response = yield from self._call(methods.AUTHORIZE, request, once=bool(request.consume))
        except AuthsvcError as error:
            known = (yield from self._verified(token, audience)) if self._may_allow(error) else None
            allowed = self._without_service(error, "authorize", may_allow=known is not None)
            return AuthorizeAnswer(allowed, error.reason, known, unavailable=True)
        return messages.read_authorize(response)

    def consume(
        self, domain: str, descriptors: Iterable[DescriptorLike], min_revision: str = ""
    ) -> Flow[ConsumeAnswer]:
        """Take hits; sent once, whatever happens."""
        request = limit_pb2.ConsumeRequest(
            domain=domain, descriptors=messages.descriptors(descriptors), min_revision=min_revision
        )
        try:
            response = yield from self._call(methods.CONSUME, request, once=True)
        except AuthsvcError as error:
            return ConsumeAnswer(self._without_service(error, "consume"), unavailable=True)
        return messages.read_consume(response)

    def peek(self, domain: str, descriptors: Iterable[DescriptorLike], min_revision: str = "") -> Flow[ConsumeAnswer]:
        """What consume would answer."""
        request = limit_pb2.PeekRequest(
            domain=domain, descriptors=messages.descriptors(descriptors), min_revision=min_revision
        )
        try:
            response = yield from self._call(methods.PEEK, request)
        except AuthsvcError as error:
            return ConsumeAnswer(self._without_service(error, "peek"), unavailable=True)
        return messages.read_consume(response)

    def filter(
        self,
        items: Iterable[Item],
        question: Callable[[Item], authz_pb2.CheckRequest],
        min_revision: str = "",
    ) -> Flow[list[Item]]:
        """The items whose question is allowed, in their order, by one RPC."""
        kept = list(items)
        if not kept:
            return kept
        if len(kept) > MAX_BATCH:
            raise InvalidRequest.of("items", f"holds more than {MAX_BATCH}", Reason.LIMIT_CAPPED)
        request = authz_pb2.BatchCheckRequest(checks=[question(item) for item in kept], min_revision=min_revision)
        try:
            response = yield from self._call(methods.BATCH_CHECK, request)
            if len(response.results) != len(kept):
                raise Unavailable("BatchCheck: not as many answers as questions")
        except AuthsvcError as error:
            return kept if self._without_service(error, "filter") else []
        answers = map(messages.read_check, response.results)
        return [item for item, answer in zip(kept, answers, strict=True) if answer.allowed]

    def verify(self, token: str, audience: Sequence[str] = (), required_scope: Sequence[str] = ()) -> Flow[BearerToken]:
        """Verify locally; raises TokenRefused, or Unavailable where there are no keys to verify with."""
        return self._keys.verify(token, audience, required_scope, int(self._now()))

    def introspect(self, token: str, audience: Sequence[str] = ()) -> Flow[token_pb2.VerifyTokenResponse]:
        """Verify by the service, which sees revocations; raises where it is out of reach."""
        request = token_pb2.VerifyTokenRequest(token=token, audience=audience)
        response: token_pb2.VerifyTokenResponse = yield from self._call(methods.VERIFY_TOKEN, request)
        return response

    def _bearer(self) -> Flow[str]:
        if not self.settings.client_id:
            return ""
        return (yield from self.source((SERVICE_AUDIENCE,)).obtain())

    def _fetch(self, step: Send) -> Any:
        # The passengers learn why there is no connection before their own deadlines pass.
        return self._run(self._retries.send(step, patient=False), FETCH_DEADLINE)

    def _call(self, method: Method, request: Message, *, once: bool = False) -> Flow[Any]:
        """Send as ourselves. A token that is not taken is renewed and the call sent again, unless `once`."""
        try:
            bearer = yield from self._bearer()
            try:
                return (yield from self._retries.send(Send(method, request, bearer), once=once))
            except Unauthenticated:
                if not bearer:
                    raise
                self.source((SERVICE_AUDIENCE,)).drop(bearer)
                if once:
                    raise
            bearer = yield from self._bearer()
            return (yield from self._retries.send(Send(method, request, bearer)))
        except AuthsvcError as error:
            if out_of_reach(error):
                self.tally.add(Event.UNANSWERED)
            raise

    def _verified(self, token: str, audience: Sequence[str]) -> Flow[BearerToken | None]:
        try:
            return (yield from self.verify(token, audience))
        except AuthsvcError:
            return None

    def _may_allow(self, error: AuthsvcError) -> bool:
        return out_of_reach(error) and self.settings.on_unavailable is OnUnavailable.ALLOW

    def _without_service(self, error: AuthsvcError, operation: str, *, may_allow: bool = True) -> bool:
        """What `on_unavailable` answers; raises what it does not concern."""
        if not out_of_reach(error) or self.settings.on_unavailable is OnUnavailable.RAISE:
            raise error
        allowed = may_allow and self._may_allow(error)
        _log.warning("%s %s without the service: %s", operation, "ALLOWED" if allowed else "denied", error.message)
        return allowed
