"""Before and after something is handed over: is there a model for it, and does a live process drive it?"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from perdure import Agent
from perdure.errors import InvalidSetting
from perdure.messages import HALTED
from perdure_cli.display import moment

if TYPE_CHECKING:
    from perdure import Runtime
    from perdure.messages import RunView

_PATIENCE: Final = 2.0
"""Seconds in which a process that drives has taken up what it was handed."""

_LOOK: Final = 0.05


def check_model(runtime: Runtime, declared: Any, given: str | None) -> None:
    """Find the model before anything is accepted: that of an agent, or the one that the command line gave.

    A model's settings are not this process's business: the key may be with the process that drives.

    Raises:
        UnknownName: There is no such model.
        PluginMissing, PluginBroken: Nothing that works provides it.
    """
    with suppress(InvalidSetting):
        if isinstance(declared, Agent):
            runtime.model(declared.model)
        elif given is not None:
            runtime.model(given)


async def taken_up(runtime: Runtime, run: str, before: RunView | None, since: float = math.inf) -> bool:
    """Whether some process takes up within two seconds what a run was handed, so that one must be driving it.

    What is handed to a run that is halted waits for its resumption: for that nobody waits here.

    Judged by what becomes of the run: who drives is the engines' business, and no port names them.

    Args:
        runtime: Where to look.
        run: Its id.
        before: The run before it was handed something, or ``None`` for one that begins (anew).
        since: When it had been handed over (UTC seconds), if that is known: what is written later is its driver's.
    """
    until = runtime.clock.now() + _PATIENCE
    while True:
        view = await runtime.view(run)
        if _has_moved(view, before, since):
            return True
        if view.status in HALTED or runtime.clock.now() >= until:
            return False
        await runtime.clock.sleep_until(runtime.clock.now() + _LOOK)


def _has_moved(view: RunView, before: RunView | None, since: float) -> bool:
    if before is None:
        return view.status != "pending"
    if view.finished or view.updated > since or (view.seq, view.generation) != (before.seq, before.generation):
        return True
    return view.status not in {before.status, "pending"}  # accepting something makes a halted run pending by itself


def hint(view: RunView, *, driven: bool) -> str:
    """What a person is told who has handed something to a run, if there is more to say than that."""
    if view.status in HALTED:
        return f"what arrives for it waits until it goes on, with: perdure resume {view.id}"
    if driven:
        return ""
    if view.status == "pending" and view.due is not None and view.due > time.time():
        return f"it begins at {moment(view.due)}, if a process drives it then, such as: perdure worker"
    busy = "it may be busy with a step; or " if view.status == "running" else ""
    return (
        f"{busy}no process drives it at present: it is safe, and goes on with the next process over this data folder,"
        " such as: perdure worker"
    )
