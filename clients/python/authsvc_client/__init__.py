"""Thin client of authsvc.

Owns: the public names. `Client` and `AsyncClient` ask the service; `grpc_server` guards gRPC servers,
`fastapi` FastAPI routes, `httpx` signs requests of our own, `testing` is a fake for tests. Depends on the
lean base of `authsvc` and uses its `core` and `v1`.
"""

from authsvc.core.consumption import Descriptor
from authsvc.core.errors import (
    AuthsvcError,
    DeadlineExceeded,
    Exhausted,
    InvalidRequest,
    PermissionDenied,
    Reason,
    TokenRefused,
    Unauthenticated,
    Unavailable,
)
from authsvc_client.answers import (
    AuthorizeAnswer,
    BearerToken,
    CheckAnswer,
    ConsumeAnswer,
    Consumption,
    LimitResult,
)
from authsvc_client.client import AsyncClient, Client
from authsvc_client.credentials import AsyncTokens, Tokens
from authsvc_client.guard import current_token
from authsvc_client.settings import OnUnavailable, Settings, Tls, Verify, Watch
from authsvc_client.statistics import Statistics

__all__ = [
    "AsyncClient",
    "AsyncTokens",
    "AuthorizeAnswer",
    "AuthsvcError",
    "BearerToken",
    "CheckAnswer",
    "Client",
    "ConsumeAnswer",
    "Consumption",
    "DeadlineExceeded",
    "Descriptor",
    "Exhausted",
    "InvalidRequest",
    "LimitResult",
    "OnUnavailable",
    "PermissionDenied",
    "Reason",
    "Settings",
    "Statistics",
    "Tls",
    "TokenRefused",
    "Tokens",
    "Unauthenticated",
    "Unavailable",
    "Verify",
    "Watch",
    "current_token",
]
