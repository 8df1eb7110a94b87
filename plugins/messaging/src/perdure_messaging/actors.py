"""Declarations of message agents: a name, a class or a function, and how its messages and replies travel."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel

from perdure import encoding
from perdure.errors import InvalidInput, NotEncodable, Undeliverable, UsageError
from perdure_messaging.handlers import Handler, Mark, MessageAgent, Table, alternatives, handlers_of, table_of
from perdure_messaging.inbox import POSTS, ROUTE, Posts, Routed, tagged, untagged
from perdure_messaging.message_types import JSON, type_name
from perdure_messaging.subscriptions import interests_of
from perdure_messaging.wire import Known, Packed, annotation_of, pack, read, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from perdure import Context
    from perdure.messages import Envelope
    from perdure_messaging.subscriptions import Interest

A = TypeVar("A", bound=MessageAgent)

IDLE: Final = 600.0
"""Seconds after which an instance that had no message is let go, unless its agent says otherwise."""

_OWN: Final = {POSTS: Posts, ROUTE: Routed}
"""What turns of durable agents get besides messages."""


class _Tagged(BaseModel):
    """A value with the name of its type, as it travels; what else there is, is the inbox's business."""

    type: str
    value: Any
    content: str = ""


class Actor(Generic[A]):
    """A message agent of an app: what ``actor`` and ``closure`` make.

    Attributes:
        name: Within its app.
        cls: The class.
        make: Makes an instance.
        concurrent: Whether an instance handles several messages at once.
        durable: Whether messages to it, its state and what it sends survive a crash.
        idle: Seconds without a message after which an instance is let go; ``None`` for never.
        subscriptions: What it is subscribed to.
        description: First paragraph of the docstring.
        handlers: What handles which message type.
        known: Types of its messages, by name.
        requests: The method for a message's type, as far as it was asked for and nothing else decides.
        events: Likewise.
    """

    kind: Final = "agent"

    def __init__(
        self, name: str, cls: type[A], *, make: Callable[[], A] | None = None, handlers: Table | None = None
    ) -> None:
        self.name = name
        self.cls = cls
        self.make: Callable[[], A] = make or cls
        self.concurrent = False
        self.durable = False
        self.idle: float | None = IDLE
        self.subscriptions: tuple[Interest, ...] = interests_of(cls)
        self.description = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]
        self.handlers = table = handlers_of(cls) if handlers is None else handlers
        self._chosen: dict[tuple[type, bool], tuple[Handler, ...]] = {}
        self.requests: dict[type, str] = {}
        self.events: dict[type, str] = {}
        self._names = self._named(kind for kind in table if kind is not object)
        self.known = Known(handler.message for each in table.values() for handler in each)

    def __repr__(self) -> str:
        return f"<agent {self.name!r}>"

    # -- choosing a handler

    def candidates(self, kind: type, *, event: bool) -> tuple[Handler, ...]:
        """What may handle messages of a type: its own handlers, else those of its nearest base. Those that match first.

        Raises:
            Undeliverable: Nothing handles it.
        """
        found = self._chosen.get((kind, event))
        if found is None:
            found = next((own for base in kind.__mro__ if (own := self._own(base, event=event))), ())
            if not found:
                raise self._undeliverable(type_name(kind), self._missing(kind, event=event))
            if len(self._chosen) < 1024:  # noqa: PLR2004 - types that are made at run time, again and again
                self._chosen[kind, event] = found
                if found[0].mark.match is None:
                    (self.events if event else self.requests)[kind] = found[0].method
        return found

    def handler(self, message: object, ctx: Context | None = None, *, event: bool = False) -> Handler:
        """What handles a message. Without a context, handlers with ``match`` are not asked: the first one stands.

        Raises:
            Undeliverable: Nothing handles messages of this type, or none of the handlers matches.
        """
        candidates = self.candidates(type(message), event=event)
        for candidate in candidates:
            if ctx is None or candidate.mark.match is None or candidate.mark.match(message, ctx):
                return candidate
        names = ", ".join(repr(each.method) for each in candidates)
        msg = (
            f"agent {self.name!r} handles {type_name(type(message))!r} with {names}, none of which matches the message"
        )
        raise Undeliverable(msg)

    def type_of(self, message: object) -> str:
        """The name under which a message travels."""
        return type_name(type(message))

    def _missing(self, kind: type, *, event: bool) -> str:
        if any(base in self.handlers for base in kind.__mro__):
            return "events" if event else "requests"
        return "messages"

    def _own(self, kind: type, *, event: bool) -> tuple[Handler, ...]:
        return tuple(
            each for each in self.handlers.get(kind, ()) if (each.mark.events if event else each.mark.requests)
        )

    # -- how messages and replies travel

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The message as JSON, with its type's name. Raises ``InvalidInput``, ``Undeliverable``, ``NotEncodable``."""
        if len(args) != 1 or kwargs:
            msg = f"agent {self.name!r} takes one message, got {len(args)} arguments and {sorted(kwargs)}"
            raise InvalidInput(msg)
        self.handler(args[0])
        return _tag(pack(args[0], type(args[0]), f"the message to agent {self.name!r}"))

    def decode_input(self, payload: bytes) -> Any:
        """The message again. Raises ``InvalidInput``, ``Undeliverable``."""
        packed = self._read(payload, "message to")
        own = _OWN.get(packed.type) if self.durable else None
        return own(packed.payload) if own is not None else self.unpack(packed)

    def unpack(self, packed: Packed | Envelope, known: Known | None = None) -> Any:
        """A message that came as bytes; of the types ``known``, where a handler takes any.

        Raises:
            InvalidInput: It does not fit.
            Undeliverable: Nothing handles it.
        """
        types = self.known if known is None or object not in self.handlers else known
        annotation = types.find(packed.type)
        if annotation is None:
            raise self._undeliverable(packed.type, "messages")
        return read(packed, annotation, f"the message to agent {self.name!r}")

    def encode_result(self, value: Any) -> bytes:
        """The reply as JSON, with its type's name. Raises ``NotEncodable``."""
        if isinstance(value, Posts | Routed):
            return tagged("none", JSON, b"null")
        return _tag(self.pack_reply(value))

    def pack_reply(self, value: object) -> Packed:
        """The reply as it travels. Raises ``NotEncodable``."""
        annotation = self._exact_replies.get(type(value))
        if annotation is None:
            annotation = annotation_of(value, self.replies)
        if annotation is not None:
            return pack(value, annotation, f"the reply of agent {self.name!r}")
        msg = (
            f"agent {self.name!r} replied with a {type(value).__qualname__}, which none of its handlers declares;"
            f" they return: {', '.join(map(type_name, self.replies))}"
        )
        raise NotEncodable(msg)

    def decode_result(self, value: bytes) -> Any:
        """The reply again. Raises ``InvalidInput``."""
        return self.unpack_reply(self._read(value, "reply of"))

    def unpack_reply(self, packed: Packed | Envelope) -> Any:
        """A reply that came as bytes. Raises ``InvalidInput``."""
        if packed.type not in self._reply_names and "any" not in self._reply_names:
            known = ", ".join(self._reply_names)
            msg = f"the reply of agent {self.name!r} is a {packed.type!r}, expected one of: {known}"
            raise InvalidInput(msg)
        return unpack(packed, self._known_replies, f"the reply of agent {self.name!r}")

    @cached_property
    def replies(self) -> tuple[Any, ...]:
        """What handlers return."""
        handlers = (handler for each in self.handlers.values() for handler in each)
        return tuple(dict.fromkeys(kind for handler in handlers for kind in alternatives(handler.returns)))

    @cached_property
    def _exact_replies(self) -> dict[type, Any]:
        """What handlers return, by the class whose values need no closer look to say so."""
        return {get_origin(kind) or kind: kind for kind in reversed(self.replies) if not get_args(kind)}

    @cached_property
    def _known_replies(self) -> Known:
        return Known(self.replies)

    @cached_property
    def _reply_names(self) -> dict[str, Any]:
        return self._named(self.replies)

    def _named(self, kinds: Iterable[Any]) -> dict[str, Any]:
        named: dict[str, Any] = {}
        for kind in kinds:
            name = type_name(kind)
            if named.setdefault(name, kind) is not kind and named[name] != kind:
                msg = f"agent {self.name!r}: two types travel as {name!r}: name one with @message_type(…)"
                raise UsageError(msg)
        return named

    def _undeliverable(self, name: str, what: str) -> Undeliverable:
        handled = ", ".join(sorted(type_name(get_origin(kind) or kind) for kind in self.handlers))
        return Undeliverable(f"agent {self.name!r} has no handler for {what} of type {name!r}; it handles: {handled}")

    def _read(self, payload: bytes, which: str) -> Packed:
        value: _Tagged = encoding.decode(payload, _Tagged, f"the {which} agent {self.name!r}")
        return Packed(*untagged(value.model_dump()))


