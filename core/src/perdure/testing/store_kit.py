"""The conformance kit of the ``DurableStore`` port: one sentence of ``perdure.ports`` after the other.

Subclass ``StoreKit`` in a test module and give it a ``stores`` fixture: what opens stores on one set of data, as
several processes would, and what kills one. What a store may do or not is said by class attributes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from perdure.errors import UnknownName
from perdure.messages import AgentId, Claim, Reported, Request, RunFilter
from perdure.testing.store_children import StoreChildren
from perdure.testing.store_commits import StoreCommits
from perdure.testing.store_facts import (
    ERROR,
    PATIENCE,
    TEXT,
    at,
    begin,
    claimed,
    commit_of,
    delivery_of,
    entry_of,
    known,
    now_at,
    start_of,
    turn_of,
    waiting,
    write_until,
)
from perdure.testing.store_halts import StoreHalts
from perdure.testing.store_intake import StoreIntake
from perdure.testing.store_lists import StoreLists
from perdure.testing.store_lives import StoreLives
from perdure.testing.store_targets import StoreTargets
from perdure.testing.store_upkeep import StoreUpkeep
from perdure.testing.store_walk import StoreWalk

if TYPE_CHECKING:
    from perdure.ports import DurableStore


class StoreKit(
    StoreIntake,
    StoreCommits,
    StoreTargets,
    StoreHalts,
    StoreLives,
    StoreChildren,
    StoreLists,
    StoreUpkeep,
    StoreWalk,
):
    """Conformance of a store. Fixtures to give: ``stores``, whose leases last ``lease`` seconds of ``clock``.

    See ``StoreBench`` for the class attributes, by which a store says what it is able to do; and ``StoreDamage``, which
    a store that keeps checksums subclasses, too.
    """

    # -- sessions ---------------------------------------------------------------------------------------------

    async def test_turns_of_a_session_run_one_at_a_time_in_the_order_of_acceptance(self, store: DurableStore) -> None:
        await known(store)
        for turn in ("t1", "t2", "t3"):
            await store.accept([turn_of(turn, "s1")])
        await store.accept([turn_of("u1", "s2")])
        claims, _ = await store.claim("a", at(0))
        assert [claim.start.run for claim in claims] == ["t1", "u1"]
        order: list[str] = []
        following: list[Claim] = [claims[0]]
        while following:
            order.append(following[0].start.run)
            assert await claimed(store, "a", 0) == []
            following = list(await store.commit(commit_of(following[0], status="completed"), worker="a"))
        assert order == ["t1", "t2", "t3"]

    async def test_a_turn_that_waits_keeps_its_session(self, store: DurableStore) -> None:
        _, claims = await store.accept([turn_of("t1", "s1"), turn_of("t2", "s1")], worker=await known(store))
        assert [claim.start.run for claim in claims] == ["t1"]
        assert list(await store.commit(waiting(claims[0]), worker="a")) == []
        await store.accept([delivery_of("t2", "stop", kind="cancel")])
        assert await claimed(store, "a", 0) == []

    async def test_a_turn_sees_the_conversation_before_it(self, store: DurableStore) -> None:
        session = AgentId("app.agent", "s1")
        assert list(await store.log(session)) == []
        _, claims = await store.accept([turn_of("t1", "s1"), turn_of("t2", "s1")], worker=await known(store))
        first = commit_of(claims[0], entries=(entry_of(0),), log=(b'"one"', b'"two"'))
        await store.commit(first, worker="a")
        assert (await store.load("t1")).log == ()
        last = commit_of(claims[0], seq=1, log=(b'"three"',), state=b'{"n":1}', status="completed")
        await store.commit(last, worker="a")
        loaded = await store.load("t2")
        assert (loaded.log, loaded.state) == ((b'"one"', b'"two"', b'"three"'), b'{"n":1}')
        assert list(await store.log(session)) == list(loaded.log)

    async def test_a_state_stays_until_it_is_changed(self, store: DurableStore) -> None:
        _, claims = await store.accept([turn_of("t1", "s1"), turn_of("t2", "s1")], worker=await known(store))
        claims = await store.commit(commit_of(claims[0], state=b"{}", status="completed"), worker="a")
        await store.commit(commit_of(claims[0], log=(b"1",), status="completed"), worker="a")
        await store.accept([turn_of("t3", "s1")])
        loaded = await store.load("t3")
        assert (loaded.log, loaded.state) == ((b"1",), b"{}")

    # -- views ------------------------------------------------------------------------------------------------

    async def test_what_is_unknown_is_named_or_nothing(self, store: DurableStore) -> None:
        assert (await store.run("nobody"), await store.request("nothing")) == (None, None)
        with pytest.raises(UnknownName, match="nobody"):
            await store.load("nobody")
        with pytest.raises(UnknownName, match="nobody"):
            await store.journal("nobody")

    async def test_runs_are_listed_newest_first_and_by_pages(self, store: DurableStore) -> None:
        for n in range(5):
            await store.accept([start_of(f"r{n}", target="app.odd" if n % 2 else "app.even")])
        page = await store.runs(limit=2)
        assert [view.id for view in page] == ["r4", "r3"]
        assert [view.id for view in await store.runs(before="r3", limit=2)] == ["r2", "r1"]
        assert [view.id for view in await store.runs(before="r0")] == []
        assert [view.id for view in await store.runs(RunFilter(target="app.odd"))] == ["r3", "r1"]
        assert [view.input for view in page] == [None, None]

    async def test_the_runs_that_a_run_called_are_listed_whatever_became_of_them(self, store: DurableStore) -> None:
        claim = await begin(store)
        children = tuple(start_of(name)._replace(parent="r", path=name) for name in ("a", "b"))
        claims = await store.commit(waiting(claim, starts=children), worker="a")
        await store.commit(commit_of(claims[0], status="completed", value=b"1"), worker="a")
        assert [view.id for view in await store.runs(RunFilter(parent="r"))] == ["b", "a"]
        assert await store.runs(RunFilter(parent="a")) == []

    async def test_runs_are_listed_by_status(self, store: DurableStore) -> None:
        await store.accept([start_of("r"), start_of("s")])
        claims, _ = await store.claim("a", at(0))
        await store.commit(commit_of(claims[0], status="failed", error=ERROR), worker="a")
        assert [view.id for view in await store.runs(RunFilter(status=("failed",)))] == ["r"]
        assert [view.id for view in await store.runs(RunFilter(status=("pending",), target="app.flow"))] == ["s"]

    async def test_a_view_shows_how_the_run_stands(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(commit_of(claim, at=at(5), entries=(entry_of(0),)), worker="a")
        asked = Request("q", "r", "0/q#1", TEXT, {"type": "boolean"}, at(6), deadline=at(99))
        await store.commit(waiting(claim, seq=1, at=at(6), asks=(asked,), wake_at=at(99)), worker="a")
        view = await store.run("r")
        assert view is not None
        assert (view.status, view.seq, view.wake_at, view.created, view.updated) == (
            "waiting",
            1,
            at(99),
            at(0),
            at(6),
        )
        assert [(q.prompt, q.answer_schema, q.deadline) for q in view.requests] == [(TEXT, {"type": "boolean"}, at(99))]

    async def test_a_failure_is_shown(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(commit_of(claim, status="failed", error=ERROR), worker="a")
        view = await store.run("r")
        assert view is not None
        assert (view.finished, view.result, str(view.error)) == (True, None, "ValueError: no")

    async def test_a_payload_that_a_codec_made_unreadable_stays_bytes(self, store: DurableStore) -> None:
        await store.accept([start_of("r")._replace(input=b"\x00\xff")])
        view = await store.run("r")
        assert view is not None
        assert view.input == b"\x00\xff"

    async def test_a_journal_is_read_by_pages(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(commit_of(claim, entries=tuple(entry_of(n) for n in range(7))), worker="a")
        assert [entry.path for entry in await store.journal("r", after=2, limit=3)] == ["0/s#2", "0/s#3", "0/s#4"]

    async def test_open_requests_are_listed_oldest_first(self, store: DurableStore) -> None:
        await store.accept([start_of("r"), start_of("s")])
        claims, _ = await store.claim("a", at(0))
        for claim in claims:
            run = claim.start.run
            asks = tuple(Request(f"{run}{n}", run, f"0/q#{n}", "?", {}, at(n)) for n in range(2))
            await store.commit(commit_of(claim, asks=asks), worker="a")
        assert [view.id for view in await store.requests()] == ["r0", "r1", "s0", "s1"]
        assert [view.id for view in await store.requests(run="s", limit=1)] == ["s0"]

    async def test_the_requests_of_a_run_are_its_own_and_those_of_what_it_called(self, store: DurableStore) -> None:
        await store.accept([start_of("r"), start_of("stranger")])
        claims, _ = await store.claim("a", at(0))
        child = start_of("child")._replace(parent="r", path="0/c#1")
        (called,) = await store.commit(commit_of(claims[0], starts=(child,)), worker="a")
        grandchild = turn_of("grandchild", "s1")._replace(parent="child", path="0/c#1")
        (deepest,) = await store.commit(commit_of(called, starts=(grandchild,)), worker="a")
        for claim in (claims[0], deepest, claims[1]):
            asked = Request(f"of-{claim.start.run}", claim.start.run, "0/q#1", "?", {}, at(0))
            await store.commit(commit_of(claim, asks=(asked,)), worker="a")
        assert [view.id for view in await store.requests(run="r")] == ["of-r", "of-grandchild"]
        assert [view.id for view in await store.requests(run="child")] == ["of-grandchild"]
        view = await store.run("r")
        assert view is not None
        assert [(request.id, request.run) for request in view.requests] == [
            ("of-r", "r"),
            ("of-grandchild", "grandchild"),
        ]

    async def test_a_finished_run_is_unreported_until_it_is_reported(self, store: DurableStore) -> None:
        claim = await begin(store)
        await store.commit(commit_of(claim, status="completed", value=b"7", unreported=True), worker="a")
        assert [(view.id, view.result) for view in await store.unreported()] == [("r", 7)]
        accepted, _ = await store.accept([Reported("r"), Reported("r")])
        assert [item.new for item in accepted] == [True, False]
        assert list(await store.unreported()) == []

    # -- watching and ending ----------------------------------------------------------------------------------

    async def test_changed_returns_when_any_process_wrote(self, store: DurableStore, second: DurableStore) -> None:
        seen = await now_at(store)
        for writer in (store, second):
            watch = asyncio.create_task(store.changed(seen))
            await asyncio.wait_for(write_until(writer, watch), PATIENCE)
            seen = await watch

    async def test_a_cancelled_watch_leaves_the_others(self, store: DurableStore) -> None:
        seen = await now_at(store)
        watches = [asyncio.create_task(store.changed(seen)) for _ in range(3)]
        watches[0].cancel()
        await asyncio.wait_for(write_until(store, watches[1]), PATIENCE)
        assert await asyncio.wait_for(watches[2], PATIENCE) != seen

    async def test_close_may_be_said_twice(self, store: DurableStore) -> None:
        await store.accept([start_of("r")])
        await store.close()
        await store.close()

    async def test_a_store_that_was_never_used_closes_too(self, store: DurableStore) -> None:
        store.tick("a", at(0))
        await store.leave("a")
        await store.close()
