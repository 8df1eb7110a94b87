"""The part of the store's conformance kit about runs that begin anew: restarted from outside, or by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from perdure.errors import LeaseLost
from perdure.messages import Delivery, Request
from perdure.testing.store_facts import (
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
    halt,
    keys_of,
    known,
    seen,
    start_of,
    taken,
    waiting,
)

if TYPE_CHECKING:
    from perdure.messages import Claim, Start, Status
    from perdure.ports import DurableStore

ENDS = pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "terminated"])


def _restart(reuse: Any = "restart", **fields: Any) -> Start:
    return start_of("r")._replace(reuse=reuse, input=b'{"n":2}', **fields)


async def _continued(store: DurableStore, claim: Claim, **parts: Any) -> Claim:
    """Worker ``a`` has the run that it holds begin anew."""
    start = start_of("r")._replace(input=b'{"n":2}', version=3, generation=1)
    commit = commit_of(claim, status="pending", active=False, again=start, **parts)
    (again,) = await store.commit(commit, worker="a")
    return again


class StoreLives(StoreBench):
    """Restarting, continuing as new."""

    # -- restarted --------------------------------------------------------------------------------------------

    async def test_what_a_repeated_start_would_mean_is_not_kept(self, store: DurableStore) -> None:
        await store.accept([_restart()])
        assert (await taken(store, "r")).start == _restart("join")

    @ENDS
    @pytest.mark.parametrize("reuse", ["join", "restart", "restart_failed"])
    async def test_a_finished_run_is_begun_anew_if_the_start_says_so(
        self, store: DurableStore, status: Status, reuse: str
    ) -> None:
        await end(store, await begin(store), status=status)
        anew = reuse == "restart" or (reuse == "restart_failed" and status != "completed")
        accepted, _ = await store.accept([_restart(reuse)])
        view = await seen(store)
        assert [tuple(item) for item in accepted] == [("r", anew)]
        assert (view.status, view.generation) == (("pending", 1) if anew else (status, 0))

    @pytest.mark.parametrize("status", ["running", "waiting", "parked", "suspended"])
    async def test_a_run_that_has_not_finished_is_joined_whatever_the_start_says(
        self, store: DurableStore, status: Status
    ) -> None:
        await store.commit(commit_of(await begin(store), status=status, active=status == "running"), worker="a")
        accepted, claims = await store.accept([_restart()], worker="a")
        assert (accepted[0].new, list(claims), (await seen(store)).status) == (False, [], status)

    async def test_a_restarted_run_is_as_one_that_was_never_there(self, store: DurableStore, stores: Stores) -> None:
        claim = await ask(store, active=True)
        await store.accept([event_of("r", "taken"), event_of("r", "left")])
        await store.commit(commit_of(claim, entries=(entry_of(0),), consumed=(("taken", 0),)), worker="a")
        await end(store, claim, seq=1, status="failed", progress=b'{"text":"half"}', unreported=True)
        new = _restart(tags={"a": "b"}, version=7, headers={"h": "1"})
        _, claims = await store.accept([new], worker="a")
        assert [(c.start, c.seq, c.inbox, c.epoch > claim.epoch) for c in claims] == [
            (new._replace(reuse="join", generation=1), 0, (), True)
        ]
        again = stores.open()
        view = await seen(again)
        assert (view.input, view.tags, view.version, view.seq) == ({"n": 2}, {"a": "b"}, 7, 0)
        assert (view.result, view.error, view.progress, await again.request("q")) == (None, None, None, None)
        assert (await again.load("r")).entries == ()
        assert list(await again.unreported()) == []
        accepted, _ = await store.accept([event_of("r", "taken")])
        assert accepted[0].new

    async def test_what_was_held_before_a_restart_commits_nothing(self, store: DurableStore) -> None:
        claim = await end(store, await begin(store))
        await store.accept([_restart()], worker="a")
        with pytest.raises(LeaseLost, match="'r'"):
            await store.commit(commit_of(claim, entries=(entry_of(0),)), worker="a")
        assert list(await store.journal("r")) == []

    async def test_each_restart_is_one_generation_more(self, store: DurableStore) -> None:
        claim = await begin(store)
        for n in range(1, 4):
            await end(store, claim)
            _, (claim,) = await store.accept([_restart()], worker="a")
            assert (claim.start.generation, (await seen(store)).generation) == (n, n)

    async def test_a_restart_repeated_under_its_key_is_one_restart(self, store: DurableStore) -> None:
        await end(store, await begin(store))
        for n in range(2):
            accepted, _ = await store.accept([_restart(key="k")])
            assert [tuple(item) for item in accepted] == [("r", n == 0)]
            if n == 0:
                await end(store, await taken(store, "r"))
        view = await seen(store)
        assert (view.status, view.generation) == ("completed", 1)

    async def test_a_failed_child_is_begun_anew_by_a_repeated_call(self, store: DurableStore) -> None:
        parent = await begin(store)
        child = start_of("child")._replace(parent="r", path="0/c#1", reuse="restart_failed")
        (claim,) = await store.commit(commit_of(parent, starts=(child,)), worker="a")
        await end(store, claim, status="failed")
        (again,) = await store.commit(commit_of(parent, starts=(child,)), worker="a")
        assert (again.start, again.epoch > claim.epoch) == (child._replace(reuse="join", generation=1), True)

    # -- continued as new -------------------------------------------------------------------------------------

    async def test_a_run_that_begins_anew_has_an_empty_journal_and_is_claimed_again(
        self, store: DurableStore, stores: Stores
    ) -> None:
        first = start_of("r", key="k")._replace(tags={"a": "b"}, headers={"h": "1"})
        _, (claim,) = await store.accept([first], worker=await known(store))
        await store.commit(commit_of(claim, entries=(entry_of(0),)), worker="a")
        again = await _continued(store, claim._replace(seq=1), entries=(entry_of(1),), at=at(5))
        assert again.start == first._replace(input=b'{"n":2}', version=3, generation=1)
        assert (again.seq, again.inbox, again.epoch > claim.epoch) == (0, (), True)
        view = await seen(stores.open())
        assert (view.input, view.version, view.generation, view.seq) == ({"n": 2}, 3, 1, 0)
        assert (view.status, view.key, view.tags, view.created) == ("pending", "k", {"a": "b"}, at(0))
        await store.commit(commit_of(again, entries=(entry_of(7),)), worker="a")
        assert (await store.load("r")).entries == (entry_of(7),)

    async def test_a_run_that_begins_anew_keeps_the_unconsumed_rest_of_its_inbox(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.accept([event_of("r", key) for key in "dcba"])
        again = await _continued(store, claim, consumed=(("c", 0), ("a", -1)), entries=(entry_of(0),))
        assert keys_of(again) == ["d", "b"]

    async def test_a_run_that_begins_anew_still_knows_the_events_that_it_had(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.accept([event_of("r", "e")])
        await _continued(store, claim, consumed=(("e", 0),), entries=(entry_of(0),))
        accepted, claims = await store.accept([event_of("r", "e")], worker="a")
        assert (accepted[0].new, list(claims)) == (False, [])

    async def test_a_run_that_begins_anew_may_call_and_ask_at_the_same_places(self, store: DurableStore) -> None:
        claim = await ask(store, active=True)
        reply = delivery_of("r", "0/c#1")
        await store.accept([reply, answer_of("r", "q", b"true")])
        consumed = (("0/c#1", 0), ("q", 1))
        again = await _continued(store, claim, consumed=consumed, entries=(entry_of(0), entry_of(1)))
        _, claims = await store.accept([reply], worker="a")
        assert [keys_of(claim) for claim in claims] == [["0/c#1"]]
        next_ = Request("q1", "r", "0/q#1", "?", {}, at(0))
        await store.commit(commit_of(again, asks=(next_,)), worker="a")
        assert [view.id for view in await store.requests(run="r")] == ["q1"]

    async def test_what_was_held_before_a_run_began_anew_commits_nothing(self, store: DurableStore) -> None:
        claim = await begin(store)
        await _continued(store, claim)
        with pytest.raises(LeaseLost):
            await store.commit(commit_of(claim, entries=(entry_of(0),)), worker="a")

    async def test_a_run_that_began_anew_waits_and_is_halted_as_any_other(self, store: DurableStore) -> None:
        again = await _continued(store, await begin(store))
        await store.commit(waiting(again), worker="a")
        assert await claimed(store, "a", 0) == []
        _, (woken,) = await store.accept([Delivery("r", "suspend", "s", at(1))], worker="a")
        await halt(store, woken, consumed=(("s", -1),))
        assert await claimed(store, "a", 0) == []
