"""A host's store, reached over a link, keeps the contract of every store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.testing import ManualClock
from perdure.testing.store_kit import StoreKit
from perdure_store_sqlite import SqliteStore

from .store_network import HostsOverOneFile, RemoteStores


class TestAStoreInMemoryFromAfar(StoreKit):
    @pytest.fixture
    async def stores(self, clock: ManualClock) -> AsyncIterator[RemoteStores]:
        stores = RemoteStores(clock, self.lease)
        yield stores
        await stores.close()


class TestASqliteStoreFromAfar(StoreKit):
    several_drive = False

    @pytest.fixture
    async def stores(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[HostsOverOneFile]:
        def backing() -> SqliteStore:
            return SqliteStore(tmp_path / "kit.db", lease=self.lease, now=clock.now)

        stores = HostsOverOneFile(clock, self.lease, backing)
        yield stores
        await stores.close()


class TestAStoreOverCarriersThatBreak(TestAStoreInMemoryFromAfar):
    """Every seventh packet is the last one of its carrier."""

    @pytest.fixture
    async def stores(self, clock: ManualClock) -> AsyncIterator[RemoteStores]:
        stores = RemoteStores(clock, self.lease, cut_every=7)
        yield stores
        await stores.close()
