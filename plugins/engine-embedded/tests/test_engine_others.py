"""Workers with different code over one store: what becomes of runs whose code one of them does not have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from perdure import App, Context, Runtime, config, workflow
from perdure.messages import Delivery, Start
from perdure.ports import DurableStore
from perdure.testing import ManualClock, MemoryStore
from perdure_store_sqlite import SqliteStore

PATIENCE = 60.0

Open = Callable[..., AbstractAsyncContextManager[Runtime]]


@workflow
async def greet(ctx: Context) -> str:
    """Says who it is, once it was told to."""
    return f"hello, {await ctx.wait_event('go', str)}"


def app(name: str) -> App:
    return App(name, workflows=[greet])


def start_of(run: str, app: str, clock: ManualClock) -> Start:
    return Start(run, "workflow", f"{app}.greet", b"{}", clock.now())


async def tell(runtime: Runtime, run: str, clock: ManualClock) -> None:
    await runtime.engine.deliver(Delivery(run, "event", "e1", clock.now(), b'"you"', name="go"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> AsyncGenerator[DurableStore]:
    store = MemoryStore(clock) if request.param == "memory" else SqliteStore(tmp_path / "perdure.db")
    yield store
    await store.close()


@pytest.fixture
def opened(store: DurableStore, clock: ManualClock) -> Open:
    """Opens a runtime of one app over the store; it leaves the runs of others, unless told to park them."""

    def open_(name: str, others: str = "leave") -> AbstractAsyncContextManager[Runtime]:
        settings = config.Settings(
            plugins=config.PluginSettings(allow=frozenset({"engine-embedded", "store-sqlite"})),
            sections={"engine-embedded": {"others": others, "stall": 0.0}},
        )
        return Runtime.open(app(name), settings=settings, store=store, clock=clock)

    return open_


async def test_each_worker_drives_the_runs_that_it_has_the_code_for(opened: Open, clock: ManualClock) -> None:
    async with opened("one") as one, opened("two") as two, asyncio.timeout(PATIENCE):
        await one.engine.submit(start_of("r2", "two", clock))
        await two.engine.submit(start_of("r1", "one", clock))
        for run in ("r1", "r2"):
            await tell(one, run, clock)
        assert [(await one.engine.wait(run)).result for run in ("r1", "r2")] == ["hello, you"] * 2


async def test_a_run_whose_code_nobody_has_is_left_until_somebody_comes(
    opened: Open, clock: ManualClock, store: DurableStore
) -> None:
    async with opened("one") as one, asyncio.timeout(PATIENCE):
        await one.engine.submit(start_of("r2", "two", clock))
        await one.engine.submit(start_of("r1", "one", clock))
        for run in ("r2", "r1"):
            await tell(one, run, clock)
        assert (await one.engine.wait("r1")).status == "completed"
        left = await store.run("r2")
        assert left is not None
        assert (left.status, left.seq, left.error) == ("pending", 0, None)
    async with opened("two") as two, asyncio.timeout(PATIENCE):
        assert (await two.engine.wait("r2")).result == "hello, you"


async def test_a_worker_that_parks_what_it_does_not_know_says_so(opened: Open, clock: ManualClock) -> None:
    async with opened("one", "park") as one, asyncio.timeout(PATIENCE):
        await one.engine.submit(start_of("r2", "two", clock))
        view = await one.engine.wait("r2")
        assert view.status == "parked"
        assert "unknown agent or workflow 'two.greet'" in str(view.error)


async def test_a_worker_that_leaves_others_gives_their_parked_runs_no_other_try(
    opened: Open, clock: ManualClock, store: DurableStore
) -> None:
    async with opened("one", "park") as one, asyncio.timeout(PATIENCE):
        await one.engine.submit(start_of("r2", "two", clock))
        await tell(one, "r2", clock)
        assert (await one.engine.wait("r2")).status == "parked"
    async with opened("one"):
        left = await store.run("r2")
        assert left is not None
        assert left.status == "parked"
    async with opened("two") as two, asyncio.timeout(PATIENCE):
        assert (await two.engine.wait("r2")).result == "hello, you"


class Gated(MemoryStore):
    """Whose claims take until they are let through."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.gate = asyncio.Event()

    async def claim(self, worker, now, *, limit=256, targets=None):
        await self.gate.wait()
        return await super().claim(worker, now, limit=limit, targets=targets)


class TestBeforeTheFirstClaim:
    """The store does not know what a worker takes."""

    @pytest.fixture
    def store(self, clock: ManualClock) -> Gated:
        return Gated(clock)

    async def test_nothing_is_given_to_it_that_it_would_park(
        self, opened: Open, clock: ManualClock, store: Gated
    ) -> None:
        async with opened("one") as one, asyncio.timeout(PATIENCE):
            await one.engine.submit(start_of("r2", "two", clock))
            await one.engine.submit(start_of("r1", "one", clock))
            store.gate.set()
            await tell(one, "r1", clock)
            assert (await one.engine.wait("r1")).status == "completed"
            left = await store.run("r2")
            assert left is not None
            assert left.status == "pending"
