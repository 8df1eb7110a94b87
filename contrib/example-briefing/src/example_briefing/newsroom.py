"""The app ``newsroom``: a reader for each document, an editor, and the workflow in which a person has the last word."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from example_briefing.desk import Desk, DeskSettings
from example_briefing.report import Approval, Briefing, Draft, Publication, Statement
from example_briefing.witness import Witness
from perdure import Agent, App, Attempt, Context, hookimpl, tool, workflow
from perdure.config import section
from perdure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from perdure.ports import Services, StepInfo, StepMiddleware


def list_documents(folder: str) -> list[str]:
    """The paths of the texts under a folder."""
    return Desk.current().documents(folder)


@tool
def read_document(path: str) -> str:
    """Read a document. Returns its lines with their numbers, each as `path:LINE: content`.

    Give the path as you were given it.
    """
    lines = Desk.current().lines(path)
    return "\n".join(f"{path}:{number}: {line}" for number, line in enumerate(lines, 1) if line.strip())


def verify(briefing: Briefing) -> Draft:
    """Look up each citation: correct the line where the quote stands elsewhere, drop it where it stands nowhere."""
    draft = Draft(title=briefing.title, statements=[])
    for statement in briefing.statements:
        line = _line_of(statement)
        if line is None:
            draft.dropped.append(statement)
        else:
            draft.statements.append(statement.model_copy(update={"line": line}))
    return draft


def publish(draft: Draft) -> Publication:
    """Write the briefing as Markdown. Attempted again, it writes the same file again."""
    name = f"briefing-{blake2b(Attempt.current().key.encode(), digest_size=8).hexdigest()}.md"
    path = Desk.current().write(name, draft.markdown())
    return Publication(title=draft.title, statements=draft.statements, path=str(path))


reader = Agent(
    "reader",
    description="Reads one document and quotes what matters in it.",
    instructions=(
        "Read the document that you are given with the tool read_document. Answer with the five lines that matter most,"
        " copied exactly, each in the form path:LINE: content as the tool gave it, and with nothing else."
    ),
    tools=[read_document],
)
editor = Agent(
    "editor",
    description="Writes a briefing from quoted lines.",
    instructions=(
        "You are given lines of several documents, each in the form path:LINE: content. Write a briefing of what"
        " matters most in them. Each statement cites one of these lines: its path, its number, and its words, copied"
        " exactly."
    ),
    output=Briefing,
)


@workflow
async def briefing(ctx: Context, folder: str = ".") -> Publication:
    """Brief me on the documents of a folder: readers quote, an editor writes, and a person approves what is published.

    A draft that nobody answers for within three days is not published.
    """
    paths = await ctx.step(list_documents, folder)
    notes = await asyncio.gather(*(ctx.call(reader, f'Read "{path}"') for path in paths))
    written = await ctx.call(editor, "\n".join(note.text for note in notes))
    draft = await ctx.step(verify, written.output)
    prompt = f"Publish this briefing?\n\n{draft.markdown()}"
    answer = await ctx.ask(prompt, Approval, deadline=timedelta(days=3), default=Approval(approved=False))
    if not answer.approved:
        return Publication(title=draft.title, statements=draft.statements, comment=answer.comment)
    return await ctx.step(publish, draft)


class Newsroom(App):
    """An app with settings of its own: its steps find its desk, and a witness if there is one."""

    def __init__(self, name: str, **declared: Any) -> None:
        super().__init__(name, **declared)
        self._middleware: list[StepMiddleware] = []

    @hookimpl
    def perdure_lifespan(self, services: Services) -> AbstractAsyncContextManager[None]:
        """Read the settings when a runtime opens."""
        return self._opened(services)

    @hookimpl
    def perdure_step_middleware(self) -> Sequence[StepMiddleware]:
        """What the runtime that was opened last has around its steps."""
        return self._middleware

    @asynccontextmanager
    async def _opened(self, services: Services) -> AsyncGenerator[None]:
        settings = section(services.settings("example-briefing"), DeskSettings, "example-briefing")
        desk = Desk(settings, services.data)

        async def at_desk(step: StepInfo, proceed: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ARG001 - the port's
            desk.sit()
            return await proceed()

        # A runtime asks for the middleware after its lifespans: two runtimes of one process have a desk each.
        self._middleware = [at_desk]
        if settings.witness is not None:
            witness = Witness(settings.witness)
            witness.opened()
            self._middleware.append(witness)
        yield


app = Newsroom(
    "newsroom",
    agents=[reader, editor],
    workflows=[briefing],
    tools=[read_document],
    description="Briefings on folders of documents, each statement with file and line.",
)


def _line_of(statement: Statement) -> int | None:
    """Where the quote stands in its document, at the cited line if it stands there."""
    try:
        lines = Desk.current().lines(statement.file)
    except UsageError:
        return None
    quote = statement.quote.strip()
    order = sorted(range(1, len(lines) + 1), key=lambda number: abs(number - statement.line))
    return next((number for number in order if quote and quote in lines[number - 1]), None)
