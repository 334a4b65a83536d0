import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RevocationKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REVOCATION_KIND_UNSPECIFIED: _ClassVar[RevocationKind]
    REVOCATION_KIND_TOKEN: _ClassVar[RevocationKind]
    REVOCATION_KIND_SUBJECT: _ClassVar[RevocationKind]
    REVOCATION_KIND_CLIENT: _ClassVar[RevocationKind]
    REVOCATION_KIND_ISSUER: _ClassVar[RevocationKind]
REVOCATION_KIND_UNSPECIFIED: RevocationKind
REVOCATION_KIND_TOKEN: RevocationKind
REVOCATION_KIND_SUBJECT: RevocationKind
REVOCATION_KIND_CLIENT: RevocationKind
REVOCATION_KIND_ISSUER: RevocationKind

class WatchRequest(_message.Message):
    __slots__ = ("open", "acknowledgement")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    open: WatchOpen
    acknowledgement: WatchAcknowledgement
    def __init__(self, open: _Optional[_Union[WatchOpen, _Mapping]] = ..., acknowledgement: _Optional[_Union[WatchAcknowledgement, _Mapping]] = ...) -> None: ...

class WatchOpen(_message.Message):
    __slots__ = ("keys", "revocations", "known_revision", "known_digest", "min_revision")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_REVISION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    keys: bool
    revocations: bool
    known_revision: str
    known_digest: bytes
    min_revision: str
    def __init__(self, keys: _Optional[bool] = ..., revocations: _Optional[bool] = ..., known_revision: _Optional[str] = ..., known_digest: _Optional[bytes] = ..., min_revision: _Optional[str] = ...) -> None: ...

class WatchAcknowledgement(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: str
    def __init__(self, revision: _Optional[str] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("state", "delta", "heartbeat", "revision", "digest", "age", "max_stale", "max_token_age")
    STATE_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    MAX_STALE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKEN_AGE_FIELD_NUMBER: _ClassVar[int]
    state: WatchState
    delta: WatchDelta
    heartbeat: WatchHeartbeat
    revision: str
    digest: bytes
    age: _duration_pb2.Duration
    max_stale: _duration_pb2.Duration
    max_token_age: _duration_pb2.Duration
    def __init__(self, state: _Optional[_Union[WatchState, _Mapping]] = ..., delta: _Optional[_Union[WatchDelta, _Mapping]] = ..., heartbeat: _Optional[_Union[WatchHeartbeat, _Mapping]] = ..., revision: _Optional[str] = ..., digest: _Optional[bytes] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_stale: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_token_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchState(_message.Message):
    __slots__ = ("keys", "revocations", "partial", "remote")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    REMOTE_FIELD_NUMBER: _ClassVar[int]
    keys: KeySet
    revocations: _containers.RepeatedCompositeFieldContainer[Revocation]
    partial: bool
    remote: bool
    def __init__(self, keys: _Optional[_Union[KeySet, _Mapping]] = ..., revocations: _Optional[_Iterable[_Union[Revocation, _Mapping]]] = ..., partial: _Optional[bool] = ..., remote: _Optional[bool] = ...) -> None: ...

class WatchDelta(_message.Message):
    __slots__ = ("keys", "revocations")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    keys: KeySet
    revocations: _containers.RepeatedCompositeFieldContainer[Revocation]
    def __init__(self, keys: _Optional[_Union[KeySet, _Mapping]] = ..., revocations: _Optional[_Iterable[_Union[Revocation, _Mapping]]] = ...) -> None: ...

class WatchHeartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KeySet(_message.Message):
    __slots__ = ("issuer", "jwks", "revoked_kids")
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    JWKS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_KIDS_FIELD_NUMBER: _ClassVar[int]
    issuer: str
    jwks: str
    revoked_kids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, issuer: _Optional[str] = ..., jwks: _Optional[str] = ..., revoked_kids: _Optional[_Iterable[str]] = ...) -> None: ...

class Revocation(_message.Message):
    __slots__ = ("kind", "digest", "before_epoch", "before_number", "expire_seconds")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    BEFORE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    BEFORE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    kind: RevocationKind
    digest: bytes
    before_epoch: int
    before_number: int
    expire_seconds: int
    def __init__(self, kind: _Optional[_Union[RevocationKind, str]] = ..., digest: _Optional[bytes] = ..., before_epoch: _Optional[int] = ..., before_number: _Optional[int] = ..., expire_seconds: _Optional[int] = ...) -> None: ...
