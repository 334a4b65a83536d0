"""Interceptors for gRPC servers, sync and asyncio.

Owns: which methods are guarded, and a refusal as a gRPC status. May import: grpc, `guard`, `client`. A
method that the rules do not list is denied.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from operator import attrgetter
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio

from authsvc.core.errors import Reason
from authsvc_client.answers import BearerToken
from authsvc_client.client import AsyncClient, Client
from authsvc_client.flow import Flow
from authsvc_client.guard import (
    Asked,
    Public,
    RefusalKind,
    Refused,
    Require,
    Rules,
    admit,
    bearer_of,
    check_settings,
    holding,
)
from authsvc_client.operations import Operations
from authsvc_client.settings import Verify
from authsvc_client.status import STATUS_KEY, write_status

_METHOD = re.compile(r"/[A-Za-z0-9_.]+/[A-Za-z0-9_]+")

_STATUSES = {
    RefusalKind.NO_CREDENTIAL: (grpc.StatusCode.UNAUTHENTICATED, Reason.CALLER_UNAUTHENTICATED),
    RefusalKind.INVALID_CREDENTIAL: (grpc.StatusCode.UNAUTHENTICATED, Reason.CALLER_UNAUTHENTICATED),
    RefusalKind.FORBIDDEN: (grpc.StatusCode.PERMISSION_DENIED, Reason.CALLER_NOT_PERMITTED),
    RefusalKind.INSUFFICIENT_SCOPE: (grpc.StatusCode.PERMISSION_DENIED, Reason.SCOPE_INSUFFICIENT),
    RefusalKind.LIMITED: (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.LIMIT_EXCEEDED),
    RefusalKind.UNAVAILABLE: (grpc.StatusCode.UNAVAILABLE, Reason.RECORD_UNAVAILABLE),
}


# Quoted: grpc's classes are generic only in its type stubs.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class _Guard:
    """What both interceptors share: the rules, and a call as a question."""

    def __init__(self, operations: Operations, rules: Rules, verify: Verify | None) -> None:
        wrong = [method for method in rules if not _METHOD.fullmatch(method)]
        if wrong:
            raise ValueError(f"not full method names, /package.Service/Method: {', '.join(wrong)}")
        verify = verify or operations.settings.verify
        check_settings(operations.settings, (rule for rule in rules.values() if isinstance(rule, Require)), verify)
        self._operations = operations
        self._rules = dict(rules)
        self._verify = verify

    def rule(self, method: str) -> Require | Public | None:
        return self._rules.get(method)

    def admit(self, rule: Require, details: grpc.HandlerCallDetails, request: Any) -> Flow[BearerToken]:
        pairs = list(details.invocation_metadata or ())
        credential = bearer_of([value for key, value in pairs if key == "authorization"])
        metadata = {key: value for key, value in pairs if isinstance(value, str) and key != "authorization"}
        asked = Asked(details.method, request, metadata, lambda name: attrgetter(name)(request))
        return admit(self._operations, rule, asked, credential, self._verify)


class ServerInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # no generic at run time
    """For `grpc.server(interceptors=[...])`. The handler reads `authsvc_client.current_token()`."""

    def __init__(self, client: Client, rules: Rules, *, verify: Verify | None = None) -> None:
        """Guard the methods of `rules`; raises ValueError where a name is not a full method name.

        `verify` unset is the settings'.
        Raises InvalidRequest where the client's settings lack what `verify` needs.
        """
        self._client = client
        self._guard = _Guard(client.operations, rules, verify)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Of grpc."""
        rule = self._guard.rule(handler_call_details.method)
        if rule is None:
            return grpc.stream_stream_rpc_method_handler(_deny_unlisted)
        handler = continuation(handler_call_details)
        if handler is None or isinstance(rule, Public):
            return handler
        behaviour, streams_request = _behaviour(handler), handler.request_streaming

        def admitted(request: Any, context: grpc.ServicerContext) -> BearerToken:
            try:
                flow = self._guard.admit(rule, handler_call_details, None if streams_request else request)
                return self._client.run(flow)
            except Refused as refused:
                _abort(context, refused)

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            with holding(admitted(request, context)):
                return behaviour(request, context)

        def answers(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with holding(admitted(request, context)):
                yield from behaviour(request, context)

        return _rebuilt(handler, answers if handler.response_streaming else answer)


class AsyncServerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # no generic at run time
    """For `grpc.aio.server(interceptors=[...])`. The handler reads `authsvc_client.current_token()`."""

    def __init__(self, client: AsyncClient, rules: Rules, *, verify: Verify | None = None) -> None:
        """Guard the methods of `rules`; raises ValueError where a name is not a full method name.

        `verify` unset is the settings'.
        Raises InvalidRequest where the client's settings lack what `verify` needs.
        """
        self._client = client
        self._guard = _Guard(client.operations, rules, verify)

    # The stubs forget that there is no handler for a method that nobody serves.
    async def intercept_service(  # type: ignore[override]
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Of grpc."""
        rule = self._guard.rule(handler_call_details.method)
        if rule is None:
            return grpc.stream_stream_rpc_method_handler(_deny_unlisted_async)
        handler = await continuation(handler_call_details)
        if handler is None or isinstance(rule, Public):
            return handler
        streams_request = handler.request_streaming

        async def admitted(request: Any) -> BearerToken:
            flow = self._guard.admit(rule, handler_call_details, None if streams_request else request)
            return await self._client.run(flow)

        guarded = _Guarded(_behaviour(handler), admitted, asyncio.get_running_loop())
        return _rebuilt(handler, guarded.of_same_kind(response_streaming=handler.response_streaming))


class _Guarded:
    """An asyncio server's behaviour behind its rule, as each kind that the server tells apart."""

    def __init__(
        self,
        behaviour: Callable[[Any, Any], Any],
        admitted: Callable[[Any], Coroutine[Any, Any, BearerToken]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._behaviour = behaviour
        self._admitted = admitted
        self._loop = loop

    def of_same_kind(self, *, response_streaming: bool) -> Callable[[Any, Any], Any]:
        if inspect.isasyncgenfunction(self._behaviour):
            return self._answers
        if inspect.iscoroutinefunction(self._behaviour):
            return self._answer
        return self._plain_answers if response_streaming else self._plain_answer

    async def _answer(self, request: Any, context: Any) -> Any:
        with holding(await self._admit(request, context)):
            return await self._behaviour(request, context)

    async def _answers(self, request: Any, context: Any) -> AsyncIterator[Any]:
        with holding(await self._admit(request, context)):
            async for response in self._behaviour(request, context):
                yield response

    def _plain_answer(self, request: Any, context: Any) -> Any:
        with holding(self._admit_from_thread(request, context)):
            return self._behaviour(request, context)

    def _plain_answers(self, request: Any, context: Any) -> Iterator[Any]:
        with holding(self._admit_from_thread(request, context)):
            yield from self._behaviour(request, context)

    async def _admit(self, request: Any, context: Any) -> BearerToken:
        try:
            return await self._admitted(request)
        except Refused as refused:
            code, message, trailers = _status(refused)
            await context.abort(code, message, trailers)
            raise

    def _admit_from_thread(self, request: Any, context: Any) -> BearerToken:
        # Plain functions run in the server's threads; the question is still asked on its loop.
        try:
            return asyncio.run_coroutine_threadsafe(self._admitted(request), self._loop).result()
        except Refused as refused:
            _abort(context, refused)


def _behaviour(handler: Handler) -> Callable[[Any, Any], Any]:
    if handler.request_streaming:
        found = handler.stream_stream if handler.response_streaming else handler.stream_unary
    else:
        found = handler.unary_stream if handler.response_streaming else handler.unary_unary
    return cast("Callable[[Any, Any], Any]", found)


def _rebuilt(handler: Handler, behaviour: Callable[[Any, Any], Any]) -> Handler:
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(behaviour, handler.request_deserializer, handler.response_serializer)


def _status(refused: Refused) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    code, reason = _STATUSES[refused.kind]
    message = refused.kind.value
    number: int = code.value[0]
    details = write_status(number, message, reason=reason.name, retry_after=refused.retry_after)
    return code, message, ((STATUS_KEY, details),)


def _abort(context: Any, refused: Refused) -> NoReturn:
    code, message, trailers = _status(refused)
    context.set_trailing_metadata(trailers)
    context.abort(code, message)
    raise refused


def _deny_unlisted(_requests: Any, context: Any) -> NoReturn:
    # Of the widest kind, so that it answers before it reads a request, whatever the method's kind is.
    _abort(context, Refused(RefusalKind.FORBIDDEN))


async def _deny_unlisted_async(_requests: Any, context: Any) -> None:
    code, message, trailers = _status(Refused(RefusalKind.FORBIDDEN))
    await context.abort(code, message, trailers)
