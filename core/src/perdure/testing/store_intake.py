"""The part of the store's conformance kit about what comes in, and who is given it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from perdure.errors import CommitConflict, RequestClosed, UnknownName
from perdure.messages import Start
from perdure.testing.store_facts import (
    ERROR,
    TEXT,
    StoreBench,
    Stores,
    answer_of,
    ask,
    at,
    begin,
    claimed,
    commit_of,
    delivery_of,
    entry_of,
    known,
    start_of,
    waiting,
)

if TYPE_CHECKING:
    from perdure.ports import DurableStore


class StoreIntake(StoreBench):
    """Accepting, answering, claiming."""

    # -- accepting --------------------------------------------------------------------------------------------

    async def test_an_accepted_run_is_there_when_the_store_is_opened_again(
        self, store: DurableStore, stores: Stores
    ) -> None:
        accepted, claims = await store.accept([start_of("r")])
        assert [(item.run, item.new) for item in accepted] == [("r", True)]
        assert list(claims) == []
        await store.close()
        again = stores.open()
        view = await again.run("r")
        assert view is not None
        assert (view.id, view.status, view.input, view.seq) == ("r", "pending", {"n": 1}, 0)

    async def test_the_same_key_for_the_same_target_is_one_run(self, store: DurableStore) -> None:
        await store.accept([start_of("r", key="k")])
        accepted, _ = await store.accept([start_of("s", key="k"), start_of("t", key="k", target="app.other")])
        assert [tuple(item) for item in accepted] == [("r", False), ("t", True)]
        assert await store.run("s") is None

    async def test_the_same_run_twice_is_one_run(self, store: DurableStore) -> None:
        await store.accept([start_of("r")])
        accepted, claims = await store.accept([start_of("r")], worker="a")
        assert [tuple(item) for item in accepted] == [("r", False)]
        assert list(claims) == []

    async def test_a_repeated_delivery_changes_nothing(self, store: DurableStore) -> None:
        await store.accept([start_of("r")])
        first, _ = await store.accept([delivery_of("r", "p", value=b"1")])
        again, _ = await store.accept([delivery_of("r", "p", value=b"2")])
        assert (first[0].new, again[0].new) == (True, False)
        claims, _ = await store.claim("a", at(0))
        assert [item.value for item in claims[0].inbox] == [b"1"]

    async def test_a_consumed_delivery_is_still_known(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.accept([delivery_of("r", "p")], worker="a")
        await store.commit(commit_of(claim, consumed=(("p", -1),)), worker="a")
        accepted, claims = await store.accept([delivery_of("r", "p")], worker="a")
        assert (accepted[0].new, list(claims)) == (False, [])

    async def test_a_delivery_to_a_finished_run_changes_nothing(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(commit_of(claim, status="completed", value=b"1"), worker="a")
        accepted, claims = await store.accept([delivery_of("r", "late")], worker="a")
        assert (accepted[0].new, list(claims)) == (False, [])

    async def test_a_delivery_to_an_unknown_run_is_refused(self, store: DurableStore) -> None:
        with pytest.raises(UnknownName, match="nobody"):
            await store.accept([delivery_of("nobody", "p")])

    async def test_all_is_accepted_or_nothing(self, store: DurableStore) -> None:
        with pytest.raises(UnknownName):
            await store.accept([start_of("r"), delivery_of("nobody", "p")])
        assert await store.run("r") is None

    async def test_a_run_and_a_delivery_to_it_may_come_together(self, store: DurableStore) -> None:
        _, claims = await store.accept([start_of("r"), delivery_of("r", "p")], worker=await known(store))
        assert [(claim.start.run, [item.key for item in claim.inbox]) for claim in claims] == [("r", ["p"])]

    async def test_unicode_and_headers_come_back_as_they_were(self, store: DurableStore) -> None:
        start = Start(
            "r·1",
            "turn",
            "app.agent",
            b"1",
            at(0),
            session=TEXT,
            key=TEXT,
            ancestry=("x", "ü"),
            headers={"ä": TEXT},
        )
        _, claims = await store.accept([start], worker=await known(store))
        assert claims[0].start == start
        view = await store.run("r·1")
        assert view is not None
        assert (view.session, view.key, view.headers) == (TEXT, TEXT, {"ä": TEXT})

    # -- answers ----------------------------------------------------------------------------------------------

    async def test_an_answer_closes_its_request_in_the_same_instant(self, store: DurableStore) -> None:
        await ask(store)
        assert [view.id for view in await store.requests()] == ["q"]
        await store.accept([answer_of("r", "q", b"true")])
        request = await store.request("q")
        assert request is not None
        assert request.status == "answered"
        assert list(await store.requests()) == []

    async def test_an_answer_to_an_unknown_request_is_refused(self, store: DurableStore) -> None:
        await ask(store)
        with pytest.raises(UnknownName, match="nothing"):
            await store.accept([answer_of("r", "nothing", b"1")])

    async def test_an_answer_under_another_runs_name_is_refused(self, store: DurableStore) -> None:
        await ask(store)
        await store.accept([start_of("other")])
        with pytest.raises(UnknownName):
            await store.accept([answer_of("other", "q", b"1")])

    async def test_a_second_answer_is_refused(self, store: DurableStore) -> None:
        await ask(store)
        await store.accept([answer_of("r", "q", b"true")])
        with pytest.raises(RequestClosed, match="q"):
            await store.accept([answer_of("r", "q", b"false")])

    async def test_the_very_same_answer_again_is_a_repeated_delivery(self, store: DurableStore) -> None:
        await ask(store)
        await store.accept([answer_of("r", "q", b"true")])
        accepted, _ = await store.accept([answer_of("r", "q", b"true")])
        assert accepted[0].new is False

    async def test_of_two_answers_at_once_one_is_taken(self, store: DurableStore) -> None:
        await ask(store)
        outcomes = await asyncio.gather(
            store.accept([answer_of("r", "q", b"1")]), store.accept([answer_of("r", "q", b"2")]), return_exceptions=True
        )
        assert sorted(isinstance(outcome, RequestClosed) for outcome in outcomes) == [False, True]

    async def test_a_withdrawn_request_takes_no_answer(self, store: DurableStore) -> None:
        claim = await ask(store, active=True)
        await store.commit(commit_of(claim, seq=0, closes=("q",)), worker="a")
        with pytest.raises(RequestClosed, match="closed"):
            await store.accept([answer_of("r", "q", b"1")])

    async def test_the_end_of_a_run_closes_its_requests(self, store: DurableStore) -> None:
        claim = await ask(store, active=True)
        await store.commit(commit_of(claim, seq=0, status="cancelled", error=ERROR), worker="a")
        with pytest.raises(RequestClosed):
            await store.accept([answer_of("r", "q", b"1")])

    async def test_withdrawing_an_answered_request_is_a_conflict(self, store: DurableStore) -> None:
        claim = await ask(store, active=True)
        await store.accept([answer_of("r", "q", b"1")])
        with pytest.raises(CommitConflict, match="q"):
            await store.commit(commit_of(claim, closes=("q",), entries=(entry_of(0),)), worker="a")
        assert list(await store.journal("r")) == []

    # -- claiming ---------------------------------------------------------------------------------------------

    async def test_a_new_run_is_claimed_once(self, store: DurableStore) -> None:
        await store.accept([start_of("r")])
        claims, due = await store.claim("a", at(0))
        assert [(claim.start, claim.seq, claim.inbox, claim.takeovers) for claim in claims] == [
            (start_of("r"), 0, (), 0)
        ]
        assert due is None
        assert await claimed(store, "a", 0) == []

    async def test_a_claim_takes_no_more_than_its_limit(self, store: DurableStore) -> None:
        await store.accept([start_of(f"r{n}") for n in range(5)])
        sizes = [len((await store.claim("a", at(0), limit=2))[0]) for _ in range(4)]
        assert sizes == [2, 2, 1, 0]

    async def test_what_is_new_of_held_runs_is_told_besides_the_limit(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.accept([start_of("s")])
        await store.accept([delivery_of("r", "d", kind="event")])
        claims, _ = await store.claim("a", at(0), limit=0)
        assert [(each.start.run, [item.key for item in each.inbox]) for each in claims] == [("r", ["d"])]
        await store.commit(commit_of(claim, wake_at=at(10)), worker="a")
        claims, _ = await store.claim("a", at(10), limit=0)
        assert [each.start.run for each in claims] == ["r"]
        assert await claimed(store, "a", 10) == ["s"]

    async def test_a_run_that_a_live_worker_holds_is_not_claimed(
        self, store: DurableStore, second: DurableStore
    ) -> None:
        await begin(store)
        assert await claimed(store, "c", 0) == []
        assert await claimed(second, "b", 0) == []
        await second.accept([delivery_of("r", "p")], worker="b")
        assert await claimed(second, "b", 0) == []

    async def test_another_process_gets_claims_only_where_several_drive(
        self, store: DurableStore, second: DurableStore
    ) -> None:
        await begin(store)
        await second.accept([start_of("other")])
        assert await claimed(second, "b", 0) == (["other"] if self.several_drive else [])

    async def test_what_others_delivered_to_a_held_run_is_told_to_its_holder(
        self, store: DurableStore, second: DurableStore
    ) -> None:
        claim = await begin(store)
        await second.accept([delivery_of("r", "p")])
        claims, _ = await store.claim("a", at(0))
        assert [(told.epoch, [item.key for item in told.inbox]) for told in claims] == [(claim.epoch, ["p"])]
        assert await claimed(store, "a", 0) == []

    async def test_a_parked_wait_is_claimed_when_its_timer_is_due_and_not_before(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(waiting(claim, wake_at=at(60)), worker="a")
        claims, due = await store.claim("a", at(59))
        assert (list(claims), due) == ([], at(60))
        claims, due = await store.claim("a", at(60))
        assert [(woken.start.run, woken.epoch > claim.epoch) for woken in claims] == [("r", True)]
        assert due is None

    async def test_a_held_run_whose_timer_comes_due_is_told_to_its_holder(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(commit_of(claim, wake_at=at(60)), worker="a")
        assert await claimed(store, "a", 0) == []
        claims, _ = await store.claim("a", at(61))
        assert [(told.start.run, told.epoch) for told in claims] == [("r", claim.epoch)]
        claims, due = await store.claim("a", at(62))
        assert (list(claims), due) == ([], None)

    async def test_the_next_timer_is_the_earliest(self, store: DurableStore) -> None:
        await store.accept([start_of("r"), start_of("s")])
        claims, _ = await store.claim("a", at(0))
        for claim, seconds in zip(claims, (50, 40), strict=True):
            await store.commit(waiting(claim, wake_at=at(seconds)), worker="a")
        assert (await store.claim("a", at(0)))[1] == at(40)

    async def test_a_waiting_run_with_nothing_to_do_is_left_alone(self, store: DurableStore) -> None:
        claim = await begin(store)
        assert list(await store.commit(waiting(claim), worker="a")) == []
        assert await store.claim("a", at(10**6)) == ([], None)

    async def test_a_set_aside_run_is_woken_by_resumption_and_cancellation_alone(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.accept([delivery_of("r", "early")], worker="a")
        parked = commit_of(claim, status="parked", active=False, wake_at=at(1), error=ERROR)
        assert list(await store.commit(parked, worker="a")) == []
        _, claims = await store.accept([delivery_of("r", "late")], worker="a")
        assert list(claims) == []
        assert await claimed(store, "a", 100) == []
        _, claims = await store.accept([delivery_of("r", "again", kind="resume")], worker="a")
        assert [[item.key for item in woken.inbox] for woken in claims] == [["early", "late", "again"]]

    async def test_resumption_makes_a_set_aside_run_pending_in_the_same_instant(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(commit_of(claim, status="parked", active=False, error=ERROR), worker="a")
        await store.accept([delivery_of("r", "again", kind="resume")])
        view = await store.run("r")
        assert view is not None
        assert (view.status, view.error) == ("pending", None)

    async def test_resuming_a_run_that_is_not_set_aside_changes_nothing(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(waiting(claim), worker="a")
        accepted, claims = await store.accept([delivery_of("r", "again", kind="resume")], worker="a")
        assert (accepted[0].new, list(claims)) == (False, [])
        claims, _ = await store.claim("a", at(10**6))
        assert list(claims) == []

    async def test_a_repeated_cancellation_does_not_wake_a_set_aside_run(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.accept([delivery_of("r", "stop", kind="cancel")], worker="a")
        parked = commit_of(claim, consumed=(("stop", -1),), status="parked", active=False, error=ERROR)
        await store.commit(parked, worker="a")
        accepted, claims = await store.accept([delivery_of("r", "stop", kind="cancel")], worker="a")
        assert (accepted[0].new, list(claims)) == (False, [])
        view = await store.run("r")
        assert view is not None
        assert view.status == "parked"
