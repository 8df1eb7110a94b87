"""Values to bytes and back, by the names of their types: what crosses a transport that serialises."""

from __future__ import annotations

import re
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast, get_args, get_origin

from pydantic_core import from_json, to_json

from perdure import encoding
from perdure.errors import InvalidInput
from perdure.messages import AgentId, Envelope, TopicId
from perdure_messaging.message_types import (
    JSON,
    PROTOBUF,
    declared,
    form_of,
    is_message_type,
    is_protobuf,
    naming,
    split_version,
    type_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PLAIN: Final[dict[str, Any]] = {
    "any": Any,
    "none": NoneType,
    **{kind.__name__: kind for kind in (bool, int, float, str, bytes, list, dict, tuple, set, frozenset)},
}
_Kind = Literal["request", "reply", "error", "event"]
_Who = AgentId | None
_Fields = tuple[str, _Kind, _Who, str, Any, _Who, dict[str, str], float | None, TopicId | None, str]

envelope_of: Final[Callable[[_Fields], Envelope]] = partial(cast("Any", tuple).__new__, Envelope)
"""An envelope of all its fields, for half of what its class takes, which sorts out a caller's arguments first."""

_PIECES: Final = re.compile(r"[^\[\], ]+|[\[\],]")


class Packed(NamedTuple):
    """A value as it travels: name of its type, media type, bytes."""

    type: str
    content: str
    payload: bytes


class Known:
    """Types by the name under which they travel. Later ones of the same name change nothing."""

    def __init__(self, kinds: Iterable[Any] = ()) -> None:
        self._kinds: dict[str, Any] = {}
        self.add(kinds)

    def add(self, kinds: Iterable[Any]) -> None:
        """Know these, too."""
        for kind in kinds:
            self._kinds.setdefault(split_version(type_name(get_origin(kind) or kind))[0], kind)
            self._kinds.setdefault(split_version(type_name(kind))[0], kind)

    def find(self, name: str) -> Any:
        """The type of that name, whatever its version; ``None`` if it is not known.

        Subclasses of known types are known; so is what ``message_type`` named in this process; so are builtins, and
        ``list[…]`` and the like of known types.
        """
        if "@" in name:  # most have version 1, which is not part of the name
            name, _ = split_version(name)
        found = self._kinds.get(name, _PLAIN.get(name))
        if found is None:
            found = declared(name) or next((kind for kind in self._subclasses() if type_name(kind) == name), None)
        return _composed(name, self) if found is None and name.endswith("]") else found

    def _subclasses(self) -> Iterable[type]:
        waiting = [kind for kind in self._kinds.values() if isinstance(kind, type) and is_message_type(kind)]
        seen: set[type] = set()
        while waiting:
            for kind in waiting.pop().__subclasses__():
                if kind not in seen:
                    seen.add(kind)
                    waiting.append(kind)
                    yield kind


def pack(value: object, annotation: Any, where: str) -> Packed:
    """A value as it travels, by its declared type. Raises ``NotEncodable``; ``where`` names it in the message."""
    kind = type(value)
    own, content = form_of(kind)
    if content == PROTOBUF:
        return Packed(own, PROTOBUF, cast("Any", value).SerializeToString())
    name = own if annotation is kind else type_name(annotation)
    return Packed(name, JSON, encoding.encode_and_read(value, annotation, where)[0])


def unpack(packed: Packed | Envelope, known: Known, where: str) -> Any:
    """The value again.

    Raises:
        InvalidInput: Its type is not known here, or of a newer version; or it does not fit.
    """
    annotation = known.find(packed.type)
    if annotation is None:
        msg = (
            f"{where} is a {packed.type!r}, which nothing here declares: import what declares it with"
            " @message_type, or an agent that handles it"
        )
        raise InvalidInput(msg)
    return read(packed, annotation, where)


def read(packed: Packed | Envelope, annotation: Any, where: str) -> Any:
    """The value again, of a type that was found. Raises ``InvalidInput``: it is of a newer version, or does not fit."""
    where = f"{where}, a {packed.type!r},"
    name, expected = form_of(annotation) if isinstance(annotation, type) else (type_name(annotation), JSON)
    if packed.content != expected:
        msg = f"{where} came as {packed.content!r}, expected {expected!r}"
        raise InvalidInput(msg)
    if expected == PROTOBUF:
        return _from_protobuf(packed.payload, annotation, where)
    payload = packed.payload if packed.type == name else _upcast(packed, annotation, where)
    return encoding.decode(payload, annotation, where)


def _from_protobuf(payload: bytes, annotation: Any, where: str) -> Any:
    try:
        return annotation.FromString(payload)
    except Exception as error:  # the library is not imported here, so neither is its DecodeError
        msg = f"{where} cannot be read: {error}"
        raise InvalidInput(msg) from error


def _upcast(packed: Packed | Envelope, annotation: Any, where: str) -> bytes:
    given, payload = naming(get_origin(annotation) or annotation), packed.payload
    current, (_, version) = given.version if given else 1, split_version(packed.type)
    if version == current:
        return payload
    if given is None or version > current:
        msg = f"{where} is of version {version}, and this process knows up to {current}: upgrade it"
        raise InvalidInput(msg)
    try:
        value = from_json(payload)
        for step in range(version, current):
            if step not in given.upcasts:
                msg = f"{where} is of version {version}; there is no upcast from {step}: give @message_type one"
                raise InvalidInput(msg)
            value = given.upcasts[step](value)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        msg = f"{where} of version {version} cannot be brought to version {current}: {type(error).__name__}: {error}"
        raise InvalidInput(msg) from error
    return to_json(value)


def annotation_of(value: Any, declared_as: Iterable[Any]) -> Any:
    """Which of several declared types a value is of, the most precise first; ``None`` if none fits."""
    own = cast("Any", type(value))
    precise = sorted(declared_as, key=lambda kind: (kind is Any, bool(get_args(kind))))
    return next((own if kind is Any and naming(own) else kind for kind in precise if _fits(value, kind)), None)


def _fits(value: Any, annotation: Any) -> bool:
    if annotation is None:
        return value is None
    if is_protobuf(annotation):
        return isinstance(value, annotation)
    try:
        encoding.adapter(annotation).validate_python(value, strict=True)
    except ValueError:
        return False
    return True


def _composed(name: str, known: Known) -> Any:
    """The type of a name such as ``dict[str, list[shop.order]]``; ``None`` if a part is not known."""
    pieces = _PIECES.findall(name)[::-1]

    def composed() -> Any:
        kind = known.find(pieces.pop())
        parts: list[Any] = []
        if pieces and pieces[-1] == "[":
            while pieces and pieces.pop() != "]":
                parts.append(composed())
        if kind is None or None in parts:
            return None
        return kind[tuple(parts)] if parts else kind

    try:
        found = composed()
    except (IndexError, TypeError, RecursionError):  # no name that type_name gave
        return None
    return None if pieces else found
