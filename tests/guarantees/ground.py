"""What a guarantee stands on: a store as its processes see it, the time, and the death of a worker.

``BROKEN`` stores of ``broken.py`` stand on the same ground.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal

from perdure.ports import DurableStore
from perdure.testing import FaultyStore, Harness, ManualClock, MemoryStore, Script, harness
from perdure_store_sqlite import SqliteStore

from . import house

LEASE = 10.0


class Ground(ABC):
    """One set of data.

    Attributes:
        clock: The time that code sees.
        store: The store of the first process.
        folder: For whatever else is written.
        effects: How often each effect was asked of it, by the processes of ``open``.
    """

    store: DurableStore

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.folder = folder
        self.effects = Counter[str]()

    @abstractmethod
    def another(self) -> DurableStore:
        """The store of one more process, on the same data."""

    @abstractmethod
    def kill(self, worker: str) -> None:
        """The store sees that a worker died."""

    @abstractmethod
    def pass_a_lease(self) -> None:
        """So much time passes that who gave no sign of life is taken over from."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of files."""

    def open(
        self, *apps: object, store: DurableStore | None = None, model: Script | None = None
    ) -> AbstractAsyncContextManager[Harness]:
        """A process that drives; by default one of the house's app."""
        store = store or self.store
        apps = apps or (house.open_house(store),)
        counted = FaultyStore(store, fails=self._count)
        return harness(*apps, store=counted, clock=self.clock, model=model or Script(house.think), kill=self.kill)

    def _count(self, effect: str, _ordinal: int) -> bool:
        self.effects[effect] += 1
        return False


class OnMemory(Ground):
    """One store in memory, shared by all processes."""

    make: Callable[..., MemoryStore] = MemoryStore

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store = self.memory = self.make(self.clock, lease=LEASE)

    def another(self) -> DurableStore:
        return self.memory

    def kill(self, worker: str) -> None:
        self.memory.kill(worker)

    def pass_a_lease(self) -> None:
        self.clock.advance(LEASE + 1)

    async def close(self) -> None:
        await self.memory.close()


class OnSqlite(Ground):
    """One file, and a store for each process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._wall = ManualClock()
        self._opened: list[SqliteStore] = []
        self.store = self.another()

    def another(self) -> DurableStore:
        store = SqliteStore(self.folder / "guarantees.db", lease=LEASE, now=self._wall.now)
        self._opened.append(store)
        return store

    def kill(self, worker: str) -> None:
        del worker  # it gives no sign of life any more
        self.pass_a_lease()

    def pass_a_lease(self) -> None:
        self._wall.advance(LEASE + 1)

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


class Stopped(FaultyStore):
    """The store of a process that can be stopped: it gives no sign of life then, and what it commits comes late.

    Attributes:
        stopped: Whether it is.
    """

    def __init__(self, inner: DurableStore) -> None:
        super().__init__(inner, fails=lambda effect, _: self.stopped and effect == "claim")
        self.stopped = False

    def tick(self, worker: str, now: float, *, run: str = "", epoch: int = 0) -> bool:
        return True if self.stopped else super().tick(worker, now, run=run, epoch=epoch)


async def die_everywhere(h: Harness, scenario: Callable[[str], Awaitable[Any]]) -> int:
    """Play a scenario undisturbed, then with a process that dies at each of its writes, before and after it.

    Returns how many writes there were. Whatever dies, the scenario must come to the same end.
    """
    expected = await scenario("undisturbed")
    effects = h.process.effects
    ways: tuple[Literal["before", "after"], ...] = ("before", "after")
    for when in ways:
        for at in range(1, effects + 1):
            await h.restart(at=at, when=when)
            assert await scenario(f"{when}-{at}") == expected
    await h.restart()  # the last one may die of its last write at any time
    return effects
