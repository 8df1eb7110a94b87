"""Tells observers what was committed, and the store what they have reported."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from pydantic_core import from_json

from perdure.messages import HALTED, TERMINAL, ErrorInfo, Reported, RunView
from perdure_engine_embedded.inquiries import start_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.messages import Commit, Entry, Progress, Start
    from perdure.ports import DurableStore, Observer

_log = logging.getLogger("perdure.engine")

_PAGE: Final = 100
"""Runs that are reported again at once."""


class Reports:
    """See the module. Does nothing at all where there are no observers."""

    def __init__(self, store: DurableStore, observers: Sequence[Observer]) -> None:
        self._store = store
        self._observers = observers
        self._told: set[str] = set()
        self._finished: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self.wanted: bool = bool(observers)
        """Whether anybody observes."""

    def recorded(self, start: Start, entries: Sequence[Entry]) -> None:
        """Entries were committed."""
        for observer in self._observers:
            try:
                observer.recorded(start, entries)
            except Exception:  # noqa: BLE001 - whatever a plugin raises, the run is not to suffer
                _log.exception("observer %r failed; the run goes on", observer)

    def reloaded(self, start: Start, entries: Sequence[Entry]) -> None:
        """A run came in with a journal from elsewhere: what its last holder may not have reported is told again."""
        if self._observers and start.run not in self._told:
            self._told.add(start.run)
            self.recorded(start, entries)

    def committed(self, start: Start, commit: Commit) -> None:
        """A run moved on."""
        if not self._observers:
            return
        self._told.add(start.run)
        if commit.entries:
            self.recorded(start, commit.entries)
        if commit.status in TERMINAL or commit.status in HALTED:
            self._told.discard(start.run)
            self.finished(start, view_of(start, commit), durable=commit.unreported)

    def finished(self, start: Start, view: RunView, *, durable: bool) -> None:
        """A run finished; ``durable`` ones are marked in the store once they are flushed."""
        self._finish(start, view)
        if durable:
            self._finished.append(view.id)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._flush_all(), name="perdure-reports")

    def _finish(self, start: Start, view: RunView) -> None:
        for observer in self._observers:
            try:
                observer.finished(start, view)
            except Exception:  # noqa: BLE001 - whatever a plugin raises, the run is not to suffer
                _log.exception("observer %r failed; the run goes on", observer)

    async def catch_up(self) -> None:
        """Tell what a process that died may have had no time to report, a page at a time.

        What finishes meanwhile is reported by those with whom it does: where others work on the same store, there is
        always something, and to wait until there is nothing would be to wait for them to rest.
        """
        if not self._observers:
            return
        while views := await self._store.unreported(limit=_PAGE):
            for view in views:
                await self._tell_again(view)
            if not await self._flush() or len(views) < _PAGE:
                return

    async def _tell_again(self, view: RunView) -> None:
        start = start_of(view)
        entries: list[Entry] = []
        while part := await self._store.journal(view.id, after=len(entries)):
            entries += part
        self.recorded(start, entries)
        self._finish(start, view)
        self._finished.append(view.id)

    async def stop(self) -> None:
        """Report what is left; give up on observers that cannot."""
        if self._task is not None:
            await self._task
        if self._observers:
            await self._flush()

    async def _flush_all(self) -> None:
        while self._finished and await self._flush():
            pass

    async def _flush(self) -> bool:
        """Flush, and mark what has finished as reported; ``False`` if an observer could not."""
        done, self._finished = self._finished, []
        try:
            for observer in self._observers:
                await observer.flush()
            if done:
                await self._store.accept([Reported(run) for run in done])
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises, it is tried again
            self._finished = done + self._finished
            _log.warning(
                "observers could not report: %s; it is tried with the next run, or after the next start", error
            )
            return False
        return True


def view_of(start: Start, commit: Commit, progress: Progress | None = None) -> RunView:
    """A run as its last commit left it, but for the requests of those that it called."""
    return RunView(
        id=start.run,
        kind=start.kind,
        target=start.target,
        status=commit.status,
        created=start.at,
        updated=max(start.at, commit.at),
        input=from_json(start.input),
        session=start.session,
        key=start.key,
        parent=start.parent,
        path=start.path,
        seq=commit.seq + len(commit.entries),
        result=from_json(commit.value) if commit.value is not None else None,
        error=ErrorInfo.model_validate_json(commit.error) if commit.error is not None else None,
        headers=start.headers,
        tags=start.tags,
        version=start.version,
        generation=start.generation,
        due=start.due,
        ancestry=start.ancestry,
        progress=progress,
    )
