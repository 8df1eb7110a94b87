"""The names under which types travel. Nothing is ever imported by such a name: it is looked up among known types."""

from __future__ import annotations

import dataclasses
import inspect
import re
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args, get_origin

from pydantic import BaseModel

from perdure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_NAME: Final = re.compile(r"[\w\-.]+")
_ATTRIBUTE: Final = "__perdure_type__"


def message_type(name: str) -> Callable[[type[T]], type[T]]:
    """Give a message type the name under which it travels, and keeps when its class is moved or renamed.

    Args:
        name: Letters, digits, ``_``, ``-`` and ``.``; prefix your own (``shop.order``).

    Raises:
        UsageError: The name may not be one.
    """
    if not _NAME.fullmatch(name):
        msg = f"message type name {name!r}: expected letters, digits, '_', '-' and '.'"
        raise UsageError(msg)

    def register(cls: type[T]) -> type[T]:
        setattr(cls, _ATTRIBUTE, name)
        return cls

    return register


def type_name(cls: Any) -> str:
    """The name under which a type travels.

    What ``message_type`` gave to this very class, else module and qualified name; ``int`` and other builtins by their
    name, ``None`` as ``none``, anything as ``any``; of a generic type, the names of its parts too
    (``list[shop.order]``).
    """
    if cls is Any:
        return "any"
    if cls is None or cls is NoneType:
        return "none"
    if parts := get_args(cls):
        origin = get_origin(cls)
        return f"{type_name(origin)}[{', '.join(map(type_name, parts))}]"
    given = vars(cls).get(_ATTRIBUTE) if isinstance(cls, type) else None  # its own: a subclass is another type
    if given is not None:
        return given
    name: str = getattr(cls, "__qualname__", None) or repr(cls)
    module: str = getattr(cls, "__module__", "builtins")
    return name if module == "builtins" else f"{module}.{name}"


def is_message_type(cls: Any) -> bool:
    """Whether instances of it may be sent: a pydantic model or a dataclass."""
    return inspect.isclass(cls) and (issubclass(cls, BaseModel) or dataclasses.is_dataclass(cls))
