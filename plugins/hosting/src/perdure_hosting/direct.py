"""Requests that go from worker to worker without the host, once it has said where an agent lives.

The order of what one sender sends to one agent stays as it was. A request goes directly only when everything that went
to its agent through the host has been answered; what goes through the host waits until what went directly has arrived.
Publications always go through the host, and after one the next request to each agent does, too.

What the host said holds for a while and as long as its session does; then it is asked again. So an agent does not live
twice because two hear different things about it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from perdure.errors import NotPermitted
from perdure_hosting import wire
from perdure_hosting.carrier import Principal, permits
from perdure_hosting.connection import Connection, Introduction
from perdure_hosting.errors import ProtocolViolated
from perdure_hosting.link import Link
from perdure_hosting.peer import Peer
from perdure_hosting.reception import Reception, Session
from perdure_hosting.settings import SessionSettings
from perdure_hosting.wire_pb2 import Frame, Goodbye, Hello, Located

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perdure.messages import AgentId, Envelope
    from perdure.ports import Clock
    from perdure_hosting.carrier import Dial
    from perdure_hosting.deadlines import Deadlines
    from perdure_hosting.handlers import Handlers

_PATIENCE: Final = 3.0
"""Seconds without a direct connection after which requests go through the host again."""

_BARRED: Final = 10.0
"""Seconds that nobody tries again to reach a worker directly whose way was lost."""

_ROUTES: Final = 10_000
"""Of so many agents it is remembered where they live."""


class Visitor(Session):
    """Another worker, as the one that it came to sees it.

    Attributes:
        allowed: What the host said of it.
        serving: Its requests that are being handled.
    """

    def __init__(self, name: str, principal: Principal, link: Link, allowed: Located) -> None:
        super().__init__(name, principal, link, "")
        self.allowed = allowed
        self.serving: dict[int, asyncio.Task[None]] = {}
        self._may: dict[tuple[str, str], bool] = {}

    def may(self, target: str, sender: str) -> bool:
        """Whether it may send to that agent type, in the name of that one."""
        asked = target, sender
        allowed = self._may.get(asked)
        if allowed is None:
            named = not sender or permits(tuple(self.allowed.may_host), sender)
            allowed = named and permits(tuple(self.allowed.may_send), target)
            if len(self._may) < 1000:  # noqa: PLR2004 - names come from outside: remember some
                self._may[asked] = allowed
        return allowed


class Door:
    """Where other workers come in.

    Args:
        handlers: What their requests are handed to.
        clock: The time.
        hosts: Whether an agent type lives here.
    """

    def __init__(self, handlers: Handlers, clock: Clock, hosts: Callable[[str], bool]) -> None:
        self._settings = SessionSettings(grace=2 * _PATIENCE)
        self._handlers = handlers
        self._clock = clock
        self._hosts = hosts
        self._expected: dict[str, Located] = {}
        self.reception: Reception[Visitor] = Reception(self, self._settings, clock)

    def expect(self, located: Located) -> None:
        """The host says that one may come."""
        for ticket, known in list(self._expected.items()):
            if known.worker == located.worker:
                del self._expected[ticket]
        self._expected[located.ticket] = located

    def forget(self) -> None:
        """The host is another one, or knows nothing any more: nobody may be here."""
        self._expected.clear()
        for visitor in list(self.reception.sessions.values()):
            if visitor.line is not None:
                visitor.line.say_goodbye(Goodbye.STOPPING, "this worker begins anew")
            self.reception.end(visitor)

    async def look(self) -> None:
        """Look after those who are here, again and again."""
        while True:
            await self._clock.sleep_until(self._clock.now() + self._settings.heartbeat / 2)
            await self.reception.sweep()

    async def close(self, error: Exception) -> None:
        """End what is being handled for visitors, and say goodbye."""
        for visitor in self.reception.sessions.values():
            self._handlers.fail(visitor, error)
        await self.reception.stop(Goodbye.STOPPING, "this worker stops")

    # -- what its sessions tell it

    def opened(self, hello: Hello, principal: Principal, name: str) -> Visitor:
        """Somebody comes."""
        allowed = self._expected.get(hello.ticket)
        if allowed is None or allowed.worker != name:
            msg = f"worker {name!r} is not expected here: the host says who may come"
            raise ProtocolViolated(msg, Goodbye.NOT_PERMITTED)
        return Visitor(name, principal, Link(self._settings), allowed)

    def arrived(self, session: Visitor, frames: Sequence[bytes]) -> None:
        """Requests, and what calls them off."""
        for raw in frames:
            frame = wire.parsed(raw)
            if frame.kind == Frame.REQUEST:
                session.link.arrived(len(raw))
                if not self._hosts(frame.target_type):
                    session.link.took(len(raw))
                    session.put(wire.note(Frame.MOVED, frame.call))
                elif not session.may(frame.target_type, frame.sender_type):
                    session.link.took(len(raw))
                    msg = f"{session.name!r} may not send to {frame.target_type!r} as {frame.sender_type!r}"
                    session.put(wire.failure(frame.call, NotPermitted(msg)))
                else:
                    self._handlers.take(session, len(raw), frame)
            elif frame.kind == Frame.CANCEL:
                self._handlers.cancel(session, frame.call)

    def lost(self, session: Visitor) -> None:
        """Nobody waits any more."""
        self._handlers.abandon(session)

    def load(self) -> int:
        """How many messages are being handled."""
        return self._handlers.busy


class Route:
    """What is known of one agent.

    Attributes:
        worker: Which holds it; empty: unknown.
        until: When the host is to be asked again (UTC seconds).
        under_way: How many requests to it are under way through the host.
        fence: How many publications had been sent before the last answered request to it through the host.
    """

    __slots__ = ("fence", "under_way", "until", "worker")

    def __init__(self) -> None:
        self.worker = ""
        self.until = 0.0
        self.under_way = 0
        self.fence = -1


class Ways:
    """The direct ways from one worker to others.

    Args:
        dial: Makes a carrier to an address.
        clock: The time.
        deadlines: Ends waits.
        handlers: Nothing comes back on these ways but answers.
        me: What this worker is called.

    Attributes:
        published: How many publications were sent.
        ended: Called whenever a wait may have ended.
    """

    def __init__(
        self, dial: Dial, clock: Clock, deadlines: Deadlines, handlers: Handlers, me: Callable[[], str]
    ) -> None:
        self.published: int = 0
        self.ended: Callable[[], None] = _nothing
        self._dial = dial
        self._clock = clock
        self._deadlines = deadlines
        self._handlers = handlers
        self._me = me
        self._routes: dict[AgentId, Route] = {}
        self._peers: dict[str, Peer] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._barred: dict[str, float] = {}
        self._order = asyncio.Lock()
        self._changed = asyncio.Event()

    def to(self, target: AgentId) -> Peer | None:
        """The direct way to an agent, where there is one and it may be taken now."""
        route = self._routes.get(target)
        if route is None or not route.worker or route.under_way or route.fence != self.published:
            return None
        if self._order.locked() or route.until <= self._clock.now():
            return None
        peer = self._peers.get(route.worker)
        return peer if peer is not None and peer.open else None

    def through(self, target: AgentId) -> Route:
        """Say that a request goes through the host, before it does."""
        route = self._routes.get(target)
        if route is None:
            if len(self._routes) >= _ROUTES:
                self._routes = {agent: each for agent, each in self._routes.items() if each.under_way}
            route = self._routes[target] = Route()
        route.under_way += 1
        return route

    def answered(self, route: Route, published: int) -> None:
        """It has been answered; it was sent after so many publications. -1: it has not, and waits no more."""
        route.under_way -= 1
        route.fence = max(route.fence, published)

    def leave(self, target: AgentId) -> None:
        """The agent is not where it was."""
        route = self._routes.get(target)
        if route is not None:
            route.worker = ""

    def learn(self, frame: Frame, target: AgentId) -> None:
        """The host says where an agent lives."""
        located = frame.located
        route = self._routes.get(target)
        if route is None:
            return
        route.worker, route.until = located.worker, self._clock.now() + located.valid
        if located.worker not in self._peers and self._barred.get(located.worker, 0.0) <= self._clock.now():
            peer = Peer(f"worker {located.worker!r}", self._clock, self._deadlines, self._handlers, patience=_PATIENCE)
            peer.ended = self._heard
            self._peers[located.worker] = peer
            connection = Connection(peer, self._dial, self._clock, address=located.address)
            connection.me = Introduction(self._me(), ticket=located.ticket)
            task = asyncio.create_task(self._run(located.worker, peer, connection))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    @property
    def busy(self) -> bool:
        """Whether something that went directly may not have arrived yet."""
        return self._order.locked() or any(peer.unsure for peer in self._peers.values())

    @property
    def idle(self) -> bool:
        """Whether nothing waits for an answer."""
        return not any(peer.waits for peer in self._peers.values())

    async def settled(self) -> None:
        """Return when what went directly has arrived, or its way is lost. Who waits here goes on in order."""
        async with self._order:
            for peer in list(self._peers.values()):
                while peer.unsure and peer in self._peers.values():
                    peer.link.poke()
                    peer.wake()
                    self._changed.clear()
                    await self._changed.wait()

    def forget(self) -> None:
        """The host is another one: what it said holds no more."""
        for route in self._routes.values():
            route.worker = ""
        self._peers.clear()
        self._barred.clear()
        for task in self._running:
            task.cancel()

    async def close(self) -> None:
        """End all."""
        self.forget()
        if self._running:
            await asyncio.wait(set(self._running))

    async def _run(self, worker: str, peer: Peer, connection: Connection) -> None:
        try:
            await connection.run(patience=_PATIENCE)
        finally:
            if self._peers.get(worker) is peer:
                del self._peers[worker]
                now = self._clock.now()
                self._barred = {name: until for name, until in self._barred.items() if until > now}
                self._barred[worker] = now + _BARRED
            peer.lost()
            self._heard()

    def _heard(self) -> None:
        self._changed.set()
        self.ended()


async def directly(peer: Peer, envelope: Envelope, until: float | None) -> Frame | None:
    """Ask directly, at most until then; ``None``: it was not handled, so the host may be asked."""
    if not peer.open or not peer.link.room:
        return None
    answer = await peer.ask(envelope, until=until)
    return None if answer is None or answer.kind == Frame.MOVED else answer


def _nothing() -> None:
    pass
