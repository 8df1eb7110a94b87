"""The part of the store's conformance kit about workers that take the runs of some targets only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from perdure.testing.clock import ManualClock
from perdure.testing.store_facts import (
    PATIENCE,
    StoreBench,
    Stores,
    at,
    begin,
    claimed,
    commit_of,
    delivery_of,
    keys_of,
    known,
    now_at,
    start_of,
    turn_of,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perdure.messages import Claim
    from perdure.ports import DurableStore

FLOWS: Final = frozenset({"app.flow"})
"""What a worker has that runs ``start_of``."""
AGENTS: Final = frozenset({"app.agent", "app.other"})
"""What one has that runs ``turn_of``."""
MANY: Final = 150


def _names(claims: Iterable[Claim]) -> list[str]:
    return [claim.start.run for claim in claims]


class StoreTargets(StoreBench):
    """Claims of some targets. Workers ``a`` and ``c`` are of one process, ``b`` is of another."""

    async def test_a_worker_takes_the_runs_of_its_targets_only(self, store: DurableStore) -> None:
        await store.accept([start_of("r"), turn_of("t", "s1"), start_of("x", target="app.nobody")])
        assert await claimed(store, "a", 0, FLOWS) == ["r"]
        assert await claimed(store, "c", 0, AGENTS) == ["t"]
        assert await claimed(store, "a", 0, FLOWS | AGENTS) == []
        assert await claimed(store, "c", 0, frozenset()) == []
        assert await claimed(store, "a", 0) == ["x"]

    async def test_the_limit_counts_the_runs_of_its_targets(self, store: DurableStore) -> None:
        await store.accept([start_of(f"r{n}", target=f"app.{'odd' if n % 2 else 'even'}") for n in range(10)])
        claims, _ = await store.claim("a", at(0), limit=3, targets=frozenset({"app.odd"}))
        assert _names(claims) == ["r1", "r3", "r5"]
        claims, _ = await store.claim("a", at(0), limit=3, targets=frozenset({"app.odd", "app.even"}))
        assert sorted(_names(claims)) == ["r0", "r2", "r4"]

    async def test_what_a_worker_accepts_is_left_if_it_is_of_another_target(self, store: DurableStore) -> None:
        assert await claimed(store, "a", 0, FLOWS) == []
        _, claims = await store.accept([start_of("r"), turn_of("t", "s1")], worker="a")
        assert _names(claims) == ["r"]
        _, claims = await store.accept([delivery_of("t", "k")], worker="a")
        assert _names(claims) == []
        claims, _ = await store.claim("c", at(0), targets=AGENTS)
        assert [(claim.start.run, keys_of(claim)) for claim in claims] == [("t", ["k"])]

    async def test_what_a_commit_starts_or_delivers_to_is_left_if_it_is_of_another_target(
        self, store: DurableStore
    ) -> None:
        await store.accept([turn_of("t", "s1"), start_of("r"), start_of("peer")])
        (turn,), _ = await store.claim("c", at(0), targets=AGENTS)
        await store.commit(waiting(turn), worker="c")
        claims, _ = await store.claim("a", at(0), targets=FLOWS)
        run, peer = claims
        await store.commit(waiting(peer), worker="a")
        children = (start_of("child"), turn_of("asked", "s2")._replace(parent="r"))
        deliveries = (delivery_of("t", "k"), delivery_of("peer", "k"))
        woken = await store.commit(commit_of(run, starts=children, deliveries=deliveries), worker="a")
        assert sorted(_names(woken)) == ["child", "peer"]
        assert sorted(await claimed(store, "c", 0, AGENTS)) == ["asked", "t"]

    async def test_what_was_asked_for_last_holds_until_the_worker_claims_again(self, store: DurableStore) -> None:
        await claimed(store, "a", 0, FLOWS)
        await claimed(store, "a", 0, AGENTS)
        _, claims = await store.accept([start_of("r"), turn_of("t", "s1")], worker="a")
        assert _names(claims) == ["t"]
        assert await claimed(store, "a", 0) == ["r"]
        _, claims = await store.accept([start_of("r2"), turn_of("u", "s2")], worker="a")
        assert sorted(_names(claims)) == ["r2", "u"]

    async def test_a_worker_that_has_not_claimed_or_has_left_is_given_nothing(self, store: DurableStore) -> None:
        store.tick("a", at(0))
        _, claims = await store.accept([start_of("r")], worker="a")
        assert _names(claims) == []
        await claimed(store, "a", 0, AGENTS)
        await store.leave("a")
        store.tick("a", at(0))
        _, claims = await store.accept([start_of("s"), turn_of("t", "s1"), delivery_of("r", "k")], worker="a")
        assert _names(claims) == []
        assert await claimed(store, "a", 0) == ["r", "s", "t"]

    async def test_what_a_worker_holds_it_keeps_whatever_it_asks_for(self, store: DurableStore) -> None:
        claim = await begin(store)
        assert await claimed(store, "a", 0, AGENTS) == []
        await store.accept([delivery_of("r", "k")])
        assert await claimed(store, "a", 0, AGENTS) == ["r"]
        _, claims = await store.accept([delivery_of("r", "l")], worker="a")
        assert [keys_of(again) for again in claims] == [["k", "l"]]
        assert _names(await store.commit(waiting(claim), worker="a")) == []
        assert await claimed(store, "a", 0, AGENTS) == []
        assert await claimed(store, "c", 0, FLOWS) == ["r"]

    async def test_one_that_looked_before_a_run_of_its_target_was_there_hears_of_it(self, store: DurableStore) -> None:
        await claimed(store, "a", 0, FLOWS)
        assert await claimed(store, "c", 0, AGENTS) == []
        seen = await now_at(store)
        watch = asyncio.create_task(store.changed(seen))
        _, claims = await store.accept([turn_of("t", "s1")], worker="a")
        assert _names(claims) == []
        assert await asyncio.wait_for(watch, PATIENCE) != seen
        assert await claimed(store, "c", 0, AGENTS) == ["t"]

    async def test_a_dead_process_is_taken_over_from_by_those_that_ask_for_what_it_held(
        self, store: DurableStore, second: DurableStore, stores: Stores
    ) -> None:
        await begin(store)
        await store.accept([turn_of("t", "s1")], worker="a")
        await stores.kill(store, "a")
        assert await claimed(second, "b", 0, AGENTS) == ["t"]
        claims, _ = await second.claim("b", at(0), targets=FLOWS)
        assert [(claim.start.run, claim.takeovers) for claim in claims] == [("r", 1)]

    async def test_a_dead_worker_is_taken_over_from_by_those_that_ask_for_what_it_held(
        self, store: DurableStore, clock: ManualClock
    ) -> None:
        await store.accept([start_of("r"), turn_of("t", "s1")], worker=await known(store, "c"))
        await known(store)
        for _ in range(2):
            clock.advance(self.lease * 0.6)
            store.tick("a", clock.now())
        assert _names((await store.claim("a", clock.now(), targets=frozenset({"app.nobody"})))[0]) == []
        claims, _ = await store.claim("a", clock.now(), targets=AGENTS)
        assert [(claim.start.run, claim.takeovers) for claim in claims] == [("t", 1)]
        claims, _ = await store.claim("a", clock.now(), targets=FLOWS)
        assert [(claim.start.run, claim.takeovers) for claim in claims] == [("r", 1)]

    async def test_the_next_turn_of_a_session_goes_to_one_that_asks_for_it(self, store: DurableStore) -> None:
        await store.accept([turn_of("t1", "s1"), turn_of("t2", "s1")])
        (first,), _ = await store.claim("c", at(0), targets=AGENTS)
        await claimed(store, "c", 0, FLOWS)
        assert _names(await store.commit(commit_of(first, status="completed"), worker="c")) == []
        assert await claimed(store, "a", 0, FLOWS) == []
        assert await claimed(store, "a", 0, AGENTS) == ["t2"]

    async def test_a_worker_is_told_of_timers_of_its_targets_and_not_kept_awake_by_others(
        self, store: DurableStore
    ) -> None:
        await store.accept([start_of("r"), start_of("late")._replace(due=at(40)), turn_of("t", "s1")])
        (run,), _ = await store.claim("a", at(0), targets=FLOWS)
        (turn,), _ = await store.claim("c", at(0), targets=AGENTS)
        await store.commit(waiting(run, wake_at=at(20)), worker="a")
        await store.commit(waiting(turn, wake_at=at(60)), worker="c")
        _, look = await store.claim("a", at(0), targets=FLOWS)
        assert look is not None
        assert look <= at(20)
        claims, look = await store.claim("c", at(50), targets=AGENTS)
        assert _names(claims) == []
        assert look is not None
        assert at(50) < look <= at(60)
        claims, look = await store.claim("a", at(70), targets=FLOWS)
        assert sorted(_names(claims)) == ["late", "r"]
        assert look is None or look > at(70)
        assert await claimed(store, "c", 70, AGENTS) == ["t"]

    async def test_timers_that_nobody_asked_for_when_they_were_due_are_there_for_who_asks(
        self, store: DurableStore
    ) -> None:
        await store.accept([start_of(f"r{n}", target=f"app.{n % 2}") for n in range(MANY)])
        claims, _ = await store.claim("a", at(0), limit=MANY)
        for n, claim in enumerate(claims):
            await store.commit(waiting(claim, wake_at=at(1 + n % 7)), worker="a")
        for _ in range(2):
            claims, look = await store.claim("c", at(10), targets=AGENTS)
            assert (_names(claims), look is None or look > at(10)) == ([], True)
        claims, _ = await store.claim("c", at(10), limit=MANY, targets=frozenset({"app.1"}))
        assert sorted(_names(claims)) == sorted(f"r{n}" for n in range(MANY) if n % 2)
        claims, _ = await store.claim("a", at(10), limit=MANY)
        assert sorted(_names(claims)) == sorted(f"r{n}" for n in range(MANY) if not n % 2)
