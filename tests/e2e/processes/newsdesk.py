"""Two apps for two worker processes, and the client of a third one: a request that goes on, and a publication.

    python newsdesk.py

as a program is the client, over the transport that its configuration names.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from perdure import AgentId, App, Context, Runtime
from perdure.clock import SystemClock
from perdure.messages import TopicId
from perdure.testing import MemoryStore
from perdure_messaging import MessageAgent, actor, handles, message_type, subscribes

PATIENCE = 100.0
PRINTED = TopicId("printed", "monday")


@message_type("news.story")
@dataclass(frozen=True)
class Story:
    """For the editor, who replies when it is printed."""

    title: str


@message_type("news.page")
@dataclass(frozen=True)
class Page:
    """For the printer, who replies with its number, and tells all that it is out."""

    title: str


@message_type("news.out")
@dataclass(frozen=True)
class Out:
    """A page is out."""

    number: int


class Editor(MessageAgent):
    """Has a story printed."""

    @handles
    async def edit(self, message: Story, ctx: Context) -> str:
        number: int = await ctx.call(AgentId("press.printer", "1"), Page(message.title.title()))
        return f"on page {number}"


class Printer(MessageAgent):
    """Prints, and publishes."""

    @handles
    async def print(self, message: Page, ctx: Context) -> int:
        await ctx.publish(Out(7), PRINTED)
        return 7


@subscribes(PRINTED.type)
class Reader(MessageAgent):
    """Says what it has read."""

    @handles
    async def read(self, message: Out, ctx: Context) -> None:
        sys.stdout.write(f"page {message.number} is read\n")
        sys.stdout.flush()


desk = App("desk", agents=[actor("editor", Editor), actor("reader", Reader)])
press = App("press", agents=[actor("printer", Printer), actor("reader", Reader)])


async def main() -> None:
    """Have a story printed."""
    async with Runtime.open(App("client"), store=MemoryStore(SystemClock())) as runtime:
        answer = await runtime.send(Story("rain at last"), AgentId("desk.editor", "city"), deadline=PATIENCE)
    sys.stdout.write(f"{answer}\n")


if __name__ == "__main__":
    asyncio.run(main())
