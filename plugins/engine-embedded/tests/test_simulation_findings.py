"""What seeds of the simulation have found, each brought about on purpose."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from perdure import App, Context, Runtime, config, workflow
from perdure.errors import StoreUnavailable
from perdure.messages import Start
from perdure.testing import ManualClock, MemoryStore, harness, programs
from perdure.testing.programs import Approval, Bench
from perdure_engine_embedded.patience import Patience

PATIENCE = 60.0


@workflow
async def rounds(ctx: Context, left: int, seconds: float) -> str:
    """Sleeps once in each of several lives."""
    await ctx.sleep(seconds)
    if left > 1:
        ctx.continue_as_new(left - 1, seconds)
    return "done"


@workflow
async def sends_later(ctx: Context, delay: float, seconds: float) -> str:
    """Sends a sleeper on its way that begins later."""
    return await ctx.child(delay=timedelta(seconds=delay)).send(programs.sleeper, seconds)


class Slow(MemoryStore):
    """Takes starts at once, and is slow to say so."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.taken = asyncio.Event()
        self.says_so = asyncio.Event()

    async def accept(self, items, *, worker=None):
        result = await super().accept(items, worker=worker)
        if isinstance(items[0], Start):
            self.taken.set()
            await self.says_so.wait()
        return result


async def test_a_caller_who_hangs_up_takes_nothing_along() -> None:
    clock = ManualClock()
    store = Slow(clock)
    async with harness(programs.app(Bench()), store=store, clock=clock) as h, asyncio.timeout(PATIENCE):
        calling = asyncio.ensure_future(h.start(programs.count, 2, key="k"))
        await store.taken.wait()
        calling.cancel()
        with suppress(asyncio.CancelledError):
            await calling
        store.says_so.set()
        assert await h.result(await h.start(programs.count, 2, key="k")) == [0, 1]


async def test_whoever_waits_out_a_store_does_not_depend_on_the_one_that_tries() -> None:
    patience = Patience(0.001)
    first, second = (asyncio.ensure_future(patience.wait(StoreUnavailable("full"))) for _ in range(2))
    async with asyncio.timeout(PATIENCE):
        await first  # and never says whether the store takes anything again
        await second


@asynccontextmanager
async def full(store, clock, bench):
    """A runtime that moves one run at a time."""
    settings = config.Settings(
        plugins=config.PluginSettings(block=frozenset({"otel"})), sections={"engine-embedded": {"active": 1}}
    )
    async with Runtime.open(programs.app(bench), settings=settings, store=store, clock=clock) as runtime:
        yield runtime


async def test_a_worker_that_is_full_hears_of_the_run_that_it_moves() -> None:
    clock, bench = ManualClock(), Bench()
    store = MemoryStore(clock)
    async with full(store, clock, bench) as runtime, asyncio.timeout(PATIENCE):
        run = await runtime.start(programs.gated)
        await bench.reached("gated")
        waiting = await runtime.start(programs.count, 1)
        async with Runtime.open(programs.app(bench), store=store, clock=clock, drive=False) as other:
            await other.handle(run.id).cancel("enough")
        await bench.reached("gated cancelled")
        assert await waiting.result() == [0]


async def test_a_timer_of_the_run_that_fills_a_worker_fires() -> None:
    clock, bench = ManualClock(), Bench()
    async with full(MemoryStore(clock), clock, bench) as runtime, asyncio.timeout(PATIENCE):
        run = await runtime.start(programs.impatient)
        await bench.reached("gated")
        while clock.next_wake is None:
            await bench.reached("gated")
            await asyncio.wait([asyncio.ensure_future(run.wait(0.01))])
        clock.advance(60)
        assert await run.result() == "gave up"


async def test_each_life_of_a_run_sleeps_as_long_as_it_says() -> None:
    clock = ManualClock()
    async with harness(App("lives", workflows=[rounds]), clock=clock) as h, asyncio.timeout(PATIENCE):
        began = clock.now()
        run = await h.start(rounds, 3, 100.0)
        for life in range(3):
            while clock.next_wake is None or clock.next_wake <= clock.now():
                await run.wait(0.01)
            assert clock.next_wake >= began + 100.0 * (life + 1)
            clock.set(clock.next_wake)
        assert await h.result(run) == "done"
        assert clock.now() >= began + 300.0


async def test_a_run_that_begins_later_sleeps_from_then_on() -> None:
    clock = ManualClock()
    app = App("later", workflows=[sends_later, programs.sleeper])
    async with harness(app, clock=clock) as h, asyncio.timeout(PATIENCE):
        began = clock.now()
        sent = h.runtime.handle(await h.call(sends_later, 1000.0, 10.0))
        clock.advance(1000.0)
        while (await sent.view()).status != "waiting":
            await sent.wait(0.01)
        clock.advance(10.0)
        assert await sent.result() >= began + 1010.0


async def test_a_run_that_was_cancelled_while_its_answer_came_ends() -> None:
    clock, bench = ManualClock(), Bench()
    store = MemoryStore(clock)
    async with harness(programs.app(bench), store=store, clock=clock) as h:
        run = await h.start(programs.two_questions)
        first, _ = await h.until_waiting(run)
    async with Runtime.open(programs.app(bench), store=store, clock=clock, drive=False) as other:
        await other.cancel(run.id, "enough")
        await other.answer(first.id, Approval(approved=True))
    async with harness(programs.app(bench), store=store, clock=clock) as h, asyncio.timeout(PATIENCE):
        assert (await run.on(h.runtime).wait()).status == "cancelled"
