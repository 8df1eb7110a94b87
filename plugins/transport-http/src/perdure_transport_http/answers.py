"""Answers that are given again to who asks again: one id is one effect, as long as the host remembers it.

This is for callers whose connection broke before the answer came. A durable agent takes each id once by itself,
whatever happens to the host; for others, this is as much as one process can promise.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from perdure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from perdure.messages import Envelope
    from perdure.ports import Clock

_LARGEST: Final = 64 * 1024
"""Bytes of an answer beyond which it is not kept."""


class IdReused(UsageError):
    """An event with this id and source came before, and was another one."""


class _Kept(NamedTuple):
    print: bytes
    until: float
    answer: Envelope


class _UnderWay:
    def __init__(self, print_: bytes, task: asyncio.Task[Envelope]) -> None:
        self.print = print_
        self.task = task
        self.waiting = 0


class Answers:
    """What was asked lately, and is being asked.

    Args:
        clock: The time.
        limit: So many answers are kept.
        seconds: For so long.
    """

    def __init__(self, clock: Clock, *, limit: int, seconds: float) -> None:
        self._clock = clock
        self._limit = limit
        self._seconds = seconds
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._under_way: dict[str, _UnderWay] = {}

    def __len__(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    async def once(self, id_: str, fingerprint: bytes, ask: Callable[[], Coroutine[None, None, Envelope]]) -> Envelope:
        """The answer to that id: a new one, the one that others wait for already, or the one that is kept.

        Asking ends when nobody waits for it any more. What may pass (an error that is ``retryable``, anything that
        ``ask`` raises) is not kept.

        Raises:
            IdReused: The id was taken for something else.
        """
        kept = self._kept.get(id_)
        if kept is not None and kept.until > self._clock.now():
            _check(kept.print, fingerprint)
            return kept.answer
        shared = self._under_way.get(id_)
        if shared is None:
            task = asyncio.create_task(ask())
            shared = self._under_way[id_] = _UnderWay(fingerprint, task)
            task.add_done_callback(_heard)
        _check(shared.print, fingerprint)
        shared.waiting += 1
        try:
            answer = await _shared(shared.task)
        finally:
            shared.waiting -= 1
            if not shared.waiting and self._under_way.get(id_) is shared:
                del self._under_way[id_]  # who comes now asks anew, and waits for nothing that is being cancelled
                shared.task.cancel()
        self._keep(id_, fingerprint, answer)
        return answer

    def _keep(self, id_: str, fingerprint: bytes, answer: Envelope) -> None:
        if len(answer.payload) > _LARGEST or (answer.kind == "error" and answer.error.retryable):
            return
        self._kept[id_] = _Kept(fingerprint, self._clock.now() + self._seconds, answer)
        self._kept.move_to_end(id_)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)


def _heard(task: asyncio.Task[Envelope]) -> None:
    """Whoever waited for it may be gone: nobody is told of its exception."""
    if not task.cancelled():
        task.exception()


async def _shared(task: asyncio.Task[Envelope]) -> Envelope:
    """The task's result; cancelling this leaves the task alone."""
    await asyncio.wait({task})
    return task.result()


def _check(known: bytes, fingerprint: bytes) -> None:
    if known != fingerprint:
        msg = (
            "an event with this id and source came before, with something else in it: give each event an id of its own"
        )
        raise IdReused(msg)
