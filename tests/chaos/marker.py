"""An app with a death wish: it ends its process by SIGKILL at the moment that it is told.

Served beside the app that is tested (``--app tests.chaos.marker:app``). It also writes a line whenever an agent's code
asks for a model: code that does so in a process in which no step has begun is being replayed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure import App, Context, hookimpl, workflow
from perdure.ports import AgentMiddleware

from .death import Death

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from perdure.messages import Entry, ModelRequest, ModelResponse, RunView, Start
    from perdure.ports import StepInfo

KILL = "CHAOS_KILL"
"""Environment: what ``Death`` aims at: ``begin`` and ``end`` of a body, ``commit``, ``replay``."""

MARKS = "CHAOS_MARKS"
"""Environment: the file that replays are written to."""


class Mark(NamedTuple):
    """A line of that file: an agent's code of this run asked for a model, in this process."""

    pid: int
    run: str


class Replays(AgentMiddleware):
    """Marks each time that an agent's code asks for a model, live or replayed.

    A replay is the first time in this process that the code of a turn asks which did so in an earlier process.
    """

    def __init__(self, death: Death) -> None:
        self._death = death
        self._file = Path(os.environ[MARKS])
        self._earlier = {mark.run for mark in marks(self._file)}

    async def model(
        self, ctx: Context, request: ModelRequest, proceed: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse:
        self._note(ctx.run_id)
        return await proceed(request)

    def _note(self, run: str) -> None:
        with self._file.open("a") as file:
            file.write(f"{json.dumps(Mark(os.getpid(), run))}\n")
        if run in self._earlier:
            self._earlier.remove(run)
            self._death.reach("replay")


class Commits:
    """An observer: it is told after each commit."""

    def __init__(self, death: Death) -> None:
        self._death = death

    def recorded(self, run: Start, entries: Sequence[Entry]) -> None:
        if any(entry.kind == "step" for entry in entries):
            self._death.reach("commit")

    def finished(self, run: Start, view: RunView) -> None:
        pass

    async def flush(self) -> None:
        pass


@workflow
async def idle(ctx: Context) -> None:
    """Nothing: only an app that offers something can be served."""


class Marker(App):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("chaos", workflows=[idle], description="Ends its process.")
        self._death = Death(os.environ.get(KILL, ""))

    @hookimpl
    def perdure_step_middleware(self) -> Sequence[Any]:
        """Given in code, this app comes before those of entry points: it stands outside the witness."""
        return [self._around]

    @hookimpl
    def perdure_agent_middleware(self) -> Sequence[Any]:
        return [Replays(self._death)]

    @hookimpl
    def perdure_observers(self) -> Sequence[Any]:
        return [Commits(self._death)]

    async def _around(self, step: StepInfo, proceed: Callable[[], Awaitable[Any]]) -> Any:
        self._death.reach("begin")
        value = await proceed()
        self._death.reach("end")
        return value


def marks(file: Path) -> list[Mark]:
    """What was marked so far."""
    if not file.exists():
        return []
    return [Mark(*json.loads(line)) for line in file.read_text().split("\n")[:-1]]


app = Marker()
