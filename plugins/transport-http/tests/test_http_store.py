"""The host's store over WebSockets keeps the contract of every store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.ports import Clock
from perdure.testing import ManualClock, MemoryStore
from perdure.testing.store_kit import StoreKit
from perdure_hosting.host import Host
from perdure_hosting.remote_store import RemoteStore
from perdure_hosting.settings import HostSettings
from perdure_transport_http import ServerSettings, Settings
from perdure_transport_http.dialer import Dialer
from perdure_transport_http.server import HttpServer

TIMEOUT = 60.0


class Stores:
    """Fills ``perdure.testing``'s ``Stores``: many workers of one host, over HTTP."""

    def __init__(self, clock: Clock, lease: float) -> None:
        self.clock = clock
        self.backing = MemoryStore(clock, lease=lease)
        settings = HostSettings(drain=0.1, silence=1e9, heartbeat=1e9, grace=1e9)
        self.host = Host(clock, settings, store=self.backing, lease=lease)
        self.server = HttpServer(self.host, clock, ServerSettings(bind="127.0.0.1:0"))
        self.opened: list[RemoteStore] = []

    async def start(self) -> None:
        await self.host.start()
        await self.server.start()

    def open(self) -> RemoteStore:
        settings = Settings(url=self.server.url, retry=0.001)
        dial = Dialer(settings)
        store = RemoteStore(dial, self.clock, settings, closing=dial.close)
        self.opened.append(store)
        return store

    async def kill(self, store: RemoteStore, worker: str) -> None:
        await store.close()
        self.backing.kill(worker)

    async def close(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            for store in self.opened:
                await store.close()
            await self.server.close_doors()
            await self.host.stop()
            await self.server.stop()


class TestAStoreOverHttp(StoreKit):
    @pytest.fixture
    async def stores(self, clock: ManualClock) -> AsyncIterator[Stores]:
        stores = Stores(clock, self.lease)
        await stores.start()
        yield stores
        await stores.close()
