"""What is to be accepted: starts that come in one turn of the loop go to the store together.

They go there in a task of their own: a caller that hangs up must not take along what the store has given this worker.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from perdure.errors import StoreUnavailable
from perdure.messages import Accepted, Delivery, Start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_TOGETHER: Final = 64
"""Starts that go together, at most: a store may hold others up while it takes what came in one call."""


class Waiting(NamedTuple):
    """Something to be accepted, and where it is said what became of it."""

    item: Start | Delivery
    future: asyncio.Future[Accepted]


class Doorway:
    """See the module.

    Args:
        accept: Has the store accept items, all or none.
        tasks: Where the engine keeps its tasks for as long as they run.
    """

    def __init__(
        self,
        accept: Callable[[Sequence[Start | Delivery]], Awaitable[Sequence[Accepted]]],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self._accept = accept
        self._tasks = tasks
        self._waiting: list[Waiting] = []

    async def accept(self, item: Start | Delivery) -> Accepted:
        """Have it accepted durably. Raises what the store does."""
        loop = asyncio.get_running_loop()
        waiting = Waiting(item, loop.create_future())
        if not self._waiting:
            loop.call_soon(self._open)
        self._waiting.append(waiting)
        return await waiting.future

    def _open(self) -> None:
        waiting, self._waiting = self._waiting, []
        group: list[Waiting] = []
        for each in waiting:
            if group and (len(group) == _TOGETHER or not (_starts(each) and _starts(group[0]))):
                self._admit(group)
                group = []
            group.append(each)
        self._admit(group)

    def _admit(self, group: list[Waiting]) -> None:
        task = asyncio.get_running_loop().create_task(self._take(group), name="perdure-accept")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, group: list[Waiting]) -> None:
        try:
            accepted = await self._accept([each.item for each in group])
        except asyncio.CancelledError:
            for each in group:
                each.future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers'
            if len(group) == 1 or isinstance(error, StoreUnavailable):
                _say(group, error=error)
                return
            for each in group:  # all or none: so it is one of them, and not the others' fault
                await self._take([each])
        else:
            _say(group, accepted)


def _say(group: list[Waiting], accepted: Sequence[Accepted] = (), error: Exception | None = None) -> None:
    for place, each in enumerate(group):
        if each.future.done():
            continue  # its caller hung up
        if error is not None:
            each.future.set_exception(error)
        else:
            each.future.set_result(accepted[place])


def _starts(waiting: Waiting) -> bool:
    """Whether it may go with others; deliveries are refused one by one."""
    return isinstance(waiting.item, Start)
