"""``Saga``: what was done is undone when what follows fails (Garcia-Molina and Salem, 1987)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ParamSpec, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from perdure.context import Context

P = ParamSpec("P")


class Saga:
    """Collects how to undo what was done, and does it, last first, when the block ends with an error or cancellation.

    ::

        async with Saga(ctx) as saga:
            flight = await ctx.step(book_flight, trip)
            saga.undo(cancel_flight, flight)
            await ctx.step(book_hotel, trip)  # if this fails, the flight is cancelled

    Each undoing is a step: durable, retried as its function says, and seen in the journal. One that fails does not
    keep the others from running; its error is then raised, in a group with what ended the block.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._undoings: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def undo(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run this function as a step, if the block ends badly."""
        self._undoings.append((fn, args, kwargs))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not isinstance(error, Exception | asyncio.CancelledError):
            return  # an eviction or an interrupt: whoever goes on with the run decides
        failures: list[Exception] = []
        while self._undoings:
            fn, args, kwargs = self._undoings.pop()
            try:
                await self._ctx.step(fn, *args, **kwargs)
            except Exception as failure:  # noqa: BLE001 - it is raised below
                failures.append(failure)
        if failures:
            msg = f"{len(failures)} of the saga's undoings failed, and so did what it was for"
            raise BaseExceptionGroup(msg, [error, *failures])
