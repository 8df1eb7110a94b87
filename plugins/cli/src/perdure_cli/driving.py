"""Before and after something is handed over: is there a model for it, and does a live process drive it?"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from perdure import Agent
from perdure.errors import InvalidSetting

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


async def moved(runtime: Runtime, before: RunView) -> bool:
    """Whether the run moves on from ``before`` within two seconds, so that some process must be driving it.

    Judged by the journal and the status: who drives is the engines' business, and no port names them.
    """
    until = runtime.clock.now() + _PATIENCE
    while runtime.clock.now() < until:
        view = await runtime.view(before.id)
        if view.finished or (view.seq, view.status) != (before.seq, before.status):
            return True
        await runtime.clock.sleep_until(runtime.clock.now() + _LOOK)
    return False


def nobody_drives(run: str) -> str:
    """What a person is told then."""
    return (
        "no process drives it at present: it is safe, and goes on with the next process over this data folder,"
        f" such as: perdure show {run} --follow"
    )
