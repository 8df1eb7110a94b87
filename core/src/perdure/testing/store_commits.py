"""The part of the store's conformance kit about commits, what they wake, and workers that die."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from perdure.errors import CommitConflict, LeaseLost
from perdure.messages import AgentId, Entry
from perdure.testing.clock import ManualClock
from perdure.testing.store_facts import (
    ERROR,
    LARGE,
    StoreBench,
    Stores,
    at,
    begin,
    claimed,
    commit_of,
    delivery_of,
    entry_of,
    see_whole,
    start_of,
    turn_of,
    waiting,
    whole,
)

if TYPE_CHECKING:
    from perdure.ports import DurableStore


class StoreCommits(StoreBench):
    """Dying, committing, waking."""

    # -- workers that die -------------------------------------------------------------------------------------

    async def test_the_runs_of_a_dead_process_are_taken_over_at_once_and_counted(
        self, store: DurableStore, second: DurableStore, stores: Stores
    ) -> None:
        claim = await begin(store)
        await store.commit(commit_of(claim, entries=(entry_of(0),)), worker="a")
        await stores.kill(store, "a")
        claims, _ = await second.claim("b", at(0))
        assert [(c.start.run, c.seq, c.takeovers, c.epoch > claim.epoch) for c in claims] == [("r", 1, 1, True)]

    async def test_a_run_that_dies_before_its_first_commit_is_counted_too(
        self, store: DurableStore, second: DurableStore, stores: Stores
    ) -> None:
        await begin(store)
        await stores.kill(store, "a")
        claims, _ = await second.claim("b", at(0))
        assert [claim.takeovers for claim in claims] == [1]
        await stores.kill(second, "b")
        claims, _ = await stores.open().claim("c", at(0))
        assert [claim.takeovers for claim in claims] == [2]

    async def test_takeovers_are_forgotten_when_the_run_moves_on(
        self, store: DurableStore, second: DurableStore, stores: Stores
    ) -> None:
        await begin(store)
        await stores.kill(store, "a")
        claims, _ = await second.claim("b", at(0))
        await second.commit(commit_of(claims[0], entries=(entry_of(0),)), worker="b")
        await stores.kill(second, "b")
        claims, _ = await stores.open().claim("c", at(0))
        assert [claim.takeovers for claim in claims] == [1]

    async def test_takeovers_are_forgotten_when_the_run_is_set_going_again(
        self, store: DurableStore, second: DurableStore, stores: Stores
    ) -> None:
        await begin(store)
        await stores.kill(store, "a")
        claims, _ = await second.claim("b", at(0))
        await second.commit(commit_of(claims[0], status="parked", active=False, error=ERROR), worker="b")
        await second.accept([delivery_of("r", "again", kind="resume")])
        claims, _ = await second.claim("b", at(0))
        assert [(claim.start.run, claim.takeovers) for claim in claims] == [("r", 0)]

    async def test_a_waiting_run_outlives_its_worker_uncounted(
        self, store: DurableStore, second: DurableStore, stores: Stores
    ) -> None:
        claim = await begin(store)
        await store.commit(waiting(claim, wake_at=at(60)), worker="a")
        await stores.kill(store, "a")
        assert await claimed(second, "b", 0) == []
        claims, _ = await second.claim("b", at(60))
        assert [(c.start.run, c.takeovers) for c in claims] == [("r", 0)]

    async def test_a_worker_that_does_not_tick_for_a_lease_is_taken_over_from(
        self, store: DurableStore, second: DurableStore, clock: ManualClock
    ) -> None:
        claim = await begin(store)
        clock.advance(self.lease + 1)
        claims, _ = await second.claim("b", clock.now())
        assert [c.takeovers for c in claims] == [1]
        with pytest.raises(LeaseLost, match="'r'"):
            await store.commit(commit_of(claim, entries=(entry_of(0),)), worker="a")
        assert list(await second.journal("r")) == []

    async def test_a_worker_of_the_same_process_takes_over_too(self, store: DurableStore, clock: ManualClock) -> None:
        await begin(store)
        clock.advance(self.lease + 1)
        claims, _ = await store.claim("c", clock.now())
        assert [(claim.start.run, claim.takeovers) for claim in claims] == [("r", 1)]

    async def test_a_worker_that_ticks_keeps_what_it_holds(
        self, store: DurableStore, second: DurableStore, clock: ManualClock
    ) -> None:
        claim = await begin(store)
        clock.advance(self.lease * 0.6)
        store.tick("a", clock.now())
        await store.commit(commit_of(claim, entries=(entry_of(0),)), worker="a")
        clock.advance(self.lease * 0.6)
        assert await claimed(second, "b", 0) == []
        await store.commit(commit_of(claim, seq=1, entries=(entry_of(1),)), worker="a")

    async def test_a_worker_that_nobody_took_over_from_is_certain_once_it_has_committed(
        self, store: DurableStore, clock: ManualClock
    ) -> None:
        claim = await begin(store)
        assert store.tick("a", clock.now(), run="r", epoch=claim.epoch)
        clock.advance(self.lease + 1)
        store.tick("a", clock.now())
        await store.commit(commit_of(claim, entries=(entry_of(0),)), worker="a")
        assert store.tick("a", clock.now(), run="r", epoch=claim.epoch)

    async def test_a_worker_that_was_taken_over_from_is_not_certain_of_its_runs(
        self, store: DurableStore, second: DurableStore, clock: ManualClock
    ) -> None:
        claim = await begin(store)
        clock.advance(self.lease + 1)
        assert len(await claimed(second, "b", clock.now())) == 1
        for _ in range(2):
            assert not store.tick("a", clock.now(), run="r", epoch=claim.epoch)

    async def test_nobody_is_certain_of_a_run_of_another_worker_or_epoch(
        self, store: DurableStore, clock: ManualClock
    ) -> None:
        claim = await begin(store)
        for worker, run, epoch in (("b", "r", claim.epoch), ("a", "r", claim.epoch - 1), ("a", "other", claim.epoch)):
            assert not store.tick(worker, clock.now(), run=run, epoch=epoch)

    async def test_a_worker_that_leaves_hands_over_at_once_and_uncounted(
        self, store: DurableStore, second: DurableStore
    ) -> None:
        claim = await begin(store)
        await store.commit(commit_of(claim, entries=(entry_of(0),)), worker="a")
        await store.leave("a")
        claims, _ = await second.claim("b", at(0))
        assert [(c.start.run, c.seq, c.takeovers) for c in claims] == [("r", 1, 0)]
        with pytest.raises(LeaseLost):
            await store.commit(commit_of(claim, seq=1), worker="a")

    # -- committing -------------------------------------------------------------------------------------------

    async def test_a_commit_under_an_older_epoch_is_refused(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(waiting(claim), worker="a")
        _, claims = await store.accept([delivery_of("r", "p")], worker="a")
        assert claims[0].epoch > claim.epoch
        with pytest.raises(LeaseLost):
            await store.commit(commit_of(claim), worker="a")
        await store.commit(commit_of(claims[0], consumed=(("p", -1),)), worker="a")

    async def test_a_commit_of_a_worker_that_holds_nothing_is_refused(self, store: DurableStore) -> None:
        claim = await begin(store)
        with pytest.raises(LeaseLost):
            await store.commit(commit_of(claim), worker="c")
        with pytest.raises(LeaseLost):
            await store.commit(commit_of(claim)._replace(run="nobody"), worker="a")

    async def test_a_commit_after_another_journal_is_a_conflict(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(commit_of(claim, entries=(entry_of(0),)), worker="a")
        for wrong in (0, 2):
            with pytest.raises(CommitConflict, match="1 entries"):
                await store.commit(commit_of(claim, seq=wrong, entries=(entry_of(9),)), worker="a")
        assert list(await store.journal("r")) == [entry_of(0)]

    async def test_a_commit_is_visible_as_a_whole(self, store: DurableStore, stores: Stores) -> None:
        await store.accept([turn_of("t", "s1"), start_of("other")])
        claims, _ = await store.claim("a", at(0))
        turn, other = claims
        await store.commit(waiting(other), worker="a")
        await store.accept([delivery_of("t", "p")], worker="a")
        woken = await store.commit(whole(turn), worker="a")
        assert sorted(claim.start.run for claim in woken) == ["child", "other"]
        await see_whole(stores.open(), visible=True)

    async def test_a_refused_commit_leaves_nothing(self, store: DurableStore, stores: Stores) -> None:
        await store.accept([turn_of("t", "s1"), start_of("other")])
        claims, _ = await store.claim("a", at(0))
        turn, other = claims
        await store.commit(waiting(other), worker="a")
        await store.accept([delivery_of("t", "p")], worker="a")
        with pytest.raises(CommitConflict):
            await store.commit(whole(turn)._replace(seq=7), worker="a")
        with pytest.raises(LeaseLost):
            await store.commit(whole(turn)._replace(epoch=turn.epoch + 7), worker="a")
        await see_whole(stores.open(), visible=False)

    async def test_a_thousand_commits_at_once_are_all_there(self, store: DurableStore) -> None:
        await store.accept([start_of(f"r{n}") for n in range(1000)])
        claims, _ = await store.claim("a", at(0), limit=1000)
        await asyncio.gather(
            *(store.commit(commit_of(c, entries=(entry_of(0), entry_of(1))), worker="a") for c in claims)
        )
        await asyncio.gather(*(store.commit(commit_of(c, seq=2, entries=(entry_of(2),)), worker="a") for c in claims))
        for claim in claims[::99]:
            assert (await store.load(claim.start.run)).entries == (entry_of(0), entry_of(1), entry_of(2))

    async def test_a_refusal_harms_nobody_else(self, store: DurableStore) -> None:
        await store.accept([start_of(f"r{n}") for n in range(30)])
        claims, _ = await store.claim("a", at(0))
        commits = [commit_of(c, seq=n % 3, entries=(entry_of(0),)) for n, c in enumerate(claims)]
        outcomes = await asyncio.gather(*(store.commit(c, worker="a") for c in commits), return_exceptions=True)
        assert [isinstance(outcome, CommitConflict) for outcome in outcomes] == [n % 3 != 0 for n in range(30)]
        lengths = [len((await store.load(f"r{n}")).entries) for n in range(30)]
        assert lengths == [1 if n % 3 == 0 else 0 for n in range(30)]

    async def test_every_field_of_an_entry_comes_back(self, store: DurableStore) -> None:
        claim = await begin(store)
        entries = (
            Entry("step", "0.2/é#1", 1.25, "n\x00", "f00", value=b"\xff\x00", attempt=3, started=0.5, role="tool"),
            Entry("attempt", "0/x#1", 2.0, error=ERROR, role="model"),
            Entry("timer", "0/t#1", 3.0),
        )
        await store.commit(commit_of(claim, entries=entries), worker="a")
        assert (await store.load("r")).entries == entries
        assert tuple(await store.journal("r")) == entries

    async def test_large_values_come_back(self, store: DurableStore, stores: Stores) -> None:
        await store.accept([turn_of("t", "s1")._replace(input=LARGE)])
        claims, _ = await store.claim("a", at(0))
        await store.accept([delivery_of("t", "p", value=LARGE)])
        told, _ = await store.claim("a", at(0))
        assert (claims[0].start.input, told[0].inbox[0].value) == (LARGE, LARGE)
        entry = entry_of(0)._replace(value=LARGE)
        await store.commit(commit_of(claims[0], entries=(entry,), log=(LARGE,), state=LARGE), worker="a")
        await store.commit(commit_of(claims[0], seq=1, status="completed", value=LARGE), worker="a")
        again = stores.open()
        assert (await again.load("t")).entries == (entry,)
        assert list(await again.log(AgentId("app.agent", "s1"))) == [LARGE]
        view = await again.run("t")
        assert view is not None
        assert len(view.result) == len(view.input) == len(LARGE) - 2

    # -- what a commit wakes ----------------------------------------------------------------------------------

    async def test_a_child_is_claimed_by_the_commit_that_starts_it(self, store: DurableStore) -> None:
        claim = await begin(store)
        child = start_of("child")._replace(parent="r", path="0/c#1", ancestry=("r",))
        claims = await store.commit(commit_of(claim, starts=(child, child)), worker="a")
        assert [woken.start for woken in claims] == [child]

    async def test_the_reply_of_a_child_wakes_its_waiting_parent(self, store: DurableStore) -> None:
        claim = await begin(store)
        child = (await store.commit(commit_of(claim, starts=(start_of("child"),)), worker="a"))[0]
        await store.commit(waiting(claim), worker="a")
        reply = delivery_of("r", "0/c#1", value=b"1")
        claims = await store.commit(commit_of(child, status="completed", deliveries=(reply,)), worker="a")
        assert [(woken.start.run, woken.inbox) for woken in claims] == [("r", (reply,))]

    async def test_a_delivery_to_a_run_that_the_worker_holds_is_told_at_once(self, store: DurableStore) -> None:
        claim = await begin(store)
        _, claims = await store.accept([delivery_of("r", "p")], worker="a")
        assert [(told.epoch, len(told.inbox)) for told in claims] == [(claim.epoch, 1)]
        assert await claimed(store, "a", 0) == []

    async def test_a_delivery_to_a_run_that_is_gone_is_dropped(self, store: DurableStore) -> None:
        claim = await begin(store)
        assert list(await store.commit(commit_of(claim, deliveries=(delivery_of("nobody", "p"),)), worker="a")) == []

    async def test_a_run_released_with_something_in_its_inbox_is_claimed_again(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.accept([delivery_of("r", "p"), delivery_of("r", "q")], worker="a")
        claims = await store.commit(waiting(claim, consumed=(("p", -1),)), worker="a")
        assert [([item.key for item in c.inbox], c.epoch > claim.epoch) for c in claims] == [(["q"], True)]

    async def test_a_run_released_with_a_timer_that_is_due_is_claimed_again(self, store: DurableStore) -> None:
        claim = await begin(store)
        claims = await store.commit(waiting(claim, wake_at=at(0)), worker="a")
        assert [woken.start.run for woken in claims] == ["r"]
