"""``LinkTransport``: the ``Transport`` port of a worker, over any carrier to a host."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from perdure.errors import (
    DeadlineExceeded,
    NotEncodable,
    PayloadTooLarge,
    PerdureError,
    UsageError,
    WorkerLost,
)
from perdure.messages import AgentId, Presence
from perdure_hosting import wire
from perdure_hosting.connection import Connection, Introduction
from perdure_hosting.deadlines import Deadlines
from perdure_hosting.direct import Door, Ways, directly
from perdure_hosting.errors import HostUnreachable
from perdure_hosting.handlers import Handlers, delivering
from perdure_hosting.peer import Peer, late, named
from perdure_hosting.settings import WorkerSettings
from perdure_hosting.wire_pb2 import Frame
from perdure_messaging.revival import revived

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perdure.messages import Envelope, Whereabouts
    from perdure.ports import Clock, Deliver
    from perdure_hosting.carrier import Carrier, Dial
    from perdure_hosting.link import Link


_FAREWELL: Final = 1.0
"""Seconds that a worker which leaves gives the host to hear of it."""


class LinkTransport:
    """Carries messages through a host.

    Args:
        dial: Makes a carrier to the host, and to other workers by their addresses.
        clock: The time that deadlines are given in.
        settings: How.
    """

    def __init__(self, dial: Dial, clock: Clock, settings: WorkerSettings | None = None) -> None:
        self._settings = settings = settings or WorkerSettings()
        self._clock = clock
        self._state: Literal["new", "started", "stopping", "stopped"] = "new"
        self._presence = Presence()
        self._types: frozenset[str] = frozenset()
        self._deadlines = Deadlines(clock)
        self._handlers = Handlers(settings.handlers)
        self._host = Peer("the host", clock, self._deadlines, self._handlers, patience=settings.patience)
        self._connection = Connection(self._host, dial, clock, retry=settings.retry)
        self._connection.me = Introduction(settings.name, settings.address)
        self._connection.opened, self._connection.lost = self._opened, self._lost
        self._host.told = self._told
        self._door = Door(self._handlers, clock, self._hosts)
        self._visits: set[asyncio.Task[None]] = set()
        self._ways: Ways | None = None
        if settings.direct:
            self._ways = Ways(dial, clock, self._deadlines, self._handlers, lambda: self._connection.name)
        self._changed = asyncio.Event()
        self._handlers.ended = self._host.ended = self._connection.failed = self._changed.set
        if self._ways is not None:
            self._ways.ended = self._changed.set
        self._running: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def serialises(self) -> bool:
        """It does."""
        return True

    async def start(self, deliver: Deliver) -> None:
        """Connect to the host.

        Raises:
            UsageError: It was started before.
            Refused: The host does not take this worker.
            HostUnreachable: There was no host within the setting ``connect``.
        """
        if self._state != "new":
            msg = f"the transport cannot be started: it is {self._state}; make a new one"
            raise UsageError(msg)
        self._state = "started"
        self._handlers.start(deliver)
        connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._connection.run(connected))
        self._running.add_done_callback(partial(self._broken, connected))
        if self._connection.me.address:
            self._looking = asyncio.create_task(self._door.look())
        self._deadlines.watch(connected, self._clock.now() + self._settings.connect, self._unreached)
        await connected

    def listens(self, address: str) -> None:
        """Others may dial this one there. To be said before ``start``, by what listens for ``accept``."""
        self._connection.me = Introduction(self._settings.name, address)

    async def announce(self, presence: Presence) -> None:
        """Say what lives here. Raises ``NotPermitted``: then it stays as it was."""
        self._check("told what lives here")
        before = self._types
        self._types |= _types_of(presence)  # others may hear of the host's consent before this one does
        while (answer := await self._host.command(lambda number: wire.announcement(presence, number))) is None:
            pass  # again, in the next session
        if answer.kind == Frame.ERROR:
            self._types = before
            raise _refusal(answer)
        self._presence, self._types = presence, _types_of(presence)

    async def send(self, envelope: Envelope) -> Envelope:
        """Carry a request; return its reply or error envelope. Raises as the port says."""
        if envelope.kind != "request":
            msg = f"the transport was given a {envelope.kind} to send: only requests are sent, replies return"
            raise UsageError(msg)
        self._check("sent", envelope)
        if envelope.deadline is not None and envelope.deadline <= self._clock.now():
            raise late(envelope)
        try:
            answer = await self._asked(envelope)
        except (DeadlineExceeded, NotEncodable, PayloadTooLarge):
            raise
        except PerdureError as error:
            return envelope.failed(error)
        return wire.answer_of(answer, envelope)

    async def publish(self, envelope: Envelope) -> None:
        """Carry an event; return once the host has accepted it.

        Raises:
            UsageError: The transport is not started, or stopped; the envelope is no event.
            NotPermitted: This worker may not publish there.
            Undeliverable: It is for one agent, and nobody hosts its type.
            Overloaded: Who gets it does not read.
        """
        if envelope.kind != "event" or not (envelope.topic or envelope.target):
            msg = f"the transport was given a {envelope.kind} to publish, expected an event with a topic or target"
            raise UsageError(msg)
        self._check("published", envelope)
        if self._ways is not None:
            if self._ways.busy:
                await self._ways.settled()
            self._ways.published += 1
        while (answer := await self._host.ask(envelope)) is None:
            pass  # nobody knows whether it had arrived: it goes again, and who has it knows it by its id
        if answer.kind == Frame.ERROR:
            raise _refusal(answer)

    async def agents(self) -> Sequence[Whereabouts]:
        """Which agent types live where, as the host sees it."""
        self._check("asked for agents")
        while (answer := await self._host.command(lambda number: wire.note(Frame.DISCOVER, number))) is None:
            pass  # asked again in the new session
        return wire.whereabouts_of(answer)

    async def stop(self) -> None:
        """Refuse what is new, let finish what was accepted for the setting ``drain``, then leave. Idempotent."""
        if self._state == "stopped":
            return
        if self._state == "new" or self._running is None:
            self._state = "stopped"
            return
        self._state = "stopping"
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain):
                await self._drained()
        self._state = "stopped"
        await self._leave(WorkerLost("the transport stopped before there was an answer: send it again elsewhere"))
        await _ended({self._running, *self._visits, *([self._looking] if self._looking else [])})
        await self._deadlines.stop()

    async def _leave(self, error: Exception) -> None:
        """End what is under way with this error, and say goodbye."""
        self._handlers.fail(self._host, error)
        self._handlers.cancel_events()
        await self._door.close(error)
        if self._ways is not None:
            await self._ways.close()
        self._host.closed(error)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._until(lambda: self._away or not self._host.link.held)
        self._connection.leave("the worker stops")
        if self._running is not None and self._host.line is not None:
            await asyncio.wait({self._running}, timeout=_FAREWELL)

    async def _drained(self) -> None:
        """Return when all that was accepted is done, and the host has all that is for it, if it is there."""
        if self._presence != Presence():
            self._host.put(wire.announcement(Presence(), 0))  # new ones go elsewhere
        ways = self._ways

        def done() -> bool:
            if self._away:  # whoever waits for it here waits in vain, and may be what is waited for
                self._host.closed(WorkerLost("the transport stops, and its host is gone: send it again elsewhere"))
            return self._handlers.idle and (self._away or self._host.idle) and (ways is None or ways.idle)

        await self._until(done)

    @property
    def _away(self) -> bool:
        """Whether there is no connection to the host, and an attempt to get one has failed."""
        return not self._host.open and bool(self._connection.failure)

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._host.link.poke()
            self._host.wake()
            self._changed.clear()
            await self._changed.wait()

    async def _asked(self, envelope: Envelope) -> Frame:
        ways, target = self._ways, envelope.target
        if ways is None or target is None:
            while (answer := await self._host.ask(envelope)) is None:
                pass  # it certainly was not sent before the session ended: it goes in the next one
            return answer
        peer = ways.to(target)
        if peer is not None:
            seconds = self._connection.settings.deadline
            answer = await directly(peer, envelope, self._clock.now() + seconds if seconds else None)
            if answer is not None:
                return answer
            ways.leave(target)
        elif ways.busy:
            await ways.settled()
        route, published, fence = ways.through(target), ways.published, -1
        try:
            while (answer := await self._host.ask(envelope, locate=True)) is None:
                pass  # as above
            fence = published
        finally:
            ways.answered(route, fence)
        return answer

    def accept(self, carrier: Carrier) -> None:
        """Another worker has dialled this one."""
        task = asyncio.create_task(self._door.reception.serve(carrier))
        self._visits.add(task)
        task.add_done_callback(self._visits.discard)

    def _told(self, frame: Frame) -> None:
        if frame.kind == Frame.LOCATED and self._ways is not None:
            self._ways.learn(frame, AgentId(frame.target_type, frame.target_key))
        elif frame.kind == Frame.EXPECT:
            self._door.expect(frame.located)

    def _hosts(self, type_: str) -> bool:
        return self._state == "started" and type_ in self._types

    def _opened(self, link: Link) -> None:
        self._placed_no_more()
        self._host.renewed(link, lambda number: wire.announcement(self._presence, number))

    def _broken(self, connected: asyncio.Future[None], running: asyncio.Task[None]) -> None:
        """The connection is given up for good: by an error that nobody has thought of, or by a refusal."""
        error = None if running.cancelled() else running.exception()
        if not connected.done():
            connected.set_exception(error or HostUnreachable("the connection to the host was given up"))
        if error is not None:
            self._host.closed(WorkerLost(f"the connection to the host failed: {error!r}"))
            self._lost()

    def _unreached(self) -> HostUnreachable:
        msg = f"there was no connection to the host within {self._settings.connect} s: is it running?"
        failure = self._connection.failure
        return HostUnreachable(f"{msg} The last attempt: {failure}" if failure else msg)

    def _lost(self) -> None:
        self._placed_no_more()
        self._host.lost()

    def _placed_no_more(self) -> None:
        """The session is over, and with it what the host said of who lives where."""
        self._door.forget()
        if self._ways is not None:
            self._ways.forget()

    def _check(self, what: str, envelope: Envelope | None = None) -> None:
        """Raise ``UsageError`` unless this may be done now."""
        if self._state == "started" or (self._state == "stopping" and delivering.get() is self._handlers):
            return
        is_ = "not started" if self._state == "new" else self._state
        msg = f"{named(envelope) if envelope else 'the host'} cannot be {what}: the transport is {is_}"
        raise UsageError(msg)


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _types_of(presence: Presence) -> frozenset[str]:
    return frozenset(each.type for each in presence.agents)


def _refusal(answer: Frame) -> PerdureError:
    """What the host has refused with."""
    error = wire.error_of(answer)
    return revived(error) or PerdureError(str(error))