def actor(  # noqa: PLR0913 - a declaration: everything has a name and a default
    name: str,
    cls: type[A],
    *,
    make: Callable[[], A] | None = None,
    concurrent: bool = False,
    durable: bool = False,
    idle: float | None = IDLE,
    subscriptions: Sequence[Interest | str] = (),
) -> Actor[A]:
    """Declare a message agent, for ``App(agents=[…])``.

    Args:
        name: Within its app; letters, digits, ``_`` and ``-``.
        cls: A ``MessageAgent`` with handlers.
        make: Makes an instance, where the class needs arguments.
        concurrent: Whether an instance handles several messages at once; by default one after the other, in the
            order of their arrival.
        durable: Whether inbox, state, replies and outgoing messages commit together and survive a crash.
        idle: Seconds without a message after which an instance is let go; ``None`` for never.
        subscriptions: Topics' types, and what ``subscription`` makes; besides those of the class.

    Raises:
        UsageError: The class is no ``MessageAgent``, or its handlers have another form.
    """
    if not (isinstance(cls, type) and issubclass(cls, MessageAgent)):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"actor({name!r}, {cls!r}): expected a subclass of MessageAgent"
        raise UsageError(msg)
    if durable and concurrent:
        msg = f"actor({name!r}, …): a durable agent handles one message at a time: leave out concurrent or durable"
        raise UsageError(msg)
    made = Actor(name, cls, make=make)
    made.concurrent, made.durable, made.idle = concurrent, durable, _checked_idle(name, idle)
    made.subscriptions = interests_of(cls, subscriptions)
    return made


