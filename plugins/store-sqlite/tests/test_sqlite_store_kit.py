"""The SQLite store keeps the contract of every store."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from perdure.testing.store_children import StoreChildren
from perdure.testing.store_damage import StoreDamage
from perdure.testing.store_halts import StoreHalts
from perdure.testing.store_kit import StoreKit
from perdure.testing.store_lists import StoreLists
from perdure.testing.store_lives import StoreLives
from perdure.testing.store_looks import StoreLooks
from perdure.testing.store_upkeep import StoreUpkeep
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

    async def damage(self, run):
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute(
                "UPDATE journal SET value = CAST('x' || substr(value, 2) AS BLOB)"
                " WHERE seq = 0 AND run = (SELECT id FROM runs WHERE run = ?)",
                (run,),
            )


class TestSqliteStore(
    StoreKit, StoreLooks, StoreHalts, StoreLives, StoreChildren, StoreLists, StoreUpkeep, StoreDamage
):
    several_drive = False

    @pytest.fixture
    async def stores(self, tmp_path, clock):
        stores = SqliteStores(tmp_path / "kit.db", clock, self.lease)
        yield stores
        for store in stores.opened:
            await store.close()
