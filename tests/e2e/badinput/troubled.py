"""An app whose parts go wrong on purpose, and one that has the same names."""

import asyncio
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, Field

from perdure import Agent, App, Context, Retry, tool, workflow


class Order(BaseModel):
    item: str
    amount: int = Field(ge=1)


class Approval(BaseModel):
    approved: bool


@workflow
async def buy(ctx: Context, order: Order, express: bool = False) -> str:
    return f"{order.amount} x {order.item}, {express}"


@workflow
async def approve(ctx: Context, what: str) -> Approval:
    return await ctx.ask(f"May we {what}?", Approval, deadline=timedelta(days=3))


def write(size: int) -> str:
    return "x" * size


@workflow
async def fill(ctx: Context, size: int) -> int:
    return len(await ctx.step(write, size))


@tool
def raising() -> str:
    detail = "the shelf is empty"
    raise LookupError(detail)


@tool(timeout=0.05, retry=Retry(attempts=2, first=0))
async def hanging() -> str:
    await asyncio.Event().wait()
    return ""


@tool
def live() -> Any:
    return asyncio.Lock()


@tool
def oversized() -> str:
    return "x" * 5_000_000


clerk = Agent("clerk", instructions="Sell.")
mechanic = Agent("mechanic", instructions="Try them all.", tools=[raising, hanging, live, oversized])

app = App("shop", agents=[clerk, mechanic], workflows=[buy, approve, fill])
other = App("museum", agents=[Agent("clerk", instructions="Show.")], workflows=[approve])
