"""``DurableStore`` over one SQLite file: the event loop's side.

Calls become jobs for the writer's thread; reads go to a thread of their own. This module knows no SQL.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from perdure.errors import StoreUnavailable
from perdure.messages import Commit, RunFilter
from perdure_store_sqlite.reader import Look, Reader, Seen
from perdure_store_sqlite.views import Views
from perdure_store_sqlite.writer import (
    Accept,
    Call,
    Fork,
    Job,
    Leave,
    Nudge,
    Options,
    Outcome,
    Purge,
    Rewind,
    Shared,
    Take,
    Untell,
    Writer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from pathlib import Path

    from perdure.messages import (
        Accepted,
        AgentId,
        Claim,
        Delivery,
        Entry,
        Loaded,
        Reported,
        RequestView,
        RunView,
        Start,
    )

T = TypeVar("T")

_PURGED: Final = 100
"""Runs that are forgotten in one transaction at most."""

_TOGETHER: Final = 256
"""Calls of one turn of the loop after which the thread is given them, rather than at the turn's end."""


class SqliteStore:
    """Everything durable in one SQLite file.

    One process at a time drives what is in the file; any may accept and read. Two stores on one file in one
    process behave as in two processes. The file is opened by the first call; each call before that succeeded
    raises ``StoreUnusable`` or ``StoreUnavailable`` and tries again.

    Args:
        path: The file; it and its folder are made if they are missing. Two empty files beside it carry locks.
        synchronous: ``full`` survives power loss, ``normal`` only the death of the process.
        lease: Seconds after which a process or worker that shows no life is taken over from.
        busy_timeout: Seconds to wait for the file before ``StoreUnavailable``.
        now: The wall clock that leases go by, the same for all processes.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Literal["full", "normal"] = "full",
        lease: float = 10.0,
        busy_timeout: float = 5.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._now = path, now
        self._shared = Shared(deliver=self._deliver)
        options = Options(path=path, synchronous=synchronous, lease=lease, busy_timeout=busy_timeout, now=now)
        self._writer = Writer(options, self._shared)
        self._reader = Reader(Views(path), self._show, f"perdure-sqlite-reader {path.name}")
        self._thread: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._there = self._closed = False
        self._counter = 0
        self._gathered: list[Job] = []
        self._crowded = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def transactions(self) -> int:
        """How many transactions this process has committed: fewer than commits, where these came together."""
        return self._shared.transactions

    # -- the store ------------------------------------------------------------------------------------------

    async def accept(
        self, items: Sequence[Start | Delivery | Reported], *, worker: str | None = None
    ) -> tuple[Sequence[Accepted], Sequence[Claim]]:
        """See ``ports.Store.accept``."""
        return await self._put(Accept(tuple(items), worker, self._now()), worker or "")

    async def claim(
        self, worker: str, now: float, *, limit: int = 256, targets: frozenset[str] | None = None
    ) -> tuple[Sequence[Claim], float | None]:
        """See ``ports.Store.claim``."""
        self._shared.ticks[worker] = self._now()
        self._shared.targets[worker] = targets
        return await self._put(Take(worker, now, limit), worker)

    async def load(self, run: str) -> Loaded:
        """See ``ports.Store.load``."""
        return await self._read(lambda views: views.load(run))

    def commit(self, commit: Commit, *, worker: str) -> Coroutine[Any, Any, Sequence[Claim]]:
        """See ``ports.Store.commit``."""
        return self._put(commit, worker)  # no coroutine of its own: most calls are this one

    async def changed(self, seen: int) -> int:
        """See ``ports.Store.changed``."""
        while self._counter == seen:
            self._check_open()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                if not self._shared.waiters:
                    self._shared.waiters = True
                    await self._put(Nudge(), "")
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return self._counter

    def tick(
        self,
        worker: str,
        now: float,  # noqa: ARG002 - the lease goes by one wall clock for all processes
        *,
        run: str = "",
        epoch: int = 0,
    ) -> bool:
        """See ``ports.Store.tick``."""
        at = self._shared.ticks[worker] = self._now()
        return self._writer.holds(run, epoch, worker, at)

    async def leave(self, worker: str) -> None:
        """See ``ports.Store.leave``."""
        self._shared.ticks.pop(worker, None)
        self._shared.targets.pop(worker, None)
        if self._there and not self._closed:
            await self._put(Leave(worker, last=not self._shared.ticks), worker)

    async def close(self) -> None:
        """See ``ports.Store.close``. What workers of this process hold is free at once, as if it had died."""
        if self._closed:
            return
        self._closed = True
        self._hand_over()
        self._writer.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._reader.close)
        self._tell()

    # -- the views --------------------------------------------------------------------------------------------

    async def run(self, run: str) -> RunView | None:
        """See ``ports.Query.run``."""
        return await self._read(lambda views: views.run(run))

    async def runs(
        self, which: RunFilter | None = None, *, before: str | None = None, limit: int = 50
    ) -> Sequence[RunView]:
        """See ``ports.Query.runs``."""
        return await self._read(lambda views: views.runs(which or RunFilter(), before, limit))

    async def journal(self, run: str, *, after: int = 0, limit: int = 1000) -> Sequence[Entry]:
        """See ``ports.Query.journal``."""
        return await self._read(lambda views: views.journal(run, after, limit))

    async def requests(self, *, run: str | None = None, limit: int = 50) -> Sequence[RequestView]:
        """See ``ports.Query.requests``."""
        return await self._read(lambda views: views.requests(run, limit))

    async def request(self, request: str) -> RequestView | None:
        """See ``ports.Query.request``."""
        return await self._read(lambda views: views.request(request))

    async def log(self, session: AgentId) -> Sequence[bytes]:
        """See ``ports.Query.log``."""
        return await self._read(lambda views: views.log(session))

    async def unreported(self, *, limit: int = 100) -> Sequence[RunView]:
        """See ``ports.Query.unreported``."""
        return await self._read(lambda views: views.unreported(limit))

    # -- upkeep -----------------------------------------------------------------------------------------------

    async def rewind(self, run: str, seq: int, *, at: float) -> None:
        """See ``ports.Upkeep.rewind``."""
        await self._put(Rewind(run, seq, at), "")

    async def fork(self, run: str, seq: int, start: Start) -> Accepted:
        """See ``ports.Upkeep.fork``."""
        return await self._put(Fork(run, seq, start, self._now()), "")

    async def purge(self, which: RunFilter, *, limit: int = 1000) -> int:
        """See ``ports.Upkeep.purge``. Each run goes whole; many go by several transactions: others write between."""
        gone = 0
        while gone < limit:
            ids = await self._read(partial(Views.ended, which=which, limit=min(limit - gone, _PURGED)))
            went: int = await self._put(Purge(which, tuple(ids)), "") if ids else 0
            if not went:
                break
            gone += went
        return gone

    # -- between the loop and the threads ---------------------------------------------------------------------

    async def _put(self, call: Call, worker: str) -> Any:
        if not self._there:
            await self._begin()
        if self._closed:
            self._check_open()
        loop = asyncio.get_running_loop()
        self._loop = loop
        future: asyncio.Future[Any] = loop.create_future()
        job = Job(call, worker, future)
        if not self._crowded:
            self._writer.put(job)
        else:
            if not self._gathered:
                loop.call_soon(self._hand_over)
            self._gathered.append(job)
            if len(self._gathered) == _TOGETHER:
                self._hand_over()
        return await future

    def _hand_over(self) -> None:
        """Where many calls were answered at once, many follow: they go together, at the end of the loop's turn.

        Else the thread would begin with the first of them, and each handful would pay for a transaction of its own. Of
        very many, the thread begins with some while the loop makes the others: else each would wait for the other.
        """
        for job in self._gathered:
            self._writer.put(job)
        self._gathered.clear()

    async def _begin(self) -> None:
        """Have the file opened. Raises what keeps it from being so; the next call tries again."""
        self._check_open()
        self._loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = self._writer.start()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._writer.put(Job(Nudge(), "", future))
        await future
        self._there = True

    async def _read(self, look: Callable[[Views], T]) -> T:
        if not self._there:
            await self._begin()
        self._check_open()
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        self._reader.put(Look(look, future))
        return await future

    def _check_open(self) -> None:
        if self._closed:
            msg = f"the store over {str(self._path)!r} was closed: open another one"
            raise StoreUnavailable(msg)

    def _deliver(self, outcomes: list[Outcome], *, tell: bool = False) -> None:
        """Called by the writer's thread, once for each transaction."""
        self._hand_back(self._settle, outcomes, tell)

    def _show(self, seen: list[Seen]) -> None:
        """Called by the reader's thread."""
        self._hand_back(_answer, seen)

    def _hand_back(self, settle: Callable[..., None], *args: Any) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(settle, *args)

    def _settle(self, outcomes: list[Outcome], tell: bool) -> None:  # noqa: FBT001 - the loop passes by position only
        self._crowded = len(outcomes) > 1
        for (call, _, future), result, error in outcomes:
            if not future.cancelled():
                _resolve(future, result, error)
            elif error is None:
                self._take_back(call, result)
        if tell:
            self._tell()

    def _take_back(self, call: Call, result: Any) -> None:
        """The caller is gone, but its worker holds what the call claimed: let the next claim tell it."""
        match call:
            case Commit():
                claims = result
            case Accept():
                claims = result[1]
            case Take():
                claims = result[0]
            case _:
                return
        if claims and not self._closed:
            self._writer.put(Job(Untell(tuple(claim.start.run for claim in claims)), "", self._nobody()))

    @staticmethod
    def _nobody() -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def _tell(self) -> None:
        self._counter += 1
        waiters, self._waiters, self._shared.waiters = self._waiters, [], False
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _answer(seen: list[Seen]) -> None:
    for future, result, error in seen:
        if not future.cancelled():
            _resolve(future, result, error)


def _resolve(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
