"""Hands what arrives to the agents that live here, and carries their answers back."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Protocol

from perdure.errors import NotEncodable, PayloadTooLarge, RunCancelled, UsageError
from perdure.messages import AgentId, Envelope
from perdure_hosting import wire
from perdure_hosting.tasks import begun
from perdure_hosting.wire_pb2 import Frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.ports import Deliver
    from perdure_hosting.link import Link

_REMEMBERED: Final = 10_000
"""At least so many events are known again when they come twice."""

delivering: ContextVar[Handlers | None] = ContextVar("perdure_hosting", default=None)
"""Whose handler this code is part of: what it sends belongs to what is under way, also while a transport stops."""


class Asker(Protocol):
    """Who sent a message, as far as handling it goes.

    Attributes:
        link: Over which it came; another one, when the session is another.
        serving: The requests of that link that are being handled, by their number.
    """

    link: Link
    serving: dict[int, asyncio.Task[None]]

    def put(self, raw: bytes, *, counted: bool = False) -> None:
        """Send this frame back."""
        ...

    def wake(self) -> None:
        """Its link has something to say."""
        ...


class Handlers:
    """What is being handled in one process.

    Args:
        limit: How many messages at once; further ones wait, and hold up those who send.

    Attributes:
        busy: How many are being handled.
        ended: Called whenever one has ended.
    """

    def __init__(self, limit: int) -> None:
        self.busy: int = 0
        self.ended: Callable[[], None] = _nothing
        self._limit = limit
        self._deliver: Deliver | None = None
        self._backlog: deque[tuple[Asker, Link, int, Frame]] = deque()
        self._events: set[asyncio.Task[None]] = set()
        self._seen: set[tuple[str, AgentId]] = set()
        self._seen_before: set[tuple[str, AgentId]] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing is being handled, and nothing waits for it."""
        return not (self.busy or self._backlog)

    def start(self, deliver: Deliver) -> None:
        """Hand over to this function from here on."""
        self._deliver = deliver

    def take(self, asker: Asker, size: int, frame: Frame) -> None:
        """Handle a request or event that came as so many bytes; or do so when others have ended."""
        if self._backlog or self.busy >= self._limit:
            self._backlog.append((asker, asker.link, size, frame))
        else:
            self._begin(asker, asker.link, size, frame)

    def cancel(self, asker: Asker, call: int) -> None:
        """Nobody waits for the answer to that request any more."""
        task = asker.serving.get(call)
        if task is not None:
            task.cancel()
            return
        for each in self._backlog:
            _, link, size, frame = each
            if link is asker.link and frame.call == call and frame.kind == Frame.REQUEST:
                link.took(size)
                self._backlog.remove(each)
                return

    def abandon(self, asker: Asker) -> None:
        """Nobody waits for the answers to any requests of that link any more."""
        self._backlog = deque(each for each in self._backlog if each[0] is not asker or each[3].kind == Frame.EVENT)
        for task in list(asker.serving.values()):
            task.cancel()

    def fail(self, asker: Asker, error: Exception) -> None:
        """End all requests of that link with this error, whether their handlers heed it or not."""
        waiting = [frame.call for each, _, _, frame in self._backlog if each is asker and frame.kind == Frame.REQUEST]
        for call in [*asker.serving, *waiting]:
            asker.put(wire.failure(call, error))
        self.abandon(asker)
        asker.serving.clear()

    def cancel_events(self) -> None:
        """Cancel the handlers of events, too."""
        for task in self._events:
            task.cancel()

    def _begin(self, asker: Asker, link: Link, size: int, frame: Frame) -> None:
        link.took(size)
        if link.due:
            asker.wake()
        if frame.kind == Frame.REQUEST:
            self.busy += 1
            call = frame.call
            task = begun(self._answer(asker, call, wire.envelope_of(frame)))
            if not task.done():
                asker.serving[call] = task
            return
        targets = frame.targets
        for target in map(AgentId, targets[::2], targets[1::2]):
            known = frame.id, target
            if known in self._seen or known in self._seen_before:
                continue  # it was sent again, for nobody knew whether it had arrived
            self._seen.add(known)
            self.busy += 1
            task = begun(self._handle(wire.envelope_of(frame, target)))
            if not task.done():
                self._events.add(task)
                task.add_done_callback(self._events.discard)
        if len(self._seen) >= _REMEMBERED:
            self._seen, self._seen_before = set(), self._seen

    async def _answer(self, asker: Asker, call: int, envelope: Envelope) -> None:
        link = asker.link
        answer = await self._handle(envelope)
        if asker.link is link:  # else the number stands for another call now
            asker.put(_framed(answer, call, link.max_frame))
            if asker.serving.get(call) is asyncio.current_task():
                del asker.serving[call]

    async def _handle(self, envelope: Envelope) -> Envelope:
        delivering.set(self)
        try:
            if self._deliver is None:
                msg = "nothing lives here yet"
                raise UsageError(msg)  # noqa: TRY301 - one place makes error envelopes
            return await self._deliver(envelope)
        except asyncio.CancelledError:
            msg = f"the handler of message {envelope.type!r} to {str(envelope.target)!r} was cancelled"
            return envelope.failed(RunCancelled(msg))
        except Exception as error:  # noqa: BLE001 - whatever it is, the request must end
            return envelope.failed(error)
        finally:
            self.busy -= 1
            while self._backlog and self.busy < self._limit:
                self._begin(*self._backlog.popleft())
            self.ended()


def _framed(answer: Envelope, call: int, max_frame: int) -> bytes:
    """An answer as a frame; if it cannot be one, what says so."""
    try:
        raw = wire.answered(answer, call)
    except NotEncodable as error:
        return wire.failure(call, error)
    if len(raw) > max_frame:
        msg = f"the {answer.kind} has {len(raw)} bytes, more than the {max_frame} allowed: return a reference instead"
        return wire.failure(call, PayloadTooLarge(msg))
    return raw


def _nothing() -> None:
    pass
