"""The part of the store's conformance kit about the ``Upkeep`` port: finished runs are rewound, forked, forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from perdure.errors import LeaseLost, RunActive, UnknownName
from perdure.messages import AgentId, Delivery, Request, RunFilter
from perdure.testing.store_facts import (
    ERROR,
    LARGE,
    StoreBench,
    Stores,
    answer_of,
    ask,
    at,
    begin,
    claimed,
    commit_of,
    delivery_of,
    end,
    entry_of,
    event_of,
    keys_of,
    known,
    seen,
    start_of,
    taken,
    turn_of,
    waiting,
)

if TYPE_CHECKING:
    from perdure.messages import Claim, Status
    from perdure.ports import DurableStore

ENDS = pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "terminated"])
SESSION = AgentId("app.agent", "s1")


async def _ended(store: DurableStore, run: str = "r", *, entries: int = 3, **parts: Any) -> Claim:
    """A run that has finished with a journal."""
    claim = await begin(store, run)
    return await end(store, claim, entries=tuple(entry_of(n) for n in range(entries)), **parts)


class StoreUpkeep(StoreBench):
    """Rewinding, forking, purging."""

    # -- rewind -----------------------------------------------------------------------------------------------

    @ENDS
    async def test_a_rewound_run_goes_on_from_where_its_journal_was_cut(
        self, store: DurableStore, stores: Stores, status: Status
    ) -> None:
        claim = await _ended(store, status=status, unreported=True)
        await store.rewind("r", 2, at=at(9))
        view = await seen(stores.open())
        assert (view.status, view.seq, view.result, view.error, view.updated) == ("pending", 2, None, None, at(9))
        assert list(await store.unreported()) == []
        assert (await store.load("r")).entries == (entry_of(0), entry_of(1))
        again = await taken(store, "r")
        assert (again.start, again.seq, again.epoch > claim.epoch, again.takeovers) == (claim.start, 2, True, 0)
        await end(store, again, entries=(entry_of(7),))
        assert list(await store.journal("r")) == [entry_of(0), entry_of(1), entry_of(7)]

    async def test_a_run_may_be_rewound_to_its_beginning_or_not_at_all_and_again(self, store: DurableStore) -> None:
        await _ended(store)
        for seq in (3, 1, 0):
            await store.rewind("r", seq, at=at(1))
            claim = await taken(store, "r")
            assert claim.seq == seq
            await end(store, claim)

    @pytest.mark.parametrize("status", ["running", "waiting", "parked", "suspended"])
    async def test_a_run_that_has_not_finished_is_not_rewound(self, store: DurableStore, status: Status) -> None:
        claim = await begin(store)
        commit = commit_of(claim, entries=(entry_of(0),), status=status, active=status == "running")
        await store.commit(commit, worker="a")
        with pytest.raises(RunActive, match="'r'"):
            await store.rewind("r", 0, at=at(0))
        assert ((await seen(store)).status, len(await store.journal("r"))) == (status, 1)

    async def test_an_unknown_run_is_neither_rewound_nor_forked(self, store: DurableStore) -> None:
        with pytest.raises(UnknownName, match="nobody"):
            await store.rewind("nobody", 0, at=at(0))
        with pytest.raises(UnknownName, match="nobody"):
            await store.fork("nobody", 0, start_of("r"))

    async def test_what_was_held_before_a_run_was_rewound_commits_nothing(self, store: DurableStore) -> None:
        claim = await _ended(store)
        await store.rewind("r", 0, at=at(0))
        await taken(store, "r")
        with pytest.raises(LeaseLost):
            await store.commit(commit_of(claim, entries=(entry_of(9),)), worker="a")

    async def test_what_the_cut_entries_had_taken_is_in_the_inbox_again(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.accept([event_of("r", key) for key in "edcba"])
        consumed = (("e", 0), ("d", 2), ("b", 1), ("a", -1))
        entries = tuple(entry_of(n) for n in range(3))
        await end(store, claim, entries=entries, consumed=consumed)
        await store.rewind("r", 1, at=at(0))
        again = await taken(store, "r")
        assert keys_of(again) == ["d", "c", "b"]
        accepted, _ = await store.accept([event_of("r", key) for key in "edcba"])
        assert not any(item.new for item in accepted)
        await end(store, again, entries=(entry_of(1),), consumed=(("d", 1),))
        await store.rewind("r", 0, at=at(0))
        assert keys_of(await taken(store, "r")) == ["e", "d", "c", "b"]

    async def test_a_reply_with_an_error_is_not_given_back_but_forgotten(self, store: DurableStore) -> None:
        claim = await begin(store)
        bad, good = Delivery("r", "reply", "0/c#1", at(0), None, ERROR), delivery_of("r", "0/c#2")
        await store.accept([bad, good])
        consumed = (("0/c#1", 0), ("0/c#2", 1))
        await end(store, claim, entries=(entry_of(0), entry_of(1)), consumed=consumed, status="failed")
        await store.rewind("r", 0, at=at(0))
        assert (await taken(store, "r")).inbox == (good,)
        better = delivery_of("r", "0/c#1", value=b"2")
        accepted, (claim,) = await store.accept([better], worker="a")
        assert (accepted[0].new, claim.inbox) == (True, (good, better))

    async def test_a_cancellation_is_not_given_back_but_forgotten(self, store: DurableStore) -> None:
        claim = await begin(store)
        off = delivery_of("r", "off", kind="cancel")
        await store.accept([event_of("r", "e"), off])
        consumed = (("off", 0), ("e", 1))
        await end(store, claim, entries=(entry_of(0), entry_of(1)), consumed=consumed, status="cancelled")
        await store.rewind("r", 0, at=at(0))
        assert keys_of(await taken(store, "r")) == ["e"]
        accepted, (claim,) = await store.accept([off], worker="a")
        assert (accepted[0].new, keys_of(claim)) == (True, ["e", "off"])

    async def test_a_reply_with_an_error_that_no_cut_entry_had_taken_stays_taken(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.accept([Delivery("r", "reply", "0/c#1", at(0), None, ERROR)])
        await end(store, claim, entries=(entry_of(0), entry_of(1)), consumed=(("0/c#1", 0),))
        await store.rewind("r", 1, at=at(0))
        accepted, _ = await store.accept([delivery_of("r", "0/c#1")])
        assert (accepted[0].new, keys_of(await taken(store, "r"))) == (False, [])

    async def test_an_answer_that_is_given_back_is_still_the_answer(self, store: DurableStore) -> None:
        claim = await ask(store, active=True)
        await store.accept([answer_of("r", "q", b"true")])
        await end(store, claim, entries=(entry_of(0),), consumed=(("q", 0),))
        await store.rewind("r", 0, at=at(0))
        again = await taken(store, "r")
        assert [(item.key, item.value) for item in again.inbox] == [("q", b"true")]
        await store.commit(commit_of(again, asks=(Request("q", "r", "0/q#1", "?", {}, at(0)),)), worker="a")
        assert list(await store.requests()) == []

    async def test_a_request_that_the_end_had_closed_is_opened_by_asking_again(self, store: DurableStore) -> None:
        claim = await ask(store, active=True)
        await end(store, claim, status="failed")
        await store.rewind("r", 0, at=at(0))
        again = await taken(store, "r")
        await store.commit(commit_of(again, asks=(Request("q", "r", "0/q#1", "?", {}, at(0)),)), worker="a")
        assert [view.id for view in await store.requests(run="r")] == ["q"]
        accepted, _ = await store.accept([answer_of("r", "q", b"1")])
        assert accepted[0].new

    async def test_a_rewound_child_is_its_parents_again(self, store: DurableStore) -> None:
        parent = await begin(store)
        child = start_of("child")._replace(parent="r")
        (claim,) = await store.commit(commit_of(parent, starts=(child,)), worker="a")
        await end(store, claim, status="failed")
        await store.rewind("child", 0, at=at(0))
        await taken(store, "child")
        (told,) = await store.commit(commit_of(parent, status="failed"), worker="a")
        assert (told.start.run, [item.kind for item in told.inbox]) == ("child", ["cancel"])

    async def test_a_rewound_turn_takes_back_what_it_had_said_and_remembered(self, store: DurableStore) -> None:
        _, (first,) = await store.accept([turn_of("t1", "s1")], worker=await known(store))
        await end(store, first, log=(b"1",), state=b'"one"')
        _, (second,) = await store.accept([turn_of("t2", "s1")], worker="a")
        await end(store, second, log=(b"2", b"3"), state=b'"two"', entries=(entry_of(0),))
        await store.rewind("t2", 0, at=at(0))
        loaded = await store.load("t2")
        assert (list(await store.log(SESSION)), loaded.log, loaded.state) == ([b"1"], (b"1",), b'"one"')
        await end(store, await taken(store, "t2"), log=(b"4",), state=b'"three"')
        await store.accept([turn_of("t3", "s1")])
        loaded = await store.load("t3")
        assert (loaded.log, loaded.state) == ((b"1", b"4"), b'"three"')

    async def test_a_turn_is_rewound_unless_a_later_one_of_its_session_has_begun(self, store: DurableStore) -> None:
        _, (first,) = await store.accept([turn_of("t1", "s1")], worker=await known(store))
        await end(store, first)
        await store.accept([turn_of("t2", "s1")])
        await store.rewind("t1", 0, at=at(0))
        (second,) = await store.commit(commit_of(await taken(store, "t1"), status="completed"), worker="a")
        with pytest.raises(RunActive, match="'t1'"):
            await store.rewind("t1", 0, at=at(0))
        await end(store, second)
        with pytest.raises(RunActive, match="'t1'"):
            await store.rewind("t1", 0, at=at(0))
        await store.rewind("t2", 0, at=at(0))

    async def test_a_rewound_turn_goes_before_those_that_have_not_begun(self, store: DurableStore) -> None:
        _, (first,) = await store.accept([turn_of("t1", "s1")], worker=await known(store))
        await end(store, first)
        await store.accept([turn_of("t2", "s1")])
        await store.rewind("t1", 0, at=at(0))
        first = await taken(store, "t1")
        assert await claimed(store, "a", 0) == []
        (second,) = await store.commit(commit_of(first, status="completed"), worker="a")
        assert second.start.run == "t2"

    # -- fork -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("status", ["running", "waiting", "suspended", "completed", "failed"])
    async def test_a_fork_begins_with_the_first_entries_of_a_run_in_any_state(
        self, store: DurableStore, stores: Stores, status: Status
    ) -> None:
        claim = await begin(store)
        await store.accept([event_of("r", "e")])
        commit = commit_of(claim, entries=tuple(entry_of(n) for n in range(3)), consumed=(("e", 0),))
        await store.commit(commit, worker="a")
        await store.commit(commit_of(claim, seq=3, status=status, active=status == "running"), worker="a")
        start = start_of("f")._replace(input=b'{"n":9}', tags={"of": "r"})
        assert tuple(await store.fork("r", 2, start)) == ("f", True)
        forked = await taken(store, "f")
        assert (forked.start, forked.seq, forked.inbox) == (start, 2, ())
        await store.commit(commit_of(forked, entries=(entry_of(7),)), worker="a")
        again = stores.open()
        assert (await again.load("f")).entries == (entry_of(0), entry_of(1), entry_of(7))
        assert (await again.load("r")).entries == (entry_of(0), entry_of(1), entry_of(2))
        assert (await seen(again)).status == status

    async def test_a_repeated_fork_is_one_fork(self, store: DurableStore) -> None:
        await _ended(store)
        for n in range(2):
            accepted = await store.fork("r", 1, start_of(f"f{n}", key="k"))
            assert tuple(accepted) == ("f0", n == 0)
        assert await store.run("f1") is None

    async def test_a_fork_may_be_longer_than_what_it_forks(self, store: DurableStore) -> None:
        await _ended(store, entries=2)
        await store.fork("r", 99, start_of("f"))
        assert len((await store.load("f")).entries) == 2

    async def test_a_fork_outlives_what_it_was_forked_from(self, store: DurableStore) -> None:
        entry = entry_of(0)._replace(value=LARGE)
        await end(store, await begin(store), entries=(entry,))
        await store.fork("r", 1, start_of("f"))
        assert await store.purge(RunFilter()) == 1
        assert (await store.load("f")).entries == (entry,)

    # -- purge ------------------------------------------------------------------------------------------------

    @ENDS
    async def test_a_purged_run_was_never_there(self, store: DurableStore, stores: Stores, status: Status) -> None:
        _, (claim,) = await store.accept([start_of("r", key="k")], worker=await known(store))
        await store.commit(commit_of(claim, asks=(Request("q", "r", "0/q#1", "?", {}, at(0)),)), worker="a")
        await end(store, claim, status=status, entries=(entry_of(0),), unreported=True)
        assert await store.purge(RunFilter(status=(status,))) == 1
        again = stores.open()
        assert (await again.run("r"), await again.request("q"), list(await again.runs())) == (None, None, [])
        assert list(await again.unreported()) == []
        with pytest.raises(UnknownName):
            await again.load("r")
        with pytest.raises(UnknownName):
            await store.accept([delivery_of("r", "p")])
        accepted, _ = await store.accept([start_of("r", key="k")])
        assert accepted[0].new

    async def test_only_what_has_finished_is_purged(self, store: DurableStore) -> None:
        for n, status in enumerate(("pending", "running", "waiting", "parked", "suspended")):
            claim = await begin(store, f"r{n}")
            if n:
                await store.commit(commit_of(claim, status=status, active=n == 1), worker="a")
        assert (await store.purge(RunFilter()), len(await store.runs())) == (0, 5)

    async def test_only_what_fits_is_purged(self, store: DurableStore) -> None:
        await _ended(store, "old", at=at(10))
        await _ended(store, "new", at=at(20))
        await _ended(store, "failed", status="failed", at=at(10))
        which = RunFilter(idle_since=at(15), status=("completed", "cancelled"))
        assert (await store.purge(which), await store.purge(which)) == (1, 0)
        assert {view.id for view in await store.runs()} == {"new", "failed"}
        assert await store.purge(RunFilter(target="app.other")) == 0

    async def test_no_more_is_purged_than_the_limit(self, store: DurableStore) -> None:
        for n in range(5):
            await _ended(store, f"r{n}")
        assert [await store.purge(RunFilter(), limit=2) for _ in range(4)] == [2, 2, 1, 0]

    async def test_runs_whose_parent_has_not_finished_stay(self, store: DurableStore) -> None:
        parent = await begin(store)
        child = start_of("child")._replace(parent="r")
        (claim,) = await store.commit(commit_of(parent, starts=(child,)), worker="a")
        await end(store, claim)
        assert await store.purge(RunFilter()) == 0
        await end(store, parent)
        assert await store.purge(RunFilter(status=("completed",))) == 2

    async def test_a_run_whose_parent_is_gone_goes_too(self, store: DurableStore) -> None:
        parent = await begin(store)
        child = start_of("child")._replace(parent="r", on_close="abandon")
        (claim,) = await store.commit(commit_of(parent, starts=(child,)), worker="a")
        await end(store, parent)
        assert await store.purge(RunFilter()) == 1
        await store.commit(waiting(claim, asks=(Request("q", "child", "0/q#1", "?", {}, at(0)),)), worker="a")
        _, (claim,) = await store.accept([answer_of("child", "q", b"1")], worker="a")
        await end(store, claim)
        assert (await store.purge(RunFilter()), list(await store.runs())) == (1, [])

    async def test_the_conversation_of_a_session_outlives_its_turns(self, store: DurableStore) -> None:
        _, (claim,) = await store.accept([turn_of("t1", "s1")], worker=await known(store))
        await end(store, claim, log=(b"1", LARGE), state=LARGE)
        assert await store.purge(RunFilter()) == 1
        await store.accept([turn_of("t2", "s1")])
        loaded = await store.load("t2")
        assert (loaded.log, loaded.state) == ((b"1", LARGE), LARGE)

    async def test_a_large_value_stays_while_anybody_has_it(self, store: DurableStore) -> None:
        entry = entry_of(0)._replace(value=LARGE)
        for run in ("r", "other"):
            await end(store, await begin(store, run), entries=(entry,), value=LARGE)
        await store.rewind("other", 1, at=at(50))
        assert await store.purge(RunFilter()) == 1
        assert (await store.load("other")).entries == (entry,)
