"""Which workers host which agent types, and which of them holds which agent. Sans I/O."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from perdure.messages import AgentId, Hosted, Whereabouts

if TYPE_CHECKING:
    from collections.abc import Iterable


class Place(Protocol):
    """A worker, as far as placing goes.

    Attributes:
        name: Of the worker.
        hosts: What it announced, by agent type.
        placed: How many agents it holds, by type.
        load: How many altogether.
        ended: Whether it has left.
    """

    name: str
    hosts: dict[str, Hosted]
    placed: Counter[str]
    load: int
    ended: bool


P = TypeVar("P", bound=Place)


class Registry(Generic[P]):
    """Where agents live. An agent stays where its first message went, as long as that worker hosts its type.

    A new one goes to the worker that holds the fewest; so workers that join get what is new until all are even.
    Who gets no message for one to two rounds of ``forget`` loses its place: what is remembered is bounded by use.

    Args:
        remembered: How many agents have a place at most; when there are more, those not used for longest lose theirs.
    """

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._hosts: dict[str, dict[str, P]] = {}
        self._young: dict[AgentId, P] = {}
        self._old: dict[AgentId, P] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def announce(self, place: P, agents: Iterable[Hosted]) -> None:
        """These live there, instead of what was announced before."""
        self.remove(place)
        place.hosts = {each.type: each for each in agents}
        for type_ in place.hosts:
            self._hosts.setdefault(type_, {})[place.name] = place

    def remove(self, place: P) -> None:
        """Nothing lives there any more."""
        for type_ in place.hosts:
            there = self._hosts[type_]
            del there[place.name]
            if not there:
                del self._hosts[type_]
        place.hosts = {}

    def place(self, agent: AgentId) -> P | None:
        """Where that agent lives from here on; ``None`` if nobody hosts its type."""
        there = self._young.get(agent)
        if there is not None and agent.type in there.hosts:
            return there
        old = self._old.pop(agent, None)
        if old is not None and agent.type in old.hosts:
            self._young[agent] = old
            return old
        for left in (there, old):
            if left is not None:
                _leaves(agent, left)
        hosts = self._hosts.get(agent.type)
        if not hosts:
            self._young.pop(agent, None)
            return None
        if 2 * len(self._young) >= self._remembered:
            self.forget()
        chosen = min(hosts.values(), key=lambda place: place.load)
        self._young[agent] = chosen
        chosen.load += 1
        chosen.placed[agent.type] += 1
        return chosen

    def host(self, type_: str) -> P | None:
        """The worker that has hosted this type for longest."""
        return next(iter(self._hosts.get(type_, {}).values()), None)

    def forget(self) -> None:
        """Forget the places that were not used since the last call."""
        for agent, place in self._old.items():
            _leaves(agent, place)
        self._old, self._young = self._young, {}

    def types(self) -> list[str]:
        """All types that somebody hosts."""
        return sorted(self._hosts)

    def whereabouts(self, healthy: Iterable[str]) -> list[Whereabouts]:
        """Which types live where, given the names of the workers that answer."""
        well = set(healthy)
        return [
            Whereabouts(type_, name, place.placed[type_], name in well, place.hosts[type_].durable)
            for type_, places in sorted(self._hosts.items())
            for name, place in sorted(places.items())
        ]


def _leaves(agent: AgentId, place: Place) -> None:
    place.load -= 1
    place.placed[agent.type] -= 1
    if not place.placed[agent.type]:
        del place.placed[agent.type]
