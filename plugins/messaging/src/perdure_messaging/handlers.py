"""Classes that handle messages: the base, the decorators, and the table of what a class handles."""

from __future__ import annotations

import inspect
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, Union, cast, get_args, get_origin, overload

from perdure import Context, encoding
from perdure.errors import UsageError
from perdure_messaging.message_types import is_message_type, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

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

    The methods below may be overridden; none of them runs while a message is handled.
    """

    async def on_start(self) -> None:
        """Called before the first message, after ``load``. What it raises fails that message; the next tries again."""

    async def on_stop(self) -> None:
        """Called when the instance is let go: it was idle, or the runtime closes. Errors are logged."""

    async def save(self) -> Any:
        """What is kept of an idle instance: a JSON value, or ``None`` for nothing."""
        return None

    async def load(self, state: Any) -> None:
        """Take what ``save`` of the instance before gave. Not called where that is ``None``."""


class Mark(NamedTuple):
    """What ``handles`` notes: which of its type's messages a method handles.

    Attributes:
        match: Says of a message and its context whether the method handles it; ``None`` takes all.
        events: Those that nobody waits for.
        requests: Those that somebody waits for.
    """

    match: Callable[[Any, Context], bool] | None = None
    events: bool = True
    requests: bool = True


class Handler(NamedTuple):
    """A method and what it handles.

    Attributes:
        method: Its name.
        returns: Its return type.
        mark: Which messages of its type.
        message: The type as it is declared: of a generic one, with its arguments.
    """

    method: str
    returns: Any
    mark: Mark = Mark()
    message: Any = None


Table = dict[type, tuple[Handler, ...]]


@overload
def handles(method: H, /) -> H: ...
@overload
def handles(
    *, match: Callable[[Any, Context], bool] | None = None, events: bool = True, requests: bool = True
) -> Callable[[H], H]: ...
def handles(
    method: Any = None,
    /,
    *,
    match: Callable[[Any, Context], bool] | None = None,
    events: bool = True,
    requests: bool = True,
) -> Any:
    """Mark a method as the handler of its message's type and of subclasses without a handler of their own.

    A union stands for several types, ``object`` for any.

    Args:
        method: The method.
        match: Handle only messages of which this says so: ``lambda message, ctx: message.urgent``. Those that match are
            asked in the order of the class, before the one without.
        events: Whether to handle what was published, or sent without waiting.
        requests: Whether to handle what somebody waits for.

    Raises:
        UsageError: It is no ``async def``, or would handle nothing.
    """
    if not (events or requests):
        msg = "@handles(events=False, requests=False) handles nothing: leave out one of them"
        raise UsageError(msg)

    def mark(function: Any) -> Any:
        if not inspect.iscoroutinefunction(function):
            msg = f"@handles needs a method of the form {_SHAPE}, got {function!r}"
            raise UsageError(msg)
        setattr(function, _MARK, Mark(match, events, requests))
        return function

    return mark if method is None else mark(method)


def handlers_of(cls: type[MessageAgent]) -> Table:
    """What a class handles, by message type; inherited handlers included.

    Raises:
        UsageError: A handler has another form, two handle the same messages, or there is none.
    """
    names = dict.fromkeys(name for kind in reversed(cls.__mro__) for name in vars(kind))
    marked = {name: method for name in names if hasattr(method := inspect.getattr_static(cls, name), _MARK)}
    if not marked:
        msg = f"{cls.__qualname__!r} handles nothing: mark a method of the form {_SHAPE} with @handles"
        raise UsageError(msg)
    return table_of(cls.__qualname__, ((name, method, getattr(method, _MARK), 1) for name, method in marked.items()))


def table_of(owner: str, functions: Iterable[tuple[str, Any, Mark, int]]) -> Table:
    """The table of functions, each with its name, its mark, and how many parameters come before the message."""
    table: Table = {}
    for name, function, mark, skip in functions:
        messages, returns = _signature(function, skip)
        for message in messages:
            kind = get_origin(message) or message
            known, new = table.get(kind, ()), Handler(name, returns, mark, message)
            for other in known:
                if mark.match is other.mark.match is None and (
                    (mark.events and other.mark.events) or (mark.requests and other.mark.requests)
                ):
                    msg = (
                        f"{owner!r} handles {type_name(message)!r} twice, with {other.method!r} and {name!r}: keep one,"
                        " or tell them apart with match=…"
                    )
                    raise UsageError(msg)
            table[kind] = tuple(sorted((*known, new), key=lambda each: each.mark.match is None))
    return table


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself."""
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


def _signature(function: Callable[..., Any], skip: int) -> tuple[tuple[Any, ...], Any]:
    """Message types and return type of a handler."""
    hints = encoding.hints_of(function)
    names = list(inspect.signature(function).parameters)[skip:]
    if len(names) != 2 or hints.get(names[1]) is not Context:  # noqa: PLR2004 - message and context
        shape = _SHAPE if skip else _SHAPE.replace("self, ", "")
        msg = f"handler {function.__qualname__!r} must have the form {shape}"
        raise UsageError(msg)
    messages = tuple(cast("Any", object) if each is Any else each for each in alternatives(hints.get(names[0])))
    for message in messages:
        if message is not object and not is_message_type(message):
            msg = (
                f"handler {function.__qualname__!r} takes {message!r} as its message: messages are pydantic models,"
                " dataclasses or protobuf messages, named by the annotation; object stands for any of them"
            )
            raise UsageError(msg)
    return messages, hints.get("return", Any)
