import asyncio
from datetime import timedelta
from pathlib import Path

from perdure import Agent, App, Context, tool, workflow


@tool
def read_document(path: str) -> str:
    """Read a document."""
    return Path(path).read_text()


def list_documents(folder: str) -> list[str]:
    return [str(path) for path in sorted(Path(folder).glob("*.md"))]


reader = Agent("reader", instructions="Read the document. Quote what matters.", tools=[read_document])
editor = Agent("editor", instructions="Write a briefing from the notes.")


@workflow
async def briefing(ctx: Context, folder: str) -> str:
    """Brief me on the documents of a folder."""
    paths = await ctx.step(list_documents, folder)
    notes = await asyncio.gather(*(ctx.call(reader, f"Read {path}") for path in paths))
    draft = await ctx.call(editor, "\n".join(note.text for note in notes))
    publish = await ctx.ask("Publish this?", bool, deadline=timedelta(days=3), default=False)
    return draft.text if publish else "nothing to publish"


app = App("newsroom", agents=[reader, editor], workflows=[briefing])
