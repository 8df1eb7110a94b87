"""Live message agents: one slot for each address, made at its first message, let go when idle.

A slot's turnstile lets in one message at a time, in the order of arrival. It is no ``asyncio.Lock``: a free one is
passed without waiting for anything, and it lets the sweeper in between two messages.

One timer looks after all of them. It looks at marks, not at times, so that a message costs no look at the clock: what
had no message from one round to the next, and for at least its agent's ``idle``, is let go.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from perdure.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure import AgentId
    from perdure.direct import Memory
    from perdure.ports import Clock
    from perdure_messaging.actors import Actor
    from perdure_messaging.handlers import MessageAgent

_log: Final = logging.getLogger("perdure.messaging")


class Slot:
    """The place of one instance.

    Attributes:
        address: Whose.
        actor: Its declaration.
        agent: The instance, where it is live.
        busy: Whether the turnstile is taken.
        running: Messages being handled side by side, of a concurrent agent.
        used: Whether a message came since the last round.
        since: Since when none came.
        saved: What the instance before left.
        memory: What handlers have as ``ctx.session``, where one asked for it.
    """

    __slots__ = ("actor", "address", "agent", "busy", "memory", "running", "saved", "since", "used", "waiting")

    def __init__(self, address: AgentId, actor: Actor[Any], since: float) -> None:
        self.address = address
        self.actor = actor
        self.agent: MessageAgent | None = None
        self.busy = False
        self.running = 0
        self.used = True
        self.since = since
        self.saved: Any = None
        self.memory: Memory | None = None
        self.waiting: deque[asyncio.Future[None]] | None = None

    async def turn(self, limit: int) -> None:
        """Wait for the turnstile, which is taken. Raises ``Overloaded`` where as many wait already."""
        if self.waiting is None:
            self.waiting = deque()
        if len(self.waiting) >= limit:
            msg = f"{limit:,} messages wait for agent {str(self.address)!r} already: send it again later"
            raise Overloaded(msg)
        mine = asyncio.get_running_loop().create_future()
        self.waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it was our turn
                self.leave()
            raise

    def leave(self) -> None:
        """Let in the next one, if any waits."""
        while self.waiting:
            following = self.waiting.popleft()
            if not following.done():
                following.set_result(None)
                return
        self.busy = False
        self.waiting = None

    async def begin(self) -> MessageAgent:
        """Make the instance; the caller holds the turnstile."""
        agent = self.actor.make()
        if self.saved is not None:
            await agent.load(self.saved)
        await agent.on_start()
        self.agent, self.saved = agent, None
        return agent

    async def begin_shared(self, limit: int) -> MessageAgent:
        """Make the instance, where several messages may want it at once."""
        if self.busy:
            await self.turn(limit)
        self.busy = True
        try:
            return await self.begin() if self.agent is None else self.agent
        finally:
            self.leave()

    async def end(self, *, keep: bool) -> None:
        """Let the instance go; the caller holds the turnstile."""
        agent, self.agent = self.agent, None
        if agent is None:
            return
        try:
            if keep:
                self.saved = await agent.save()
            await agent.on_stop()
        except Exception:  # noqa: BLE001 - whatever it is, others are to be let go, too
            _log.exception("agent %r failed as it was let go", str(self.address))


class Instances:
    """All slots of a runtime.

    Args:
        clock: The time.
        grace: Seconds that ``on_stop`` gets when all are let go.
    """

    def __init__(self, clock: Clock, grace: float) -> None:
        self._clock = clock
        self._grace = grace
        self._sweeper: asyncio.Task[None] | None = None
        self.slots: dict[AgentId, Slot] = {}
        self.saved: dict[AgentId, Any] = {}

    def open(self, address: AgentId, actor: Actor[Any]) -> Slot:
        """A slot for an address that has none."""
        slot = self.slots[address] = Slot(address, actor, self._clock.now())
        slot.saved = self.saved.pop(address, None)
        if actor.idle is not None and self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), name="perdure-messaging idle")
        return slot

    def count(self, type_: str) -> int:
        """How many instances of a type live here."""
        return sum(slot.agent is not None for address, slot in self.slots.items() if address.type == type_)

    async def stop(self) -> None:
        """Let all of them go."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        slots = [slot for slot in self.slots.values() if slot.agent is not None]
        self.slots.clear()
        if slots:
            tasks = [asyncio.ensure_future(slot.end(keep=False)) for slot in slots]
            _, late = await asyncio.wait(tasks, timeout=self._grace)
            for task in late:
                task.cancel()

    async def _sweep(self) -> None:
        """Let go of what is idle, as long as there is something to look after."""
        while idles := [slot.actor.idle for slot in self.slots.values() if slot.actor.idle is not None]:
            await self._clock.sleep_until(self._clock.now() + min(idles) / 2)
            await self._let_go(self._idle_ones())
        self._sweeper = None

    def _idle_ones(self) -> Sequence[Slot]:
        now, found = self._clock.now(), list[Slot]()
        for slot in self.slots.values():
            if slot.used or slot.busy or slot.running:
                slot.used, slot.since = False, now
            elif slot.actor.idle is not None and now - slot.since >= slot.actor.idle:
                found.append(slot)
        return found

    async def _let_go(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            if slot.busy or slot.running or slot.used:  # a message came while others were let go
                continue
            slot.busy = True
            try:
                await slot.end(keep=True)
            finally:
                if not slot.waiting and not slot.used and self.slots.get(slot.address) is slot:
                    del self.slots[slot.address]
                    if slot.saved is not None:
                        self.saved[slot.address] = slot.saved
                slot.leave()
