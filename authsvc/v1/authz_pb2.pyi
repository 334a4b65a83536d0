from authsvc.v1 import error_reason_pb2 as _error_reason_pb2
from authsvc.v1 import limit_pb2 as _limit_pb2
from authsvc.v1 import types_pb2 as _types_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CheckRequest(_message.Message):
    __slots__ = ("subject", "groups", "permission", "resource", "tenant", "scope_bound", "scope", "context", "min_revision")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    PERMISSION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SCOPE_BOUND_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    subject: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    permission: str
    resource: str
    tenant: str
    scope_bound: bool
    scope: _containers.RepeatedScalarFieldContainer[str]
    context: _struct_pb2.Struct
    min_revision: str
    def __init__(self, subject: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ..., permission: _Optional[str] = ..., resource: _Optional[str] = ..., tenant: _Optional[str] = ..., scope_bound: _Optional[bool] = ..., scope: _Optional[_Iterable[str]] = ..., context: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., min_revision: _Optional[str] = ...) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ("decision", "reason", "matched_role", "matched_binding", "revision")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MATCHED_ROLE_FIELD_NUMBER: _ClassVar[int]
    MATCHED_BINDING_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    decision: _types_pb2.Decision
    reason: _error_reason_pb2.Reason
    matched_role: str
    matched_binding: str
    revision: str
    def __init__(self, decision: _Optional[_Union[_types_pb2.Decision, str]] = ..., reason: _Optional[_Union[_error_reason_pb2.Reason, str]] = ..., matched_role: _Optional[str] = ..., matched_binding: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class BatchCheckRequest(_message.Message):
    __slots__ = ("checks", "min_revision")
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[CheckRequest]
    min_revision: str
    def __init__(self, checks: _Optional[_Iterable[_Union[CheckRequest, _Mapping]]] = ..., min_revision: _Optional[str] = ...) -> None: ...

class BatchCheckResponse(_message.Message):
    __slots__ = ("results", "revision")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[CheckResponse]
    revision: str
    def __init__(self, results: _Optional[_Iterable[_Union[CheckResponse, _Mapping]]] = ..., revision: _Optional[str] = ...) -> None: ...

class AuthorizeRequest(_message.Message):
    __slots__ = ("token", "proof", "permission", "resource", "tenant", "audience", "context", "consume", "min_revision")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    PERMISSION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    CONSUME_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    token: str
    proof: _types_pb2.Proof
    permission: str
    resource: str
    tenant: str
    audience: _containers.RepeatedScalarFieldContainer[str]
    context: _struct_pb2.Struct
    consume: _containers.RepeatedCompositeFieldContainer[_limit_pb2.Consumption]
    min_revision: str
    def __init__(self, token: _Optional[str] = ..., proof: _Optional[_Union[_types_pb2.Proof, _Mapping]] = ..., permission: _Optional[str] = ..., resource: _Optional[str] = ..., tenant: _Optional[str] = ..., audience: _Optional[_Iterable[str]] = ..., context: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., consume: _Optional[_Iterable[_Union[_limit_pb2.Consumption, _Mapping]]] = ..., min_revision: _Optional[str] = ...) -> None: ...

class AuthorizeResponse(_message.Message):
    __slots__ = ("decision", "reason", "token", "limits", "decision_id", "revision")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    decision: _types_pb2.Decision
    reason: _error_reason_pb2.Reason
    token: _types_pb2.Token
    limits: _containers.RepeatedCompositeFieldContainer[_limit_pb2.LimitResult]
    decision_id: str
    revision: str
    def __init__(self, decision: _Optional[_Union[_types_pb2.Decision, str]] = ..., reason: _Optional[_Union[_error_reason_pb2.Reason, str]] = ..., token: _Optional[_Union[_types_pb2.Token, _Mapping]] = ..., limits: _Optional[_Iterable[_Union[_limit_pb2.LimitResult, _Mapping]]] = ..., decision_id: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...
