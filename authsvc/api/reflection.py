"""grpc.reflection.v1: what is served, for tools.

Owns: the one RPC. May import: `api`. It answers from the descriptors of the services it is given, whichever pool
they came from; beyond loopback it is served only where asked for (`server.reflection`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor, ServiceDescriptor

from authsvc.api import standard_messages as messages
from authsvc.api.calls import Context
from authsvc.api.errors import Code


class Reflection:
    """Handlers of grpc.reflection.v1.ServerReflection."""

    def __init__(self, services: Iterable[ServiceDescriptor]) -> None:
        served = (*services, messages.REFLECTION)
        self._services = sorted({service.full_name for service in served})
        self._files: dict[str, FileDescriptor] = {}
        for service in served:
            self._add(service.file)
        self._symbols = {symbol: file.name for file in self._files.values() for symbol in _symbols(file)}

    async def server_reflection_info(
        self, requests: AsyncIterator[Any], _context: Context
    ) -> AsyncGenerator[Any, None]:
        """One answer a question, in order; what is not known is an answer with NOT_FOUND."""
        async for request in requests:
            yield self._answer(request)

    def _answer(self, request: Any) -> Any:
        answer = messages.ServerReflectionResponse(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        if asked == "list_services":
            for name in self._services:
                answer.list_services_response.service.add(name=name)
        elif asked == "file_by_filename":
            self._give(answer, request.file_by_filename)
        elif asked == "file_containing_symbol":
            self._give(answer, self._symbols.get(request.file_containing_symbol, ""))
        elif asked is None:
            _fail(answer, Code.INVALID_ARGUMENT, "nothing was asked")
        else:
            _fail(answer, Code.NOT_FOUND, "proto3 messages have no extensions")
        return answer

    def _give(self, answer: Any, name: str) -> None:
        if name not in self._files:
            _fail(answer, Code.NOT_FOUND, "no such file or symbol is served")
            return
        answer.file_descriptor_response.file_descriptor_proto.extend(
            _serialized(file) for file in self._with_dependencies(name)
        )

    def _with_dependencies(self, name: str) -> Iterable[FileDescriptor]:
        found: dict[str, FileDescriptor] = {}
        waiting = [self._files[name]]
        while waiting:
            file = waiting.pop()
            if file.name not in found:
                found[file.name] = file
                waiting.extend(file.dependencies)
        return found.values()

    def _add(self, file: FileDescriptor) -> None:
        if file.name not in self._files:
            self._files[file.name] = file
            for dependency in file.dependencies:
                self._add(dependency)


def _serialized(file: FileDescriptor) -> bytes:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    return proto.SerializeToString()


def _fail(answer: Any, code: Code, message: str) -> None:
    answer.error_response.error_code = int(code)
    answer.error_response.error_message = message


def _symbols(file: FileDescriptor) -> Iterator[str]:
    for service in file.services_by_name.values():
        yield service.full_name
        yield from (method.full_name for method in service.methods)
    for enum in file.enum_types_by_name.values():
        yield enum.full_name
    for message in file.message_types_by_name.values():
        yield from _message_symbols(message)


def _message_symbols(message: Descriptor) -> Iterator[str]:
    yield message.full_name
    for enum in message.enum_types:
        yield enum.full_name
    for nested in message.nested_types:
        yield from _message_symbols(nested)
