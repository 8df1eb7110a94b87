"""An engine drives over a host's store as over its own: every promise of engines holds from afar."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from perdure.clock import SystemClock
from perdure.testing import ManualClock, MemoryStore
from perdure.testing.engine_kit import EngineKit
from perdure_hosting.remote_store import RemoteStore

from .store_network import StoreHosting


class TestAnEngineOverAStoreFromAfar(EngineKit):
    @pytest.fixture
    async def hosting(self, clock: ManualClock) -> AsyncIterator[StoreHosting]:
        hosting = StoreHosting(MemoryStore(clock), SystemClock())  # tests ask the other one who sleeps
        yield hosting
        async with asyncio.timeout(60):
            await hosting.stop()

    @pytest.fixture
    def store(self, hosting: StoreHosting) -> RemoteStore:
        return hosting.store()

    @pytest.fixture
    def kill(self, hosting: StoreHosting) -> Callable[[str], object]:
        return hosting.backing.kill
