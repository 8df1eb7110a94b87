"""The commander's work: starts runs without end, each with an idempotency key; answers them; knows the results."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perdure.errors import RequestClosed, StoreUnavailable

from . import mill
from .mill import value

if TYPE_CHECKING:
    import random

    from perdure import Runtime

    from .testimony import Line

_TWICE = 0.2  # the share of starts that are made twice
_TURNS = 12  # of one session
_KINDS = {"chain": 5, "fan": 3, "nap": 2, "family": 2, "form": 1, "turn": 4}


@dataclass
class Work:
    """One start.

    Attributes:
        kind: What is started.
        key: Its idempotency key, which is its name, too.
        size: Steps, branches, children; of a turn its number in the session.
        session: Of a turn.
        twice: Whether it is started twice.
        run: Its id, once it is acknowledged.
    """

    kind: str
    key: str
    size: int
    session: str = ""
    twice: bool = False
    run: str = ""

    @property
    def expected(self) -> Any:
        """The result."""
        key, numbers = self.key, range(self.size)
        match self.kind:
            case "chain":
                return [value(f"{key}.{n}") for n in numbers]
            case "fan":
                return [*(value(f"{key}.{n}.a") + value(f"{key}.{n}.b") for n in numbers), value(key)]
            case "nap":
                return [value(f"{key}.0"), value(f"{key}.1")]
            case "family":
                return [[value(f"{key}.{n}.{step}") for step in range(2)] for n in numbers]
            case "form":
                return ["yes", value(f"{key}.yes")]
            case _:
                return mill.reply_to(key, self.size)


class Load:
    """All starts there were.

    Args:
        runtime: Accepts and looks; drives nothing.
        dice: Chance.

    Attributes:
        works: Those that were acknowledged, by run.
        open: Those of them that nobody said to have ended.
        refused: How often the store could not take a start or an answer, which was then tried again.
        problems: What was wrong at once.
    """

    def __init__(self, runtime: Runtime, dice: random.Random) -> None:
        self.works: dict[str, Work] = {}
        self.open: set[str] = set()
        self.refused = 0
        self.problems: list[str] = []
        self._runtime, self._dice = runtime, dice
        self._again: deque[Work] = deque()
        self._sessions: dict[str, int] = {}
        self._count = 0
        self._given = Counter[str]()
        self._ended: set[str] = set()

    async def top_up(self, outstanding: int) -> None:
        """Have so many runs open; answer what is asked."""
        wanted = outstanding - len(self.open)
        works = [self._again.popleft() if self._again else self._new() for _ in range(wanted)]
        turns = [work for work in works if work.session]
        await asyncio.gather(
            self._in_order(turns), self._answer(), *(self._start(work) for work in works if not work.session)
        )

    def hear(self, line: Line) -> None:
        """A worker said something."""
        if line.event == "finished":
            self._ended.add(line.step)
            self.open.discard(line.step)

    async def look(self) -> None:
        """Ask the store which have ended: who was to say so may have died of it."""
        views = [await self._runtime.view(run) for run in self.open]
        self._ended |= {view.id for view in views if view.finished or view.status == "parked"}
        self.open -= self._ended

    def _new(self) -> Work:
        self._count += 1
        (kind,) = self._dice.choices(list(_KINDS), list(_KINDS.values()))
        work = Work(kind, f"{kind}{self._count}", self._dice.randint(2, 5), twice=self._dice.random() < _TWICE)
        if kind == "turn":
            work.session = f"s{self._dice.randint(1, 5)}-{self._count // (_TURNS * 5)}"
            work.size = self._sessions.setdefault(work.session, 0)
            self._sessions[work.session] += 1
        return work

    async def _in_order(self, turns: list[Work]) -> None:
        """Turns one after the other: the order of acceptance is the order of replies."""
        for number, work in enumerate(turns):
            if not await self._start(work):
                self._again.extend(turns[number + 1 :])
                return

    async def _start(self, work: Work) -> bool:
        try:
            run = await self._begin(work)
            if work.twice and (again := await self._begin(work)) != run:
                self.problems.append(f"{work.key} was started twice, as {run} and as {again}")
        except StoreUnavailable:
            self.refused += 1
            self._again.append(work)
            return False
        work.run = run
        self.works[run] = work
        self.open |= {run} - self._ended  # it may have ended before we were told that it began
        return True

    async def _begin(self, work: Work) -> str:
        start, key, size = self._runtime.start, work.key, work.size
        match work.kind:
            case "turn":
                return (await start(mill.clerk, key, key=key, session=work.session)).id  # type: ignore[call-overload]
            case "nap":
                return (await start(mill.nap, key, size / 100, key=key)).id
            case "form":
                return (await start(mill.form, key, key=key)).id
            case _:
                return (await start(getattr(mill, work.kind), key, size, key=key)).id

    async def _answer(self) -> None:
        """Answer what is open; some of it twice, of which the second must count for nothing."""
        for request in await self._runtime.requests():
            for answer in ("yes", "no"):
                try:
                    await self._runtime.answer(request.id, answer)
                    self._given[request.id] += 1
                except RequestClosed:
                    pass
                except StoreUnavailable:
                    self.refused += 1
                    return
            if self._given[request.id] > 1:
                self.problems.append(f"request {request.id} of run {request.run} took two answers")
