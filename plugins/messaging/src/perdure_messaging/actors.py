"""Declarations of message agents: a name, a class, and how its messages and replies travel."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from perdure import encoding
from perdure.errors import InvalidInput, NotEncodable, Undeliverable, UsageError
from perdure_messaging.handlers import Handler, MessageAgent, alternatives, handlers_of
from perdure_messaging.message_types import type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

A = TypeVar("A", bound=MessageAgent)


class _Tagged(BaseModel):
    """A value with the name of its type, as it travels."""

    model_config = ConfigDict(extra="forbid")

    type: str
    value: Any


class Actor(Generic[A]):
    """A message agent of an app: what ``actor`` makes.

    Attributes:
        name: Within its app.
        cls: The class.
        make: Makes an instance.
        concurrent: Whether an instance handles several messages at once.
        description: First paragraph of the class's docstring.
        handlers: What handles which message type.
    """

    kind: Final = "agent"

    def __init__(
        self, name: str, cls: type[A], *, make: Callable[[], A] | None = None, concurrent: bool = False
    ) -> None:
        self.name = name
        self.cls = cls
        self.make: Callable[[], A] = make or cls
        self.concurrent = concurrent
        self.description = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]
        self.handlers = handlers_of(cls)
        self._messages = self._named(self.handlers)

    def __repr__(self) -> str:
        return f"<agent {self.name!r}>"

    def handler(self, message: object) -> Handler:
        """What handles a message of this exact type. Raises ``Undeliverable``."""
        handler = self.handlers.get(type(message))
        if handler is None:
            raise self._undeliverable(type_name(type(message)))
        return handler

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The message as JSON, with its type's name. Raises ``InvalidInput``, ``Undeliverable``, ``NotEncodable``."""
        if len(args) != 1 or kwargs:
            msg = f"agent {self.name!r} takes one message, got {len(args)} arguments and {sorted(kwargs)}"
            raise InvalidInput(msg)
        self.handler(args[0])
        return self._tagged(type(args[0]), args[0], "message to")

    def decode_input(self, payload: bytes) -> Any:
        """The message again. Raises ``InvalidInput``, ``Undeliverable``."""
        tagged = self._read(payload, "message to")
        if tagged.type not in self._messages:
            raise self._undeliverable(tagged.type)
        return self._value(tagged, self._messages[tagged.type], "message to")

    def encode_result(self, value: Any) -> bytes:
        """The reply as JSON, with its type's name. Raises ``NotEncodable``."""
        annotation = self._replies.get(type_name(type(value)))
        if annotation is not type(value):  # its own type comes first: an int would fit float, too
            annotation = next((each for each in self._replies.values() if _fits(value, each)), None)
        if annotation is not None:
            return self._tagged(annotation, value, "reply of")
        msg = (
            f"agent {self.name!r} replied with a {type(value).__qualname__}, which none of its handlers declares;"
            f" they return: {', '.join(self._replies)}"
        )
        raise NotEncodable(msg)

    def decode_result(self, value: bytes) -> Any:
        """The reply again. Raises ``InvalidInput``."""
        tagged = self._read(value, "reply of")
        if tagged.type not in self._replies:
            known = ", ".join(self._replies)
            msg = f"the reply of agent {self.name!r} is a {tagged.type!r}, expected one of: {known}"
            raise InvalidInput(msg)
        return self._value(tagged, self._replies[tagged.type], "reply of")

    @cached_property
    def _replies(self) -> dict[str, Any]:
        """What handlers return, by name; what is least precise comes last, for it takes what is left."""
        kinds = [kind for handler in self.handlers.values() for kind in alternatives(handler.returns)]
        named = self._named(dict.fromkeys(kinds))
        return {name: named[name] for name in sorted(named, key=lambda name: (name == "any", "[" in name))}

    def _named(self, kinds: Iterable[Any]) -> dict[str, Any]:
        named: dict[str, Any] = {}
        for kind in kinds:
            name = type_name(kind)
            if named.setdefault(name, kind) is not kind and named[name] != kind:
                msg = f"agent {self.name!r}: two types travel as {name!r}: name one with @message_type(…)"
                raise UsageError(msg)
        return named

    def _undeliverable(self, name: str) -> Undeliverable:
        return Undeliverable(
            f"agent {self.name!r} has no handler for messages of type {name!r}; it handles:"
            f" {', '.join(sorted(self._messages))}"
        )

    def _tagged(self, annotation: Any, value: Any, which: str) -> bytes:
        data = encoding.encode(value, annotation, f"the {which} agent {self.name!r}")
        return b'{"type":%b,"value":%b}' % (to_json(type_name(annotation)), data)

    def _read(self, payload: bytes, which: str) -> _Tagged:
        return cast("_Tagged", encoding.decode(payload, _Tagged, f"the {which} agent {self.name!r}"))

    def _value(self, tagged: _Tagged, annotation: Any, which: str) -> Any:
        # From JSON, not from what JSON was read into: only so are all types read that were written.
        where = f"the {which} agent {self.name!r}, a {tagged.type!r},"
        return encoding.decode(to_json(tagged.value), annotation, where)


def actor(name: str, cls: type[A], *, make: Callable[[], A] | None = None, concurrent: bool = False) -> Actor[A]:
    """Declare a message agent, for ``App(agents=[…])``.

    Args:
        name: Within its app; letters, digits, ``_`` and ``-``.
        cls: A ``MessageAgent`` with handlers.
        make: Makes an instance, where the class needs arguments.
        concurrent: Whether an instance handles several messages at once; by default one after the other, in the
            order of their arrival.

    Raises:
        UsageError: The class is no ``MessageAgent``, or its handlers have another form.
    """
    if not (isinstance(cls, type) and issubclass(cls, MessageAgent)):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"actor({name!r}, {cls!r}): expected a subclass of MessageAgent"
        raise UsageError(msg)
    return Actor(name, cls, make=make, concurrent=concurrent)


def _fits(value: Any, annotation: Any) -> bool:
    try:
        encoding.adapter(annotation).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True
