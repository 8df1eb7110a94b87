"""The memory store keeps the contract of every store; the faults around it do what they say."""

from __future__ import annotations

import pytest

from perdure.errors import StoreUnavailable
from perdure.messages import Start
from perdure.testing import Crash, CrashingStore, FaultyStore, ManualClock, MemoryStore
from perdure.testing.store_children import StoreChildren
from perdure.testing.store_damage import StoreDamage
from perdure.testing.store_halts import StoreHalts
from perdure.testing.store_kit import StoreKit
from perdure.testing.store_lists import StoreLists
from perdure.testing.store_lives import StoreLives
from perdure.testing.store_upkeep import StoreUpkeep


class MemoryStores:
    """All processes share the one object."""

    def __init__(self, store: MemoryStore):
        self.store = store

    def open(self) -> MemoryStore:
        return self.store

    async def kill(self, store, worker):
        assert store is self.store
        self.store.kill(worker)

    async def damage(self, run):
        self.store.damage(run)


class TestMemoryStore(StoreKit, StoreHalts, StoreLives, StoreChildren, StoreLists, StoreUpkeep, StoreDamage):
    @pytest.fixture
    def stores(self, clock):
        return MemoryStores(MemoryStore(clock, lease=self.lease))


@pytest.fixture
def memory():
    return MemoryStore(ManualClock())


START = Start("r", "workflow", "app.flow", b"{}", 0.0)


async def test_a_crash_before_an_effect_leaves_nothing(memory):
    crashing = CrashingStore(memory, at=2, when="before")
    await crashing.claim("a", 0.0)
    with pytest.raises(Crash, match="before effect 2, 'accept'"):
        await crashing.accept([START])
    assert await memory.run("r") is None


async def test_a_crash_after_an_effect_leaves_it_behind_unheard(memory):
    crashing = CrashingStore(memory, at=1, when="after")
    with pytest.raises(Crash):
        await crashing.accept([START])
    assert await memory.run("r") is not None


async def test_nothing_works_in_a_process_that_is_gone(memory):
    crashing = CrashingStore(memory, at=1)
    with pytest.raises(Crash):
        await crashing.accept([START])
    with pytest.raises(Crash):
        await crashing.run("r")
    with pytest.raises(Crash):
        crashing.tick("a", 0.0)
    assert (crashing.effects, crashing.crashed) == (1, True)


async def test_effects_are_counted_without_a_crash(memory):
    counting = CrashingStore(memory)
    await counting.accept([START])
    await counting.claim("a", 0.0)
    await counting.runs()
    assert counting.effects == 2


async def test_a_faulty_store_refuses_what_it_is_asked_to_and_does_not_do_it(memory):
    faulty = FaultyStore(memory, fails=lambda name, ordinal: name == "accept" and ordinal == 1)
    with pytest.raises(StoreUnavailable, match="effect 1, 'accept'"):
        await faulty.accept([START])
    assert await memory.run("r") is None
    accepted, _ = await faulty.accept([START])
    assert accepted[0].new
