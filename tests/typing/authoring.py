"""What an author writes, as a type checker must see it. Never run: ``nox -s types`` checks it."""

import asyncio
from datetime import timedelta
from typing import assert_type

from pydantic import BaseModel

from perdure import Agent, App, Context, Reply, Retry, agent_ref, run, step, tool, workflow, workflow_ref


class Approval(BaseModel):
    approved: bool


class Briefing(BaseModel):
    statements: list[str]


@tool
async def read_document(path: str) -> str:
    return path


@tool(retry=Retry(attempts=2), timeout=10)
def count(words: str, *, most: int = 3) -> int:
    return min(len(words), most)


async def list_documents(folder: str) -> list[str]:
    return [folder]


@step(retry=Retry(attempts=3))
def publish(draft: Briefing) -> Briefing:
    return draft


reader = Agent("reader", instructions="…", tools=[read_document, count, publish])
editor = Agent("editor", instructions="…", output=Briefing)
elsewhere = workflow_ref("archive.store", str)
critic = agent_ref("press.critic", Approval)


@workflow
async def briefing(ctx: Context, folder: str) -> Briefing:
    paths = await ctx.step(list_documents, folder)
    assert_type(paths, list[str])
    notes = await asyncio.gather(*(ctx.call(reader, f"Read {path}") for path in paths))
    assert_type(notes, list[Reply[str]])
    draft = (await ctx.call(editor, "\n".join(note.text for note in notes))).output
    assert_type(draft, Briefing)
    ok = await ctx.ask("Publish this?", Approval, deadline=timedelta(days=3), default=Approval(approved=False))
    assert_type(ok, Approval)
    return await ctx.step(publish, draft) if ok.approved else draft


@workflow(name="weekly")
async def every_week(ctx: Context, *, folder: str = "docs") -> int:
    done = await ctx.call(briefing, folder)
    assert_type(done, Briefing)
    assert_type(await ctx.options(retry=Retry(attempts=1)).step(publish, done), Briefing)
    assert_type(await ctx.call(elsewhere, text="…"), str)
    assert_type((await ctx.call(critic, "…")).output, Approval)
    return len(done.statements)


app = App("newsroom", agents=[reader, editor], workflows=[briefing, every_week], tools=[read_document])


async def outside() -> None:
    assert_type(await read_document("a"), str)
    assert_type(count("a", most=2), int)
    async with app.open() as runtime:
        started = await runtime.start(briefing, "docs", key="k")
        assert_type(await started.result(), Briefing)
        assert_type(await runtime.call(every_week, folder="docs"), int)
        asked = await runtime.start(editor, "…", key="k", session="s")
        assert_type(await asked.result(), Reply[Briefing])


def script() -> None:
    assert_type(run(app, briefing, "docs"), Briefing)
    assert_type(run(app, reader, "…"), Reply[str])
