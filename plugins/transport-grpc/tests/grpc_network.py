"""A host and its workers over real sockets in one process, with TLS or without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import trustme

from perdure.clock import SystemClock
from perdure.messages import AgentId, Envelope, Hosted, Presence, Subscription, TopicId
from perdure_hosting.host import Host
from perdure_transport_grpc import GrpcTransport, ServerSettings, Settings
from perdure_transport_grpc.listening import GrpcListener

TIMEOUT = 60.0
JSON = "application/json"


class Certificates:
    """Made for one test, in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._authority = trustme.CA()
        self.authority = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.authority))

    def issue(self, *names: str) -> dict[str, Path]:
        """The settings ``certificate`` and ``key``."""
        made = self._authority.issue_cert(*names, common_name=names[0])
        certificate, key = self.folder / f"{names[0]}.pem", self.folder / f"{names[0]}.key"
        made.private_key_pem.write_to_path(str(key))
        for number, each in enumerate(made.cert_chain_pems):
            each.write_to_path(str(certificate), append=number > 0)
        return {"certificate": certificate, "key": key}


class Network:
    """A host; ``worker`` makes workers; all end with the block.

    Args:
        tls: For the workers' settings.
        **server: The host's settings.
    """

    def __init__(self, tls: dict[str, Any] | None = None, **server: Any) -> None:
        self.tls = tls or {}
        self.settings = ServerSettings(**({"bind": "127.0.0.1:0", "drain": 0.1} | server))
        self.host = Host(SystemClock(), self.settings)
        self.listener = GrpcListener(self.host, SystemClock(), self.settings)
        self.workers: list[GrpcTransport] = []

    async def __aenter__(self) -> Self:
        await self.host.start()
        await self.listener.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(TIMEOUT):
            for worker in self.workers:
                await worker.stop()
            await self.listener.close_doors()
            await self.host.stop()
            await self.listener.stop()

    def make(self, **settings: Any) -> GrpcTransport:
        given = {"host": self.listener.address, "drain": 0.1, "connect": TIMEOUT} | self.tls | settings
        worker = GrpcTransport(Settings(**given), SystemClock())
        self.workers.append(worker)
        return worker

    async def worker(
        self, deliver: Callable[..., Any], *types: str, subs: tuple[Subscription, ...] = (), **settings: Any
    ) -> GrpcTransport:
        worker = self.make(**settings)
        async with asyncio.timeout(TIMEOUT):
            await worker.start(deliver)
            if types or subs:
                await worker.announce(Presence(tuple(Hosted(each) for each in types), subs))
        return worker


class Desk:
    """A worker's agents: answers each request with its payload and its own name; keeps what was delivered."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.delivered: list[Envelope] = []
        self.changed = asyncio.Event()

    async def __call__(self, envelope: Envelope) -> Envelope:
        self.delivered.append(envelope)
        self.changed.set()
        return Envelope(envelope.id, "reply", envelope.sender, self.name, envelope.payload, content=envelope.content)

    async def has(self, count: int) -> list[Envelope]:
        async with asyncio.timeout(TIMEOUT):
            while len(self.delivered) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.delivered


def request(to: str, payload: bytes = b'"hello"', *, key: str = "1", id: str = "m1", **more: Any) -> Envelope:
    return Envelope(id, "request", AgentId(to, key), "kit.text", payload, content=JSON, **more)


def event(topic: str, payload: bytes = b'"news"', *, id: str = "e1") -> Envelope:
    return Envelope(id, "event", None, "kit.news", payload, topic=TopicId(topic, "1"), content=JSON)
