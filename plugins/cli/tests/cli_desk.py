"""An app for the tests of the command line; not installed, so it is named by ``--app cli_desk:app``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from perdure import Agent, App, Attempt, Context, Retry, step, tool, workflow
from perdure.errors import RetryableError


class Busy(RetryableError):
    """The desk is busy."""


class Approval(BaseModel):
    approved: bool
    colour: Literal["red", "green"] = "green"
    copies: int = 1
    note: str = Field(default="", description="a word to the desk")


@tool
def look_up(path: str) -> str:
    """Read a shelf."""
    return f"{path}:1: The shelf {path} holds ninety books about the sea."


clerk = Agent("clerk", instructions="You quote.", tools=[look_up])


@workflow
async def add(ctx: Context, first: int, second: int = 1) -> int:
    """Add two numbers."""
    return await ctx.step(summed, first, second)


def summed(first: int, second: int) -> int:
    return first + second


@workflow
async def approve(ctx: Context, text: str) -> str:
    """Ask for an approval."""
    answer = await ctx.ask(f"Approve {text}?", Approval, deadline=timedelta(days=3))
    return f"{text}: {answer.model_dump()}"


@step(retry=Retry(attempts=3, first=0.01))
def stubborn() -> int:
    number = Attempt.current().number
    if number < 3:
        raise Busy(f"attempt {number}")
    return number


@workflow
async def insist(ctx: Context) -> int:
    """A step that succeeds at its third attempt."""
    return await ctx.step(stubborn)


@workflow
async def fail(ctx: Context) -> None:
    """Fail."""
    await ctx.step(broken)


def broken() -> None:
    msg = "the lamp is broken"
    raise OSError(msg)


@workflow
async def journey(ctx: Context, towns: int = 2) -> list[str]:
    """Go from town to town, as events say."""
    stops: list[str] = []

    def where(upper: bool = False) -> list[str]:
        return [stop.upper() if upper else stop for stop in stops]

    def is_a_town(town: str) -> None:
        if not town.istitle():
            msg = f"{town} is no town"
            raise ValueError(msg)

    async def visit(town: str) -> int:
        stops.append(await ctx.step(noted, town))
        return len(stops)

    ctx.on_query(where)
    ctx.on_update(visit, validate=is_a_town)
    for number in range(towns):
        ctx.set_status(f"on the way to town {number + 1}", done=number, total=towns)
        await visit(await ctx.wait_event("arrived", str))
    return stops


def noted(town: str) -> str:
    return town


@workflow
async def mend(ctx: Context, path: str) -> str:
    """Two steps: the first always works, the second once there is a file."""
    tool = await ctx.step(noted, "Hammer")
    return f"{tool} and {await ctx.step(found, path)}"


def found(path: str) -> str:
    return Path(path).read_text()


@workflow
async def consult(ctx: Context) -> str:
    """Call an agent, then ask whether that is enough."""
    ctx.set_status("asking the clerk", done=1, total=2)
    reply = await ctx.call(clerk, 'Read "shelf/7"')
    return reply.text if await ctx.ask("Is that enough?", bool) else "more is needed"


app = App("desk", agents=[clerk], workflows=[add, approve, insist, fail, journey, mend, consult])
