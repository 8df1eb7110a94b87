"""The replay tester and the time that is skipped, over the embedded engine."""

from datetime import timedelta

import pytest

from perdure import Agent, App, Context, step, workflow
from perdure.errors import InvalidInput, NonDeterminism, StepFailed, UnknownName, UsageError
from perdure.steps import Retry
from perdure.testing import Script, export, harness, replay


async def price(item: str) -> int:
    return len(item)


@workflow(name="shop")
async def shop(ctx: Context, items: list[str]) -> int:
    total = sum([await ctx.step(price, item) for item in items])
    if ctx.patched("discount"):
        total -= 1
    note = await ctx.wait_event("paid", str)
    return total + len(note)


@workflow(name="shop")
async def same_shop(ctx: Context, items: list[str]) -> int:
    prices = [await ctx.step(price, item) for item in items]
    ctx.patched("discount")
    ctx.logger.info("new, and no matter")
    return sum(prices) + len(await ctx.wait_event("paid", str))


@workflow(name="shop")
async def other_shop(ctx: Context, items: list[str]) -> int:
    return await ctx.step(price, items[0])


@workflow(name="shop", version=2)
async def new_shop(ctx: Context, items: list[str]) -> int:
    return len(items)


@pytest.fixture
async def journal():
    async with harness(App("mall", workflows=[shop])) as h:
        run = await h.start(shop, ["pear", "fig"])
        await run.send("paid", "thanks")
        await h.result(run)
        return await export(h.runtime, run.id)


async def test_code_that_still_fits_replays_to_the_same_end(journal):
    for code in (shop, same_shop):
        replayed = await replay(App("mall", workflows=[code]), journal=journal)
        assert (replayed.target, replayed.outcome, replayed.waits_for) == ("mall.shop", "completed", ())
        assert replayed.entries == 4


async def test_code_that_no_longer_fits_is_named_with_both_sides(journal):
    with pytest.raises(NonDeterminism, match=r"step 'price' at 'price#2'.*test_replaying.py:19.*already completed"):
        await replay(App("mall", workflows=[other_shop]), journal=journal)


async def test_the_version_that_the_run_began_with_is_replayed(journal):
    with pytest.raises(UnknownName, match="version 1"):
        await replay(App("mall", workflows=[new_shop]), journal=journal)
    replayed = await replay(App("mall", workflows=[new_shop, shop]), journal=journal)
    assert replayed.version == 1


async def test_a_run_that_goes_on_shows_what_it_waits_for():
    @workflow(name="shop")
    async def asks(ctx: Context) -> str:
        return await ctx.ask("Go on?", str)

    async with harness(App("mall", workflows=[asks])) as h:
        run = await h.start(asks)
        await h.until_waiting(run)
        journal = await export(h.runtime, run.id)
    assert (await replay(App("mall", workflows=[asks]), journal=journal)).waits_for == ("ask#1",)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"perdure_journal": 99}', b'{"perdure_journal": 1, "start": {}}']
)
async def test_what_is_no_journal_is_refused(data):
    with pytest.raises(InvalidInput, match="perdure export"):
        await replay(App("mall", workflows=[shop]), journal=data)


async def test_thirty_days_take_no_time():
    @workflow
    async def reminds(ctx: Context) -> list[str]:
        began, days = ctx.now(), []
        for _ in range(30):
            await ctx.sleep(timedelta(days=1))
            days.append(str((ctx.now() - began).days))
        return days

    async with harness(App("mall", workflows=[reminds])) as h:
        assert await h.skip(await h.start(reminds)) == [str(day) for day in range(1, 31)]


async def test_pauses_between_attempts_are_skipped_too():
    @step(retry=Retry(attempts=5, first=3600, on=(ConnectionError,)))
    async def calls_a_busy_line() -> None:
        raise ConnectionError

    @workflow
    async def tries(ctx: Context) -> float:
        began = ctx.now()
        with pytest.raises(StepFailed):
            await ctx.step(calls_a_busy_line)
        return (ctx.now() - began).total_seconds()

    async with harness(App("mall", workflows=[tries])) as h:
        assert await h.skip(await h.start(tries)) >= 4 * 30


async def test_what_no_time_brings_is_named():
    @workflow
    async def asks(ctx: Context) -> str:
        return await ctx.ask("Who goes there?", str)

    async with harness(App("mall", workflows=[asks])) as h:
        with pytest.raises(AssertionError, match="Who goes there"):
            await h.skip(await h.start(asks))


async def test_a_turn_is_not_exported(tmp_path):

    parrot = Agent("parrot", instructions="Repeat.")
    async with harness(App("mall", agents=[parrot]), model=Script("hello")) as h:
        run = await h.start(parrot, "hello")
        await h.result(run)
        with pytest.raises(UsageError, match="turn"):
            await export(h.runtime, run.id)
