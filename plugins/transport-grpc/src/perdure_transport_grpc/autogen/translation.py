"""Envelopes as AutoGen's workers write messages, and back. Payloads are handed on as they are.

Only trace context goes along as headers: other metadata of theirs means nothing here, and ours nothing there. Protobuf
payloads travel as an ``Any`` there, and as the message itself here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from perdure.errors import InvalidInput
from perdure.messages import AgentId, Envelope, ErrorInfo, TopicId
from perdure_transport_grpc.autogen import agent_worker_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

TOPIC_TYPE: Final = re.compile(r"[\w\-.:=]+")
JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"

_TRACE: Final = ("traceparent", "tracestate", "baggage")
_NOBODY: Final = AgentId("unknown", "unknown")
"""What their Python worker calls the sender where there is none."""

_EMPTY_ERROR: Final = "the handler raised an error without a text, or answered without a payload"

# -- what a worker says


def request_of(request: pb.RpcRequest, id: str, target: AgentId, deadline: float) -> Envelope:
    """A worker's request. Raises ``InvalidInput``: its payload is no ``Any`` though it says so."""
    type_, content, payload = _unwrapped(request.payload)
    return Envelope(
        id,
        "request",
        target,
        type_,
        payload,
        _sender(request.source.type, request.source.key) if request.HasField("source") else None,
        _headers(request.metadata),
        deadline,
        content=content,
    )


def event_of(event: pb.CloudEvent, id: str) -> Envelope:
    """A worker's publication. Raises ``InvalidInput``: there is no such topic."""
    attributes = {name: value.ce_string for name, value in event.attributes.items()}
    topic = TopicId(event.type, event.source)
    if not (event.source and TOPIC_TYPE.fullmatch(event.type)):
        msg = (
            f"cloud event {event.id!r} cannot be published on {str(topic)!r}: expected a type of letters, digits and"
            " '_-.:=', and a source, which is the key of the agents that get it"
        )
        raise InvalidInput(msg)
    type_, content = attributes.get("dataschema", ""), attributes.get("datacontenttype", "")
    kind = event.WhichOneof("data")
    if kind == "proto_data":
        type_, content = type_ or _named(event.proto_data), PROTOBUF
        payload = event.proto_data.value
    else:
        payload = event.text_data.encode() if kind == "text_data" else event.binary_data
    sender = _sender(attributes.get("agagentsendertype", ""), attributes.get("agagentsenderkey", ""))
    headers = _headers(attributes)
    return Envelope(id, "event", None, type_, payload, sender, headers, topic=topic, content=content or JSON)


def answer_of(response: pb.RpcResponse, request: Envelope) -> Envelope:
    """A worker's answer to a request that went there."""
    if response.error or not response.HasField("payload"):
        # Their wire carries the text of an exception only: its type stays with the worker.
        return request.failed(ErrorInfo(type="Exception", message=response.error or _EMPTY_ERROR))
    try:
        type_, content, payload = _unwrapped(response.payload)
    except InvalidInput as error:
        return request.failed(error)
    headers = _headers(response.metadata)
    return Envelope(request.id, "reply", request.sender, type_, payload, headers=headers, content=content)


# -- what a worker is told


def asking(envelope: Envelope, number: str) -> pb.Message:
    """A request, or an event for one agent, under the number that its answer will have."""
    target, sender = envelope.target or _NOBODY, envelope.sender
    request = pb.RpcRequest(
        request_id=number,
        target=pb.AgentId(type=target.type, key=target.key),
        payload=_wrapped(envelope),
        metadata=_headers(envelope.headers),
    )
    if sender is not None:
        request.source.type, request.source.key = sender
    return pb.Message(request=request)


def publishing(envelope: Envelope) -> pb.Message:
    """An event. Its topic must be set."""
    topic, sender = envelope.topic or TopicId("default"), envelope.sender
    attributes = {
        "datacontenttype": envelope.content,
        "dataschema": envelope.type,
        "agmsgkind": "publish",
        **_headers(envelope.headers),
    }
    if sender is not None:
        attributes["agagentsendertype"], attributes["agagentsenderkey"] = sender
    event = pb.CloudEvent(
        id=envelope.id,
        spec_version="1.0",
        type=topic.type,
        source=topic.source,
        attributes={name: pb.CloudEvent.Attribute(ce_string=value) for name, value in attributes.items()},
    )
    if envelope.content == PROTOBUF:
        event.proto_data.CopyFrom(_any(envelope))
    else:
        event.binary_data = envelope.payload
    return pb.Message(cloud_event=event)


def answering(answer: Envelope, number: str) -> pb.Message:
    """The reply or error to a worker's request."""
    if answer.kind == "error":
        return failing(answer.error, number)
    metadata = _headers(answer.headers)
    return pb.Message(response=pb.RpcResponse(request_id=number, payload=_wrapped(answer), metadata=metadata))


def failing(error: ErrorInfo, number: str) -> pb.Message:
    """What a worker raises: there is room for a text only, so it begins with the error's type."""
    name = error.type.rpartition(".")[2]
    return pb.Message(response=pb.RpcResponse(request_id=number, error=f"{name}: {error.message}"))


# -- inside


def _headers(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: metadata[name] for name in _TRACE if name in metadata}


def _sender(type: str, key: str) -> AgentId | None:
    sender = AgentId(type, key)
    return sender if type and sender != _NOBODY else None


def _unwrapped(payload: pb.Payload) -> tuple[str, str, bytes]:
    """Type, media type and bytes, as they are here."""
    if payload.data_content_type != PROTOBUF:
        return payload.data_type, payload.data_content_type or JSON, payload.data
    try:
        packed = Any.FromString(payload.data)
    except DecodeError as error:
        msg = f"the payload {payload.data_type!r} is no google.protobuf.Any, as {PROTOBUF!r} would be: {error}"
        raise InvalidInput(msg) from error
    return payload.data_type or _named(packed), PROTOBUF, packed.value


def _wrapped(envelope: Envelope) -> pb.Payload:
    data = _any(envelope).SerializeToString() if envelope.content == PROTOBUF else envelope.payload
    return pb.Payload(data_type=envelope.type, data_content_type=envelope.content, data=data)


def _any(envelope: Envelope) -> Any:
    return Any(type_url=f"type.googleapis.com/{envelope.type}", value=envelope.payload)


def _named(packed: Any) -> str:
    return packed.type_url.rpartition("/")[2]
