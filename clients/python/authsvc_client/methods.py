"""The RPCs that this client calls.

Owns: their paths, message types and which of them the gRPC library may repeat. May import: `authsvc.v1`.
Bare paths instead of generated stubs: those demand the grpcio that generated them in every host service.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from authsvc.v1 import authz_pb2, key_pb2, limit_pb2, token_pb2


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC. `repeatable`: a read, so gRPC may ask again after UNAVAILABLE."""

    service: str
    name: str
    response_type: type[Message]
    repeatable: bool = True

    @property
    def path(self) -> str:
        """The HTTP/2 path."""
        return f"/{self.service}/{self.name}"


ISSUE_TOKEN = Method("authsvc.v1.TokenService", "IssueToken", token_pb2.IssueTokenResponse, repeatable=False)
VERIFY_TOKEN = Method("authsvc.v1.TokenService", "VerifyToken", token_pb2.VerifyTokenResponse)
GET_JWKS = Method("authsvc.v1.KeyService", "GetJwks", key_pb2.GetJwksResponse)
CHECK = Method("authsvc.v1.AuthzService", "Check", authz_pb2.CheckResponse)
BATCH_CHECK = Method("authsvc.v1.AuthzService", "BatchCheck", authz_pb2.BatchCheckResponse)
AUTHORIZE = Method("authsvc.v1.AuthzService", "Authorize", authz_pb2.AuthorizeResponse)
CONSUME = Method("authsvc.v1.LimitService", "Consume", limit_pb2.ConsumeResponse, repeatable=False)
PEEK = Method("authsvc.v1.LimitService", "Peek", limit_pb2.PeekResponse)

_METHODS = (ISSUE_TOKEN, VERIFY_TOKEN, GET_JWKS, CHECK, BATCH_CHECK, AUTHORIZE, CONSUME, PEEK)
_MAX_MESSAGE = 16 * 1024 * 1024

_COMMON: tuple[tuple[str, int], ...] = (
    # A child process must not find its parent's connections in the pool that gRPC shares by default.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    # The defaults wait 1 s, then up to 2 minutes, before they look whether a lost replica is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A peer that vanished without a reset is noticed while calls wait, never by idle traffic.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


def channel_options(*, once: bool) -> list[tuple[str, Any]]:
    """The channel's settings; with `once` nothing is repeated, not even by gRPC's transparent retries."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if not once:
        config["methodConfig"] = [
            {
                "name": [{"service": m.service, "method": m.name} for m in _METHODS if m.repeatable],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.08s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    return [
        *_COMMON,
        ("grpc.service_config", json.dumps(config)),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", 0 if once else 1),
    ]
