from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Packet(_message.Message):
    __slots__ = ("hello", "welcome", "goodbye", "first", "ack", "taken_frames", "taken_bytes", "urgent", "frames")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FRAMES_FIELD_NUMBER: _ClassVar[int]
    TAKEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    URGENT_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    welcome: Welcome
    goodbye: Goodbye
    first: int
    ack: int
    taken_frames: int
    taken_bytes: int
    urgent: bool
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., first: _Optional[int] = ..., ack: _Optional[int] = ..., taken_frames: _Optional[int] = ..., taken_bytes: _Optional[int] = ..., urgent: _Optional[bool] = ..., frames: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "name", "resume", "received", "ticket", "address")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    name: str
    resume: str
    received: int
    ticket: str
    address: str
    def __init__(self, protocol: _Optional[int] = ..., name: _Optional[str] = ..., resume: _Optional[str] = ..., received: _Optional[int] = ..., ticket: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "name", "resume", "resumed", "received", "window_frames", "window_bytes", "max_frame", "heartbeat", "silence", "grace", "deadline")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FRAMES_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    SILENCE_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    name: str
    resume: str
    resumed: bool
    received: int
    window_frames: int
    window_bytes: int
    max_frame: int
    heartbeat: float
    silence: float
    grace: float
    deadline: float
    def __init__(self, protocol: _Optional[int] = ..., name: _Optional[str] = ..., resume: _Optional[str] = ..., resumed: _Optional[bool] = ..., received: _Optional[int] = ..., window_frames: _Optional[int] = ..., window_bytes: _Optional[int] = ..., max_frame: _Optional[int] = ..., heartbeat: _Optional[float] = ..., silence: _Optional[float] = ..., grace: _Optional[float] = ..., deadline: _Optional[float] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason", "message")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Goodbye.Reason]
        LEAVING: _ClassVar[Goodbye.Reason]
        STOPPING: _ClassVar[Goodbye.Reason]
        WRONG_PROTOCOL: _ClassVar[Goodbye.Reason]
        DUPLICATE_NAME: _ClassVar[Goodbye.Reason]
        NOT_PERMITTED: _ClassVar[Goodbye.Reason]
        MALFORMED: _ClassVar[Goodbye.Reason]
        OVERSIZE: _ClassVar[Goodbye.Reason]
        REPLACED: _ClassVar[Goodbye.Reason]
        BUSY: _ClassVar[Goodbye.Reason]
    UNKNOWN: Goodbye.Reason
    LEAVING: Goodbye.Reason
    STOPPING: Goodbye.Reason
    WRONG_PROTOCOL: Goodbye.Reason
    DUPLICATE_NAME: Goodbye.Reason
    NOT_PERMITTED: Goodbye.Reason
    MALFORMED: Goodbye.Reason
    OVERSIZE: Goodbye.Reason
    REPLACED: Goodbye.Reason
    BUSY: Goodbye.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: Goodbye.Reason
    message: str
    def __init__(self, reason: _Optional[_Union[Goodbye.Reason, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("kind", "call", "target_type", "target_key", "type", "content", "payload", "id", "sender_type", "sender_key", "topic_type", "topic_source", "headers", "deadline", "targets", "agents", "subscriptions", "where", "located", "locate")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NONE: _ClassVar[Frame.Kind]
        REQUEST: _ClassVar[Frame.Kind]
        REPLY: _ClassVar[Frame.Kind]
        ERROR: _ClassVar[Frame.Kind]
        EVENT: _ClassVar[Frame.Kind]
        CANCEL: _ClassVar[Frame.Kind]
        PENDING: _ClassVar[Frame.Kind]
        DONE: _ClassVar[Frame.Kind]
        ANNOUNCE: _ClassVar[Frame.Kind]
        DISCOVER: _ClassVar[Frame.Kind]
        FOUND: _ClassVar[Frame.Kind]
        LOCATED: _ClassVar[Frame.Kind]
        EXPECT: _ClassVar[Frame.Kind]
        MOVED: _ClassVar[Frame.Kind]
    NONE: Frame.Kind
    REQUEST: Frame.Kind
    REPLY: Frame.Kind
    ERROR: Frame.Kind
    EVENT: Frame.Kind
    CANCEL: Frame.Kind
    PENDING: Frame.Kind
    DONE: Frame.Kind
    ANNOUNCE: Frame.Kind
    DISCOVER: Frame.Kind
    FOUND: Frame.Kind
    LOCATED: Frame.Kind
    EXPECT: Frame.Kind
    MOVED: Frame.Kind
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    TARGET_TYPE_FIELD_NUMBER: _ClassVar[int]
    TARGET_KEY_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_TYPE_FIELD_NUMBER: _ClassVar[int]
    SENDER_KEY_FIELD_NUMBER: _ClassVar[int]
    TOPIC_TYPE_FIELD_NUMBER: _ClassVar[int]
    TOPIC_SOURCE_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    LOCATED_FIELD_NUMBER: _ClassVar[int]
    LOCATE_FIELD_NUMBER: _ClassVar[int]
    kind: Frame.Kind
    call: int
    target_type: str
    target_key: str
    type: str
    content: str
    payload: bytes
    id: str
    sender_type: str
    sender_key: str
    topic_type: str
    topic_source: str
    headers: _containers.ScalarMap[str, str]
    deadline: float
    targets: _containers.RepeatedScalarFieldContainer[str]
    agents: _containers.RepeatedCompositeFieldContainer[Hosted]
    subscriptions: _containers.RepeatedCompositeFieldContainer[Subscription]
    where: _containers.RepeatedCompositeFieldContainer[Whereabouts]
    located: Located
    locate: bool
    def __init__(self, kind: _Optional[_Union[Frame.Kind, str]] = ..., call: _Optional[int] = ..., target_type: _Optional[str] = ..., target_key: _Optional[str] = ..., type: _Optional[str] = ..., content: _Optional[str] = ..., payload: _Optional[bytes] = ..., id: _Optional[str] = ..., sender_type: _Optional[str] = ..., sender_key: _Optional[str] = ..., topic_type: _Optional[str] = ..., topic_source: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ..., deadline: _Optional[float] = ..., targets: _Optional[_Iterable[str]] = ..., agents: _Optional[_Iterable[_Union[Hosted, _Mapping]]] = ..., subscriptions: _Optional[_Iterable[_Union[Subscription, _Mapping]]] = ..., where: _Optional[_Iterable[_Union[Whereabouts, _Mapping]]] = ..., located: _Optional[_Union[Located, _Mapping]] = ..., locate: _Optional[bool] = ...) -> None: ...

class Hosted(_message.Message):
    __slots__ = ("type", "durable", "description")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    type: str
    durable: bool
    description: str
    def __init__(self, type: _Optional[str] = ..., durable: _Optional[bool] = ..., description: _Optional[str] = ...) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("id", "agent", "topic", "kind")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TYPE: _ClassVar[Subscription.Kind]
        PREFIX: _ClassVar[Subscription.Kind]
        CUSTOM: _ClassVar[Subscription.Kind]
    TYPE: Subscription.Kind
    PREFIX: Subscription.Kind
    CUSTOM: Subscription.Kind
    ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    id: str
    agent: str
    topic: str
    kind: Subscription.Kind
    def __init__(self, id: _Optional[str] = ..., agent: _Optional[str] = ..., topic: _Optional[str] = ..., kind: _Optional[_Union[Subscription.Kind, str]] = ...) -> None: ...

class Whereabouts(_message.Message):
    __slots__ = ("type", "worker", "instances", "healthy", "durable")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    type: str
    worker: str
    instances: int
    healthy: bool
    durable: bool
    def __init__(self, type: _Optional[str] = ..., worker: _Optional[str] = ..., instances: _Optional[int] = ..., healthy: _Optional[bool] = ..., durable: _Optional[bool] = ...) -> None: ...

class Located(_message.Message):
    __slots__ = ("worker", "address", "ticket", "may_send", "may_host", "valid")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    MAY_SEND_FIELD_NUMBER: _ClassVar[int]
    MAY_HOST_FIELD_NUMBER: _ClassVar[int]
    VALID_FIELD_NUMBER: _ClassVar[int]
    worker: str
    address: str
    ticket: str
    may_send: _containers.RepeatedScalarFieldContainer[str]
    may_host: _containers.RepeatedScalarFieldContainer[str]
    valid: float
    def __init__(self, worker: _Optional[str] = ..., address: _Optional[str] = ..., ticket: _Optional[str] = ..., may_send: _Optional[_Iterable[str]] = ..., may_host: _Optional[_Iterable[str]] = ..., valid: _Optional[float] = ...) -> None: ...
