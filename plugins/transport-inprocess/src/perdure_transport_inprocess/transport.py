"""``InProcess``: the ``Transport`` port within one process, one task for each delivery.

Speed is the point. A request's handler begins at once, inside ``send`` (an eager task, from Python 3.12 on): where it
does not wait for anything, the request costs no turn of the loop and no future. So that nobody starves, one of
``_STREAK`` such requests gives the loop a turn all the same; those that are nested deeper than ``_DEPTH`` are queued.
What is published always goes through the queue, which one callback of the loop empties; while it holds anything,
requests queue up behind, for messages stay in order.

A caller waits for a future, not for its handler's task: so a request ends at its deadline, or when the transport
stops, also where a handler does not heed its cancellation.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from contextvars import Context, copy_context
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from perdure.errors import DeadlineExceeded, RetryableError, RunCancelled, UsageError
from perdure.messages import AgentId, Envelope, Presence, Whereabouts
from perdure_messaging.routing import Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence

    from perdure.ports import Clock, Deliver
    from perdure_transport_inprocess.settings import Settings

_HEED: Final = 1.0
"""Seconds that a cancelled handler gets for its clean-up before ``stop`` leaves it behind."""
_DEPTH: Final = 8
_STREAK: Final = 64
_BATCH: Final = 256
"""Deliveries that begin in one turn of the loop."""

_new: Final[Callable[[type[Envelope], Iterable[Any]], Envelope]] = cast("Any", tuple).__new__
"""Makes an envelope of its fields without the checks that its class makes of a caller's arguments."""

if sys.version_info >= (3, 12):
    _EAGER = True

    def _begin(
        coroutine: Coroutine[Any, Any, Envelope], loop: asyncio.AbstractEventLoop, context: Context | None = None
    ) -> asyncio.Task[Envelope]:
        return asyncio.Task(coroutine, loop=loop, eager_start=True, context=context)
else:
    _EAGER = False

    def _begin(
        coroutine: Coroutine[Any, Any, Envelope], loop: asyncio.AbstractEventLoop, context: Context | None = None
    ) -> asyncio.Task[Envelope]:
        return asyncio.Task(coroutine, loop=loop, context=context)


class _Waiting:
    """A request that waits for its turn, or for its handler."""

    __slots__ = ("context", "envelope", "reply", "task")

    def __init__(self, envelope: Envelope, reply: asyncio.Future[Envelope], context: Context | None = None) -> None:
        self.envelope = envelope
        self.reply = reply
        self.context = context
        self.task: asyncio.Task[Envelope] | None = None


