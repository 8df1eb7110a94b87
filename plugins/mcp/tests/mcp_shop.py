"""A shop, declared as a user's package would: what the servers in these tests serve."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from opentelemetry import trace
from pydantic import BaseModel, Field

from perdure import Agent, App, Context, hookimpl, workflow
from perdure.ports import Operation, RuntimeMiddleware

print("an app that prints while it is imported")  # noqa: T201 - stdout is the protocol's: this must not get there


class Order(BaseModel):
    item: str
    amount: int = Field(ge=1)


class Receipt(BaseModel):
    order: Order
    lines: list[str]


class Approval(BaseModel):
    approved: bool


class Summary(BaseModel):
    headline: str


def print_receipt(order: Order) -> Receipt:
    print("a step that prints")  # noqa: T201 - as above
    return Receipt(order=order, lines=[f"{order.amount} x {order.item}"])


async def pass_gate(port: int) -> int:
    """Say who is there, and go on when the test opens the gate."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"%d\n" % os.getpid())
        await writer.drain()
        if await reader.readline() != b"open\n":
            raise ConnectionError
    finally:
        writer.close()
    return os.getpid()


def witness(path: str, word: str) -> str:
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{word}\n")
        file.flush()
        os.fsync(file.fileno())
    return word


def refuse(detail: str) -> None:
    raise ValueError(detail)


@workflow
async def order(ctx: Context, order: Order, express: bool = False) -> Receipt:
    """Order something.

    This paragraph is for those who read the code.
    """
    del express
    return await ctx.step(print_receipt, order)


@workflow
async def gate(ctx: Context, port: int) -> int:
    return await ctx.step(pass_gate, port)


@workflow
async def two_steps(ctx: Context, path: str, port: int) -> list[str]:
    first = await ctx.step(witness, path, "first")
    await ctx.step(pass_gate, port)
    return [first, await ctx.step(witness, path, "second")]


@workflow
async def approve(ctx: Context, what: str) -> Approval:
    return await ctx.ask(what, Approval, deadline=timedelta(days=3))


@workflow
async def delegate(ctx: Context, what: str) -> Approval:
    return await ctx.call(approve, what)


@workflow
async def patience(ctx: Context) -> None:
    await ctx.sleep(timedelta(days=30))


@workflow
async def fail(ctx: Context, detail: str) -> None:
    await ctx.step(refuse, detail)


@workflow
async def nothing(ctx: Context) -> None:
    del ctx


@workflow
async def keyed(ctx: Context, idempotency_key: str) -> str:
    del ctx
    return idempotency_key


@workflow
async def who(ctx: Context) -> int:
    return await ctx.step(os.getpid)


class Shop(App):
    """An app that notes under which trace a run was started."""

    @hookimpl
    def perdure_runtime_middleware(self) -> Sequence[RuntimeMiddleware]:
        return [note_trace]


async def note_trace(operation: Operation, proceed: Callable[[Operation], Awaitable[Any]]) -> Any:
    context = trace.get_current_span().get_span_context()
    return await proceed(operation._replace(headers={**operation.headers, "trace": f"{context.trace_id:032x}"}))


app = Shop(
    "shop",
    agents=[
        Agent("clerk", instructions="Sell.", description="Sells things."),
        Agent("scribe", instructions="Summarise.", output=Summary),
    ],
    workflows=[order, gate, two_steps, approve, delegate, patience, fail, nothing, keyed, who],
    description="Sells things by post.",
)
other = App("museum", agents=[Agent("clerk", instructions="Show.")], workflows=[patience])
