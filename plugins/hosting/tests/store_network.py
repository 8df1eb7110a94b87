"""Hosts with a store, and the stores of their workers, over carriers in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from perdure.clock import SystemClock
from perdure.ports import Clock, DurableStore
from perdure.testing import MemoryStore
from perdure_hosting.carrier import MemoryCarrier, Principal, pair
from perdure_hosting.host import Host
from perdure_hosting.remote_store import RemoteStore
from perdure_hosting.settings import HostSettings, WorkerSettings

PATIENT = HostSettings(drain=0.1, silence=1e9, heartbeat=1e9, grace=1e9)
"""For tests that move the clock, and have no sessions die of it."""


class StoreHosting:
    """A host with a store.

    Attributes:
        host: The present one; ``None``: the next one that dials has one started.
        carriers: What was dialled, by the store that did: its own ends.
        down: Whether nobody is to be reached.
        cut_every: Each carrier breaks at every packet of such a number, of all; 0: never.
    """

    def __init__(self, backing: DurableStore, clock: Clock, settings: HostSettings = PATIENT, **more: Any) -> None:
        self.backing = backing
        self.clock = clock
        self.settings = settings
        self.more = more
        self.host: Host | None = None
        self.cut_every = 0
        self.down = False
        self.packets = count(1)
        self.carriers: dict[RemoteStore, list[MemoryCarrier]] = {}
        self.on_carrier: Callable[[MemoryCarrier], None] | None = None

    async def start(self) -> None:
        self.host = Host(self.clock, self.settings, store=self.backing, **self.more)
        await self.host.start()

    def store(self, principal: Principal | None = None, **settings: Any) -> RemoteStore:
        dialled: list[MemoryCarrier] = []

        async def dial(_address: str = "", /) -> MemoryCarrier:
            if self.down:
                raise ConnectionRefusedError
            if self.host is None:
                await self.start()  # the kit opens stores where nothing can wait
            near, far = pair(principal)
            dialled.append(near)
            if self.cut_every:
                near.on_send = far.on_send = lambda _number: self._count(near)
            if self.on_carrier is not None:
                self.on_carrier(near)
            self.host.accept(far)
            return near

        store = RemoteStore(dial, self.clock, WorkerSettings(**({"retry": 0.001} | settings)))
        self.carriers[store] = dialled
        return store

    def _count(self, near: MemoryCarrier) -> None:
        if next(self.packets) % self.cut_every == 0:
            near.cut()

    def forsake(self, store: RemoteStore) -> None:
        """Its process dies without a word, and the grace of its session passes."""
        store._running.cancel()  # noqa: SLF001 - who dies does not say goodbye
        for carrier in self.carriers[store]:
            carrier.cut()
        session = self.host.reception.sessions.get(store._connection.name)  # noqa: SLF001 - as above
        if session is not None:
            session.line = None
            self.host.reception.end(session)

    async def stop(self) -> None:
        for store in self.carriers:
            await store.close()
        if self.host is not None:
            await self.host.stop()
        await self.backing.close()


class Restless:
    """The time of a test, for links that come back at once, whatever that time does."""

    def __init__(self, clock: Clock) -> None:
        self.now = clock.now

    async def sleep_until(self, when: float) -> None:
        clock = SystemClock()
        await clock.sleep_until(clock.now() + min(0.002, max(0.0, when - self.now())))


class RemoteStores:
    """Fills ``perdure.testing``'s ``Stores``: many workers of one host, whose store lies in memory."""

    def __init__(self, clock: Clock, lease: float, *, cut_every: int = 0) -> None:
        links = Restless(clock) if cut_every else clock
        self.hosting = StoreHosting(MemoryStore(clock, lease=lease), links, lease=lease)
        self.hosting.cut_every = cut_every

    def open(self) -> RemoteStore:
        return self.hosting.store()

    async def kill(self, store: RemoteStore, worker: str) -> None:
        self.hosting.forsake(store)
        self.hosting.backing.kill(worker)  # what its lease comes to, at once

    async def close(self) -> None:
        async with asyncio.timeout(60):
            await self.hosting.stop()


class HostsOverOneFile:
    """Likewise: each process has a host of its own, and all hosts have stores over one file."""

    def __init__(self, clock: Clock, lease: float, open_backing: Callable[[], DurableStore]) -> None:
        self.clock, self.lease, self.open_backing = clock, lease, open_backing
        self.opened: dict[RemoteStore, StoreHosting] = {}

    def open(self) -> RemoteStore:
        hosting = StoreHosting(self.open_backing(), self.clock, lease=self.lease)
        store = hosting.store()
        self.opened[store] = hosting
        return store

    async def kill(self, store: RemoteStore, worker: str) -> None:
        hosting = self.opened[store]
        hosting.forsake(store)
        await hosting.backing.close()

    async def close(self) -> None:
        async with asyncio.timeout(60):
            for hosting in self.opened.values():
                await hosting.stop()
