"""The RPCs that this client calls.

Owns: their paths and message types, and the settings of the channel that carries them. May import: `authsvc.v1`.
Bare paths instead of generated stubs: those demand the grpcio that generated them in every host service.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from authsvc.v1 import authz_pb2, key_pb2, limit_pb2, sync_pb2, token_pb2


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC."""

    service: str
    name: str
    response_type: type[Message]

    @property
    def path(self) -> str:
        """The HTTP/2 path."""
        return f"/{self.service}/{self.name}"


ISSUE_TOKEN = Method("authsvc.v1.TokenService", "IssueToken", token_pb2.IssueTokenResponse)
VERIFY_TOKEN = Method("authsvc.v1.TokenService", "VerifyToken", token_pb2.VerifyTokenResponse)
GET_JWKS = Method("authsvc.v1.KeyService", "GetJwks", key_pb2.GetJwksResponse)
CHECK = Method("authsvc.v1.AuthzService", "Check", authz_pb2.CheckResponse)
BATCH_CHECK = Method("authsvc.v1.AuthzService", "BatchCheck", authz_pb2.BatchCheckResponse)
AUTHORIZE = Method("authsvc.v1.AuthzService", "Authorize", authz_pb2.AuthorizeResponse)
CONSUME = Method("authsvc.v1.LimitService", "Consume", limit_pb2.ConsumeResponse)
PEEK = Method("authsvc.v1.LimitService", "Peek", limit_pb2.PeekResponse)
WATCH = Method("authsvc.v1.SyncService", "Watch", sync_pb2.WatchResponse)

_MAX_MESSAGE = 16 * 1024 * 1024

# Replicas take turns. One that fails nearly all its calls, because it drains or hangs, is left out for a while, at
# most half of them at a time; where gRPC has lost that policy, they take turns alone.
_TURNS: dict[str, Any] = {"round_robin": {}}
_BALANCING: list[dict[str, Any]] = [
    {
        "outlier_detection_experimental": {
            "interval": "0.1s",
            "baseEjectionTime": "3s",
            "maxEjectionTime": "15s",
            "maxEjectionPercent": 50,
            "failurePercentageEjection": {
                "threshold": 80,
                "enforcementPercentage": 100,
                "minimumHosts": 2,
                "requestVolume": 2,
            },
            "childPolicy": [_TURNS],
        }
    },
    _TURNS,
]

CHANNEL_OPTIONS: Sequence[tuple[str, Any]] = (
    # A child process must not find its parent's connections in the pool that gRPC shares by default.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.service_config", json.dumps({"loadBalancingConfig": _BALANCING})),
    ("grpc.service_config_disable_resolution", 1),
    # No policy of repetition: gRPC repeats only what was never begun; the rest is `retries`'.
    ("grpc.enable_retries", 1),
    # The defaults wait 1 s, then up to 2 minutes, before they look whether a lost replica is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # The name is asked again whenever a connection ends. By default not within 30 s, in which a rolling update may
    # have replaced every address that is known.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # A peer that vanished without a reset is noticed while calls wait, never by idle traffic.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)
