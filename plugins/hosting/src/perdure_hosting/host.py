"""The host: accepts sessions over any carrier and looks after them. How it routes between them is in ``router``."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from perdure.errors import WorkerLost
from perdure_hosting.introductions import Introductions
from perdure_hosting.link import Link
from perdure_hosting.reception import Reception
from perdure_hosting.router import Member, Router
from perdure_hosting.settings import HostSettings
from perdure_hosting.store_host import StoreHost
from perdure_hosting.wire_pb2 import Goodbye, Hello

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.messages import Whereabouts
    from perdure.ports import Clock, DurableStore
    from perdure_hosting.carrier import Carrier, Principal


class Host:
    """Routes messages between workers.

    Args:
        clock: The time.
        settings: How.
        store: Where what is durable lies, for workers without a store and for events that nobody may lose; ``None``:
            nowhere. Whoever gives it closes it, after the host has stopped.
        lease: Seconds after which the store takes a worker that shows no life for dead.

    Attributes:
        router: What it knows: for tests and for people.
    """

    def __init__(
        self,
        clock: Clock,
        settings: HostSettings | None = None,
        *,
        store: DurableStore | None = None,
        lease: float = 10.0,
    ) -> None:
        self._settings = settings or HostSettings()
        self._clock = clock
        valid = self._settings.forget / 4
        self._introductions = Introductions(valid) if self._settings.direct else None
        self.router = Router(self._settings, self._introductions)
        self._desk = None if store is None else StoreHost(store, self.router, clock, lease=lease)
        if self._desk is not None:
            self.router.desk = self._desk
        self.reception: Reception[Member] = Reception(self, self._settings, clock)
        self._sweeping: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def settings(self) -> HostSettings:
        """How it routes: for what listens on its behalf."""
        return self._settings

    async def start(self) -> None:
        """Begin to look after sessions. Raises ``StoreUnavailable``, ``StoreUnusable``."""
        if self._sweeping is None:
            if self._desk is not None:
                await self._desk.start()
            self._sweeping = asyncio.create_task(self._sweep())

    async def serve(self, carrier: Carrier) -> None:
        """Talk with a worker until the carrier ends."""
        await self.reception.serve(carrier)

    def accept(self, carrier: Carrier) -> None:
        """``serve`` in a task of the host's own."""
        task = asyncio.create_task(self.serve(carrier))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def stop(self) -> None:
        """Refuse new workers, let finish what is under way for the setting ``drain``, say goodbye. Idempotent."""
        self.reception.close_doors("the host stops")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain):
                await self._quiet()
        if self._desk is not None:
            await self._desk.stop()
        self.router.fail_all(WorkerLost("the host stopped before there was an answer: send it again, to another host"))
        await self.reception.stop(Goodbye.STOPPING, "the host stops")
        if self._serving:
            await asyncio.wait(set(self._serving), timeout=1.0)
        tasks = {*self._serving, *([self._sweeping] if self._sweeping else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._sweeping = None

    def workers(self) -> Sequence[str]:
        """The names of all that have a session."""
        return sorted(self.reception.sessions)

    def whereabouts(self) -> Sequence[Whereabouts]:
        """Which agent types live where."""
        return self.router.whereabouts()

    # -- what its sessions tell it

    def opened(self, hello: Hello, principal: Principal, name: str) -> Member:
        """A new session."""
        member = Member(name, principal, Link(self._settings), hello.address)
        self.router.joined(member)
        return member

    def arrived(self, session: Member, frames: Sequence[bytes]) -> None:
        """Frames, or acknowledgements."""
        self.router.now = self._clock.now()
        self.router.arrived(session, frames)
        self._changed.set()

    def lost(self, session: Member) -> None:
        """A session is over."""
        self.router.lost(session)
        if self._introductions is not None:
            self._introductions.lost(session)
        self._changed.set()

    def load(self) -> int:
        """How many requests have no answer yet."""
        return len(self.router.calls)

    # -- tasks

    async def _sweep(self) -> None:
        pause = min(1.0, self._settings.heartbeat / 2)
        while True:
            await self._clock.sleep_until(self._clock.now() + pause)
            self.router.sweep(self._clock.now())
            await self.reception.sweep()

    async def _quiet(self) -> None:
        """Return when nothing is under way, and all have what was for them."""
        for member in self.router.members.values():
            member.link.poke()
            member.wake()
        while not self.router.idle:
            self._changed.clear()
            await self._changed.wait()
