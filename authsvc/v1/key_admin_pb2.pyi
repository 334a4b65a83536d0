import datetime

from authsvc.v1 import types_pb2 as _types_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KeyState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_STATE_UNSPECIFIED: _ClassVar[KeyState]
    KEY_STATE_PENDING: _ClassVar[KeyState]
    KEY_STATE_ACTIVE: _ClassVar[KeyState]
    KEY_STATE_RETIRING: _ClassVar[KeyState]
    KEY_STATE_RETIRED: _ClassVar[KeyState]
    KEY_STATE_REVOKED: _ClassVar[KeyState]
KEY_STATE_UNSPECIFIED: KeyState
KEY_STATE_PENDING: KeyState
KEY_STATE_ACTIVE: KeyState
KEY_STATE_RETIRING: KeyState
KEY_STATE_RETIRED: KeyState
KEY_STATE_REVOKED: KeyState

class Key(_message.Message):
    __slots__ = ("kid", "algorithm", "state", "create_time", "activate_after", "activate_time", "retire_time", "expire_time", "revoke_time", "revoke_reason")
    KID_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_AFTER_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_TIME_FIELD_NUMBER: _ClassVar[int]
    RETIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVOKE_REASON_FIELD_NUMBER: _ClassVar[int]
    kid: str
    algorithm: _types_pb2.Algorithm
    state: KeyState
    create_time: _timestamp_pb2.Timestamp
    activate_after: _timestamp_pb2.Timestamp
    activate_time: _timestamp_pb2.Timestamp
    retire_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    revoke_time: _timestamp_pb2.Timestamp
    revoke_reason: str
    def __init__(self, kid: _Optional[str] = ..., algorithm: _Optional[_Union[_types_pb2.Algorithm, str]] = ..., state: _Optional[_Union[KeyState, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., activate_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., activate_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., retire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_reason: _Optional[str] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "min_revision")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    min_revision: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., min_revision: _Optional[str] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("keys", "next_page_token", "revision")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    next_page_token: str
    revision: str
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class RotateKeyRequest(_message.Message):
    __slots__ = ("algorithm", "force", "min_revision")
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    algorithm: _types_pb2.Algorithm
    force: bool
    min_revision: str
    def __init__(self, algorithm: _Optional[_Union[_types_pb2.Algorithm, str]] = ..., force: _Optional[bool] = ..., min_revision: _Optional[str] = ...) -> None: ...

class RotateKeyResponse(_message.Message):
    __slots__ = ("active", "standby", "retiring", "revision")
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    RETIRING_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    active: Key
    standby: Key
    retiring: Key
    revision: str
    def __init__(self, active: _Optional[_Union[Key, _Mapping]] = ..., standby: _Optional[_Union[Key, _Mapping]] = ..., retiring: _Optional[_Union[Key, _Mapping]] = ..., revision: _Optional[str] = ...) -> None: ...

class RevokeKeyRequest(_message.Message):
    __slots__ = ("kid", "reason", "dry_run", "all_keys", "all_tokens", "min_revision")
    KID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    ALL_KEYS_FIELD_NUMBER: _ClassVar[int]
    ALL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    kid: str
    reason: str
    dry_run: bool
    all_keys: bool
    all_tokens: bool
    min_revision: str
    def __init__(self, kid: _Optional[str] = ..., reason: _Optional[str] = ..., dry_run: _Optional[bool] = ..., all_keys: _Optional[bool] = ..., all_tokens: _Optional[bool] = ..., min_revision: _Optional[str] = ...) -> None: ...

class RevokeKeyResponse(_message.Message):
    __slots__ = ("revoked_kids", "active_kid", "not_before", "watchers", "acknowledged", "offline_until", "revision")
    REVOKED_KIDS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_KID_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    WATCHERS_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    OFFLINE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revoked_kids: _containers.RepeatedScalarFieldContainer[str]
    active_kid: str
    not_before: _timestamp_pb2.Timestamp
    watchers: int
    acknowledged: int
    offline_until: _timestamp_pb2.Timestamp
    revision: str
    def __init__(self, revoked_kids: _Optional[_Iterable[str]] = ..., active_kid: _Optional[str] = ..., not_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., watchers: _Optional[int] = ..., acknowledged: _Optional[int] = ..., offline_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[str] = ...) -> None: ...

class GetPropagationRequest(_message.Message):
    __slots__ = ("holding", "min_revision")
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    holding: str
    min_revision: str
    def __init__(self, holding: _Optional[str] = ..., min_revision: _Optional[str] = ...) -> None: ...

class GetPropagationResponse(_message.Message):
    __slots__ = ("replicas", "holding", "revision")
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    holding: str
    revision: str
    def __init__(self, replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., holding: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("replica_id", "revision", "watchers", "acknowledged", "age")
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WATCHERS_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    replica_id: str
    revision: str
    watchers: int
    acknowledged: int
    age: _duration_pb2.Duration
    def __init__(self, replica_id: _Optional[str] = ..., revision: _Optional[str] = ..., watchers: _Optional[int] = ..., acknowledged: _Optional[int] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
