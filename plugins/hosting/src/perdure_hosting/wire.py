"""Envelopes as frames, and back. The frames of a session are read here, at its two edges; a host hands payloads on.

A host needs a frame to say something else to its next reader: another number, or who shall get it. It appends those
fields: of a field that stands twice in a protobuf message the last one counts, and what is repeated adds up. So nothing
that a sender put into a field which only hosts fill gets past them: they append it whatever stood there, or refuse.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from google.protobuf.message import DecodeError

from perdure.errors import InvalidInput, NotEncodable
from perdure.messages import (
    AgentId,
    Envelope,
    ErrorInfo,
    Hosted,
    Presence,
    Subscription,
    TopicId,
    Whereabouts,
)
from perdure_hosting import wire_pb2 as pb
from perdure_hosting.errors import ProtocolViolated
from perdure_hosting.wire_pb2 import Frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

REQUEST: Final = Frame.REQUEST
REPLY: Final = Frame.REPLY
ERROR: Final = Frame.ERROR
EVENT: Final = Frame.EVENT

JSON: Final = "application/json"

_NO_CALL: Final = b"\x11" + bytes(8)
_SHORT: Final = [bytes((number,)) for number in range(0x80)]

_KINDS: Final[dict[Frame.Kind, Literal["request", "reply", "error", "event"]]] = {
    REQUEST: "request",
    REPLY: "reply",
    ERROR: "error",
    EVENT: "event",
}
_NUMBERS: Final = {name: kind for kind, name in _KINDS.items()}
_SUBSCRIBED: Final[dict[Literal["type", "prefix", "custom"], pb.Subscription.Kind]] = {
    "type": pb.Subscription.TYPE,
    "prefix": pb.Subscription.PREFIX,
    "custom": pb.Subscription.CUSTOM,
}
_SUBSCRIBES: Final[dict[pb.Subscription.Kind, Literal["type", "prefix", "custom"]]] = {
    kind: name for name, kind in _SUBSCRIBED.items()
}

# -- frames


def parsed(raw: bytes) -> Frame:
    """Read a frame. Raises ``ProtocolViolated``."""
    try:
        return Frame.FromString(raw)
    except DecodeError as error:
        msg = f"a frame of {len(raw)} bytes cannot be read: {error}"
        raise ProtocolViolated(msg) from error


def renumbered(raw: bytes, call: int) -> bytes:
    """The same frame under another call."""
    return b"%b\x11%b" % (raw, call.to_bytes(8, "little"))


def addressed(raw: bytes, targets: Iterable[AgentId]) -> bytes:
    """An event for one worker: whom it is for there. It expects nothing, so it is of no call."""
    return b"".join((raw, _NO_CALL, *map(_target, targets)))


@lru_cache(maxsize=4096)
def _target(target: AgentId) -> bytes:
    type_, key = target.type.encode(), target.key.encode()
    return b"\x7a%b%b\x7a%b%b" % (varint(len(type_)), type_, varint(len(key)), key)


def varint(number: int) -> bytes:
    """A non-negative integer as protobuf writes it."""
    if number < 0x80:  # noqa: PLR2004 - seven bits
        return _SHORT[number]
    parts = bytearray()
    while number >= 0x80:  # noqa: PLR2004 - as above
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def asking(raw: bytes) -> bytes:
    """The same request, with the question where its target lives."""
    return raw + b"\xa0\x01\x01"


# -- messages


def framed(envelope: Envelope, call: int) -> bytes:
    """A request or event as a frame. Raises ``NotEncodable``: its payload is no bytes, or a text is no Unicode.

    What many messages have in common is written once and kept: the rest is appended to it, as protobuf allows.
    """
    id_, kind, target, type_, payload, sender, headers, deadline, topic, content = envelope
    try:
        common = _common(_NUMBERS[kind], target, type_, sender, topic, content)
        raw = _CHANGING % (
            common,
            varint(len(id_) if id_.isascii() else len(id_.encode())),
            id_.encode(),
            varint(len(payload)),
            payload,
            call.to_bytes(8, "little"),
        )
        if headers or deadline is not None:
            raw += Frame(headers=headers, deadline=deadline or 0.0).SerializeToString()
    except (TypeError, ValueError) as error:
        msg = (
            f"message {type_!r} to {str(target or topic)!r} cannot be sent: {error}; between processes a payload is"
            " bytes, with its media type in `content`, and all texts are Unicode"
        )
        raise NotEncodable(msg) from error
    return raw


def answered(answer: Envelope, call: int) -> bytes:
    """A reply or error as a frame: who asked knows the rest. Raises ``NotEncodable``."""
    payload, content = answer.payload, answer.content
    if isinstance(payload, ErrorInfo):
        payload, content = payload.model_dump_json().encode(), JSON
    try:
        raw = b"%b\x3a%b%b\x11%b" % (
            _common(_NUMBERS[answer.kind], None, answer.type, None, None, content),
            varint(len(payload)),
            payload,
            call.to_bytes(8, "little"),
        )
        if answer.headers:
            raw += Frame(headers=answer.headers).SerializeToString()
    except (TypeError, ValueError) as error:
        msg = f"the {answer.kind} cannot be sent: {error}; between processes a payload is bytes, texts are Unicode"
        raise NotEncodable(msg) from error
    return raw


_CHANGING: Final = b"%b\x42%b%b\x3a%b%b\x11%b"
"""What stands before, and the fields ``id``, ``payload`` and ``call``."""


@lru_cache(maxsize=4096)
def _common(
    kind: Frame.Kind, target: AgentId | None, type_: str, sender: AgentId | None, topic: TopicId | None, content: str
) -> bytes:
    frame = Frame(kind=kind, type=type_, content=content)
    if target is not None:
        frame.target_type, frame.target_key = target
    if sender is not None:
        frame.sender_type, frame.sender_key = sender
    if topic is not None:
        frame.topic_type, frame.topic_source = topic
    return frame.SerializeToString()


def envelope_of(frame: Frame, target: AgentId | None = None) -> Envelope:
    """A request or event as it is delivered; ``target`` stands for the frame's own."""
    type_, sender, topic = frame.target_type, frame.sender_type, frame.topic_type
    headers = frame.headers
    return Envelope(
        frame.id,
        _KINDS[frame.kind],
        target or (AgentId(type_, frame.target_key) if type_ else None),
        frame.type,
        frame.payload,
        AgentId(sender, frame.sender_key) if sender else None,
        dict(headers) if headers else {},
        frame.deadline or None,
        TopicId(topic, frame.topic_source) if topic else None,
        frame.content,
    )


