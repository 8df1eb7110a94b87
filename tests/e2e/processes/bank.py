"""Two apps of durable agents for two worker processes without a store: what one books, the other hears of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perdure import App, Context
from perdure.messages import TopicId
from perdure_messaging import MessageAgent, actor, handles, message_type, subscribes

BOOKED = TopicId("bank.booked", "all")


@message_type("bank.entry")
@dataclass(frozen=True)
class Entry:
    amount: int


@message_type("bank.booked")
@dataclass(frozen=True)
class Booked:
    amount: int


@message_type("bank.ask")
@dataclass(frozen=True)
class HowMuch:
    """How much was heard of?"""


class Total(MessageAgent):
    def __init__(self) -> None:
        self.total = 0

    async def load(self, state: Any) -> None:
        self.total = state

    async def save(self) -> Any:
        return self.total


class Account(Total):
    @handles
    async def book(self, message: Entry, ctx: Context) -> int:
        self.total += message.amount
        await ctx.publish(Booked(message.amount), BOOKED)
        return self.total


@subscribes(BOOKED.type)
class Audit(Total):
    @handles
    async def hear(self, message: Booked, _ctx: Context) -> None:
        self.total += message.amount

    @handles
    async def tell(self, _message: HowMuch, _ctx: Context) -> int:
        return self.total


bank = App("bank", agents=[actor("account", Account, durable=True)])
office = App("office", agents=[actor("audit", Audit, durable=True)])
