import datetime

from authsvc.v1 import error_reason_pb2 as _error_reason_pb2
from authsvc.v1 import types_pb2 as _types_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClientCredentials(_message.Message):
    __slots__ = ("client_id", "client_secret")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    client_secret: str
    def __init__(self, client_id: _Optional[str] = ..., client_secret: _Optional[str] = ...) -> None: ...

class IssueTokenRequest(_message.Message):
    __slots__ = ("client_credentials", "audience", "scope", "tenant", "ttl", "min_revision")
    CLIENT_CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    client_credentials: ClientCredentials
    audience: _containers.RepeatedScalarFieldContainer[str]
    scope: _containers.RepeatedScalarFieldContainer[str]
    tenant: str
    ttl: _duration_pb2.Duration
    min_revision: str
    def __init__(self, client_credentials: _Optional[_Union[ClientCredentials, _Mapping]] = ..., audience: _Optional[_Iterable[str]] = ..., scope: _Optional[_Iterable[str]] = ..., tenant: _Optional[str] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., min_revision: _Optional[str] = ...) -> None: ...

class IssueTokenResponse(_message.Message):
    __slots__ = ("access_token", "token_type", "expire_time", "scope", "revision")
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    token_type: str
    expire_time: _timestamp_pb2.Timestamp
    scope: _containers.RepeatedScalarFieldContainer[str]
    revision: str
    def __init__(self, access_token: _Optional[str] = ..., token_type: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., scope: _Optional[_Iterable[str]] = ..., revision: _Optional[str] = ...) -> None: ...

class VerifyTokenRequest(_message.Message):
    __slots__ = ("token", "audience", "required_scope", "proof", "min_revision")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_SCOPE_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    token: str
    audience: _containers.RepeatedScalarFieldContainer[str]
    required_scope: _containers.RepeatedScalarFieldContainer[str]
    proof: _types_pb2.Proof
    min_revision: str
    def __init__(self, token: _Optional[str] = ..., audience: _Optional[_Iterable[str]] = ..., required_scope: _Optional[_Iterable[str]] = ..., proof: _Optional[_Union[_types_pb2.Proof, _Mapping]] = ..., min_revision: _Optional[str] = ...) -> None: ...

class VerifyTokenResponse(_message.Message):
    __slots__ = ("valid", "reason", "token", "revision")
    VALID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    valid: bool
    reason: _error_reason_pb2.Reason
    token: _types_pb2.Token
    revision: str
    def __init__(self, valid: _Optional[bool] = ..., reason: _Optional[_Union[_error_reason_pb2.Reason, str]] = ..., token: _Optional[_Union[_types_pb2.Token, _Mapping]] = ..., revision: _Optional[str] = ...) -> None: ...

class BatchVerifyTokensRequest(_message.Message):
    __slots__ = ("requests", "min_revision")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[VerifyTokenRequest]
    min_revision: str
    def __init__(self, requests: _Optional[_Iterable[_Union[VerifyTokenRequest, _Mapping]]] = ..., min_revision: _Optional[str] = ...) -> None: ...

class BatchVerifyTokensResponse(_message.Message):
    __slots__ = ("results", "revision")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[VerifyTokenResponse]
    revision: str
    def __init__(self, results: _Optional[_Iterable[_Union[VerifyTokenResponse, _Mapping]]] = ..., revision: _Optional[str] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("token", "token_id", "subject", "client_id", "issuer", "min_revision")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    token: str
    token_id: str
    subject: str
    client_id: str
    issuer: str
    min_revision: str
    def __init__(self, token: _Optional[str] = ..., token_id: _Optional[str] = ..., subject: _Optional[str] = ..., client_id: _Optional[str] = ..., issuer: _Optional[str] = ..., min_revision: _Optional[str] = ...) -> None: ...

class RevokeTokenResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: str
    def __init__(self, revision: _Optional[str] = ...) -> None: ...
