"""Handing something to a run that another process drives, and saying what became of that: what steers is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from perdure_cli.display import console, emit_json
from perdure_cli.driving import hint, taken_up

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from perdure import Runtime
    from perdure.messages import RunView
    from perdure.runs import Run
    from perdure_cli.invocation import Invocation


class Handed(NamedTuple):
    """A run after something was handed to it.

    Attributes:
        run: As it stands.
        asked: Whether anything was handed over: a run that has finished, or has it already, is told nothing.
        driven: Whether some process has taken it up.
    """

    run: RunView
    asked: bool
    driven: bool


async def hand_over(
    invocation: Invocation,
    run: str,
    act: Callable[[Run[Any]], Awaitable[object]],
    *,
    unless: Callable[[RunView], bool] = lambda _: False,
    anew: bool = False,
) -> Handed:
    """Do something to a run, and look whether a process takes that up.

    Args:
        invocation: Whose runtime; it does not drive.
        run: Its id.
        act: What is done; ``False``: it was done before.
        unless: Looks at the run before that; if true, nothing is done.
        anew: The run is pending afterwards, whatever it was before.
    """
    async with invocation.open(drive=False) as runtime:
        before = await runtime.view(run)
        if unless(before):
            return Handed(before, asked=False, driven=False)
        did = await act(runtime.handle(run))
        handed = await runtime.view(run)
        if did is False:
            return Handed(handed, asked=False, driven=False)
        driven = await taken_up(runtime, run, None if anew else before, handed.updated)
        return Handed(await runtime.view(run), asked=True, driven=driven)


async def look_after(runtime: Runtime, run: str) -> Handed:
    """Look whether a process takes up a run that was accepted just now."""
    view = await runtime.view(run)
    if view.due is not None and view.due > runtime.clock.now():
        return Handed(view, asked=True, driven=False)
    driven = await taken_up(runtime, run, None)
    return Handed(await runtime.view(run), asked=True, driven=driven)


def tell(invocation: Invocation, did: str, handed: Handed, *, before: str = "") -> None:
    """Print what was done to a run: ``did`` (``before``: what was done already), how it stands, and who drives it."""
    view, asked, driven = handed
    if invocation.json:
        emit_json({"run": view.id, "status": view.status, "asked": asked, "driven": driven})
        return
    out = console()
    if not asked:
        what = f"{before}; it is {view.status}" if before else f"run {view.id} is {view.status} already"
        out.print(what, soft_wrap=True)
        return
    out.print(f"{did}; it is {view.status}", soft_wrap=True)
    if more := hint(view, driven=driven):
        out.print(more, soft_wrap=True)


def introduce(invocation: Invocation, did: str, handed: Handed) -> None:
    """Print that there is a run which was not there before."""
    view, _, driven = handed
    if invocation.json:
        emit_json({"run": view, "driven": driven})
        return
    out = console()
    out.print(f"run {view.id} {did} ({view.status}); perdure show {view.id} shows it", soft_wrap=True)
    if more := hint(view, driven=driven):
        out.print(more, soft_wrap=True)
