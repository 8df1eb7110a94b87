"""The part of the store's conformance kit about what a claim returns besides new work, and when to look again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.testing.store_facts import (
    ERROR,
    StoreBench,
    Stores,
    at,
    begin,
    commit_of,
    delivery_of,
    keys_of,
    known,
    start_of,
)

if TYPE_CHECKING:
    from perdure.ports import DurableStore


class StoreLooks(StoreBench):
    """News of what is held, and looking again."""

    async def test_a_worker_hears_of_what_it_holds_however_low_the_limit_is(self, store: DurableStore) -> None:
        for run in ("r", "s"):
            await begin(store, run)
        await store.accept([start_of("n0"), start_of("n1")])
        await store.accept([delivery_of("r", "p"), delivery_of("s", "p")])
        claims, _ = await store.claim("a", at(0), limit=1)
        told = {claim.start.run: keys_of(claim) for claim in claims}
        assert told == {"r": ["p"], "s": ["p"], "n0": []}

    async def test_a_worker_hears_when_to_look_after_what_another_one_holds(self, store: DurableStore) -> None:
        await known(store)
        await store.accept([start_of("r")], worker=await known(store, "c"))
        claims, look = await store.claim("a", at(0))
        assert list(claims) == []
        assert look is not None
        assert look <= at(self.lease)

    async def test_takeovers_are_forgotten_when_somebody_has_a_halted_run_go_on(
        self, store: DurableStore, second: DurableStore, stores: Stores
    ) -> None:
        await begin(store)
        await stores.kill(store, "a")
        ((claim,), _) = await second.claim("b", at(0))
        await second.commit(commit_of(claim, status="parked", active=False, error=ERROR), worker="b")
        _, claims = await second.accept([delivery_of("r", "go", kind="resume")], worker="b")
        assert [woken.takeovers for woken in claims] == [0]