class _Function(MessageAgent):
    """An agent that is a function."""

    def __init__(self, handle: Callable[[Any, Context], Coroutine[Any, Any, Any]]) -> None:
        self.handle = handle


def closure(
    name: str,
    fn: Callable[[Any, Context], Coroutine[Any, Any, Any]],
    *,
    concurrent: bool = False,
    subscriptions: Sequence[Interest | str] = (),
) -> Actor[Any]:
    """Declare a message agent that is one function: ``async def fn(message: SomeMessage, ctx: Context) -> SomeReply``.

    Args:
        name: Within its app; letters, digits, ``_`` and ``-``.
        fn: Handles its message's type; a union stands for several, ``object`` for any.
        concurrent: As for ``actor``.
        subscriptions: As for ``actor``.

    Raises:
        UsageError: The function has another form.
    """
    if not inspect.iscoroutinefunction(fn):
        msg = f"closure({name!r}, {fn!r}): expected 'async def name(message: SomeMessage, ctx: Context) -> SomeReply'"
        raise UsageError(msg)
    table = table_of(fn.__qualname__, [("handle", fn, Mark(), 0)])
    made: Actor[Any] = Actor(name, _Function, make=lambda: _Function(fn), handlers=table)
    made.concurrent = concurrent
    made.subscriptions = interests_of(_Function, subscriptions)
    made.description = inspect.cleandoc(fn.__doc__ or "").partition("\n\n")[0]
    return made


def _checked_idle(name: str, idle: float | None) -> float | None:
    if idle is not None and not idle > 0:
        msg = f"actor({name!r}, idle={idle!r}): expected seconds above 0, or None for never"
        raise UsageError(msg)
    return idle


def _tag(packed: Packed) -> bytes:
    return tagged(packed.type, packed.content, packed.payload)
