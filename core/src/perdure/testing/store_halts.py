"""The part of the store's conformance kit about runs that are set aside, and runs that are to begin later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from perdure.messages import Delivery
from perdure.testing.store_facts import (
    StoreBench,
    answer_of,
    ask,
    at,
    begin,
    claimed,
    commit_of,
    delivery_of,
    end,
    event_of,
    halt,
    keys_of,
    known,
    seen,
    start_of,
    taken,
    turn_of,
    waiting,
)

if TYPE_CHECKING:
    from perdure.messages import Claim
    from perdure.ports import DurableStore

HALTED = pytest.mark.parametrize("status", ["parked", "suspended"])
WAKING = pytest.mark.parametrize("kind", ["resume", "cancel", "terminate"])


class StoreHalts(StoreBench):
    """Halting, waking, waiting until due."""

    # -- what may be delivered --------------------------------------------------------------------------------

    async def test_deliveries_of_all_kinds_come_back_whole_and_in_the_order_of_acceptance(
        self, store: DurableStore
    ) -> None:
        sent = (
            Delivery("r", "event", "z", at(3), b"\x00\xff", name="für 日本"),
            Delivery("r", "update", "y", at(2), b"{}", name="change"),
            Delivery("r", "reply", "x", at(1), None, b"{}"),
            Delivery("r", "suspend", "w", at(0)),
            Delivery("r", "cancel", "v", at(0), b'"why"'),
            Delivery("r", "terminate", "u", at(0), b'"now"'),
        )
        await store.accept([start_of("r"), *sent[:2]])
        await store.accept(sent[2:])
        assert (await taken(store, "r")).inbox == sent

    async def test_a_run_that_waits_is_woken_by_an_event(self, store: DurableStore) -> None:
        await store.commit(waiting(await begin(store)), worker="a")
        _, claims = await store.accept([event_of("r", "e")], worker="a")
        assert [keys_of(claim) for claim in claims] == [["e"]]

    # -- halted -----------------------------------------------------------------------------------------------

    @HALTED
    async def test_a_halted_run_keeps_what_is_delivered_and_is_not_woken(
        self, store: DurableStore, status: Literal["parked", "suspended"]
    ) -> None:
        claim = await begin(store)
        await store.accept([event_of("r", "early")])
        assert keys_of(await taken(store, "r")) == ["early"]
        await halt(store, claim, status=status, wake_at=at(1))
        kinds = ("event", "update", "reply", "suspend")
        accepted, claims = await store.accept([delivery_of("r", kind, kind=kind) for kind in kinds], worker="a")
        assert ([item.new for item in accepted], list(claims)) == ([True] * 4, [])
        claims, due = await store.claim("a", at(100))
        assert (list(claims), due, (await seen(store)).status) == ([], None, status)
        _, claims = await store.accept([delivery_of("r", "go", kind="resume")], worker="a")
        assert [keys_of(claim) for claim in claims] == [["early", *kinds, "go"]]

    @HALTED
    @WAKING
    async def test_what_wakes_a_halted_run_makes_it_pending_in_the_same_instant(
        self, store: DurableStore, status: Literal["parked", "suspended"], kind: str
    ) -> None:
        claim = await begin(store)
        await halt(store, claim, status=status)
        accepted, _ = await store.accept([delivery_of("r", "k", kind=kind)])
        view = await seen(store)
        assert (accepted[0].new, view.status, view.error) == (True, "pending", None)
        again = await taken(store, "r")
        assert (again.epoch > claim.epoch, keys_of(again)) == (True, ["k"])

    async def test_a_run_may_be_halted_and_resumed_again_and_again(self, store: DurableStore) -> None:
        claim = await begin(store)
        for n in range(3):
            await halt(store, claim, consumed=((f"go{n - 1}", -1),))
            _, (claim,) = await store.accept([delivery_of("r", f"go{n}", kind="resume")], worker="a")
            assert keys_of(claim) == [f"go{n}"]

    async def test_a_suspension_wakes_a_run_that_waits(self, store: DurableStore) -> None:
        await store.commit(waiting(await begin(store)), worker="a")
        _, claims = await store.accept([delivery_of("r", "s", kind="suspend")], worker="a")
        assert [keys_of(claim) for claim in claims] == [["s"]]

    async def test_a_halted_runs_request_is_answered_and_the_answer_waits(self, store: DurableStore) -> None:
        claim = await ask(store, active=True)
        await halt(store, claim)
        assert [view.id for view in await store.requests(run="r")] == ["q"]
        accepted, claims = await store.accept([answer_of("r", "q", b"true")], worker="a")
        assert (accepted[0].new, list(claims), list(await store.requests())) == (True, [], [])
        _, claims = await store.accept([delivery_of("r", "go", kind="resume")], worker="a")
        assert [keys_of(claim) for claim in claims] == [["q", "go"]]

    async def test_a_halted_turn_keeps_its_session(self, store: DurableStore) -> None:
        _, claims = await store.accept([turn_of("t1", "s1"), turn_of("t2", "s1")], worker=await known(store))
        await halt(store, claims[0])
        assert await claimed(store, "a", 0) == []

    # -- not yet due ------------------------------------------------------------------------------------------

    async def test_a_start_that_is_not_yet_due_waits_as_for_a_timer(self, store: DurableStore) -> None:
        start = start_of("r")._replace(due=at(60))
        accepted, claims = await store.accept([start], worker=await known(store))
        assert (accepted[0].new, list(claims)) == (True, [])
        view = await seen(store)
        assert (view.status, view.due) == ("pending", at(60))
        assert await store.claim("a", at(59)) == ([], at(60))
        claims, due = await store.claim("a", at(60))
        assert ([claim.start for claim in claims], due) == ([start], None)

    async def test_a_start_that_was_due_before_is_begun_at_once(self, store: DurableStore) -> None:
        _, claims = await store.accept([start_of("r")._replace(due=at(-1))], worker=await known(store))
        assert [claim.start.run for claim in claims] == ["r"]

    async def test_a_child_that_is_not_yet_due_waits_too(self, store: DurableStore) -> None:
        claim = await begin(store)
        child = start_of("child")._replace(parent="r", due=at(60))
        assert list(await store.commit(commit_of(claim, starts=(child,)), worker="a")) == []
        assert await claimed(store, "a", 59) == []
        assert await claimed(store, "a", 60) == ["child"]

    async def test_what_is_delivered_to_a_run_that_is_not_yet_due_waits_with_it(self, store: DurableStore) -> None:
        await store.accept([start_of("r")._replace(due=at(60))], worker=await known(store))
        _, claims = await store.accept([event_of("r", "e")], worker="a")
        assert (list(claims), await claimed(store, "a", 59)) == ([], [])
        assert keys_of(await taken(store, "r", now=60)) == ["e"]

    @pytest.mark.parametrize("kind", ["cancel", "terminate"])
    async def test_a_run_is_called_off_before_it_is_due(self, store: DurableStore, kind: str) -> None:
        await store.accept([start_of("r")._replace(due=at(60))], worker=await known(store))
        _, claims = await store.accept([delivery_of("r", "off", kind=kind)], worker="a")
        assert [keys_of(claim) for claim in claims] == [["off"]]

    # -- turns that are not yet due ---------------------------------------------------------------------------

    async def test_a_turn_that_is_not_yet_due_holds_up_nobody(self, store: DurableStore) -> None:
        late = turn_of("late", "s1")._replace(due=at(60))
        _, claims = await store.accept([late, turn_of("t1", "s1"), turn_of("t2", "s1")], worker=await known(store))
        assert [claim.start.run for claim in claims] == ["t1"]
        claims = await store.commit(commit_of(claims[0], status="completed"), worker="a")
        assert [claim.start.run for claim in claims] == ["t2"]
        await end(store, claims[0])
        assert await claimed(store, "a", 60) == ["late"]

    async def test_a_turn_that_comes_due_while_a_later_one_goes_on_waits_for_it(self, store: DurableStore) -> None:
        late = turn_of("late", "s1")._replace(due=at(60))
        _, claims = await store.accept([late, turn_of("t1", "s1"), turn_of("t2", "s1")], worker=await known(store))
        going: Claim = claims[0]
        await store.commit(waiting(going), worker="a")
        assert await claimed(store, "a", 61) == []
        _, (going,) = await store.accept([event_of("t1", "e")], worker="a")
        claims = await store.commit(commit_of(going, status="completed", at=at(62)), worker="a")
        assert [claim.start.run for claim in claims] == ["late"]
        claims = await store.commit(commit_of(claims[0], status="completed", at=at(63)), worker="a")
        assert [claim.start.run for claim in claims] == ["t2"]
