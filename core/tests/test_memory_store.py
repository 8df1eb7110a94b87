"""The memory store keeps the contract of every store; the faults around it do what they say."""

from __future__ import annotations

import pytest

from perdure.errors import StoreUnavailable, UnknownName
from perdure.messages import Commit, Delivery, RunFilter, Start
from perdure.testing import Crash, CrashingStore, FaultyStore, ManualClock, MemoryStore
from perdure.testing.agenda import Agenda
from perdure.testing.records import Run
from perdure.testing.store_damage import StoreDamage
from perdure.testing.store_kit import StoreKit
from perdure.testing.store_looks import StoreLooks


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


class TestMemoryStore(StoreKit, StoreLooks, StoreDamage):
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


async def test_upkeep_is_an_effect_too(memory):
    counting = CrashingStore(memory)
    with pytest.raises(UnknownName):
        await counting.rewind("r", 0, at=0.0)
    with pytest.raises(UnknownName):
        await counting.fork("r", 0, START)
    assert await counting.purge(RunFilter()) == 0
    assert counting.effects == 3


@pytest.mark.parametrize("name", ["rewind", "fork", "purge"])
async def test_a_crash_at_upkeep_happens_before_or_after_it(memory, name):
    await memory.accept([START])
    (claim,), _ = await memory.claim("a", 0.0)
    await memory.commit(Commit("r", claim.epoch, 0, 0.0, status="failed"), worker="a")
    calls = {
        "rewind": lambda store: store.rewind("r", 0, at=0.0),
        "fork": lambda store: store.fork("r", 0, START._replace(run="f")),
        "purge": lambda store: store.purge(RunFilter()),
    }
    before = await memory.runs()
    with pytest.raises(Crash, match=f"before effect 1, '{name}'"):
        await calls[name](CrashingStore(memory, at=1, when="before"))
    assert await memory.runs() == before
    with pytest.raises(Crash, match=f"after effect 1, '{name}'"):
        await calls[name](CrashingStore(memory, at=1, when="after"))
    assert await memory.runs() != before


async def test_a_faulty_store_refuses_upkeep(memory):
    faulty = FaultyStore(memory, fails=lambda name, _: name == "purge")
    with pytest.raises(StoreUnavailable, match="effect 1, 'purge'"):
        await faulty.purge(RunFilter())


class Counting(MemoryStore):
    """Counts how many runs it looks at."""

    looks = 0

    def _claimable(self, run, now):
        self.looks += 1
        return super()._claimable(run, now)


async def test_a_claim_looks_only_at_what_may_have_something_to_do():
    store = Counting(ManualClock())
    await store.accept([START._replace(run=f"r{n}") for n in range(1000)])
    claims, _ = await store.claim("a", 0.0, limit=1000)
    for n, claim in enumerate(claims):
        commit = Commit(claim.start.run, claim.epoch, 0, 0.0, status="waiting", active=False, wake_at=100.0 + n)
        await store.commit(commit, worker="a")
    assert (await store.claim("a", 0.0)) == ([], 100.0)
    store.looks = 0
    await store.accept([Delivery("r7", "event", "e", 0.0)])
    claims, due = await store.claim("a", 102.0)
    assert (sorted(claim.start.run for claim in claims), due) == (["r0", "r1", "r2", "r7"], 103.0)
    assert store.looks <= 10


def test_timers_that_are_set_anew_again_and_again_are_not_kept():
    agenda, run = Agenda(), Run(START, 0, 0, 0.0, 0.0)
    for n in range(1000):
        run.wake_at = 1000.0 - n / 2
        agenda.arm(run)
    (desk,) = agenda.free(None)
    assert (desk.next_due(), desk.take(500.0), desk.take(500.5)) == (500.5, None, run)
    assert desk.alarms < 200


async def test_a_faulty_store_refuses_what_it_is_asked_to_and_does_not_do_it(memory):
    faulty = FaultyStore(memory, fails=lambda name, ordinal: name == "accept" and ordinal == 1)
    with pytest.raises(StoreUnavailable, match="effect 1, 'accept'"):
        await faulty.accept([START])
    assert await memory.run("r") is None
    accepted, _ = await faulty.accept([START])
    assert accepted[0].new
