"""``InProcess``: the ``Transport`` port, one task for each delivery.

The caller waits for a future, not for the handler's task: so a request ends at its deadline, or when the transport
stops, also where a handler does not heed its cancellation.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal

from perdure.errors import DeadlineExceeded, RetryableError, RunCancelled, UsageError
from perdure.messages import Envelope, Presence, Whereabouts
from perdure_transport_inprocess.portable import carried

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.ports import Clock, Deliver
    from perdure_transport_inprocess.settings import Settings

_HEED: Final = 1.0
"""Seconds that a cancelled handler gets for its clean-up before ``stop`` leaves it behind."""

_delivering: ContextVar[InProcess | None] = ContextVar("perdure_transport_inprocess", default=None)
"""The transport whose delivery this code is part of: what it sends belongs to what is under way."""


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
        self._deliver: Deliver | None = None
        self._presence = Presence()
        self._under_way: dict[asyncio.Task[None], tuple[Envelope, asyncio.Future[Envelope]]] = {}

    @property
    def serialises(self) -> bool:
        """Not yet: the setting ``strict`` copies payloads here."""
        return False

    async def announce(self, presence: Presence) -> None:
        """Say what lives here."""
        self._presence = presence

    async def agents(self) -> Sequence[Whereabouts]:
        """What was announced."""
        return [Whereabouts(hosted.type, "local", durable=hosted.durable) for hosted in self._presence.agents]

    async def publish(self, envelope: Envelope) -> None:
        """Carry an event; raises ``UsageError`` where there is no target, for topics are not there yet."""
        if envelope.target is None:
            msg = "transport 'inprocess' does not know topics yet"
            raise UsageError(msg)
        await self.send(envelope._replace(kind="request"))

    async def start(self, deliver: Deliver) -> None:
        """Deliver to this function from here on. Raises ``UsageError`` if the transport was started before."""
        if self._state != "new":
            msg = f"transport 'inprocess' cannot be started: it is {self._state}; make a new one"
            raise UsageError(msg)
        self._deliver = deliver
        self._state = "started"

    async def send(self, envelope: Envelope) -> Envelope:
        """Carry a request to its handler; return the reply or error envelope.

        Raises:
            DeadlineExceeded: At ``envelope.deadline``; the handler is cancelled.
            UsageError: The transport is not started, or stopped; the envelope is no request.
            NotEncodable: The setting ``strict`` is on, and the payload is not portable.
        """
        deliver = self._open_for(envelope)
        if envelope.deadline is not None and envelope.deadline <= self._clock.now():
            raise _too_late(envelope)
        if self._settings.strict:
            envelope = envelope._replace(payload=carried(envelope.payload, _named(envelope)))
        reply: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._handle(deliver, envelope, reply), name=f"deliver {envelope.id}")
        self._under_way[task] = envelope, reply
        task.add_done_callback(self._ended)
        try:
            return await self._outcome(reply, envelope)
        finally:
            task.cancel()  # of a handler that has finished: nothing happens

    async def stop(self) -> None:
        """Let handlers finish for the setting ``grace``, then end what is under way with an error. Idempotent."""
        if self._state != "stopped":
            self._state = "stopping"
            if self._under_way:
                await asyncio.wait(set(self._under_way), timeout=self._settings.grace)
            self._state = "stopped"
        for task, (envelope, reply) in self._under_way.items():
            if not reply.done():
                msg = f"transport 'inprocess' stopped before {_named(envelope)} had a reply: send it again elsewhere"
                reply.set_result(envelope.failed(RetryableError(msg)))
            task.cancel()
        if self._under_way:
            await asyncio.wait(set(self._under_way), timeout=_HEED)

    def _open_for(self, envelope: Envelope) -> Deliver:
        if envelope.kind != "request":
            msg = f"transport 'inprocess' was given a {envelope.kind} to send: only requests are sent, replies return"
            raise UsageError(msg)
        if self._deliver is None:
            msg = f"transport 'inprocess' is not started, so {_named(envelope)} cannot be sent: await start(…) first"
            raise UsageError(msg)
        nested = self._state == "stopping" and _delivering.get() is self
        if self._state != "started" and not nested:
            msg = (
                f"transport 'inprocess' is {self._state}, so {_named(envelope)} cannot be sent: open the runtime again"
            )
            raise UsageError(msg)
        return self._deliver

    async def _handle(self, deliver: Deliver, envelope: Envelope, reply: asyncio.Future[Envelope]) -> None:
        _delivering.set(self)  # of this task's own context
        try:
            answer = await deliver(envelope)
            if self._settings.strict and answer.kind == "reply":
                answer = answer._replace(payload=carried(answer.payload, f"the reply to {_named(envelope)}"))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller's request must end
            answer = envelope.failed(error)
        if not reply.done():
            reply.set_result(answer)

    async def _outcome(self, reply: asyncio.Future[Envelope], envelope: Envelope) -> Envelope:
        if envelope.deadline is None:
            return await reply
        timer = asyncio.ensure_future(self._clock.sleep_until(envelope.deadline))
        try:
            await asyncio.wait({reply, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        if not reply.done():
            raise _too_late(envelope)
        return reply.result()

    def _ended(self, task: asyncio.Task[None]) -> None:
        envelope, reply = self._under_way.pop(task)
        if not reply.done():  # it was cancelled, and not by the caller: a handler may do so itself
            msg = f"the handler of {_named(envelope)} was cancelled"
            reply.set_result(envelope.failed(RunCancelled(msg)))


def _named(envelope: Envelope) -> str:
    return f"message {envelope.type!r} to {str(envelope.target)!r}"


def _too_late(envelope: Envelope) -> DeadlineExceeded:
    return DeadlineExceeded(f"{_named(envelope)} had no reply before its deadline; allow more time, or send it again")
