"""A host and its workers in one process, over carriers in memory that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.messages import AgentId, Envelope, Hosted, Presence, Subscription, TopicId
from perdure.ports import Clock, Deliver
from perdure.testing import ManualClock
from perdure_hosting.carrier import MemoryCarrier, Principal, pair
from perdure_hosting.client import LinkTransport
from perdure_hosting.host import Host
from perdure_hosting.settings import HostSettings, WorkerSettings

TIMEOUT = 60.0
JSON = "application/json"


class Network:
    """A host, and dials to it.

    Attributes:
        host: The present one; ``None`` while it is down.
        carriers: What was dialled, the workers' ends; the newest last.
        on_carrier: Called with the ends of each new carrier: the worker's, the host's.
    """

    def __init__(self, clock: Clock | None = None, **settings: Any) -> None:
        self.clock = clock or ManualClock()
        self.settings = HostSettings(**({"drain": 0.1} | settings))
        self.host: Host | None = None
        self.carriers: list[MemoryCarrier] = []
        self.workers: list[LinkTransport] = []
        self.on_carrier: Callable[[MemoryCarrier, MemoryCarrier], None] | None = None
        self.addresses: dict[str, Any] = {}

    async def start(self) -> None:
        self.host = Host(self.clock, self.settings)
        await self.host.start()

    async def stop(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            for worker in self.workers:
                await worker.stop()
            if self.host is not None:
                await self.host.stop()

    async def kill_host(self) -> None:
        """It is gone, with all that it knew; carriers break."""
        host, self.host = self.host, None
        for carrier in self.carriers:
            carrier.cut()
        host._sweeping.cancel()  # noqa: SLF001 - a process that dies does not clean up

    def dial(self, principal: Principal | None = None) -> Callable[..., Awaitable[MemoryCarrier]]:
        async def dial(address: str = "") -> MemoryCarrier:
            near, far = pair(principal)
            host = self.host.accept if self.host is not None else None
            accept = self.addresses.get(address) if address else host
            if accept is None:
                raise ConnectionRefusedError(address)
            self.carriers.append(near)
            if self.on_carrier is not None:
                self.on_carrier(near, far)
            accept(far)
            return near

        return dial

    async def worker(
        self, deliver: Deliver, *types: str | Hosted, subs: tuple[Subscription, ...] = (), **settings: Any
    ) -> LinkTransport:
        principal = settings.pop("principal", None)
        worker = LinkTransport(self.dial(principal), self.clock, WorkerSettings(**({"drain": 0.1} | settings)))
        if settings.get("address"):
            self.addresses[settings["address"]] = worker.accept
        await worker.start(deliver)
        self.workers.append(worker)
        if types or subs:
            await worker.announce(presence(*types, subs=subs))
        return worker


def presence(*types: str | Hosted, subs: tuple[Subscription, ...] = ()) -> Presence:
    return Presence(tuple(each if isinstance(each, Hosted) else Hosted(each) for each in types), subs)


def request(to: str, payload: bytes = b'"hello"', *, key: str = "1", id: str = "m1", **more: Any) -> Envelope:
    return Envelope(id, "request", AgentId(to, key), "kit.text", payload, content=JSON, **more)


def event(topic: str, payload: bytes = b'"news"', *, source: str = "1", id: str = "e1", **more: Any) -> Envelope:
    target = more.pop("target", None)
    return Envelope(id, "event", target, "kit.news", payload, topic=TopicId(topic, source), content=JSON, **more)


class Desk:
    """A worker's agents: answers each request with its payload and its own name; keeps what was delivered."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.delivered: list[Envelope] = []
        self.changed = asyncio.Event()
        self.gate: asyncio.Event | None = None

    async def __call__(self, envelope: Envelope) -> Envelope:
        self.delivered.append(envelope)
        self.changed.set()
        if self.gate is not None:
            await self.gate.wait()
        return Envelope(envelope.id, "reply", envelope.sender, self.name, envelope.payload, content=envelope.content)

    async def has(self, count: int) -> list[Envelope]:
        """What was delivered, once it is so many."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.delivered) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.delivered


async def settled() -> None:
    """Let every task run to where it waits; and then all lines write, which under load wait a moment for more."""
    loop = asyncio.get_running_loop()
    for turn in range(200):
        future = loop.create_future()
        if turn % 50 == 49:
            loop.call_later(0.002, future.set_result, None)
        else:
            loop.call_soon(future.set_result, None)
        await future
