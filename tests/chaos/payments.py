"""Payments to the accounts of ``bank``: clients that insist, and the books in the end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

from perdure import AgentId
from perdure.clock import SystemClock
from perdure.errors import PerdureError, RetryableError
from perdure.messages import RunFilter

from . import bank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from perdure import Runtime

PATIENCE = 60.0
"""Seconds in which something must move."""

_PAUSE = 0.02
"""Seconds before a payment that was refused is sent again."""

_CLOCK = SystemClock()


async def lapse(seconds: float) -> None:
    """Let time pass."""
    await _CLOCK.sleep_until(_CLOCK.now() + seconds)


class Clients:
    """So many accounts, each of which is paid one payment after the other.

    Args:
        runtime: What sends.
        names: Of the accounts.
        passing: What a payment may be refused with; it is sent again then, under the same id.
        deadline: Seconds that one attempt may take, or ``None``.
        pace: Seconds between two payments of an account.

    Attributes:
        paid: How many payments of each account were acknowledged.
        repeated: How often something was sent again, by why.
        news: Set at each acknowledgement.
        acknowledged_at: Called at each one with when that payment was begun and when it was acknowledged.
        problems: What was wrong at once.
    """

    def __init__(
        self,
        runtime: Runtime,
        names: Iterable[str],
        *,
        passing: tuple[type[PerdureError], ...] = (RetryableError,),
        deadline: float | None = None,
        pace: float = 0.0,
    ) -> None:
        self._runtime = runtime
        self._passing = passing
        self._deadline = deadline
        self._pace = pace
        self.paid = dict.fromkeys(names, 0)
        self.repeated: Counter[str] = Counter()
        self.news = asyncio.Event()
        self.acknowledged_at: Callable[[float, float], None] = lambda _begun, _now: None
        self.problems: list[str] = []
        self._closing = False
        self._tasks = [asyncio.create_task(self._pay(name)) for name in self.paid]

    @property
    def acknowledged(self) -> int:
        """By all together."""
        return sum(self.paid.values())

    async def close(self) -> None:
        """Let each finish its payment."""
        self._closing = True
        await asyncio.gather(*self._tasks)

    async def abandon(self) -> None:
        """End at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pay(self, name: str) -> None:
        while not self._closing:
            begun, number = time.monotonic(), self.paid[name] + 1
            try:
                known = await self._insist(name, number)
            except PerdureError as error:
                self.problems.append(f"payment {number} of {name} ended with {type(error).__name__}: {error}")
                return
            if known != number:
                self.problems.append(f"payment {number} of {name} was replied to with {known}")
            self.paid[name] = number
            self.news.set()
            self.acknowledged_at(begun, time.monotonic())
            if self._pace:
                await lapse(self._pace)

    async def _insist(self, name: str, number: int) -> int:
        message, to = bank.Pay(number), AgentId("bank.account", name)
        while True:
            try:
                return await self._runtime.send(message, to, id=f"{name}:{number}", deadline=self._deadline)
            except self._passing as error:
                self.repeated[type(error).__name__] += 1
                await lapse(_PAUSE)


async def finished(runtime: Runtime) -> list[str]:
    """Wait until nothing is left to do; return what has not completed."""
    going = RunFilter(status=("pending", "running", "waiting"))
    # What a host keeps for itself is never due.
    while views := [view for view in await runtime.query.runs(going) if not view.target.startswith("~")]:
        for view in views:
            await runtime.handle(view.id).wait()
    odd = await runtime.query.runs(RunFilter(status=("failed", "parked", "cancelled", "terminated", "suspended")))
    return [
        f"turn {view.id} of {view.target} is {view.status}: {view.error}"
        for view in odd
        if not view.target.startswith("~")
    ]


async def misbooked(runtime: Runtime, paid: dict[str, int]) -> list[str]:
    """What account, vault and book do not have exactly once each, in order."""
    problems: list[str] = []
    vault = await runtime.send(bank.Statement(), bank.VAULT)
    book = await runtime.send(bank.Statement(), bank.BOOK)
    for name, count in paid.items():
        own = await runtime.send(bank.Statement(), AgentId("bank.account", name))
        numbers = list(range(1, count + 1))
        for where, known in (("account", own), ("vault", vault), ("book", book)):
            if known.get(name, []) != numbers:
                problems.append(f"{where} knows of {name}: {known.get(name)}, expected 1 to {count}, each once")
    return problems


def heard_of(audit: Path) -> Counter[str]:
    """How often the auditor has heard of each payment."""
    return Counter(audit.read_text().splitlines())


def payments(paid: dict[str, int]) -> Sequence[str]:
    """What the auditor writes down of each."""
    return [f"{name} {number}" for name, count in paid.items() for number in range(1, count + 1)]
