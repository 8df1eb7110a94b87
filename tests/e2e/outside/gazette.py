"""An app that uses the almanac without importing it: by qualified names, and types of its own."""

from datetime import date

from pydantic import BaseModel

from perdure import App, Context, agent_ref, workflow, workflow_ref


class Forecast(BaseModel):
    day: date
    phase: str


astronomer = agent_ref("almanac.astronomer")
nights = workflow_ref("almanac.nights", list[Forecast])


@workflow
async def front_page(ctx: Context, day: date) -> str:
    forecasts = await ctx.call(nights, first=day, count=2)
    reply = await ctx.call(astronomer, f"And on {forecasts[0].day}?")
    return f"{forecasts[0].phase}; {forecasts[1].phase}; {reply.output}"


app = App("gazette", workflows=[front_page])
