"""The SQLite store keeps the contract of every store."""

from __future__ import annotations

import pytest

from perdure.testing.store_kit import StoreKit
from perdure_store_sqlite import SqliteStore


class SqliteStores:
    """Stores on one file: each drives, waits and dies as a process of its own."""

    def __init__(self, path, clock, lease):
        self._path, self._clock, self._lease = path, clock, lease
        self.opened = []

    def open(self) -> SqliteStore:
        store = SqliteStore(self._path, lease=self._lease, now=self._clock.now)
        self.opened.append(store)
        return store

    async def kill(self, store, worker):
        await store.close()


class TestSqliteStore(StoreKit):
    several_drive = False

    @pytest.fixture
    async def stores(self, tmp_path, clock):
        stores = SqliteStores(tmp_path / "kit.db", clock, self.lease)
        yield stores
        for store in stores.opened:
            await store.close()
