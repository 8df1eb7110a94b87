"""CloudEvents 1.0 in the HTTP binding: events out of requests, and into responses. Sans I/O.

Sources: *CloudEvents* 1.0.2, its *HTTP Protocol Binding* and its *JSON Event Format*. Of an event's data, only JSON and
protocol buffers are known here, for only they have message types; JSON in the binary mode is passed on as it came.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from urllib.parse import quote, unquote

from pydantic_core import from_json, to_json

from perdure.errors import InvalidInput, PayloadTooLarge, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STRUCTURED: Final = "application/cloudevents+json"
BATCHED: Final = "application/cloudevents-batch+json"
JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"

_CONTENTS: Final = {JSON: JSON, "text/json": JSON, PROTOBUF: PROTOBUF, "application/protobuf": PROTOBUF}
_REQUIRED: Final = ("id", "source", "type")
_NAME: Final = re.compile(r"[a-z0-9]{1,64}")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PREFIX: Final = "ce-"
_UNQUOTED: Final = "".join(chr(n) for n in range(0x21, 0x7F) if chr(n) not in '"%')
_ATTRIBUTES: Final = 64
_LONGEST: Final = 4096


class MediaUnsupported(UsageError):
    """A body, or an event's data, of a media type that is not taken; the message says which are."""


class Event(NamedTuple):
    """One CloudEvent.

    Attributes:
        id: With ``source``, what tells it from others.
        source: Where it comes from, a URI or path.
        type: The name of the message's type.
        content: The data's media type, as Perdure writes it: ``application/json`` or ``application/x-protobuf``.
        data: The message.
        more: The other attributes (``time``, ``subject``) and extensions (``traceparent``), as text.
    """

    id: str
    source: str
    type: str
    content: str
    data: bytes
    more: dict[str, str]


# -- reading


def from_binary(headers: Iterable[tuple[str, str]], content: str, body: bytes) -> Event:
    """The event of a request in the binary mode: attributes in ``ce-`` headers, data in the body.

    Raises:
        InvalidInput: It is no event.
        MediaUnsupported: Its data is neither JSON nor a protocol buffer.
    """
    attributes: dict[str, Any] = {}
    for header, value in headers:
        name = header.lower()
        if name.startswith(_PREFIX):
            if name[3:] in attributes:
                msg = f"the header {header!r} stands there twice"
                raise InvalidInput(msg)
            attributes[name[3:]] = _unquoted(value)
    if content.strip():
        attributes["datacontenttype"] = content
    return _event(attributes, body, "the request: send each attribute as a header, as in -H 'ce-id: 1'")


def from_structured(body: bytes) -> Event:
    """The event of a body in the structured mode. Raises as ``from_binary``."""
    return _from_json(_parsed(body), "the body")


def from_batch(body: bytes, limit: int) -> list[Event]:
    """The events of a body in the batched mode. Raises as ``from_binary``; ``PayloadTooLarge``: more than ``limit``."""
    events = _parsed(body)
    if not isinstance(events, list):
        msg = f"a batch is a JSON array of events, not {_kind(events)}"
        raise InvalidInput(msg)
    items = cast("list[Any]", events)
    if len(items) > limit:
        msg = f"a batch of {len(items)} events, and {limit} are allowed at once: send several batches"
        raise PayloadTooLarge(msg)
    return [_from_json(item, f"event {number} of the batch") for number, item in enumerate(items, 1)]


def _parsed(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        msg = f"the body is no JSON: {error}"
        raise InvalidInput(msg) from None


def _from_json(item: Any, where: str) -> Event:
    if not isinstance(item, dict):
        msg = f"{where} is {_kind(item)}, expected a JSON object with the attributes of a CloudEvent"
        raise InvalidInput(msg)
    attributes = {name: value for name, value in cast("dict[str, Any]", item).items() if value is not None}
    data, text = cast("dict[str, Any]", item).get("data"), attributes.pop("data_base64", None)
    has_data = attributes.pop("data", None) is not None
    if text is None:
        return _event(attributes, to_json(data), where, binary=False)
    if has_data:
        msg = f"{where} has both 'data' and 'data_base64': send one of them"
        raise InvalidInput(msg)
    try:
        return _event(attributes, b64decode(text, validate=True), where)
    except (TypeError, ValueError) as error:
        msg = f"the 'data_base64' of {where} is no base64: {error}"
        raise InvalidInput(msg) from None


def _event(attributes: dict[str, Any], data: bytes, where: str, *, binary: bool = True) -> Event:
    texts = _texts(attributes, where)
    if texts.get("specversion") != "1.0":
        msg = f"the 'specversion' of {where} is {texts.get('specversion')!r}, expected '1.0'"
        raise InvalidInput(msg)
    missing = [name for name in _REQUIRED if not texts.get(name)]
    if missing:
        msg = f"there is no {' and no '.join(map(repr, missing))} in {where}"
        raise InvalidInput(msg)
    media = texts.pop("datacontenttype", JSON).partition(";")[0].strip().lower()
    content = _CONTENTS.get(media) or (JSON if media.endswith("+json") else "")
    if not content or (content == PROTOBUF and not binary):
        expected = "expected 'data_base64' for it" if content else f"expected {JSON!r} or {PROTOBUF!r}"
        msg = f"data of the media type {media!r} in {where}: {expected}"
        raise MediaUnsupported(msg)
    id_, source, type_ = (texts.pop(name) for name in _REQUIRED)
    del texts["specversion"]
    return Event(id_, source, type_, content, data or (b"null" if content == JSON else b""), texts)


def _texts(attributes: dict[str, Any], where: str) -> dict[str, str]:
    """All attributes as text. Raises ``InvalidInput``."""
    if len(attributes) > _ATTRIBUTES:
        msg = f"{len(attributes)} attributes in {where}: at most {_ATTRIBUTES} are taken"
        raise InvalidInput(msg)
    texts: dict[str, str] = {}
    for name, value in attributes.items():
        if not _NAME.fullmatch(name) or name == "data":
            msg = f"the attribute {name[:80]!r} in {where} has no name: expected up to 64 of a-z and 0-9, not 'data'"
            raise InvalidInput(msg)
        text = str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int) else value
        if not isinstance(text, str) or len(text) > _LONGEST or _CONTROLS.search(text):
            msg = f"the attribute {name!r} in {where} is no text of up to {_LONGEST} characters without controls"
            raise InvalidInput(msg)
        texts[name] = text
    return texts


def _unquoted(value: str) -> str:
    """A header's value as the text that it stands for. Raises ``InvalidInput``."""
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        msg = f"the header's value {value!r} is no percent-encoded UTF-8"
        raise InvalidInput(msg) from None


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


# -- writing


def as_binary(event: Event) -> tuple[dict[str, str], bytes]:
    """Headers and body of an event in the binary mode."""
    attributes = {"specversion": "1.0", "id": event.id, "source": event.source, "type": event.type, **event.more}
    headers = {f"{_PREFIX}{name}": quote(value, safe=_UNQUOTED) for name, value in attributes.items()}
    return {"Content-Type": event.content, **headers}, event.data


def as_structured(event: Event) -> bytes:
    """An event in the structured mode. Its data, if it is JSON, stands there as it is."""
    attributes: Mapping[str, str] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "datacontenttype": event.content,
        **event.more,
    }
    data = event.data if event.content == JSON else to_json(b64encode(event.data).decode())
    field = b"data" if event.content == JSON else b"data_base64"
    return b'%b,"%b":%b}' % (to_json(attributes)[:-1], field, data)
