"""Two apps for two worker processes: each agent answers what the other publishes, and prints what it hears."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

from perdure import App, Context
from perdure.messages import TopicId
from perdure_messaging import MessageAgent, actor, handles, message_type, subscribes

ROUNDS = 5
TABLE = TopicId("talk", "table")


@message_type("talk.begin")
@dataclass(frozen=True)
class Begin:
    """Say the first word."""


@message_type("talk.word")
@dataclass(frozen=True)
class Word:
    speaker: str
    number: int


@message_type("talk.ask")
@dataclass(frozen=True)
class HowMany:
    """How many words were heard here?"""


@subscribes(TABLE.type)
class Talker(MessageAgent):
    """One side of the talk."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self.said = 0
        self.heard = 0

    @handles
    async def begin(self, _message: Begin, ctx: Context) -> None:
        await self._say(ctx)

    @handles
    async def hear(self, message: Word, ctx: Context) -> None:
        self.heard += 1
        sys.stdout.write(f"heard {message.speaker} {message.number}\n")
        sys.stdout.flush()
        if self.said < ROUNDS:
            await self._say(ctx)

    @handles
    async def how_many(self, _message: HowMany, ctx: Context) -> int:
        return self.heard

    async def _say(self, ctx: Context) -> None:
        self.said += 1
        await ctx.publish(Word(self.name, self.said), TABLE)


class Left(Talker):
    name = "left"


class Right(Talker):
    name = "right"


left = App("left", agents=[actor("talker", Left)])
right = App("right", agents=[actor("talker", Right)])
