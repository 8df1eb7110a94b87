"""Workflows and steps that ``EngineAuthors`` runs; their bodies leave traces in ``done``."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from perdure import App, Attempt, Context, Retry, Saga, step, workflow


class Payment(BaseModel):
    """An event's payload."""

    amount: int


done: list[str] = []
"""What step bodies did, in this process's memory, which no crash of a runtime touches."""
released: dict[str, asyncio.Event] = {}
"""What bodies wait for."""


def note(what: str) -> str:
    """A step that leaves a trace."""
    done.append(what)
    return what


def break_down(what: str) -> None:
    """A step that fails."""
    done.append(what)
    raise LookupError(what)


@step(local=True)
async def cheap(n: int) -> int:
    """A local step."""
    done.append(f"cheap:{n}")
    return n


@workflow
async def pays(ctx: Context, count: int) -> list[int]:
    """Takes events, in the order of their arrival."""
    return [(await ctx.wait_event("paid", Payment)).amount for _ in range(count)]


@workflow
async def waits_a_day(ctx: Context) -> str:
    """Waits for an event until a deadline."""
    return await ctx.wait_event("late", str, deadline=timedelta(days=1), default="nobody came")


@workflow
async def basket(ctx: Context) -> list[str]:
    """Answers queries and takes updates until it is closed."""
    items: list[str] = []

    @ctx.on_query
    def content() -> list[str]:
        return items

    async def add(item: str) -> int:
        items.append(await ctx.step(note, item))
        return len(items)

    def check(item: str) -> None:
        if item == "bomb":
            msg = "no bombs"
            raise ValueError(msg)

    def stumble() -> None:
        msg = "over its own feet"
        raise LookupError(msg)

    ctx.on_update(add, validate=check)
    ctx.on_update(stumble)
    await ctx.wait_event("close", type(None))
    return items


@workflow
async def tells(ctx: Context, whom: str, amounts: list[int]) -> str:
    """Sends events to another run."""
    for amount in amounts:
        await ctx.send_event(whom, "paid", Payment(amount=amount))
    await ctx.ask("Told?", bool)
    return "told"


@workflow
async def child(ctx: Context, name: str) -> str:
    """Waits for ever."""
    try:
        await ctx.wait_event("end", type(None))
    except asyncio.CancelledError:
        await ctx.step(note, f"{name} cleans up")
        raise
    return name


@workflow
async def sends(ctx: Context) -> list[str]:
    """Sends children of each kind, and ends."""
    kinds: list[Any] = ["cancel", "terminate", "abandon"]
    ids = [await ctx.child(on_close=kind, tags={"kind": kind}).send(child, kind) for kind in kinds]
    ids.append(await ctx.child(delay=timedelta(hours=1)).send(child, "later"))
    await ctx.wait_event("go", type(None))
    return ids


@workflow
async def counts_for_ever(ctx: Context, total: int = 0) -> int:
    """Begins anew after every two events."""
    for _ in range(2):
        amount = (await ctx.wait_event("paid", Payment)).amount
        if amount == 0:
            return total
        total += await ctx.step(int, amount)
    return ctx.continue_as_new(total)


@workflow
async def asks_anew(ctx: Context, generation: int = 0) -> str:
    """Begins anew while a child of the same place in the code is under way."""
    task = asyncio.create_task(ctx.call(child, f"of {generation}"))
    if generation == 0:
        await ctx.wait_event("anew", type(None))
        return ctx.continue_as_new(1)
    return await task


@workflow
async def books(ctx: Context, how: str) -> None:
    """A saga whose last step fails, or that waits to be cancelled."""
    async with Saga(ctx) as saga:
        for what in ("flight", "hotel"):
            await ctx.step(note, f"book {what}")
            saga.undo(note, f"cancel {what}")
        if how == "fails":
            await ctx.step(break_down, "pay")
        await ctx.wait_event("never", type(None))


@workflow
async def many_cheap(ctx: Context, count: int) -> int:
    """Local steps, and then one that is not."""
    total = 0
    for n in range(count):
        total += await ctx.step(cheap, n)
    await ctx.step(note, f"total {total}")
    return total


@step(retry=Retry(attempts=2, first=0.0, on=(ConnectionError,)), heartbeat=60.0)
async def long_work(name: str) -> Any:
    """Reports how far it is, and breaks; the next attempt says where it began."""
    attempt = Attempt.current()
    if attempt.details is not None:
        return attempt.details
    attempt.heartbeat({"page": 7})
    await released[name].wait()
    raise ConnectionError


@workflow
async def works_long(ctx: Context, name: str) -> Any:
    """One long step."""
    return await ctx.step(long_work, name)


@workflow
async def tells_how_far(ctx: Context) -> str:
    """Sets a status."""
    ctx.set_status("reading", done=1, total=3)
    await ctx.wait_event("go", type(None))
    ctx.set_status("written")
    return "read"


@workflow
async def escalates(ctx: Context) -> str:
    """Asks one after the other."""
    later = {timedelta(hours=4): "boss", timedelta(days=1): "board"}
    return await ctx.ask("Sign?", str, to="clerk", escalate=later, deadline=timedelta(days=2), default="unsigned")


@workflow(name="order")
async def order(ctx: Context) -> list[str]:
    """As it was first."""
    path = [await ctx.step(note, "first")]
    await ctx.wait_event("go", type(None))
    return [*path, await ctx.step(note, "last")]


@workflow(name="order")
async def patched_order(ctx: Context) -> list[str]:
    """As it is now, with patches where it differs."""
    path = [await ctx.step(note, "first")]
    if ctx.patched("check"):
        path.append(await ctx.step(note, "check"))
    await ctx.wait_event("go", type(None))
    if ctx.patched("second check"):
        path.append(await ctx.step(note, "second check"))
    return [*path, await ctx.step(note, "last")]


@workflow(name="order", version=2)
async def second_order(ctx: Context) -> list[str]:
    """Another one altogether."""
    await ctx.wait_event("go", type(None))
    return [await ctx.step(note, "all at once")]


@workflow
async def fans_out(ctx: Context, count: int) -> int:
    """Many children at once."""
    return sum(await asyncio.gather(*(ctx.call(leaf, n) for n in range(count))))


@workflow
async def leaf(ctx: Context, n: int) -> int:
    """The smallest child."""
    return await ctx.step(int, n)


_OTHERS = (
    pays, waits_a_day, basket, tells, child, sends, asks_anew, counts_for_ever, books, many_cheap, works_long,
    tells_how_far, escalates, fans_out, leaf,
)  # fmt: skip


def author_app(*orders: Any) -> App:
    """The app of these tests, with one version or another of ``order``."""
    return App("author", workflows=[*_OTHERS, *(orders or (order,))])
