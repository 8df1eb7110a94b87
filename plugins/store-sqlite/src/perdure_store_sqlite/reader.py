"""The one thread that reads: it looks at whatever is asked for, and hands the answers back together."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from perdure_store_sqlite.queues import gathered

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from perdure_store_sqlite.views import Views

_TOGETHER: Final = 64
"""Looks whose answers are handed back together, at most: the first one waits for the last."""


class Look(NamedTuple):
    """What is to be seen, and where that goes."""

    at: Callable[[Views], Any]
    future: asyncio.Future[Any]


class Seen(NamedTuple):
    """What a look has brought; exactly one of result and error counts."""

    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class Reader:
    """The thread, which begins with the first look.

    Args:
        views: What it looks through; nobody else does meanwhile.
        deliver: Takes what was seen to the event loop.
        name: Of the thread.
    """

    def __init__(self, views: Views, deliver: Callable[[list[Seen]], None], name: str) -> None:
        self._views, self._deliver = views, deliver
        self._looks: SimpleQueue[Look | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)

    def put(self, look: Look) -> None:
        """Have this looked at."""
        if self._thread.ident is None:
            self._thread.start()
        self._looks.put(look)

    def close(self) -> None:
        """Look at what was asked for before, and end. Blocks."""
        self._looks.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        self._views.close()

    def _work(self) -> None:
        while looks := gathered(self._looks, most=_TOGETHER):
            self._deliver([self._seen(look) for look in looks])

    def _seen(self, look: Look) -> Seen:
        try:
            return Seen(look.future, self._views.read(look.at))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the one who asked
            return Seen(look.future, error=error)
