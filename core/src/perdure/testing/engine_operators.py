"""What operators do to runs, as tests of an engine: start with an id, suspend, terminate, retry, fork, purge, list.

Part of ``EngineKit``.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from perdure import App, Context, workflow
from perdure.errors import AlreadyStarted, RunActive, RunCancelled, RunFailed, UnknownName
from perdure.messages import RunFilter
from perdure.testing.engine_waits import until, until_recorded, until_status
from perdure.testing.harness import Harness, harness

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from perdure.ports import DurableStore
    from perdure.testing.clock import ManualClock


done: list[str] = []
"""What step bodies did, in this process's memory."""
broken: set[str] = set()
"""Which of them fail."""
gates: dict[str, asyncio.Event] = {}
"""What bodies wait for."""


def act(what: str) -> str:
    """A step that leaves a trace, and fails if it is to."""
    done.append(what)
    if what in broken:
        msg = f"{what} is broken"
        raise LookupError(msg)
    return what


async def gated(what: str) -> str:
    """A step that waits for its gate."""
    done.append(what)
    await gates[what].wait()
    return what


@workflow
async def three(ctx: Context, last: str = "three") -> list[str]:
    """Steps, one after the other."""
    return [await ctx.step(act, what) for what in ("one", "two", last)]


@workflow
async def parent(ctx: Context) -> list[str]:
    """Calls another workflow between steps."""
    first = await ctx.step(act, "zero")
    return [first, *await ctx.call(three), await ctx.step(act, "four")]


@workflow
async def passes(ctx: Context, gate: str) -> list[str]:
    """A step that waits, and one that follows."""
    return [await ctx.step(gated, gate), await ctx.step(act, "after")]


@workflow
async def listens(ctx: Context) -> list[str]:
    """Takes two events; cleans up."""
    try:
        first = await ctx.wait_event("said", str)
        await ctx.step(act, first)
        return [first, await ctx.wait_event("said", str)]
    finally:
        await ctx.step(act, "clean")


@workflow
async def at_once(ctx: Context) -> list[Any]:
    """A step that fails once its siblings wait, or have finished."""

    async def fragile() -> str:
        await ctx.call(three)
        return await ctx.step(act, "fragile")

    return list(await asyncio.gather(fragile(), ctx.ask("Well?", bool), ctx.call(listens), ctx.call(three)))


