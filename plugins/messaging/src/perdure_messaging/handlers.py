"""Classes that handle messages: the base, the decorator, and the table of what a class handles."""

from __future__ import annotations

import inspect
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, Union, get_args, get_origin

from perdure import Context, encoding
from perdure.errors import UsageError
from perdure_messaging.message_types import is_message_type, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

H = TypeVar("H", bound="Callable[..., Coroutine[Any, Any, Any]]")

_MARK: Final = "__perdure_handles__"
_SHAPE: Final = "'async def name(self, message: SomeMessage, ctx: Context) -> SomeReply'"


class MessageAgent:
    """The base of agents that are classes: one instance for each address, made at its first message.

    ::

        class Counter(MessageAgent):
            def __init__(self) -> None:
                self.total = 0

            @handles
            async def add(self, message: Add, ctx: Context) -> Total:
                self.total += message.amount
                return Total(self.total)
    """


class Handler(NamedTuple):
    """What one message type is handled by.

    Attributes:
        method: Name of the method.
        returns: Its return type.
    """

    method: str
    returns: Any


def handles(method: H) -> H:
    """Mark a method as the handler of its message's exact type; a union stands for several types.

    Raises:
        UsageError: It is no ``async def``.
    """
    if not inspect.iscoroutinefunction(method):
        msg = f"@handles needs a method of the form {_SHAPE}, got {method!r}"
        raise UsageError(msg)
    setattr(method, _MARK, True)
    return method


def handlers_of(cls: type[MessageAgent]) -> dict[type, Handler]:
    """What a class handles, by message type; inherited handlers included.

    Raises:
        UsageError: A handler has another form, two handle the same type, or there is none.
    """
    table: dict[type, Handler] = {}
    for name, method in inspect.getmembers(cls, lambda member: hasattr(member, _MARK)):
        messages, returns = _signature(method)
        for message in messages:
            if message in table:
                both = f"{table[message].method!r} and {name!r}"
                msg = f"{cls.__qualname__!r} handles {type_name(message)!r} twice, with {both}: keep one"
                raise UsageError(msg)
            table[message] = Handler(name, returns)
    if not table:
        msg = f"{cls.__qualname__!r} handles nothing: mark a method of the form {_SHAPE} with @handles"
        raise UsageError(msg)
    return table


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself."""
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


def _signature(method: Callable[..., Any]) -> tuple[tuple[Any, ...], Any]:
    """Message types and return type of a handler."""
    hints = encoding.hints_of(method)
    names = list(inspect.signature(method).parameters)[1:]
    if len(names) != 2 or hints.get(names[1]) is not Context:  # noqa: PLR2004 - message and context
        msg = f"handler {method.__qualname__!r} must have the form {_SHAPE}"
        raise UsageError(msg)
    messages = alternatives(hints.get(names[0]))
    for message in messages:
        if not is_message_type(message):
            msg = (
                f"handler {method.__qualname__!r} takes {message!r} as its message: messages are pydantic models or"
                " dataclasses, named by the annotation"
            )
            raise UsageError(msg)
    return messages, hints.get("return", Any)
