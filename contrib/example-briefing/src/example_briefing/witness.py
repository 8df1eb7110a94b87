"""A witness of what really ran: each step body appends a line when it begins and when it ends, and syncs it to disk.

It knows nothing of the engine's records, so it can be held against them: a body that begins again although the
engine had recorded it is a broken promise.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from perdure.ports import StepInfo

Event = Literal["process", "begin", "end", "fail"]


class Line(NamedTuple):
    """One line of the file.

    Attributes:
        event: ``process`` when a runtime opens; ``begin`` and ``end`` of a body, ``fail`` where it raised.
        pid: The process.
        run: The run or turn.
        path: The step's identity there.
        name: The step's name.
        attempt: Which attempt.
        at: UTC seconds.
    """

    event: Event
    pid: int
    run: str = ""
    path: str = ""
    name: str = ""
    attempt: int = 0
    at: float = 0.0

    @property
    def step(self) -> tuple[str, str]:
        """Which step, among all of all runs."""
        return self.run, self.path


class Witness:
    """Appends to a file; fills ``perdure.ports.StepMiddleware``.

    Args:
        file: Made if it is not there.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    async def __call__(self, step: StepInfo, proceed: Callable[[], Awaitable[Any]]) -> Any:
        """Around one attempt."""
        await self._note("begin", step)
        try:
            value = await proceed()
        except Exception:
            await self._note("fail", step)
            raise
        await self._note("end", step)
        return value

    def opened(self) -> None:
        """A process has opened its runtime."""
        self._append(Line("process", os.getpid(), at=time.time()))

    async def _note(self, event: Event, step: StepInfo) -> None:
        line = Line(event, os.getpid(), step.run.run, step.path, step.name, step.attempt, time.time())
        await asyncio.to_thread(self._append, line)  # a sync takes milliseconds in which the loop has better to do

    def _append(self, line: Line) -> None:
        # One write of one line in append mode: lines of several threads and processes do not mix.
        handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, f"{json.dumps(line._asdict())}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)


def witnessed(file: Path) -> list[Line]:
    """What a witness has written so far; a last line that is not whole yet is left out."""
    if not file.exists():
        return []
    whole = file.read_bytes().split(b"\n")[:-1]
    return [Line(**json.loads(line)) for line in whole]