class EngineOperators:
    """Tests of ``EngineKit``; see the module."""

    @pytest.fixture
    async def desk(
        self, store: DurableStore, clock: ManualClock, kill: Callable[[str], object] | None
    ) -> AsyncGenerator[Harness]:
        """The app of these tests, opened."""
        done.clear()
        broken.clear()
        gates.clear()
        app = App("desk", workflows=[three, parent, passes, listens, at_once])
        async with harness(app, store=store, clock=clock, kill=kill) as opened:
            yield opened

    # -- starting

    async def test_a_start_under_a_taken_id_is_what_was_said(self, desk: Harness) -> None:
        rt = desk.runtime
        run = await rt.options(id="order-7").start(three)
        await desk.result(run)
        assert not (await rt.options(id="order-7").start(three)).new
        with pytest.raises(AlreadyStarted, match="order-7"):
            await rt.options(id="order-7", reuse="fail").start(three)
        assert not (await rt.options(id="order-7", reuse="restart_failed").start(three)).new
        assert done == ["one", "two", "three"]
        again = await rt.options(id="order-7", reuse="restart").start(three, "last")
        assert again.new
        assert await desk.result(again) == ["one", "two", "last"]
        assert done == ["one", "two", "three", "one", "two", "last"]

    async def test_a_failed_run_is_restarted_under_its_id(self, desk: Harness) -> None:
        broken.add("two")
        run = await desk.runtime.options(id="order-8").start(three)
        with pytest.raises(RunFailed):
            await desk.result(run)
        broken.clear()
        again = await desk.runtime.options(id="order-8", reuse="restart_failed").start(three)
        assert await desk.result(again) == ["one", "two", "three"]

    async def test_a_delayed_run_begins_when_it_is_due(self, desk: Harness) -> None:
        run = await desk.runtime.options(delay=timedelta(hours=2)).start(three)
        desk.advance(hours=1)
        await desk.crash()
        assert (await desk.view(run)).status == "pending"
        assert done == []
        desk.advance(hours=1)
        assert await desk.result(run) == ["one", "two", "three"]

    # -- looking

    async def test_runs_are_listed_by_what_is_known_of_them(self, desk: Harness, clock: ManualClock) -> None:
        began = clock.now()
        rt = desk.runtime
        runs: list[str] = []
        for n in range(4):
            run = await rt.options(tags={"half": str(n // 2), "n": str(n)}).start(three)
            await desk.result(run)
            runs.append(run.id)
            clock.advance(10)

        async def listed(which: RunFilter, **page: Any) -> list[str]:
            return [view.id for view in await rt.query.runs(which, **page)]

        assert await listed(RunFilter(tags={"half": "1"})) == [runs[3], runs[2]]
        assert await listed(RunFilter(tags={"half": "1", "n": "2"})) == [runs[2]]
        assert await listed(RunFilter(since=began + 10, until=began + 30)) == [runs[2], runs[1]]
        assert await listed(RunFilter(status=("completed", "failed")), limit=2) == [runs[3], runs[2]]
        assert await listed(RunFilter(status=("completed",)), before=runs[2]) == [runs[1], runs[0]]
        assert await listed(RunFilter(status=("failed",))) == []

    # -- stopping and going on

    async def test_a_terminated_run_ends_at_once_without_clean_up(self, desk: Harness) -> None:
        run = await desk.start(listens)
        await until_status(desk, run, "waiting")
        await run.terminate("enough")
        assert (await run.wait(30)).status == "terminated"
        with pytest.raises(RunCancelled, match="enough"):
            await desk.result(run)
        assert done == []

    async def test_a_suspended_run_keeps_what_arrives_and_goes_on_when_resumed(self, desk: Harness) -> None:
        run = await desk.start(listens)
        await run.suspend("over the weekend")
        await until_status(desk, run, "suspended")
        await run.send("said", "hello")
        await desk.crash()
        run = run.on(desk.runtime)
        view = await run.view()
        assert view.error is not None
        assert (view.status, view.error.message) == ("suspended", "over the weekend")
        assert done == []
        await run.resume()
        await run.send("said", "bye")
        assert await desk.result(run) == ["hello", "bye"]

    async def test_a_step_that_runs_may_finish_and_nothing_new_begins(self, desk: Harness) -> None:
        gates["gate"] = asyncio.Event()
        run = await desk.start(passes, "gate")
        await until(lambda: done == ["gate"])
        await run.suspend()
        gates["gate"].set()
        await until_status(desk, run, "suspended")
        assert done == ["gate"]
        assert [entry.name for entry in await run.journal()] == ["gated"]
        await run.resume()
        assert await desk.result(run) == ["gate", "after"]
        assert done == ["gate", "after"]

    async def test_a_suspended_run_can_be_cancelled_with_its_clean_up(self, desk: Harness) -> None:
        run = await desk.start(listens)
        await run.suspend()
        await until_status(desk, run, "suspended")
        await run.cancel("no more")
        assert (await run.wait(30)).status == "cancelled"
        assert done == ["clean"]

    async def test_what_has_finished_can_be_neither_suspended_nor_resumed(self, desk: Harness) -> None:
        run = await desk.start(three)
        await desk.result(run)
        with pytest.raises(RunActive, match="completed"):
            await run.suspend()
        with pytest.raises(RunActive, match="completed"):
            await run.resume()

    # -- trying again

    async def test_a_failed_run_goes_on_from_its_failed_step(self, desk: Harness) -> None:
        broken.add("two")
        run = await desk.start(three)
        with pytest.raises(RunFailed, match="two is broken"):
            await desk.result(run)
        broken.clear()
        await desk.crash()
        run = run.on(desk.runtime)
        await run.retry()
        assert await desk.result(run) == ["one", "two", "three"]
        assert done == ["one", "two", "two", "three"]

    async def test_a_failed_child_is_retried_with_its_caller(self, desk: Harness) -> None:
        broken.add("two")
        run = await desk.start(parent)
        with pytest.raises(RunFailed):
            await desk.result(run)
        broken.clear()
        await run.retry()
        assert await desk.result(run) == ["zero", "one", "two", "three", "four"]
        assert done == ["zero", "one", "two", "two", "three", "four"]

    async def test_what_the_end_of_a_run_had_closed_is_asked_for_again_when_it_is_retried(self, desk: Harness) -> None:
        broken.add("fragile")
        run = await desk.start(at_once)
        assert (await run.wait(30)).status == "failed"
        broken.clear()
        for child in await desk.runtime.query.runs(RunFilter(parent=run.id)):
            assert (await desk.runtime.handle(child.id).wait(30)).finished  # its clean-up, too
        await run.retry()
        (request,) = await desk.until_waiting(run)
        await desk.answer(request, value=True)
        (listener,) = await desk.runtime.query.runs(RunFilter(parent=run.id, target="desk.listens"))
        assert (listener.generation, listener.finished) == (1, False)
        for word in ("hello", "bye"):
            await desk.runtime.handle(listener.id).send("said", word)
        assert await desk.result(run) == ["fragile", True, ["hello", "bye"], ["one", "two", "three"]]
        assert done.count("fragile") == 2

    async def test_a_cancelled_run_goes_on_as_if_it_had_not_been(self, desk: Harness) -> None:
        run = await desk.start(listens)
        await run.send("said", "hello")
        await until_recorded(desk, run, 2)
        await run.cancel()
        assert (await run.wait(30)).status == "cancelled"
        await run.retry()
        await run.send("said", "again")
        assert await desk.result(run) == ["hello", "again"]

    async def test_a_run_that_moves_cannot_be_retried(self, desk: Harness) -> None:
        run = await desk.start(listens)
        await until_status(desk, run, "waiting")
        with pytest.raises(RunActive, match=run.id):
            await run.retry()

    async def test_a_fork_goes_its_own_way_from_the_step_that_was_said(self, desk: Harness) -> None:
        run = await desk.start(three)
        await desk.result(run)
        fork = await run.fork(at=2)
        assert fork.id != run.id
        assert await desk.result(fork) == ["one", "two", "three"]
        assert done == ["one", "two", "three", "three"]

    # -- forgetting

    async def test_finished_runs_are_forgotten_after_a_while(self, desk: Harness) -> None:
        old = await desk.start(three)
        await desk.result(old)
        waiting = await desk.start(listens)
        await until_status(desk, waiting, "waiting")
        desk.advance(days=30)
        fresh = await desk.start(three)
        await desk.result(fresh)
        assert await desk.runtime.purge(older_than=timedelta(days=7)) == 1
        assert [view.id for view in await desk.runtime.query.runs()] == [fresh.id, waiting.id]
        with pytest.raises(UnknownName):
            await desk.runtime.view(old.id)
