"""``Routes``: from a topic to those who are subscribed to it. What every transport that knows topics uses.

Nothing here looks at each subscription for each message: types are looked up, prefixes by each beginning of the topic's
type, and what came out is remembered for the topics used last. A change costs as much as the subscriptions of the one
who changes, however many others there are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from perdure.messages import AgentId, Subscription

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from perdure.messages import TopicId

_REMEMBERED: Final = 4096


class Recipients(NamedTuple):
    """Who gets what is published on a topic, each once.

    Attributes:
        agents: By subscriptions of kind ``type`` and ``prefix``.
        custom: Agent types with a ``custom`` subscription that matches: code where such an agent lives says which key.
            They get the event with the target ``AgentId(type, "")``.
    """

    agents: tuple[AgentId, ...]
    custom: tuple[str, ...]


class _Listeners:
    """Agent types, each with the number of subscriptions that made it one."""

    __slots__ = ("custom", "direct")

    def __init__(self) -> None:
        self.direct: dict[str, int] = {}
        self.custom: dict[str, int] = {}

    def add(self, subscription: Subscription, count: int) -> bool:
        """Count one more or less; whether anybody is left."""
        table = self.custom if subscription.kind == "custom" else self.direct
        left = table.get(subscription.agent, 0) + count
        if left:
            table[subscription.agent] = left
        else:
            del table[subscription.agent]
        return bool(self.direct or self.custom)


class Routes:
    """The subscriptions of all owners (workers, connections, a runtime), and who follows from them.

    Args:
        remembered: For how many topics the recipients are kept, those used last.
    """

    def __init__(self, *, remembered: int = _REMEMBERED) -> None:
        self._limit = remembered
        self._owners: dict[Hashable, tuple[Subscription, ...]] = {}
        self._types: dict[str, _Listeners] = {}
        self._prefixes: dict[str, _Listeners] = {}
        self._remembered: OrderedDict[TopicId, Recipients] = OrderedDict()

    def __len__(self) -> int:
        """How many topic types and prefixes anybody is subscribed to."""
        return len(self._types) + len(self._prefixes)

    @property
    def remembered(self) -> int:
        """For how many topics the recipients are known without looking."""
        return len(self._remembered)

    def replace(self, owner: Hashable, subscriptions: Iterable[Subscription]) -> None:
        """These are the owner's subscriptions from here on; none at all is to be gone."""
        new = tuple(dict.fromkeys(subscriptions))
        old = self._owners.pop(owner, ())
        if new == old:
            if new:
                self._owners[owner] = new
            return
        for subscription in new:
            self._count(subscription, 1)
        for subscription in old:
            self._count(subscription, -1)
        if new:
            self._owners[owner] = new
        self._remembered.clear()

    def recipients(self, topic: TopicId) -> Recipients:
        """Who is subscribed, each once. The sender, where it is among them, is the caller's to leave out."""
        known = self._remembered.get(topic)
        if known is not None:
            self._remembered.move_to_end(topic)
            return known
        found = self._find(topic)
        if len(self._remembered) >= self._limit:
            self._remembered.popitem(last=False)
        self._remembered[topic] = found
        return found

    def _find(self, topic: TopicId) -> Recipients:
        listeners = [self._types.get(topic.type)]
        if self._prefixes:
            listeners += [self._prefixes.get(topic.type[:end]) for end in range(len(topic.type) + 1)]
        direct = dict.fromkeys(agent for each in listeners if each for agent in each.direct)
        custom = dict.fromkeys(agent for each in listeners if each for agent in each.custom)
        return Recipients(tuple(AgentId(agent, topic.source) for agent in direct), tuple(custom))

    def _count(self, subscription: Subscription, count: int) -> None:
        table = self._types if subscription.kind == "type" else self._prefixes
        listeners = table.get(subscription.topic)
        if listeners is None:
            listeners = table[subscription.topic] = _Listeners()
        if not listeners.add(subscription, count):
            del table[subscription.topic]
