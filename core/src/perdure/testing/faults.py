"""Stores that fail on purpose: a process that dies at its n-th write, a disk that is full for a while.

"Crash at every write" is a loop over ``CrashingStore(inner, at=n, when=...)`` for every ``n`` up to the undisturbed
run's ``effects``, before and after; each time a fresh runtime goes on over ``inner`` and must come to the same end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, TypeVar

from perdure.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from perdure.messages import (
        Accepted,
        AgentId,
        Claim,
        Commit,
        Delivery,
        Entry,
        Loaded,
        Reported,
        RequestView,
        RunFilter,
        RunView,
        Start,
    )
    from perdure.ports import DurableStore

T = TypeVar("T")

Effect = Literal["accept", "claim", "commit", "rewind", "fork", "purge"]


class Crash(BaseException):
    """The process is gone. No ``Exception``: nothing that the process does can catch it and go on."""


class _Passage:
    """Passes everything on to the store inside; each effect goes through ``_effect``, all else through ``_look``."""

    def __init__(self, inner: DurableStore) -> None:
        self.inner = inner

    async def _effect(self, name: Effect, call: Callable[[], Awaitable[T]]) -> T:
        raise NotImplementedError

    def _look(self) -> None:
        """Called before anything that is no effect."""

    async def accept(
        self, items: Sequence[Start | Delivery | Reported], *, worker: str | None = None
    ) -> tuple[Sequence[Accepted], Sequence[Claim]]:
        """An effect."""
        return await self._effect("accept", lambda: self.inner.accept(items, worker=worker))

    async def claim(
        self, worker: str, now: float, *, limit: int = 256, targets: frozenset[str] | None = None
    ) -> tuple[Sequence[Claim], float | None]:
        """An effect."""
        return await self._effect("claim", lambda: self.inner.claim(worker, now, limit=limit, targets=targets))

    async def commit(self, commit: Commit, *, worker: str) -> Sequence[Claim]:
        """An effect."""
        return await self._effect("commit", lambda: self.inner.commit(commit, worker=worker))

    async def rewind(self, run: str, seq: int, *, at: float) -> None:
        """An effect."""
        await self._effect("rewind", lambda: self.inner.rewind(run, seq, at=at))

    async def fork(self, run: str, seq: int, start: Start) -> Accepted:
        """An effect."""
        return await self._effect("fork", lambda: self.inner.fork(run, seq, start))

    async def purge(self, which: RunFilter, *, limit: int = 1000) -> int:
        """An effect."""
        return await self._effect("purge", lambda: self.inner.purge(which, limit=limit))

    async def load(self, run: str) -> Loaded:
        """Passed on."""
        self._look()
        return await self.inner.load(run)

    async def changed(self, seen: int) -> int:
        """Passed on."""
        self._look()
        return await self.inner.changed(seen)

    def tick(self, worker: str, now: float, *, run: str = "", epoch: int = 0) -> bool:
        """Passed on."""
        self._look()
        return self.inner.tick(worker, now, run=run, epoch=epoch)

    async def leave(self, worker: str) -> None:
        """Passed on."""
        self._look()
        await self.inner.leave(worker)

    async def close(self) -> None:
        """Passed on."""
        self._look()
        await self.inner.close()

    async def run(self, run: str) -> RunView | None:
        """Passed on."""
        self._look()
        return await self.inner.run(run)

    async def runs(
        self, which: RunFilter | None = None, *, before: str | None = None, limit: int = 50
    ) -> Sequence[RunView]:
        """Passed on."""
        self._look()
        return await self.inner.runs(which, before=before, limit=limit)

    async def journal(self, run: str, *, after: int = 0, limit: int = 1000) -> Sequence[Entry]:
        """Passed on."""
        self._look()
        return await self.inner.journal(run, after=after, limit=limit)

    async def requests(self, *, run: str | None = None, limit: int = 50) -> Sequence[RequestView]:
        """Passed on."""
        self._look()
        return await self.inner.requests(run=run, limit=limit)

    async def request(self, request: str) -> RequestView | None:
        """Passed on."""
        self._look()
        return await self.inner.request(request)

    async def log(self, session: AgentId) -> Sequence[bytes]:
        """Passed on."""
        self._look()
        return await self.inner.log(session)

    async def unreported(self, *, limit: int = 100) -> Sequence[RunView]:
        """Passed on."""
        self._look()
        return await self.inner.unreported(limit=limit)


class CrashingStore(_Passage):
    """A store whose process dies at its n-th effect: ``accept``, ``claim``, ``commit`` or one of upkeep.

    Args:
        inner: The store that outlives the process.
        at: Which effect, 1 for the first; ``None`` only counts.
        when: ``before`` the effect happened in ``inner``, or ``after`` it did, so that nobody heard of it.

    Attributes:
        effects: How many effects there were, the fatal one included.
        crashed: Whether the process is gone: from then on every call raises ``Crash``.
        died: Set when it is.
        workers: The ids of the engines that worked in it.
    """

    def __init__(
        self, inner: DurableStore, *, at: int | None = None, when: Literal["before", "after"] = "before"
    ) -> None:
        super().__init__(inner)
        self._at, self._when = at, when
        self.effects: int = 0
        self.crashed: bool = False
        self.died: asyncio.Event = asyncio.Event()
        self.workers: set[str] = set()

    def crash(self) -> None:
        """The process dies now."""
        self.crashed = True
        self.died.set()

    def tick(self, worker: str, now: float, *, run: str = "", epoch: int = 0) -> bool:
        """Passed on; the store learns who works here."""
        self.workers.add(worker)
        return super().tick(worker, now, run=run, epoch=epoch)

    async def _effect(self, name: Effect, call: Callable[[], Awaitable[T]]) -> T:
        self._look()
        self.effects += 1
        ordinal = self.effects
        if ordinal == self._at and self._when == "before":
            self._die(name)
        result = await call()
        self._look()
        if ordinal == self._at:
            self._die(name)
        return result

    def _look(self) -> None:
        if self.crashed:
            msg = "the process is gone"
            raise Crash(msg)

    def _die(self, name: Effect) -> None:
        self.crash()
        msg = f"the process dies {self._when} effect {self._at}, {name!r}"
        raise Crash(msg)


class FaultyStore(_Passage):
    """A store that cannot write for a while: chosen effects raise ``StoreUnavailable`` and do nothing.

    Args:
        inner: The store behind it.
        fails: Asked before each effect, with its name and its ordinal (1 for the first): whether it fails.

    Attributes:
        effects: How many were asked for, those that failed included.
    """

    def __init__(self, inner: DurableStore, *, fails: Callable[[Effect, int], bool]) -> None:
        super().__init__(inner)
        self._fails = fails
        self.effects: int = 0

    async def _effect(self, name: Effect, call: Callable[[], Awaitable[T]]) -> T:
        self.effects += 1
        if self._fails(name, self.effects):
            msg = f"the store refuses effect {self.effects}, {name!r}, as the test asked; try again"
            raise StoreUnavailable(msg)
        return await call()
