"""The messages of grpc.health.v1 and grpc.reflection.v1, made from their field numbers.

Owns: the descriptors of both services, in a pool of their own. May import: protobuf. The ready-made packages
bring servicers, and of reflection only v1alpha; thirty field numbers weigh less than two dependencies.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

_Field = descriptor_pb2.FieldDescriptorProto
_STRING, _BYTES, _INT32 = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_INT32

UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)
"""grpc.health.v1.HealthCheckResponse.ServingStatus."""


def _field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: _Field.Type.ValueType | str, **more: Any
) -> None:
    added = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL, json_name=name)
    if isinstance(kind, str):
        added.type, added.type_name = _Field.TYPE_MESSAGE, kind
    else:
        added.type = kind
    if more.pop("repeated", False):
        added.label = _Field.LABEL_REPEATED
    for key, value in more.items():
        setattr(added, key, value)


def _health() -> descriptor_pb2.FileDescriptorProto:
    package = "grpc.health.v1"
    file = descriptor_pb2.FileDescriptorProto(name="grpc/health/v1/health.proto", package=package, syntax="proto3")
    request = file.message_type.add(name="HealthCheckRequest")
    _field(request, "service", 1, _STRING)
    response = file.message_type.add(name="HealthCheckResponse")
    status = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        status.value.add(name=name, number=number)
    _field(response, "status", 1, _Field.TYPE_ENUM, type_name=f".{package}.HealthCheckResponse.ServingStatus")
    file.message_type.add(name="HealthListRequest")
    listing = file.message_type.add(name="HealthListResponse")
    entry = listing.nested_type.add(name="StatusesEntry")
    entry.options.map_entry = True
    _field(entry, "key", 1, _STRING)
    _field(entry, "value", 2, f".{package}.HealthCheckResponse")
    _field(listing, "statuses", 1, f".{package}.HealthListResponse.StatusesEntry", repeated=True)
    service = file.service.add(name="Health")
    for name, asked, answered in (
        ("Check", "HealthCheckRequest", "HealthCheckResponse"),
        ("List", "HealthListRequest", "HealthListResponse"),
        ("Watch", "HealthCheckRequest", "HealthCheckResponse"),
    ):
        service.method.add(
            name=name,
            input_type=f".{package}.{asked}",
            output_type=f".{package}.{answered}",
            server_streaming=name == "Watch",
        )
    return file


def _reflection() -> descriptor_pb2.FileDescriptorProto:
    package = "grpc.reflection.v1"
    file = descriptor_pb2.FileDescriptorProto(
        name="grpc/reflection/v1/reflection.proto", package=package, syntax="proto3"
    )
    extension = file.message_type.add(name="ExtensionRequest")
    _field(extension, "containing_type", 1, _STRING)
    _field(extension, "extension_number", 2, _INT32)
    request = file.message_type.add(name="ServerReflectionRequest")
    request.oneof_decl.add(name="message_request")
    _field(request, "host", 1, _STRING)
    _field(request, "file_by_filename", 3, _STRING, oneof_index=0)
    _field(request, "file_containing_symbol", 4, _STRING, oneof_index=0)
    _field(request, "file_containing_extension", 5, f".{package}.ExtensionRequest", oneof_index=0)
    _field(request, "all_extension_numbers_of_type", 6, _STRING, oneof_index=0)
    _field(request, "list_services", 7, _STRING, oneof_index=0)
    files = file.message_type.add(name="FileDescriptorResponse")
    _field(files, "file_descriptor_proto", 1, _BYTES, repeated=True)
    numbers = file.message_type.add(name="ExtensionNumberResponse")
    _field(numbers, "base_type_name", 1, _STRING)
    _field(numbers, "extension_number", 2, _INT32, repeated=True)
    one = file.message_type.add(name="ServiceResponse")
    _field(one, "name", 1, _STRING)
    services = file.message_type.add(name="ListServiceResponse")
    _field(services, "service", 1, f".{package}.ServiceResponse", repeated=True)
    error = file.message_type.add(name="ErrorResponse")
    _field(error, "error_code", 1, _INT32)
    _field(error, "error_message", 2, _STRING)
    response = file.message_type.add(name="ServerReflectionResponse")
    response.oneof_decl.add(name="message_response")
    _field(response, "valid_host", 1, _STRING)
    _field(response, "original_request", 2, f".{package}.ServerReflectionRequest")
    _field(response, "file_descriptor_response", 4, f".{package}.FileDescriptorResponse", oneof_index=0)
    _field(response, "all_extension_numbers_response", 5, f".{package}.ExtensionNumberResponse", oneof_index=0)
    _field(response, "list_services_response", 6, f".{package}.ListServiceResponse", oneof_index=0)
    _field(response, "error_response", 7, f".{package}.ErrorResponse", oneof_index=0)
    file.service.add(name="ServerReflection").method.add(
        name="ServerReflectionInfo",
        input_type=f".{package}.ServerReflectionRequest",
        output_type=f".{package}.ServerReflectionResponse",
        client_streaming=True,
        server_streaming=True,
    )
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_health().SerializeToString())
_POOL.AddSerializedFile(_reflection().SerializeToString())

HEALTH: ServiceDescriptor = _POOL.FindServiceByName("grpc.health.v1.Health")
REFLECTION: ServiceDescriptor = _POOL.FindServiceByName("grpc.reflection.v1.ServerReflection")


def _message(name: str) -> type[Message]:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


# Made at run time, so their fields are known to no type checker.
HealthCheckRequest: Any = _message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse: Any = _message("grpc.health.v1.HealthCheckResponse")
HealthListResponse: Any = _message("grpc.health.v1.HealthListResponse")
ServerReflectionRequest: Any = _message("grpc.reflection.v1.ServerReflectionRequest")
ServerReflectionResponse: Any = _message("grpc.reflection.v1.ServerReflectionResponse")
