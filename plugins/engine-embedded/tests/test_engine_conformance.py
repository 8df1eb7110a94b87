"""The embedded engine passes the engine's kit, over every store that comes with Perdure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from perdure.ports import DurableStore
from perdure.testing import ManualClock, MemoryStore
from perdure.testing.engine_kit import EngineKit
from perdure_store_sqlite import SqliteStore

LEASE = 10.0


class TestEmbeddedOnMemory(EngineKit):
    @pytest.fixture
    def store(self, clock: ManualClock) -> DurableStore:
        return MemoryStore(clock)


class WallClock:
    """The time that SQLite's leases go by: a dead worker is one whose lease is over."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def pass_a_lease(self, _: str) -> None:
        self.time += LEASE + 1


class TestEmbeddedOnSqlite(EngineKit):
    @pytest.fixture
    def wall(self) -> WallClock:
        return WallClock()

    @pytest.fixture
    async def store(self, tmp_path: Path, wall: WallClock) -> AsyncGenerator[DurableStore]:
        store = SqliteStore(tmp_path / "perdure.db", lease=LEASE, now=wall.now)
        yield store
        await store.close()

    @pytest.fixture
    def kill(self, wall: WallClock) -> Callable[[str], object]:
        return wall.pass_a_lease
