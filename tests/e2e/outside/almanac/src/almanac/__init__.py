"""The moon, night by night."""

import asyncio
from datetime import date, timedelta

from pydantic import BaseModel

from perdure import Agent, App, Context, tool, workflow

__all__ = ["Night", "app", "astronomer", "moon_phase", "nights"]

NEW_MOON = date(2000, 1, 6)
MONTH = 29.530589
PHASES = (
    "new",
    "waxing crescent",
    "first quarter",
    "waxing gibbous",
    "full",
    "waning gibbous",
    "last quarter",
    "waning",
)


class Night(BaseModel):
    """What is to be seen in one night."""

    day: date
    phase: str


@tool
def moon_phase(day: date) -> str:
    """The moon's phase on a day."""
    age = (day - NEW_MOON).days % MONTH
    return PHASES[round(age / MONTH * len(PHASES)) % len(PHASES)]


astronomer = Agent(
    "astronomer", instructions="Say what the moon does on a day.", tools=[moon_phase], model="almanac:echo"
)


@workflow
async def nights(ctx: Context, first: date, count: int = 3) -> list[Night]:
    """So many nights, from a first one on."""
    days = [first + timedelta(days=n) for n in range(count)]
    replies = await asyncio.gather(*(ctx.call(astronomer, f"The moon on {day}?") for day in days))
    return [Night(day=day, phase=reply.text) for day, reply in zip(days, replies, strict=True)]


app = App(
    "almanac", agents=[astronomer], workflows=[nights], tools=[moon_phase], description="The moon, night by night."
)
