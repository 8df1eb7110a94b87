"""The dialling side of one link: calls that wait for answers, events to be accepted, and whatever waits for room."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from perdure.errors import DeadlineExceeded, Overloaded, PayloadTooLarge, WorkerLost
from perdure_hosting import wire
from perdure_hosting.errors import HostUnreachable
from perdure_hosting.link import Link
from perdure_hosting.settings import SessionSettings
from perdure_hosting.wire_pb2 import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perdure.messages import Envelope
    from perdure.ports import Clock
    from perdure_hosting.deadlines import Deadlines
    from perdure_hosting.handlers import Handlers
    from perdure_hosting.line import Line


class _Asked(NamedTuple):
    """A request or event on its way into the link.

    Attributes:
        number: Of the call.
        raw: The frame.
        future: See ``_Waiting``.
        event: Whether it is one.
    """

    number: int
    raw: bytes
    future: asyncio.Future[Frame | None]
    event: bool


class _Waiting(NamedTuple):
    """What waits for the other side.

    Attributes:
        future: Gets the answering frame; ``None``: it may be sent again.
        frame: Number of the frame that asked.
        repeatable: Whether it may be sent again although the other side may have seen it.
    """

    future: asyncio.Future[Frame | None]
    frame: int
    repeatable: bool


class Peer:
    """One link, as the side that dials sees it. It outlives sessions: ``renewed`` begins another.

    Args:
        who: What errors call the other side.
        clock: The time.
        deadlines: Ends waits.
        handlers: What requests and events are handed to.
        patience: Seconds to wait for room.

    Attributes:
        link: Of the present session; before the first, one that goes nowhere.
        line: The carrier in use, or ``None``.
        serving: Requests of the other side that are being handled.
        told: Called with frames that are neither answers nor messages.
        ended: Called whenever a wait may have ended.
    """

    def __init__(self, who: str, clock: Clock, deadlines: Deadlines, handlers: Handlers, *, patience: float) -> None:
        self.link: Link = Link(SessionSettings())
        self.line: Line | None = None
        self.serving: dict[int, asyncio.Task[None]] = {}
        self.told: Callable[[Frame], None] = _ignored
        self.ended: Callable[[], None] = _nothing
        self._who = who
        self._clock = clock
        self._deadlines = deadlines
        self._handlers = handlers
        self._patience = patience
        self._open = False
        self._last = 0
        self._waiting: dict[int, _Waiting] = {}
        self._events: deque[tuple[int, int]] = deque()  # numbers of frame and call, not yet acknowledged
        self._later: set[int] = set()  # calls of events that are acknowledged, and accepted later
        self._queue: deque[_Asked] = deque()  # what waits for room

    @property
    def open(self) -> bool:
        """Whether there is a session, and a carrier."""
        return self._open and self.line is not None

    @property
    def waits(self) -> bool:
        """Whether something was asked that has no answer yet."""
        return bool(self._waiting or self._queue)

    @property
    def load(self) -> int:
        """How many messages are under way, in both directions."""
        return len(self._waiting) + len(self.serving)

    @property
    def unsure(self) -> bool:
        """Whether something was asked that may not have arrived yet."""
        return bool(self._waiting and self.link.held)

    @property
    def idle(self) -> bool:
        """Whether nothing waits for the other side."""
        return not (self._waiting or self._queue or self.link.held)

    # -- asking

    async def ask(self, envelope: Envelope, *, locate: bool = False, until: float | None = None) -> Frame | None:
        """Send a request or event; return the answering frame, or ``None``: it may be sent again.

        A request may be if it certainly was not sent; an event always, for who gets it knows it by its id. An event is
        answered by a frame of kind ``DONE`` when it is accepted.

        Args:
            envelope: The request or event.
            locate: Whether to ask where its target lives.
            until: When to give up, where the envelope has no deadline.

        Raises:
            DeadlineExceeded: At the envelope's deadline.
            WorkerLost: The session is over, and the other side may have seen the request.
            Overloaded, HostUnreachable: There was no room in time, or no session.
            PayloadTooLarge, NotEncodable: It cannot be carried.
        """
        number = self._last = self._last + 1
        raw = wire.framed(envelope, number)
        if locate:
            raw = wire.asking(raw)
        if len(raw) > self.link.max_frame:
            msg = (
                f"{named(envelope)} has {len(raw)} bytes, more than the {self.link.max_frame} allowed: send a reference"
            )
            raise PayloadTooLarge(msg)
        future: asyncio.Future[Frame | None] = asyncio.get_running_loop().create_future()
        asked = _Asked(number, raw, future, envelope.kind == "event")
        if self._open and not self._queue and self.link.room:
            self._put(asked)
        else:
            self._queue.append(asked)
            self._deadlines.watch(future, self._clock.now() + self._patience, lambda: self._no_room(asked))
        until = envelope.deadline or until
        if until is not None:
            self._deadlines.watch(future, until, lambda: late(envelope))
        try:
            return await future
        except BaseException:
            if asked in self._queue:
                self._queue.remove(asked)
            elif self._waiting.pop(number, None) is not None and not asked.event:
                self.put(wire.note(Frame.CANCEL, number))
            self.ended()
            raise

    async def command(self, raw_of: Callable[[int], bytes]) -> Frame | None:
        """Send something that needs no room; return the answering frame, or ``None``: the session is over."""
        number = self._number()
        future: asyncio.Future[Frame | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = _Waiting(future, self.link.put(raw_of(number)), repeatable=True)
        self.wake()
        try:
            return await future
        finally:
            self._waiting.pop(number, None)

    def put(self, raw: bytes, *, counted: bool = False) -> None:
        """Send this frame."""
        self.link.put(raw, counted=counted)
        self.wake()

    def wake(self, *, alone: bool = False) -> None:
        """Its link has something to say; ``alone``: nothing will come that could go with it."""
        if self.line is not None:
            self.line.wake(alone=alone)

    # -- being answered

    def arrived(self, frames: Sequence[bytes]) -> None:
        """These came; perhaps none, but acknowledgements. Raises ``ProtocolViolated``."""
        parsed, waiting = wire.parsed, self._waiting
        for raw in frames:
            frame = parsed(raw)
            kind = frame.kind
            if kind in _ANSWERS:
                asked = waiting.pop(frame.call, None)
                if asked is not None and not asked.future.done():
                    asked.future.set_result(frame)
            elif kind in _MESSAGES:
                self.link.arrived(len(raw))
                self._handlers.take(self, len(raw), frame)
            elif kind == Frame.CANCEL:
                self._handlers.cancel(self, frame.call)
            elif kind == Frame.PENDING:
                self._later.add(frame.call)
            else:
                self.told(frame)
        self._accepted()
        self._next_in_queue()
        self.ended()

    def _accepted(self) -> None:
        """An event is accepted when it is acknowledged, unless something else was said before."""
        acked, events = self.link.acked, self._events
        while events and events[0][0] <= acked:
            _, number = events.popleft()
            if number in self._later:
                self._later.discard(number)
            elif number in self._waiting:
                future = self._waiting.pop(number).future
                if not future.done():
                    future.set_result(_ACCEPTED)

    # -- sessions

    def renewed(self, link: Link, first: Callable[[int], bytes] | None = None) -> None:
        """Go on with another session: of the last one, say who waits in vain. ``first`` is sent before all else."""
        old, self.link = self.link, link
        waiting, self._waiting = self._waiting, {}
        self._events.clear()
        self._later.clear()
        self._handlers.abandon(self)
        self.serving.clear()
        if first is not None:
            link.put(first(self._number()))
        for future, frame, repeatable in waiting.values():
            if future.done():
                continue
            if repeatable or old.never_written(frame):
                future.set_result(None)
            else:
                future.set_exception(WorkerLost(f"the connection to {self._who} was lost before there was an answer"))
        self._open = True
        self._next_in_queue()

    def closed(self, error: Exception) -> None:
        """End every wait with this error; the other side is told that nobody waits any more."""
        waiting, self._waiting = self._waiting, {}
        for number, each in waiting.items():
            self.put(wire.note(Frame.CANCEL, number))
            if not each.future.done():
                each.future.set_exception(error)
        while self._queue:
            future = self._queue.popleft().future
            if not future.done():
                future.set_exception(error)

    def lost(self) -> None:
        """There is no session, and none is in sight: what may not be sent again ends."""
        self.renewed(self.link)
        self.link = Link(SessionSettings())
        self._open = False

    # -- inside

    def _put(self, asked: _Asked) -> None:
        link = self.link
        frame = link.put(asked.raw, counted=True)
        self._waiting[asked.number] = _Waiting(asked.future, frame, repeatable=asked.event)
        if asked.event:
            self._events.append((frame, asked.number))
            link.urgent = True
        self.wake(alone=len(self._waiting) == 1)

    def _next_in_queue(self) -> None:
        """Send what waits for room, first come, first served."""
        queue = self._queue
        while queue and self._open and self.link.room:
            asked = queue.popleft()
            if not asked.future.done():
                self._put(asked)

    def _no_room(self, asked: _Asked) -> Exception | None:
        if asked not in self._queue:
            return None
        if not self.open:
            return HostUnreachable(f"there was no connection to {self._who} for {self._patience} s")
        return Overloaded(f"{self._who} took over no message for {self._patience} s: it is overloaded")

    def _number(self) -> int:
        self._last += 1
        return self._last


_ACCEPTED: Final = Frame(kind=Frame.DONE)
_ANSWERS: Final = frozenset({Frame.REPLY, Frame.ERROR, Frame.DONE, Frame.FOUND, Frame.MOVED})
_MESSAGES: Final = frozenset({Frame.REQUEST, Frame.EVENT})


def late(envelope: Envelope) -> DeadlineExceeded:
    """What is raised at a deadline."""
    return DeadlineExceeded(f"{named(envelope)} had no reply before its deadline; allow more time, or send it again")


def named(envelope: Envelope) -> str:
    """What errors call a message."""
    return f"message {envelope.type!r} to {str(envelope.target or envelope.topic)!r}"


def _ignored(_frame: Frame) -> None:
    pass


def _nothing() -> None:
    pass
