"""The part of the store's conformance kit about runs that were started by others, and what their end means to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from perdure.testing.store_facts import (
    StoreBench,
    at,
    begin,
    claimed,
    commit_of,
    delivery_of,
    end,
    halt,
    seen,
    start_of,
    turn_of,
    waiting,
)

if TYPE_CHECKING:
    from perdure.messages import Claim, Start, Status
    from perdure.ports import DurableStore

ENDS = pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "terminated"])


def _child(name: str = "child", *, parent: str = "r", **fields: Any) -> Start:
    return start_of(name)._replace(parent=parent, path=f"0/{name}#1", ancestry=(parent,), **fields)


async def _start(store: DurableStore, parent: Claim, *children: Start) -> list[Claim]:
    return list(await store.commit(commit_of(parent, starts=children), worker="a"))


def _told(claims: list[Claim]) -> dict[str, list[tuple[str, str]]]:
    return {claim.start.run: [(item.kind, item.key) for item in claim.inbox] for claim in claims}


class StoreChildren(StoreBench):
    """What becomes of those that a run started."""

    @ENDS
    async def test_the_end_of_a_run_calls_off_those_that_it_started_as_they_say(
        self, store: DurableStore, status: Status
    ) -> None:
        parent = await begin(store)
        starts = [_child(how, on_close=how) for how in ("cancel", "terminate", "abandon")]
        assert len(await _start(store, parent, *starts)) == 3
        woken = await store.commit(commit_of(parent, status=status), worker="a")
        assert _told(list(woken)) == {"cancel": [("cancel", "cancel")], "terminate": [("terminate", "terminate")]}
        assert (await seen(store, "abandon")).status == "pending"

    async def test_children_that_wait_are_woken_when_they_are_called_off(self, store: DurableStore) -> None:
        parent = await begin(store)
        for claim in await _start(store, parent, _child("a"), _child("b", on_close="abandon")):
            await store.commit(waiting(claim, wake_at=at(60)), worker="a")
        woken = await store.commit(commit_of(parent, status="failed"), worker="a")
        assert _told(list(woken)) == {"a": [("cancel", "cancel")]}

    async def test_turns_are_called_off_too_and_those_that_wait_behind_others(self, store: DurableStore) -> None:
        parent = await begin(store)
        turns = [turn_of(name, "s1")._replace(parent="r") for name in ("t1", "t2")]
        (first,) = await _start(store, parent, *turns)
        woken = list(await store.commit(commit_of(parent, status="failed"), worker="a"))
        assert _told(woken) == {"t1": [("cancel", "cancel")]}
        following = await store.commit(commit_of(first, status="cancelled", consumed=(("cancel", -1),)), worker="a")
        assert _told(list(following)) == {"t2": [("cancel", "cancel")]}

    async def test_a_child_that_is_not_yet_due_is_called_off(self, store: DurableStore) -> None:
        parent = await begin(store)
        assert await _start(store, parent, _child(due=at(60))) == []
        woken = await store.commit(commit_of(parent, status="failed"), worker="a")
        assert _told(list(woken)) == {"child": [("cancel", "cancel")]}

    async def test_a_child_that_is_set_aside_is_called_off(self, store: DurableStore) -> None:
        parent = await begin(store)
        (child,) = await _start(store, parent, _child())
        await halt(store, child)
        woken = await store.commit(commit_of(parent, status="failed"), worker="a")
        assert _told(list(woken)) == {"child": [("cancel", "cancel")]}
        assert (await seen(store, "child")).status == "pending"

    async def test_a_child_that_was_called_off_is_not_called_off_again(self, store: DurableStore) -> None:
        parent = await begin(store)
        (child,) = await _start(store, parent, _child())
        off = delivery_of("child", "cancel", kind="cancel")
        (told,) = await store.commit(commit_of(parent, deliveries=(off,)), worker="a")
        await store.commit(commit_of(child, consumed=(("cancel", 0),), entries=()), worker="a")
        assert told.inbox == (off,)
        assert list(await store.commit(commit_of(parent, status="failed"), worker="a")) == []
        assert await claimed(store, "a", 0) == []

    async def test_a_child_that_has_finished_is_left_as_it_is(self, store: DurableStore) -> None:
        parent = await begin(store)
        for claim in await _start(store, parent, _child()):
            await end(store, claim)
        assert list(await store.commit(commit_of(parent, status="completed"), worker="a")) == []
        assert (await seen(store, "child")).status == "completed"

    async def test_grandchildren_are_called_off_when_their_own_parent_ends(self, store: DurableStore) -> None:
        parent = await begin(store)
        (child,) = await _start(store, parent, _child())
        await _start(store, child, _child("grandchild", parent="child"))
        woken = await store.commit(commit_of(parent, status="failed"), worker="a")
        assert list(_told(list(woken))) == ["child"]
        woken = await store.commit(commit_of(child, status="cancelled"), worker="a")
        assert _told(list(woken)) == {"grandchild": [("cancel", "cancel")]}

    async def test_children_go_on_while_their_parent_waits_is_set_aside_or_begins_anew(
        self, store: DurableStore
    ) -> None:
        parent = await begin(store)
        (child,) = await _start(store, parent, _child())
        await store.commit(waiting(child), worker="a")
        await store.commit(waiting(parent), worker="a")
        _, (parent,) = await store.accept([delivery_of("r", "s", kind="suspend")], worker="a")
        await halt(store, parent, consumed=(("s", -1),))
        _, (parent,) = await store.accept([delivery_of("r", "go", kind="resume")], worker="a")
        anew = commit_of(parent, status="pending", active=False, again=start_of("r")._replace(generation=1))
        (parent,) = await store.commit(anew, worker="a")
        assert await claimed(store, "a", 0) == []
        woken = await store.commit(commit_of(parent, status="completed"), worker="a")
        assert _told(list(woken)) == {"child": [("cancel", "cancel")]}

    async def test_a_thousand_children_are_called_off_at_once(self, store: DurableStore) -> None:
        parent = await begin(store)
        children = [_child(f"c{n}") for n in range(1000)]
        assert len(await _start(store, parent, *children)) == 1000
        woken = await store.commit(commit_of(parent, status="failed"), worker="a")
        assert {claim.start.run for claim in woken} == {child.run for child in children}
