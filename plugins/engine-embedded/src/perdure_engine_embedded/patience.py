"""Waits out a store that cannot write: a full disk, a lock that somebody keeps."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from perdure.errors import StoreUnavailable

_log = logging.getLogger("perdure.engine")
_LONGEST: Final = 30.0
_AT_ONCE: Final = 2  # those that try after a success: each success lets so many more, so all are through soon


class Patience:
    """Everybody whom the store refuses waits here. One is let through at a time, to try; with its success the others.

    Says once that it begins and once that it is over: a thousand runs on a full disk are one trouble.

    Args:
        pause: Seconds before the first new try; it doubles up to 30.
    """

    def __init__(self, pause: float) -> None:
        self._first = self._pause = pause
        self._waiting: dict[asyncio.Future[None], None] = {}  # a set would not keep them in their order
        self._next: asyncio.TimerHandle | None = None
        self._began: float | None = None

    async def wait(self, error: StoreUnavailable) -> None:
        """Return when it is worth another try."""
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time()
            _log.warning("the store refuses: %s; what is under way waits and goes on by itself", error)
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting[waiter] = None
        self._look_again()
        try:
            await waiter
        finally:
            del self._waiting[waiter]

    def over(self) -> None:
        """The store has taken something: the next ones try at once. It is over when nobody waits any more.

        Not all of them: where there is room for what is small, every small thing would set off all large ones.
        """
        if self._began is None:
            return
        self._pause = self._first
        waiting = [waiter for waiter in self._waiting if not waiter.done()]
        for waiter in waiting[:_AT_ONCE]:
            waiter.set_result(None)
        if waiting:
            return
        seconds = asyncio.get_running_loop().time() - self._began
        _log.warning("the store takes again what it is given, after %.0f s", seconds)
        self._began = None
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _look_again(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().call_later(self._pause, self._let_one_try)
            self._pause = min(self._pause * 2, max(_LONGEST, self._first))

    def _let_one_try(self) -> None:
        self._next = None
        waiting = [waiter for waiter in self._waiting if not waiter.done()]
        if waiting:
            waiting[0].set_result(None)
        if waiting[1:]:
            self._look_again()  # the one that tries may be given up, or find that there is nothing left to do
