"""What agents are subscribed to, as authors say it: with a decorator on the class, or where the agent is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from perdure.errors import UsageError
from perdure.messages import Subscription, TopicId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

C = TypeVar("C", bound=type)

_ATTRIBUTE: Final = "__perdure_subscribes__"


class Interest(NamedTuple):
    """A subscription of an agent that has no address yet.

    Attributes:
        topic: A topic's type, or what it begins with.
        prefix: Whether it is the beginning.
        key: Says of a topic which instance gets what is published on it, or ``None`` for nobody; by default the one
            whose key is the topic's source. Quick, without side effects.
    """

    topic: str
    prefix: bool = False
    key: Callable[[TopicId], str | None] | None = None

    def matches(self, topic: TopicId) -> bool:
        """Whether it is about this topic."""
        return topic.type.startswith(self.topic) if self.prefix or self.key else topic.type == self.topic

    def of(self, agent: str) -> Subscription:
        """The subscription of an agent type; the same one gives the same id everywhere."""
        kind = "custom" if self.key else "prefix" if self.prefix else "type"
        return Subscription(f"{agent} {kind} {self.topic}", agent, self.topic, kind)


def subscription(
    topic: str = "default", *, prefix: bool = False, key: Callable[[TopicId], str | None] | None = None
) -> Interest:
    """A subscription for ``actor(…, subscriptions=[…])``; a text alone stands for ``subscription(text)``.

    Args:
        topic: A topic's type; with ``prefix`` or ``key``, what it begins with.
        prefix: Take all topics whose type begins with it.
        key: Says of each of these which instance gets the message, or ``None``; by default the one whose key is the
            topic's source.

    Raises:
        UsageError: It is no topic's type.
    """
    try:
        TopicId.parse(f"{topic or 'any'}/")
    except ValueError as error:
        msg = f"subscription to {topic!r}: {error}"
        raise UsageError(msg) from error
    if not topic and not (prefix or key):
        msg = "subscription to '': expected a topic's type; with prefix=True, '' takes all"
        raise UsageError(msg)
    return Interest(topic, prefix, key)


def subscribes(
    topic: str = "default", *, prefix: bool = False, key: Callable[[TopicId], str | None] | None = None
) -> Callable[[C], C]:
    """Subscribe the agents of a class and of its subclasses; see ``subscription``. May be repeated."""
    interest = subscription(topic, prefix=prefix, key=key)

    def note(cls: C) -> C:
        own: tuple[Interest, ...] = vars(cls).get(_ATTRIBUTE, ())
        setattr(cls, _ATTRIBUTE, (interest, *own))
        return cls

    return note


def interests_of(cls: type, given: Iterable[Interest | str] = ()) -> tuple[Interest, ...]:
    """What a class is subscribed to, inherited ones first, and what was given besides; each once."""

    def found() -> Iterator[Interest]:
        for kind in reversed(cls.__mro__):
            yield from cast("tuple[Any, ...]", vars(kind).get(_ATTRIBUTE, ()))
        for each in given:
            yield subscription(each) if isinstance(each, str) else each

    return tuple(dict.fromkeys(found()))
