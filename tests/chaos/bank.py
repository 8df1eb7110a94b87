"""Message agents that chaos is done to, and the life of a worker that drives them until it is killed.

``python -m tests.chaos.bank PLACE LIFE [AIM]`` opens the bank over the file in that folder and says ``up``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure import AgentId, App, Context, Runtime, config, hookimpl
from perdure.messages import TopicId
from perdure_messaging import MessageAgent, actor, handles, message_type, subscribes

from .death import Death
from .testimony import Witness
from .worker import Transactions, trace_statements

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from perdure.messages import Entry, RunView, Start
    from perdure.ports import StepInfo
    from perdure_messaging.actors import Actor

BOOK, VAULT = AgentId("bank.book", "book"), AgentId("bank.vault", "vault")


@message_type("bank.pay")
@dataclass(frozen=True)
class Pay:
    """A payment of 1."""

    number: int


@message_type("bank.paid")
@dataclass(frozen=True)
class Paid:
    """A payment was taken."""

    account: str
    number: int


@message_type("bank.deposit")
@dataclass(frozen=True)
class Deposit:
    """A payment goes to the vault."""

    account: str
    number: int


@message_type("bank.statement")
@dataclass(frozen=True)
class Statement:
    """What is known?"""


class Keeper(MessageAgent):
    """Keeps the number of each payment, in the order in which it is told."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {}

    async def load(self, state: Any) -> None:
        self.seen = state

    async def save(self) -> Any:
        return self.seen

    def keep(self, account: str, number: int) -> int:
        numbers = self.seen.setdefault(account, [])
        numbers.append(number)
        return len(numbers)

    @handles
    async def statement(self, message: Statement, ctx: Context) -> dict[str, list[int]]:
        return self.seen


class Account(Keeper):
    """Takes payments: puts each in the vault, remembers it, and tells the others."""

    @handles
    async def pay(self, message: Pay, ctx: Context) -> int:
        name = ctx.session.id.key
        deposited = await ctx.call(VAULT, Deposit(name, message.number))
        known = self.keep(name, message.number)
        await ctx.publish(Paid(name, message.number), TopicId("paid", "book"))
        return deposited if deposited == known else -1


class Vault(Keeper):
    """Is called by address, from within turns."""

    @handles
    async def deposit(self, message: Deposit, ctx: Context) -> int:
        return self.keep(message.account, message.number)


@subscribes("paid")
class Book(Keeper):
    """Is told by topic."""

    @handles
    async def note(self, message: Paid, ctx: Context) -> None:
        self.keep(message.account, message.number)


@subscribes("paid")
class Auditor(MessageAgent):
    """Lives in memory, and writes down what it hears."""

    @handles
    async def note(self, message: Paid, ctx: Context) -> None:
        heard(f"{message.account} {message.number}")


_ears: list[int] = []


def listen(audit: Path) -> None:
    """Have this process write down there what is heard in memory."""
    _ears.append(os.open(audit, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))


def heard(text: str) -> None:
    """Write a line of what was heard in memory, if this process was told to ``listen``."""
    for descriptor in _ears:
        os.write(descriptor, f"{text}\n".encode())


class Bank(App):
    """See the module.

    Args:
        death: Strikes, or never.
        further: Agents besides.
    """

    def __init__(self, death: Death | None = None, further: Sequence[Actor[Any]] = ()) -> None:
        durable = {"account": Account, "vault": Vault, "book": Book}
        agents = [actor(name, cls, durable=True) for name, cls in durable.items()]
        super().__init__("bank", agents=[*agents, actor("auditor", Auditor), *further])
        self._death = death or Death()

    @hookimpl
    def perdure_step_middleware(self) -> Sequence[Any]:
        return [self._around]

    @hookimpl
    def perdure_observers(self) -> Sequence[Any]:
        return [self]

    async def _around(self, step: StepInfo, proceed: Callable[[], Awaitable[Any]]) -> Any:
        self._death.reach("before step")
        outcome = await proceed()
        self._death.reach("after step")
        return outcome

    def recorded(self, run: Start, entries: Sequence[Entry]) -> None:
        """After each commit."""
        self._death.reach("after commit")

    def finished(self, run: Start, view: RunView) -> None:
        """Nothing."""

    async def flush(self) -> None:
        """Nothing."""


def settings(place: Path) -> config.Settings:
    """The configuration of workers and clients alike."""
    allowed = {"store-sqlite", "engine-embedded", "transport-inprocess", "messaging"}
    return config.Settings(
        data=place,
        plugins=config.PluginSettings(allow=frozenset(allowed)),
        # Whoever is killed here did not die of its runs: none is poison.
        sections={"engine-embedded": {"takeovers": 1_000_000, "pause": 0.1}},
    )


async def _drive(place: Path, death: Death) -> None:
    async with Runtime.open(Bank(death), settings=settings(place)):
        sys.stdout.write("up\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().create_future()


def main(place: Path, life: int, aim: str = "") -> None:
    """Work until killed."""
    death = Death(aim)
    listen(place / "audit")
    trace_statements(lambda: Transactions(Witness(place / "witness", life), death))
    asyncio.run(_drive(place, death))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
