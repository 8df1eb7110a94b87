"""Those who wait for a run are told of its end without a look at the store: they see what the store would show."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from perdure import Agent, App, Context, workflow
from perdure.errors import InvalidInput, PerdureError, StoreUnavailable
from perdure.messages import Start
from perdure.testing import ManualClock, MemoryStore, Script, harness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.messages import Accepted


async def noted(what: str) -> dict[str, str]:
    return {"noted": what}


@workflow
async def told(ctx: Context, what: str) -> dict[str, str]:
    ctx.set_status("begun", done=1, total=2)
    result = await ctx.step(noted, what)
    ctx.set_status("done", done=2, total=2)
    return result


gate = asyncio.Event()


@workflow
async def gated(ctx: Context) -> bool:
    return await ctx.step(gate.wait)


@workflow
async def failing(ctx: Context) -> None:
    await ctx.step(noted, "x")
    msg = "as it was to be"
    raise ValueError(msg)


@workflow
async def waiting(ctx: Context) -> None:
    await ctx.event("never", str)


@workflow
async def asking(ctx: Context) -> bool:
    return await ctx.ask("Go on?", bool)


@workflow
async def abandoning(ctx: Context) -> str:
    return await ctx.send(asking)


@workflow
async def renewed(ctx: Context, left: int) -> int:
    await ctx.step(noted, str(left))
    if left:
        ctx.continue_as_new(left - 1)
    return left


chatter = Agent("chatter")
APP = App("waited", workflows=[told, gated, failing, waiting, asking, abandoning, renewed], agents=[chatter])


class Watched(MemoryStore):
    """Notes what is asked of it, and refuses starts of runs with a key of ``"bad"``."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.looks: list[str] = []
        self.accepted: list[int] = []
        self.down = False

    async def run(self, run):
        self.looks.append(run)
        return await super().run(run)

    async def accept(self, items: Sequence[object], *, worker: str | None = None):
        if self.down:
            msg = "there is no room"
            raise StoreUnavailable(msg)
        if any(isinstance(item, Start) and item.key == "bad" for item in items):
            msg = "a bad one"
            raise InvalidInput(msg)
        self.accepted.append(len(items))
        return await super().accept(items, worker=worker)


async def test_the_end_that_waiters_are_told_is_what_the_store_shows() -> None:
    clock = ManualClock()
    store = Watched(clock)
    async with harness(APP, model=Script(lambda _: "said"), store=store, clock=clock) as h:
        rt = h.runtime
        begun = [
            await rt.options(tags={"a": "b"}).start(told, "x", key="k"),
            await rt.start(failing),
            await rt.start(chatter, "hello", session="s"),
        ]
        waited = await asyncio.gather(*(run.wait(30) for run in begun))
        assert [view.status for view in waited] == ["completed", "failed", "completed"]
        assert [await run.view() for run in begun] == waited


@pytest.mark.parametrize("end", ["cancel", "terminate"])
async def test_nor_does_it_differ_for_those_that_were_ended(end: str) -> None:
    async with harness(APP) as h:
        run = await h.runtime.start(waiting)
        waits = asyncio.ensure_future(run.wait(30))
        await getattr(run, end)("enough")
        view = await waits
        assert view.finished
        assert await run.view() == view


async def test_nor_for_one_that_begins_later_or_begins_anew() -> None:
    async with harness(APP) as h:
        later = await h.runtime.options(delay=timedelta(hours=1)).start(told, "x")
        anew = await h.runtime.start(renewed, 2)
        waits = [asyncio.ensure_future(run.wait(30)) for run in (later, anew)]
        await h.skip(later)
        for view, run in zip(await asyncio.gather(*waits), (later, anew), strict=True):
            assert view.status == "completed"
            assert await run.view() == view


async def test_what_a_run_has_called_is_still_asking_when_that_has_ended() -> None:
    async with harness(APP) as h:
        run = await h.runtime.start(abandoning)
        child = h.runtime.handle(await h.result(run))
        await child.wait(30, until_waiting=True)
        (request,) = (await run.wait(30)).requests
        assert request.run == child.id


async def test_a_result_that_is_waited_for_costs_no_look_at_the_store() -> None:
    clock = ManualClock()
    store = Watched(clock)
    async with harness(APP, store=store, clock=clock) as h:
        run = await h.start(gated)
        result = asyncio.ensure_future(run.result(30))
        asyncio.get_running_loop().call_soon(gate.set)  # after that has begun to wait
        assert await result is True
        assert store.looks == []


async def test_starts_that_come_together_are_accepted_together() -> None:
    clock = ManualClock()
    store = Watched(clock)
    async with harness(APP, store=store, clock=clock) as h:
        await asyncio.gather(*(h.start(told, "x") for _ in range(100)))
        assert len(store.accepted) < 10
        assert sum(store.accepted) == 100


async def test_a_bad_start_is_refused_alone() -> None:
    clock = ManualClock()
    async with harness(APP, store=Watched(clock), clock=clock) as h:
        starts = [h.start(told, "x", key="bad" if n == 3 else None) for n in range(6)]
        refused = await asyncio.gather(*starts, return_exceptions=True)
        assert [isinstance(each, PerdureError) for each in refused] == [n == 3 for n in range(6)]


async def test_all_that_come_together_hear_that_the_store_takes_nothing() -> None:
    clock = ManualClock()
    store = Watched(clock)
    async with harness(APP, store=store, clock=clock) as h:
        store.down = True
        refused = await asyncio.gather(*(h.start(told, "x") for _ in range(3)), return_exceptions=True)
        store.down = False
        assert [type(each) for each in refused] == [StoreUnavailable] * 3


async def test_a_caller_that_hangs_up_takes_nothing_along() -> None:
    clock = ManualClock()
    store = Watched(clock)
    async with harness(APP, store=store, clock=clock) as h:
        callers = [asyncio.ensure_future(h.runtime.options(id=f"r{n}").start(told, "x")) for n in range(2)]
        loop = asyncio.get_running_loop()
        loop.call_soon(callers[0].cancel)
        outcome: list[Accepted | BaseException] = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(outcome[0], asyncio.CancelledError)
        for n in range(2):
            assert await h.runtime.handle(f"r{n}").result(30) == {"noted": "x"}
