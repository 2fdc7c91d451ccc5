from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListLabelsRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ListLabelsResponse(_message.Message):
    __slots__ = ("labels", "moves")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[VersionLabel]
    moves: _containers.RepeatedCompositeFieldContainer[Move]
    def __init__(self, labels: _Optional[_Iterable[_Union[VersionLabel, _Mapping]]] = ..., moves: _Optional[_Iterable[_Union[Move, _Mapping]]] = ...) -> None: ...

class VersionLabel(_message.Message):
    __slots__ = ("label", "version", "share")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    label: str
    version: int
    share: float
    def __init__(self, label: _Optional[str] = ..., version: _Optional[int] = ..., share: _Optional[float] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("model", "label", "version", "share")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    model: str
    label: str
    version: int
    share: float
    def __init__(self, model: _Optional[str] = ..., label: _Optional[str] = ..., version: _Optional[int] = ..., share: _Optional[float] = ...) -> None: ...

class RollBackRequest(_message.Message):
    __slots__ = ("model", "label")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    label: str
    def __init__(self, model: _Optional[str] = ..., label: _Optional[str] = ...) -> None: ...

class Move(_message.Message):
    __slots__ = ("time", "who", "by", "label", "before", "after", "share", "why")
    TIME_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    time: str
    who: str
    by: str
    label: str
    before: int
    after: int
    share: float
    why: str
    def __init__(self, time: _Optional[str] = ..., who: _Optional[str] = ..., by: _Optional[str] = ..., label: _Optional[str] = ..., before: _Optional[int] = ..., after: _Optional[int] = ..., share: _Optional[float] = ..., why: _Optional[str] = ...) -> None: ...
