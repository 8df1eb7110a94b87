"""Which agents get what is published on a topic. Sans I/O.

What a change costs depends on what is announced, not on what others announced or on how many topics are in use.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from perdure.messages import AgentId, Subscription

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable


class Recipients(NamedTuple):
    """Who gets what is published on one topic.

    Attributes:
        agents: Each once.
        custom: Agent types whose own code says which of them, if any.
    """

    agents: tuple[AgentId, ...]
    custom: tuple[str, ...]


_KINDS: Final = ("type", "prefix", "custom")


class Topics:
    """The subscriptions of all workers.

    Args:
        remembered: Of how many topics the recipients are remembered.
    """

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._owned: dict[Hashable, tuple[tuple[str, str, str], ...]] = {}
        self._tables: dict[str, dict[str, Counter[str]]] = {kind: {} for kind in _KINDS}
        self._young: dict[tuple[str, str], Recipients] = {}
        self._old: dict[tuple[str, str], Recipients] = {}

    @property
    def cached(self) -> int:
        """Of how many topics the recipients are remembered now."""
        return len(self._young) + len(self._old)

    def announce(self, owner: Hashable, subscriptions: Iterable[Subscription]) -> None:
        """That worker's, instead of those before."""
        for kind, topic, agent in self._owned.pop(owner, ()):
            agents = self._tables[kind][topic]
            agents[agent] -= 1
            if not agents[agent]:
                del agents[agent]
            if not agents:
                del self._tables[kind][topic]
        owned = tuple({(each.kind, each.topic, each.agent) for each in subscriptions})
        for kind, topic, agent in sorted(owned):
            self._tables[kind].setdefault(topic, Counter())[agent] += 1
        if owned:
            self._owned[owner] = owned
        self._young, self._old = {}, {}

    def recipients(self, type_: str, source: str) -> Recipients:
        """Who gets what is published there."""
        topic = type_, source
        found = self._young.get(topic)
        if found is None:
            found = self._old.get(topic) or self._matching(type_, source)
            if 2 * len(self._young) >= self._remembered:
                self._old, self._young = self._young, {}
            self._young[topic] = found
        return found

    def _matching(self, type_: str, source: str) -> Recipients:
        agents = dict.fromkeys(self._tables["type"].get(type_, ()))
        custom: dict[str, None] = {}
        for end in range(len(type_) + 1):
            agents |= dict.fromkeys(self._tables["prefix"].get(type_[:end], ()))
            custom |= dict.fromkeys(self._tables["custom"].get(type_[:end], ()))
        return Recipients(tuple(AgentId(agent, source) for agent in agents), tuple(custom))
