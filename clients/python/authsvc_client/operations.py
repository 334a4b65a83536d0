"""What the client does, written once.

Owns: every operation as a flow, and what an answer is where the service is out of reach. May import:
`core`, `authsvc.v1` and the modules of this package that do no I/O, and the blocking edge for what runs in threads of
its own: renewals and the stream of revocations. `client.py` runs the flows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from authsvc.core import jose
from authsvc.core.errors import AuthsvcError, InvalidRequest, Reason, TokenRefused, Unauthenticated, Unavailable
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
from authsvc_client.chains import PinnedRoots
from authsvc_client.failures import out_of_reach
from authsvc_client.flow import Flow, Send, Wait
from authsvc_client.keyset import KeyCache
from authsvc_client.methods import Method
from authsvc_client.retries import Retries
from authsvc_client.settings import OnUnavailable, Settings, Watch
from authsvc_client.statistics import Event, Tally
from authsvc_client.tokens import FETCH_DEADLINE, TokenSource
from authsvc_client.watching import Watcher
from authsvc_client.wire import Wire

Item = TypeVar("Item")


MAX_BATCH = 10_000
"""The most questions in one BatchCheck."""

_log = logging.getLogger("authsvc_client")


def elapsed() -> float:
    """Seconds of a clock that never goes back, and goes on while the machine sleeps where there is such a one."""
    return time.clock_gettime(_ELAPSED) if _ELAPSED is not None else time.monotonic()


_ELAPSED: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Operations:
    """The operations of one client, over both edges.

    `wire` is for what runs in a thread of its own: renewals, and the stream of revocations. `now` is the wall clock in
    unix seconds, which claims are held to.
    """

    def __init__(
        self,
        settings: Settings,
        wire: Wire,
        *,
        monotonic: Callable[[], float] = elapsed,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.tally = Tally()
        self._wire = wire
        self._retries = Retries(self.tally, pinned=PinnedRoots(settings, monotonic) if settings.pins else None)
        self._monotonic = monotonic
        self._now = now
        self._sources: dict[tuple[tuple[str, ...], tuple[str, ...], str], TokenSource] = {}
        self._keys = KeyCache(settings, self._fetch, monotonic)
        self.watcher = Watcher(
            settings.issuer,
            wire,
            bearer=lambda: wire.run(self._bearer(), FETCH_DEADLINE),
            roots=lambda lost: wire.run(self._retries.roots(lost), FETCH_DEADLINE),
            refused=lambda token: self.source((SERVICE_AUDIENCE,)).drop(token),
            tally=self.tally,
            clock=monotonic,
            now=now,
        )
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
        """Have a token, and where an issuer is set what verifies, before the first request needs them."""
        yield from self._bearer()
        if self.settings.issuer and self._watches:
            yield Wait(self.watcher.first())
        elif self.settings.issuer:
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
        """Verify by what is known here, where that is fresh, else by the service.

        Raises TokenRefused, or Unavailable where neither can tell (STANDARDS U12).
        """
        expected = self.settings.local_audience(audience)
        if not self._watches:
            return (yield from self._keys.verify(token, audience, required_scope, int(self._now())))
        known = self.watcher.known()
        if known is not None:
            return known.verify(token, expected, required_scope, int(self._now()))
        # What cannot be a token costs no round trip.
        jose.parse_compact(token)
        self.tally.add(Event.ASKED)
        response = yield from self.introspect(token, sorted(expected), required_scope)
        if not response.valid:
            raise TokenRefused("the service refuses the token", messages.read_reason(response.reason))
        return messages.read_token(response.token)

    def introspect(
        self, token: str, audience: Sequence[str] = (), required_scope: Sequence[str] = ()
    ) -> Flow[token_pb2.VerifyTokenResponse]:
        """Verify by the service, which sees revocations; raises where it is out of reach."""
        request = token_pb2.VerifyTokenRequest(token=token, audience=audience, required_scope=required_scope)
        response: token_pb2.VerifyTokenResponse = yield from self._call(methods.VERIFY_TOKEN, request)
        return response

    @property
    def _watches(self) -> bool:
        return self.settings.watch is Watch.ON

    def _bearer(self) -> Flow[str]:
        if not self.settings.client_id:
            return ""
        return (yield from self.source((SERVICE_AUDIENCE,)).obtain())

    def _fetch(self, step: Send) -> Any:
        # The passengers learn why there is no connection before their own deadlines pass.
        return self._wire.run(self._retries.send(step, patient=False), FETCH_DEADLINE)

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
        """The token, where the last keys and revocations known verify it, however old they are."""
        try:
            known = self.watcher.last
            if known is not None:
                return known.verify(token, self.settings.local_audience(audience), (), int(self._now()))
            return (yield from self._keys.verify(token, audience, (), int(self._now())))
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
