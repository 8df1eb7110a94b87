"""What an author's code may do, as tests of an engine: events, updates, sends, versions, sagas, local steps.

Part of ``EngineKit``. Each test runs a workflow of its own; where it waits, it is crashed, and goes on.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from perdure import App, Context, workflow
from perdure.errors import CallFailed, RunActive, RunFailed, RunParked, UnknownName, UpdateRejected
from perdure.messages import RunFilter
from perdure.testing.author_programs import (
    Payment,
    asks_anew,
    author_app,
    basket,
    books,
    counts_for_ever,
    done,
    escalates,
    fans_out,
    many_cheap,
    order,
    patched_order,
    pays,
    released,
    second_order,
    sends,
    tells,
    tells_how_far,
    waits_a_day,
    works_long,
)
from perdure.testing.engine_waits import eventually, until_recorded, until_status
from perdure.testing.harness import Harness, harness

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from perdure.ports import DurableStore
    from perdure.testing.clock import ManualClock


class EngineAuthors:
    """Tests of ``EngineKit``; see the module."""

    @pytest.fixture
    async def author(
        self, store: DurableStore, clock: ManualClock, kill: Callable[[str], object] | None
    ) -> AsyncGenerator[Harness]:
        """The app of these tests, opened."""
        done.clear()
        async with harness(author_app(), store=store, clock=clock, kill=kill) as opened:
            yield opened

    # -- events

    async def test_events_are_kept_until_they_are_awaited_and_taken_in_order(self, author: Harness) -> None:
        run = await author.start(pays, 4)
        for amount in (1, 2):
            await run.send("paid", Payment(amount=amount))
        await until_recorded(author, run, 2)
        await author.crash()
        run = run.on(author.runtime)
        for amount in (3, 4):
            await run.send("paid", Payment(amount=amount))
        assert await author.result(run) == [1, 2, 3, 4]

    async def test_an_event_sent_twice_under_one_key_is_one(self, author: Harness) -> None:
        run = await author.start(pays, 2)
        for amount in (1, 1, 2):
            await run.send("paid", Payment(amount=amount), key=f"payment-{amount}")
        assert await author.result(run) == [1, 2]

    async def test_an_event_for_a_finished_run_is_refused_to_the_sender(self, author: Harness) -> None:
        run = await author.start(pays, 0)
        await author.result(run)
        with pytest.raises(RunActive, match="completed"):
            await run.send("paid", Payment(amount=1))

    async def test_a_payload_that_does_not_fit_fails_where_it_is_awaited(self, author: Harness) -> None:
        run = await author.start(pays, 1)
        await run.send("paid", {"amount": "much"})
        with pytest.raises(RunFailed, match=r"payload of event 'paid'.*amount"):
            await author.result(run)

    async def test_a_wait_for_an_event_ends_at_its_deadline(self, author: Harness) -> None:
        run = await author.start(waits_a_day)
        await until_status(author, run, "waiting")
        author.advance(days=1)
        assert await author.result(run) == "nobody came"

    async def test_runs_send_each_other_events_once_through_every_crash(self, author: Harness) -> None:
        receiver = await author.start(pays, 2)
        teller = await author.start(tells, receiver.id, [5, 6])
        requests = await author.until_waiting(teller)
        await author.crash()
        await author.answer(requests[0], value=True)
        assert await author.result(receiver) == [5, 6]
        assert await author.result(teller) == "told"
        assert [e.kind for e in await receiver.on(author.runtime).journal()].count("event") == 2

    # -- queries and updates

    async def test_a_run_that_waits_answers_queries_and_stays_as_it_is(self, author: Harness) -> None:
        run = await author.start(basket)
        assert await run.update("add", item="apple") == 1
        before = (await run.view()).seq
        assert await run.query("content") == ["apple"]
        await author.crash()
        run = run.on(author.runtime)
        assert await run.query("content") == ["apple"]
        assert (await run.view()).seq == before

    async def test_a_finished_run_answers_queries(self, author: Harness) -> None:
        run = await author.start(basket)
        await run.update("add", item="apple")
        await run.send("close")
        await author.result(run)
        assert await run.query("content") == ["apple"]

    async def test_an_update_is_done_once_and_answered_again(self, author: Harness) -> None:
        run = await author.start(basket)
        assert [await run.update("add", key="one", item="pear") for _ in range(2)] == [1, 1]
        await author.crash()
        assert await run.on(author.runtime).update("add", key="one", item="pear") == 1
        assert done == ["pear"]

    async def test_an_update_that_the_validator_refuses_leaves_no_trace(self, author: Harness) -> None:
        run = await author.start(basket)
        with pytest.raises(UpdateRejected, match="no bombs"):
            await run.update("add", item="bomb")
        with pytest.raises(UpdateRejected, match="item"):
            await run.update("add", thing="pear")
        assert await run.query("content") == []
        await author.crash()
        run = run.on(author.runtime)
        assert await run.update("add", item="pear") == 1

    async def test_an_update_s_failure_is_told_to_who_sent_it_and_the_run_goes_on(self, author: Harness) -> None:
        run = await author.start(basket)
        with pytest.raises(CallFailed, match="over its own feet"):
            await run.update("stumble")
        await run.send("close")
        assert await author.result(run) == []

    async def test_unknown_handlers_are_named_with_those_that_are_there(self, author: Harness) -> None:
        run = await author.start(basket)
        with pytest.raises(UnknownName, match=r"unknown query 'contents'; known: content"):
            await run.query("contents")
        with pytest.raises(UnknownName, match=r"unknown update 'remove'; known: add, stumble"):
            await run.update("remove", item="pear")

    async def test_an_update_to_a_finished_run_says_so(self, author: Harness) -> None:
        run = await author.start(pays, 0)
        await author.result(run)
        with pytest.raises(RunActive, match="completed"):
            await run.update("add", item="pear")

    # -- children

    async def test_children_that_are_not_awaited_go_the_way_that_was_said(
        self, author: Harness, clock: ManualClock
    ) -> None:
        run = await author.start(sends)
        await until_recorded(author, run, 5)
        await author.crash()
        run = run.on(author.runtime)
        await run.send("go")
        cancelled, terminated, abandoned, later = (author.runtime.handle(id) for id in await author.result(run))
        assert (await cancelled.wait(30)).status == "cancelled"
        assert (await terminated.wait(30)).status == "terminated"
        assert done == ["cancel cleans up"]
        assert (await abandoned.view()).tags == {"kind": "abandon"}
        await abandoned.send("end")
        assert await abandoned.result(30) == "abandon"
        assert (await later.view()).status == "pending"
        clock.advance(3600)
        await later.send("end")
        assert await later.result(30) == "later"

    async def test_a_run_fans_out_to_many_children(self, author: Harness) -> None:
        assert await author.call(fans_out, 300) == sum(range(300))

    # -- beginning anew

    async def test_a_run_begins_anew_with_an_empty_journal_and_the_events_it_has_not_taken(
        self, author: Harness
    ) -> None:
        run = await author.start(counts_for_ever)
        for amount in (1, 2, 3, 4, 5):
            await run.send("paid", Payment(amount=amount))

        async def third() -> bool:
            return (await run.view()).generation == 2

        await eventually(third, "the run did not begin anew")
        await author.crash()
        run = run.on(author.runtime)
        await run.send("paid", Payment(amount=0))
        assert await author.result(run) == 15
        assert (await run.view()).generation == 2
        assert len(await run.journal()) <= 5

    async def test_a_late_reply_of_an_earlier_generation_is_not_taken_for_another(self, author: Harness) -> None:
        run = await author.start(asks_anew)

        async def children(count: int) -> bool:
            return len(await author.runtime.query.runs(RunFilter(parent=run.id))) == count

        await eventually(lambda: children(1), "the first child was not called")
        await run.send("anew")
        await eventually(lambda: children(2), "the second child was not called")
        second, first = await author.runtime.query.runs(RunFilter(parent=run.id))
        assert (await author.runtime.handle(first.id).wait(30)).status == "cancelled"
        await author.runtime.handle(second.id).send("end")
        assert await author.result(run) == "of 1"

    # -- sagas

    async def test_a_saga_undoes_what_was_done_last_first(self, author: Harness) -> None:
        with pytest.raises(RunFailed, match="pay"):
            await author.call(books, "fails")
        assert done == ["book flight", "book hotel", "pay", "cancel hotel", "cancel flight"]

    async def test_a_saga_that_is_cancelled_undoes_too(self, author: Harness) -> None:
        run = await author.start(books, "waits")
        await until_status(author, run, "waiting")
        await author.crash()
        run = run.on(author.runtime)
        await run.cancel("changed my mind")
        assert (await run.wait(30)).status == "cancelled"
        assert done == ["book flight", "book hotel", "cancel hotel", "cancel flight"]

    # -- steps

    async def test_local_steps_are_written_together(self, author: Harness) -> None:
        before = author.process.effects
        run = await author.start(many_cheap, 50)
        assert await author.result(run) == sum(range(50))
        assert len(await run.journal()) == 51
        assert author.process.effects - before < 10
        assert done == [*(f"cheap:{n}" for n in range(50)), f"total {sum(range(50))}"]

    async def test_the_next_attempt_knows_what_the_last_one_reported(self, author: Harness) -> None:
        released["retried"] = asyncio.Event()
        run = await author.start(works_long, "retried")
        await until_recorded(author, run, 1)
        released["retried"].set()
        assert await author.result(run) == {"page": 7}

    async def test_what_an_attempt_reported_survives_a_crash(self, author: Harness) -> None:
        released["crashed"] = asyncio.Event()
        run = await author.start(works_long, "crashed")
        await until_recorded(author, run, 1)
        await author.crash()
        assert await author.result(run) == {"page": 7}

    # -- what people see

    async def test_a_run_tells_how_far_it_is(self, author: Harness) -> None:
        run = await author.start(tells_how_far)
        await until_status(author, run, "waiting")
        progress = (await run.view()).progress
        assert progress is not None
        assert (progress.text, progress.done, progress.total) == ("reading", 1, 3)
        await author.crash()
        run = run.on(author.runtime)
        await run.send("go")
        await author.result(run)
        progress = (await run.view()).progress
        assert progress is not None
        assert progress.text == "written"

    async def test_a_question_is_handed_on_until_somebody_answers(self, author: Harness, clock: ManualClock) -> None:
        run = await author.start(escalates)
        (request,) = await author.until_waiting(run)
        assert request.to == "clerk"
        for hours, whom in ((4, "boss"), (20, "board")):
            clock.advance(hours * 3600)

            async def handed(whom: str = whom) -> bool:
                return [r.to for r in await author.runtime.requests(run.id)] == [whom]

            await eventually(handed, f"the request did not go to the {whom}")
        await author.answer(request, "signed")
        assert await author.result(run) == "signed"

    # -- code that changes

    async def test_a_patch_is_passed_by_runs_that_were_past_it_and_taken_by_others(
        self, store: DurableStore, kill: Callable[[str], object] | None, clock: ManualClock
    ) -> None:
        done.clear()
        async with harness(author_app(order), store=store, clock=clock, kill=kill) as before:
            old = await before.start(order)
            await until_status(before, old, "waiting")
        async with harness(author_app(patched_order), store=store, clock=clock, kill=kill) as after:
            new = await after.start(patched_order)
            await until_status(after, new, "waiting")
            await after.crash()
            for run in (old.on(after.runtime), new.on(after.runtime)):
                await run.send("go")
            assert await after.result(old) == ["first", "second check", "last"]
            assert await after.result(new) == ["first", "check", "second check", "last"]

    async def test_a_run_goes_on_with_the_version_that_it_began_with(
        self, store: DurableStore, kill: Callable[[str], object] | None, clock: ManualClock
    ) -> None:
        done.clear()
        async with harness(author_app(order), store=store, clock=clock, kill=kill) as before:
            old = await before.start(order)
            await until_status(before, old, "waiting")
        async with harness(author_app(second_order), store=store, clock=clock, kill=kill) as lacking:
            await old.on(lacking.runtime).send("go")
            with pytest.raises(RunParked, match="version 1"):
                await lacking.result(old)
        async with harness(author_app(order, second_order), store=store, clock=clock, kill=kill) as after:
            new = await after.start(second_order)
            await new.send("go")
            assert await after.result(new) == ["all at once"]
            assert await after.result(old) == ["first", "last"]

    async def test_more_or_less_than_was_sent_before_parks_the_run(
        self, store: DurableStore, kill: Callable[[str], object] | None, clock: ManualClock
    ) -> None:
        @workflow(name="order")
        async def sends_one(ctx: Context) -> None:
            await ctx.send_event("nobody", "one")
            await ctx.wait_event("go", type(None))

        @workflow(name="order")
        async def sends_two(ctx: Context) -> None:
            await ctx.send_event("nobody", "one")
            await ctx.send_event("nobody", "two")
            await ctx.wait_event("go", type(None))

        for first, then in ((sends_one, sends_two), (sends_two, sends_one)):
            async with harness(author_app(first), store=store, clock=clock, kill=kill) as before:
                run = await before.start(first)
                await until_status(before, run, "waiting")
            async with harness(author_app(then), store=store, clock=clock, kill=kill) as after:
                await run.on(after.runtime).send("go")
                with pytest.raises(RunParked, match=r"no longer fits.*'two'"):
                    await after.result(run)

    async def test_code_logs_once(self, author: Harness, caplog: pytest.LogCaptureFixture) -> None:
        @workflow
        async def logs(ctx: Context) -> None:
            ctx.logger.warning("once")
            await ctx.wait_event("go", type(None))
            ctx.logger.warning("and again")

        async with _with(author, logs) as opened:
            run = await opened.start(logs)
            await until_status(opened, run, "waiting")
            await opened.crash()
            run = run.on(opened.runtime)
            await run.send("go")
            await opened.result(run)
        assert [record.message for record in caplog.records if record.name == "perdure.run"] == ["once", "and again"]


@asynccontextmanager
async def _with(before: Harness, *workflows: Any) -> AsyncGenerator[Harness]:
    """Another app on a clock of the same time."""
    async with harness(App("own", workflows=workflows), clock=before.clock) as opened:
        yield opened
