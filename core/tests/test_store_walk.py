"""A store that breaks its contract in one point is caught by the kit's random walks."""

from __future__ import annotations

import pytest

from perdure.testing import ManualClock, MemoryStore
from perdure.testing.ledger import Ledger
from perdure.testing.store_walk import SEEDS, walk


class Stores:
    """All processes share the one store."""

    def __init__(self, store):
        self.store = store

    def open(self):
        return self.store

    async def kill(self, store, worker):
        self.store.kill(worker)


class Broken(MemoryStore):
    """A memory store whose ledger is another one, or that is broken in itself."""

    ledger = Ledger

    def __init__(self, clock, *, lease=10.0):
        super().__init__(clock, lease=lease)
        self._ledger = self.ledger()


class IgnoresTheFence(Broken):
    async def commit(self, commit, *, worker):
        run = self._ledger.runs.get(commit.run)
        if run is not None and run.holder is not None:
            commit, worker = commit._replace(epoch=run.epoch, seq=len(run.entries)), run.holder
        return await super().commit(commit, worker=worker)


class RunsTurnsAtOnce(Broken):
    def _first(self, run, now):
        return True


class WakesLate(Broken):
    async def claim(self, worker, now, *, limit=256, targets=None):
        claims, due = await super().claim(worker, now - 1, limit=limit, targets=targets)
        return claims, due


class SaysNoTimer(Broken):
    async def claim(self, worker, now, *, limit=256, targets=None):
        claims, _ = await super().claim(worker, now, limit=limit, targets=targets)
        return claims, None


class CountsNoTakeovers(Broken):
    def _hold(self, run, worker, now):
        run.takeovers = 0
        claim = super()._hold(run, worker, now)
        return claim._replace(takeovers=0)


class ForgetsWhatItWasAsked(Broken):
    async def leave(self, worker):
        await super().leave(worker)
        for run in self._ledger.runs.values():
            run.inbox.clear()


class LosesTheLastEntry(Broken):
    async def rewind(self, run, seq, *, at):
        await super().rewind(run, max(seq - 1, 0), at=at)


class PurgesTooMuch(Broken):
    class ledger(Ledger):  # noqa: N801 - an attribute
        def removable(self, run, which):
            return run.finished and which.target == run.start.target


class LeavesChildrenAlone(Broken):
    class ledger(Ledger):  # noqa: N801 - an attribute
        def settle(self, run, commit, touched):
            run.children.clear()
            super().settle(run, commit, touched)


class TakesEverythingTwice(Broken):
    class ledger(Ledger):  # noqa: N801 - an attribute
        def deliver(self, delivery, touched):
            run = self.runs.get(delivery.run)
            if run is not None:
                run.delivered.pop(delivery.key, None)
            return super().deliver(delivery, touched)


class JoinsWhatWasToBeginAnew(Broken):
    class ledger(Ledger):  # noqa: N801 - an attribute
        def start(self, start, touched):
            return super().start(start._replace(reuse="join"), touched)


class LeavesQuestionsOpen(Broken):
    class ledger(Ledger):  # noqa: N801 - an attribute
        def settle(self, run, commit, touched):
            run.questions = {}
            super().settle(run, commit, touched)


class GivesNothingBack(Broken):
    class ledger(Ledger):  # noqa: N801 - an attribute
        def rewind(self, run, seq, at):
            run.places.clear()
            super().rewind(run, seq, at)


class MixesUpTheInbox(Broken):
    def _hold(self, run, worker, now):
        claim = super()._hold(run, worker, now)
        return claim._replace(inbox=claim.inbox[::-1])


class WakesTheHalted(Broken):
    class ledger(Ledger):  # noqa: N801 - an attribute
        def deliver(self, delivery, touched):
            run = self.runs.get(delivery.run)
            if run is not None and run.halted and delivery.kind == "event":
                run.status = "pending"
            return super().deliver(delivery, touched)


class GivesWhatWasNotAskedFor(Broken):
    async def claim(self, worker, now, *, limit=256, targets=None):
        return await super().claim(worker, now, limit=limit)


class WakesWhatWasNotAskedFor(Broken):
    def _wanted(self, run, worker):
        return True


BROKEN = Broken.__subclasses__()


async def first_notice(broken):
    """The first seed that notices, and what it says."""
    for seed in range(SEEDS):
        clock = ManualClock()
        try:
            await walk(seed, Stores(broken(clock)), clock, lease=10.0)
        except AssertionError as error:
            return seed, error.__notes__[0]
    return None


@pytest.mark.parametrize("broken", BROKEN, ids=[kind.__name__ for kind in BROKEN])
async def test_a_store_that_breaks_its_contract_is_caught(broken):
    notice = await first_notice(broken)
    assert notice is not None
    assert f"seed {notice[0]}" in notice[1]


async def test_a_walk_is_the_same_each_time():
    seed, _ = await first_notice(SaysNoTimer)
    told = []
    for _ in range(2):
        clock = ManualClock()
        with pytest.raises(AssertionError) as caught:
            await walk(seed, Stores(SaysNoTimer(clock)), clock, lease=10.0)
        told.append((str(caught.value), caught.value.__notes__))
    assert told[0] == told[1]
