"""The names under which types travel. Nothing is ever imported by such a name: it is looked up among known types."""

from __future__ import annotations

import dataclasses
import inspect
import re
from functools import lru_cache
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast, get_args, get_origin
from weakref import WeakValueDictionary

from pydantic import BaseModel

from perdure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
Upcast = "Callable[[dict[str, Any]], dict[str, Any]]"

JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"

_NAME: Final = re.compile(r"[\w\-.]+")
_ATTRIBUTE: Final = "__perdure_type__"
_GENERATED: Final = ("DESCRIPTOR", "SerializeToString", "FromString")


class Naming(NamedTuple):
    """What ``message_type`` noted of a class.

    Attributes:
        name: Under which it travels, without version.
        version: Of its fields.
        upcasts: From a version to the next one: JSON object to JSON object.
    """

    name: str
    version: int = 1
    upcasts: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

    @property
    def full(self) -> str:
        """As it travels: ``shop.order``, ``shop.order@2``."""
        return self.name if self.version == 1 else f"{self.name}@{self.version}"


_declared: Final[WeakValueDictionary[str, type]] = WeakValueDictionary()
"""What ``message_type`` named in this process, by name: how a reply is read whose agent lives elsewhere."""

declared: Final[Callable[[str], type | None]] = _declared.get
"""The class that ``message_type`` gave this name (without version) last, in this process."""


def message_type(
    name: str,
    *,
    version: int = 1,
    upcasts: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] | None = None,
) -> Callable[[type[T]], type[T]]:
    """Give a message type the name under which it travels, and keeps when its class is moved or renamed.

    Args:
        name: Letters, digits, ``_``, ``-`` and ``.``; prefix your own (``shop.order``).
        version: Raise it when fields change so that what older senders send no longer fits. From 2 on it travels with
            the name (``shop.order@2``).
        upcasts: How what older senders send becomes the next version: from that version's number a function from JSON
            object to JSON object, for each version that may still come.

    Raises:
        UsageError: The name may not be one, or an upcast leads nowhere.
    """
    if not _NAME.fullmatch(name):
        msg = f"message type name {name!r}: expected letters, digits, '_', '-' and '.'"
        raise UsageError(msg)
    steps = dict(upcasts or {})
    if version < 1 or any(not 1 <= step < version for step in steps):
        msg = (
            f"message type {name!r}, version {version}: upcasts lead from {sorted(steps)}, expected 1 to {version - 1}"
        )
        raise UsageError(msg)

    def register(cls: type[T]) -> type[T]:
        setattr(cls, _ATTRIBUTE, Naming(name, version, steps))
        _declared[name] = cls
        form_of.cache_clear()
        return cls

    return register


def naming(cls: Any) -> Naming | None:
    """What ``message_type`` noted of this very class: a subclass is another type."""
    return cast("Naming | None", vars(cls).get(_ATTRIBUTE)) if isinstance(cls, type) else None


class Form(NamedTuple):
    """How the values of a class travel: under which name, with its version, and as what media type."""

    type: str
    content: str


@lru_cache(maxsize=4096)
def form_of(cls: type) -> Form:
    """How the values of a class travel. Worked out once, for each message asks it."""
    kind: Any = cls
    if kind is Any or kind is NoneType:
        return Form("any" if kind is Any else "none", JSON)
    # What protobuf generated is known by its looks: the library itself is not needed here.
    content = PROTOBUF if all(hasattr(kind, name) for name in _GENERATED) else JSON
    given = naming(kind)
    if given is not None:
        return Form(given.full, content)
    return Form(str(kind.DESCRIPTOR.full_name) if content == PROTOBUF else _qualified(kind), content)


def type_name(cls: Any) -> str:
    """The name under which a type travels.

    What ``message_type`` gave to this very class, with its version from 2 on; a protobuf message's full name; else
    module and qualified name; ``int`` and other builtins by their name, ``None`` as ``none``, anything as ``any``; of
    a generic type, the names of its parts too (``list[shop.order]``).
    """
    if isinstance(cls, type):
        return form_of(cls).type
    if cls is None:
        return "none"
    if parts := get_args(cls):
        origin = get_origin(cls)
        return f"{type_name(origin)}[{', '.join(map(type_name, parts))}]"
    return _qualified(cls)


def _qualified(cls: Any) -> str:
    name: str = getattr(cls, "__qualname__", None) or repr(cls)
    module: str = getattr(cls, "__module__", "builtins")
    return name if module == "builtins" else f"{module}.{name}"


def split_version(name: str) -> tuple[str, int]:
    """Name and version of what travels: ``shop.order@2`` is version 2 of ``shop.order``."""
    plain, at, version = name.rpartition("@")
    return (plain, int(version)) if at and version.isdecimal() else (name, 1)


def is_message_type(cls: Any) -> bool:
    """Whether instances of it may be sent: a pydantic model, a dataclass, a protobuf message."""
    cls = get_origin(cls) or cls
    return inspect.isclass(cls) and (issubclass(cls, BaseModel) or dataclasses.is_dataclass(cls) or is_protobuf(cls))


def is_protobuf(cls: Any) -> bool:
    """Whether it is a class that protobuf generated."""
    return isinstance(cls, type) and form_of(cls).content == PROTOBUF
