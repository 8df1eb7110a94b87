"""Those who wait for a run: told at once when it is driven here, by looking at the store when it is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from perdure.errors import UnknownName

if TYPE_CHECKING:
    from collections.abc import Container

    from perdure.messages import RunView
    from perdure.ports import Query, Store

_QUIET: Final = 0.02  # seconds between two looks: bounds the reads while others write all the time


def settled(view: RunView, *, until_waiting: bool) -> bool:
    """Whether a waiter wants to know of this."""
    return view.finished or view.status == "parked" or (until_waiting and bool(view.requests))


class _Waiter:
    """One who waits for a run.

    Attributes:
        until_waiting: Also for a request of it.
        told: Gets a result when there may be something to see.
        end: That, if it is the run's end.
    """

    __slots__ = ("end", "told", "until_waiting")

    def __init__(self, *, until_waiting: bool) -> None:
        self.until_waiting = until_waiting
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.end: RunView | None = None

    def tell(self) -> None:
        """There may be something to see."""
        if not self.told.done():
            self.told.set_result(None)


class Waiters:
    """Waits for runs. One task looks at the store, and only while somebody waits.

    Args:
        store: Tells of changes.
        query: The views.
        moving: The runs that have something to do, and this engine does it and tells of it itself.
        resting: Those that it would tell of itself, if there were something.
    """

    def __init__(self, store: Store, query: Query, moving: Container[str], resting: Container[str]) -> None:
        self._store = store
        self._query = query
        self._moving = moving
        self._resting = resting
        self._waiters: dict[str, dict[_Waiter, None]] = {}  # first come, first told: a set would not keep their order
        self._asked = False
        self._looker: asyncio.Task[None] | None = None

    def __contains__(self, run: str) -> bool:
        """Whether somebody waits for a run."""
        return run in self._waiters

    def tell(self, run: str, end: RunView | None = None) -> None:
        """Something happened to a run: those who wait for it look, unless this is its ``end``."""
        for waiter in self._waiters.get(run, ()):
            waiter.end = end
            waiter.tell()

    def asked(self) -> None:
        """A run asked for an answer: its callers' waiters, who want to know, are told with the next look."""
        self._asked = True

    async def wait(self, run: str, *, timeout: float | None, until_waiting: bool) -> RunView:
        """See ``Engine.wait``."""
        if timeout is None:
            return await self._wait(run, until_waiting=until_waiting)
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await self._wait(run, until_waiting=until_waiting)
        except TimeoutError:
            if not scope.expired():
                raise
            return await self._view(run)

    async def _wait(self, run: str, *, until_waiting: bool) -> RunView:
        waiter = _Waiter(until_waiting=until_waiting)
        self._waiters.setdefault(run, {})[waiter] = None
        try:
            # Of a run that moves here there is nothing to see until it is told of.
            if until_waiting or run not in self._moving:
                view = await self._view(run)
                if settled(view, until_waiting=until_waiting):
                    return view
            while True:
                self._look()
                await waiter.told
                if waiter.end is not None:
                    return waiter.end
                waiter.told = asyncio.get_running_loop().create_future()
                view = await self._view(run)
                if settled(view, until_waiting=until_waiting):
                    return view
        finally:
            del self._waiters[run][waiter]
            if not self._waiters[run]:
                del self._waiters[run]
            if not self._waiters and self._looker is not None:
                self._looker.cancel()
                self._looker = None

    async def _view(self, run: str) -> RunView:
        view = await self._query.run(run)
        if view is None:
            raise UnknownName("run", run, hint="'perdure runs' lists them")
        return view

    def _look(self) -> None:
        if self._looker is None or self._looker.done():
            self._looker = asyncio.create_task(self._look_for_changes(), name="perdure-waiters")

    async def _look_for_changes(self) -> None:
        seen = -1
        loop = asyncio.get_running_loop()
        while True:
            seen = await self._store.changed(seen)
            asked, self._asked = self._asked, False
            for run in [run for run in self._waiters if run not in self._moving and run not in self._resting]:
                self.tell(run)
            for run, waiters in self._waiters.items() if asked else ():
                if any(waiter.until_waiting for waiter in waiters):
                    self.tell(run)
            quiet = loop.create_future()
            loop.call_later(_QUIET, _release, quiet)
            await quiet


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