def answer_of(frame: Frame, request: Envelope) -> Envelope:
    """A reply or error as the sender of the request gets it."""
    kind = "reply" if frame.kind == REPLY else "error"
    headers = frame.headers
    return Envelope(
        request.id,
        kind,
        request.sender,
        frame.type,
        frame.payload,
        headers=dict(headers) if headers else {},
        content=frame.content,
    )


def failure(call: int, error: BaseException | ErrorInfo) -> bytes:
    """What ends a call with an error."""
    info = error if isinstance(error, ErrorInfo) else ErrorInfo.of(error)
    return Frame(kind=ERROR, call=call, content=JSON, payload=info.model_dump_json().encode()).SerializeToString()


def error_of(frame: Frame) -> ErrorInfo:
    """What an error frame carries; something to that effect, where it cannot be read."""
    try:
        return ErrorInfo.model_validate_json(frame.payload)
    except ValueError:
        return ErrorInfo.of(InvalidInput(f"an error of {len(frame.payload)} bytes that cannot be read"))


def note(kind: Frame.Kind, call: int) -> bytes:
    """A frame that says nothing but its kind and call."""
    return b"\x08%b\x11%b" % (varint(kind), call.to_bytes(8, "little"))


# -- what lives where


def announcement(presence: Presence, call: int) -> bytes:
    """What lives with the sender."""
    return Frame(
        kind=Frame.ANNOUNCE,
        call=call,
        agents=[
            pb.Hosted(type=each.type, durable=each.durable, description=each.description) for each in presence.agents
        ],
        subscriptions=[
            pb.Subscription(id=each.id, agent=each.agent, topic=each.topic, kind=_SUBSCRIBED[each.kind])
            for each in presence.subscriptions
        ],
    ).SerializeToString()


def presence_of(frame: Frame) -> Presence:
    """What was announced."""
    return Presence(
        tuple(Hosted(each.type, each.durable, each.description) for each in frame.agents),
        tuple(
            Subscription(each.id, each.agent, each.topic, _SUBSCRIBES[each.kind])
            for each in frame.subscriptions
            if each.kind in _SUBSCRIBES
        ),
    )


def found(where: Sequence[Whereabouts], call: int) -> bytes:
    """The answer to a discovery."""
    return Frame(
        kind=Frame.FOUND, call=call, where=[pb.Whereabouts(**each._asdict()) for each in where]
    ).SerializeToString()


def whereabouts_of(frame: Frame) -> list[Whereabouts]:
    """What was found."""
    return [Whereabouts(each.type, each.worker, each.instances, each.healthy, each.durable) for each in frame.where]
