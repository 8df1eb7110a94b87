"""The part of the store's conformance kit for stores that know when what they kept is damaged.

A store that keeps checksums subclasses ``StoreDamage`` beside ``StoreKit``; its ``stores`` can ``damage``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from perdure.errors import DataCorrupted
from perdure.testing.store_facts import (
    ERROR,
    StoreBench,
    Stores,
    at,
    begin,
    claimed,
    commit_of,
    end,
    entry_of,
    event_of,
    keys_of,
    seen,
    taken,
    waiting,
)

if TYPE_CHECKING:
    from perdure.messages import Claim
    from perdure.ports import DurableStore


class DamagedStores(Stores, Protocol):
    """Stores whose data can be damaged."""

    async def damage(self, run: str) -> None:
        """Change a byte in the first entry of the run's journal, as a failing disk would."""
        ...


async def _three(store: DurableStore) -> list[Claim]:
    """Runs with a journal, the second of which will be damaged; the first and the last wait."""
    claims = [await begin(store, run) for run in ("a", "b", "c")]
    for claim in claims:
        await store.commit(commit_of(claim, entries=(entry_of(0), entry_of(1))), worker="a")
    for claim in claims:
        await store.commit(waiting(claim, seq=2), worker="a")
    return claims


class StoreDamage(StoreBench):
    """What is damaged is known to be, and harms nobody else. Fixture to give: ``stores`` that can be damaged."""

    async def test_a_run_whose_journal_is_damaged_is_not_loaded(
        self, store: DurableStore, stores: DamagedStores
    ) -> None:
        await _three(store)
        await stores.damage("b")
        for each in (store, stores.open()):
            with pytest.raises(DataCorrupted, match="'b'"):
                await each.load("b")

    async def test_what_is_damaged_harms_no_other_run(self, store: DurableStore, stores: DamagedStores) -> None:
        await _three(store)
        await stores.damage("b")
        with pytest.raises(DataCorrupted):
            await store.load("b")
        for run in ("a", "c"):
            assert (await store.load(run)).entries == (entry_of(0), entry_of(1))
            _, (claim,) = await store.accept([event_of(run, "e")], worker="a")
            await end(store, claim, entries=(entry_of(2),), consumed=(("e", 2),))
        await begin(store, "d")
        assert {view.id for view in await store.runs()} == {"a", "b", "c", "d"}

    async def test_a_run_that_is_damaged_can_be_set_aside_and_ended(
        self, store: DurableStore, stores: DamagedStores
    ) -> None:
        await _three(store)
        await stores.damage("b")
        await store.accept([event_of("b", "e")])
        claim = await taken(store, "b")
        await store.commit(commit_of(claim, status="parked", active=False, error=ERROR), worker="a")
        assert ((await seen(store, "b")).status, await claimed(store, "a", 0)) == ("parked", [])
        _, (claim,) = await store.accept([event_of("b", "off")._replace(kind="terminate")], worker="a")
        assert keys_of(claim) == ["e", "off"]
        await end(store, claim, status="terminated", at=at(9))
        assert (await seen(store, "b")).status == "terminated"