class InProcess:
    """Carries messages between the agents of one runtime.

    Args:
        settings: How.
        clock: The time that deadlines are given in.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._state: Literal["new", "started", "stopping", "stopped"] = "new"
        self._deliver: Deliver
        self._loop: asyncio.AbstractEventLoop
        self._own: Context
        self._presence = Presence()
        self._durable: frozenset[str] = frozenset()
        self._routes = Routes()
        self._queue: deque[Envelope | _Waiting] = deque()
        self._under_way: dict[asyncio.Task[Envelope], _Waiting | None] = {}
        self._idle = asyncio.Event()
        self._depth = 0
        self._count = 0

    @property
    def serialises(self) -> bool:
        """Whether payloads travel as bytes: the setting ``strict``."""
        return self._settings.strict

    async def start(self, deliver: Deliver) -> None:
        """Deliver to this function from here on. Raises ``UsageError`` if the transport was started before."""
        if self._state != "new":
            msg = f"transport 'inprocess' cannot be started: it is {self._state}; make a new one"
            raise UsageError(msg)
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._own = copy_context()
        self._state = "started"

    async def announce(self, presence: Presence) -> None:
        """Say what lives here, instead of what was said before."""
        self._presence = presence
        self._durable = frozenset(each.type for each in presence.agents if each.durable)
        self._routes.replace(self, presence.subscriptions)

    async def agents(self) -> Sequence[Whereabouts]:
        """What was announced, by type."""
        return [Whereabouts(each.type, "local", durable=each.durable) for each in sorted(self._presence.agents)]

    async def send(self, envelope: Envelope) -> Envelope:
        """Carry a request to its handler; return the reply or error envelope.

        Raises:
            DeadlineExceeded: At ``envelope.deadline``; the handler is cancelled.
            UsageError: The transport is not started, or stopped; the envelope is no request, or its payload not what
                this transport takes.
        """
        if self._state != "started" or envelope.kind != "request" or self._settings.strict:
            self._check(envelope, "request")
        if envelope.deadline is not None and envelope.deadline <= self._clock.now():
            raise _too_late(envelope)
        if self._queue or self._depth >= _DEPTH:
            waiting = _Waiting(envelope, self._loop.create_future(), copy_context())
            self._enqueue(waiting)
            return await self._outcome(waiting)
        self._depth += 1
        try:
            task = _begin(self._deliver(envelope), self._loop)
        finally:
            self._depth -= 1
        if task.done() and not task.cancelled():
            self._count += 1
            if not self._count % _STREAK:
                await _turn()
            return _result(task, envelope)
        waiting = _Waiting(envelope, self._loop.create_future())
        self._watch(task, waiting)
        return await self._outcome(waiting)

    async def publish(self, envelope: Envelope) -> None:
        """Queue an event for those who are subscribed, or for its target; durable agents have it when this returns.

        Raises:
            RetryableError: A durable agent could not take it.
            UsageError: As ``send``.
        """
        if self._state != "started" or envelope.kind != "event" or self._settings.strict:
            self._check(envelope, "event")
        if envelope.target is not None:
            if envelope.target.type in self._durable:
                await self._hand_over([envelope])
            else:
                self._enqueue(envelope)
            return
        head, tail = envelope[:2], envelope[3:]
        durable: list[Envelope] = []
        for target in self._targets(envelope):
            if target.type in self._durable:
                durable.append(envelope._replace(target=target))
            else:
                self._enqueue(_new(Envelope, (*head, target, *tail)))
        if durable:
            await self._hand_over(durable)

    async def _hand_over(self, envelopes: list[Envelope]) -> None:
        """Let durable agents accept an event, before its sender is told that they did."""
        for answer in await asyncio.gather(*map(self._deliver, envelopes)):
            if answer.kind == "error" and answer.error.retryable:
                raise RetryableError(answer.error.message)

    async def stop(self) -> None:
        """Let handlers finish for the setting ``grace``, then end what is under way with an error. Idempotent."""
        if self._state in {"new", "stopped"}:
            self._state = "stopped"
            return
        self._state = "stopping"
        await self._quiet(self._settings.grace)
        self._state = "stopped"
        for waiting in (*self._queue, *self._under_way.values()):
            if isinstance(waiting, _Waiting) and not waiting.reply.done():
                msg = f"transport 'inprocess' stopped before {_named(waiting.envelope)} had a reply: send it again"
                waiting.reply.set_result(waiting.envelope.failed(RetryableError(msg)))
        for task in tuple(self._under_way):
            task.cancel()
        self._queue.clear()
        await self._quiet(_HEED)

    async def _quiet(self, seconds: float) -> None:
        """Return when nothing is queued or under way, or after so long."""
        if self._queue or self._under_way:
            self._idle.clear()
            await asyncio.wait({waiter := asyncio.ensure_future(self._idle.wait())}, timeout=seconds)
            waiter.cancel()

    def _targets(self, envelope: Envelope) -> list[AgentId]:
        if envelope.topic is None:
            msg = f"event {envelope.id!r} has neither a topic nor a target, so nobody can get it"
            raise UsageError(msg)
        agents, custom = self._routes.recipients(envelope.topic)
        targets = [agent for agent in agents if agent != envelope.sender]
        return targets + [AgentId(each, "") for each in custom] if custom else targets

    def _enqueue(self, waiting: Envelope | _Waiting) -> None:
        self._queue.append(waiting)
        if len(self._queue) == 1:
            self._loop.call_soon(self._spread, context=self._own)

    def _spread(self) -> None:
        """Begin what is queued, in order."""
        queue, loop, deliver = self._queue, self._loop, self._deliver
        for _ in range(min(len(queue), _BATCH)):
            first = queue[0]  # it stays there until it has begun: what its handler sends comes after the rest
            if not isinstance(first, _Waiting):
                task = _begin(deliver(first), loop)
                if not task.done():
                    self._watch(task, None)
            elif not first.reply.done():
                self._watch(_begin(deliver(first.envelope), loop, first.context), first)
            if not queue:  # the transport was stopped from within
                break
            queue.popleft()
        if queue:
            self._loop.call_soon(self._spread, context=self._own)
        elif not self._under_way:
            self._idle.set()

    def _check(self, envelope: Envelope, kind: Literal["request", "event"]) -> None:
        if envelope.kind != kind:
            verb = "send: only requests are sent, replies return" if kind == "request" else "publish: expected an event"
            msg = f"transport 'inprocess' was given a {envelope.kind} to {verb}"
            raise UsageError(msg)
        if self._state == "new":
            msg = f"transport 'inprocess' is not started, so {_named(envelope)} cannot be sent: await start(…) first"
            raise UsageError(msg)
        within = envelope.sender is not None or asyncio.current_task() in self._under_way
        nested = self._state == "stopping" and within  # what is under way may still send
        if self._state != "started" and not nested:
            msg = (
                f"transport 'inprocess' is {self._state}, so {_named(envelope)} cannot be sent: open the runtime again"
            )
            raise UsageError(msg)
        if self._settings.strict and not (envelope.content and isinstance(envelope.payload, bytes)):
            msg = f"transport 'inprocess' is strict and carries bytes, but {_named(envelope)} is a live object"
            raise UsageError(msg)

    def _watch(self, task: asyncio.Task[Envelope], waiting: _Waiting | None) -> None:
        if waiting is not None:
            waiting.task = task
        self._under_way[task] = waiting
        task.add_done_callback(self._ended)

    async def _outcome(self, waiting: _Waiting) -> Envelope:
        reply, deadline = waiting.reply, waiting.envelope.deadline
        try:
            if deadline is None:
                return await reply
            timer = asyncio.ensure_future(self._clock.sleep_until(deadline))
            try:
                await asyncio.wait({reply, timer}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
            if not reply.done():
                raise _too_late(waiting.envelope)
            return reply.result()
        finally:
            reply.cancel()  # of one that is there: nothing happens
            if waiting.task is not None:
                waiting.task.cancel()

    def _ended(self, task: asyncio.Task[Envelope]) -> None:
        waiting = self._under_way.pop(task)
        if waiting is not None and not waiting.reply.done():
            if task.cancelled():  # and not by the caller: a handler may do so itself
                msg = f"the handler of {_named(waiting.envelope)} was cancelled"
                waiting.reply.set_result(waiting.envelope.failed(RunCancelled(msg)))
            else:
                waiting.reply.set_result(_result(task, waiting.envelope))
        if not (self._queue or self._under_way):
            self._idle.set()


def _result(task: asyncio.Task[Envelope], envelope: Envelope) -> Envelope:
    try:
        return task.result()
    except Exception as error:  # noqa: BLE001 - against the contract; the caller's request must end all the same
        return envelope.failed(error)


@coroutine
def _turn() -> Generator[None]:
    """Give the loop a turn."""
    yield


def _named(envelope: Envelope) -> str:
    return f"message {envelope.type!r} to {str(envelope.target or envelope.topic)!r}"


def _too_late(envelope: Envelope) -> DeadlineExceeded:
    return DeadlineExceeded(f"{_named(envelope)} had no reply before its deadline; allow more time, or send it again")
