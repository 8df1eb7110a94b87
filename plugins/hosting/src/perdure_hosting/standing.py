"""Durable agents that stand whether or not a worker is there: their messages go into the host's store. Sans I/O.

An agent type stands once a worker that hosts it takes its turns from this very store: durable agents of workers with
stores of their own get their messages as all others do. From then on it stands, with its subscriptions, until a worker
announces it otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from perdure.messages import Fact, Subscription

if TYPE_CHECKING:
    from perdure.messages import Presence
    from perdure_messaging.routing import Routes


class Standing(Fact):
    """A durable agent type.

    Attributes:
        type: Its qualified name.
        subscriptions: Those of its agents.
    """

    type: str
    subscriptions: tuple[Subscription, ...] = ()


_LIST: Final = TypeAdapter(tuple[Standing, ...])


class Roll:
    """Which agent types stand.

    Args:
        routes: Where their subscriptions are put.

    Attributes:
        standing: By type; the order is that of the names.
    """

    def __init__(self, routes: Routes) -> None:
        self.standing: dict[str, Standing] = {}
        self._routes = routes
        self._present: dict[str, Presence] = {}
        self._served: set[str] = set()

    def announced(self, worker: str, presence: Presence) -> None:
        """A worker has said what lives there."""
        self._present[worker] = presence

    def gone(self, worker: str) -> None:
        """A worker has left. What it hosted stands on."""
        self._present.pop(worker, None)

    def serves(self, targets: frozenset[str] | None) -> bool:
        """Somebody takes the runs and turns of these targets from the store. Whether that is new.

        Who takes whatever there is (``None``) says nothing: agents of others may have their turns in other stores.
        """
        if targets is None or targets <= self._served:
            return False
        self._served |= targets
        return True

    def due(self) -> dict[str, Standing]:
        """What is to stand, going by what was announced."""
        wanted = dict(self.standing)
        announced: dict[str, dict[Subscription, None]] = {}
        volatile: set[str] = set()
        for presence in self._present.values():
            for hosted in presence.agents:
                if not hosted.durable:
                    volatile.add(hosted.type)
                elif hosted.type in self._served or hosted.type in wanted:
                    own = (each for each in presence.subscriptions if each.agent == hosted.type)
                    announced.setdefault(hosted.type, {}).update(dict.fromkeys(own))
        for type_ in volatile - announced.keys():
            wanted.pop(type_, None)
        for type_, subscriptions in announced.items():
            wanted[type_] = Standing(type=type_, subscriptions=tuple(sorted(subscriptions)))
        return dict(sorted(wanted.items()))

    def stand(self, standing: dict[str, Standing]) -> None:
        """These stand from here on."""
        for type_ in self.standing.keys() - standing.keys():
            self._routes.replace(("standing", type_), ())
        for type_, each in standing.items():
            self._routes.replace(("standing", type_), each.subscriptions)
        self.standing = standing


def written(standing: dict[str, Standing]) -> bytes:
    """JSON of these."""
    return _LIST.dump_json(tuple(standing.values()))


def read(value: object) -> dict[str, Standing]:
    """What was ``written``, as JSON decodes it. Raises ``ValueError``."""
    return {each.type: each for each in _LIST.validate_python(value)}
