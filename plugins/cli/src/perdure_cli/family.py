"""A run with all that it called, and what their journals gained."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from perdure.messages import HALTED, Entry, RunFilter, RunView

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from perdure import Runtime
    from perdure.messages import RequestView
    from perdure.ports import Query

_PAGE = 200
_MANY = 200
"""So many members of a family are followed; of a run that calls ten thousand, nobody reads more."""

_LOOK = 0.1
"""Seconds between two looks at the store."""


class Recorded(NamedTuple):
    """An entry that a journal gained; ``depth`` is 0 for the run itself, 1 for what it called, and so on."""

    run: RunView
    depth: int
    entry: Entry


async def called_runs(query: Query, run: RunView, *, limit: int | None = None) -> list[RunView]:
    """The runs and turns that a run has called or sent, oldest first; with a limit, the newest of them."""
    found: list[RunView] = []
    before: str | None = None
    while limit is None or len(found) < limit:
        size = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page = await query.runs(RunFilter(parent=run.id), before=before, limit=size)
        found += page
        if len(page) < size:
            break
        before = page[-1].id
    return found[::-1]


class Family:
    """A run and its descendants, watched until it finishes or nothing but answers can move it.

    Attributes:
        view: The run as it was last seen.
        requests: The open requests of the whole family, as last seen.
    """

    def __init__(self, runtime: Runtime, view: RunView) -> None:
        self._runtime = runtime
        self._query = runtime.query
        self.view = view
        self.requests: Sequence[RequestView] = ()
        self._members: dict[str, tuple[RunView, int]] = {view.id: (view, 0)}
        self._seen: dict[str, int] = {}

    async def recorded(self, *, patience: float = 0.2) -> AsyncGenerator[Recorded]:
        """What the family's journals gain, until it is finished or parked, or waits for answers.

        Args:
            patience: Seconds for which nothing has moved before a run with an open request counts as waiting for its
                answer: what else was delivered to it (a cancellation) shows only when somebody takes it up.
        """
        moved = time.monotonic()
        while True:
            await self._look()
            news = [
                Recorded(view, depth, entry)
                for view, depth in list(self._members.values())
                for entry in await self._news(view)
            ]
            for recorded in sorted(news, key=lambda item: item.entry.at):
                yield recorded
            if self.view.finished or self.view.status in HALTED:
                return
            if news or not self.requests or self._is_busy():
                moved = time.monotonic()
            elif time.monotonic() - moved >= patience:
                return
            await self._runtime.engine.wait(self.view.id, timeout=_LOOK)

    def _is_busy(self) -> bool:
        return any(view.status in {"pending", "running"} for view, _ in self._members.values())

    async def _look(self) -> None:
        self.view = await self._runtime.view(self.view.id)
        self._members[self.view.id] = (self.view, 0)
        self.requests = self.view.requests
        below = [(self.view, 0)]
        while below:
            caller, depth = below.pop()
            for view in await called_runs(self._query, caller, limit=_MANY):
                known = self._members.get(view.id)
                if known is None and len(self._members) >= _MANY:
                    continue
                self._members[view.id] = (view, depth + 1)
                if known is None or not known[0].finished:  # what has finished calls nobody any more
                    below.append((view, depth + 1))

    async def _news(self, view: RunView) -> Sequence[Entry]:
        seen = self._seen.get(view.id, 0)
        if view.seq <= seen:
            return ()
        entries = await self._query.journal(view.id, after=seen)
        self._seen[view.id] = seen + len(entries)
        return entries
