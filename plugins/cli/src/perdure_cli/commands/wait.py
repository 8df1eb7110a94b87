"""``perdure wait``: wait for a run's end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from perdure import hookimpl
from perdure_cli.course import report_view
from perdure_cli.display import console
from perdure_cli.driving import hint
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.times import SPAN

if TYPE_CHECKING:
    from datetime import timedelta

    from perdure import Runtime
    from perdure.messages import RunView
    from perdure_cli.invocation import Invocation

_PATIENCE = 2.0
"""Seconds after which a run that has not begun is reason for a word."""


@click.command("wait")
@click.argument("run")
@click.option("--timeout", type=SPAN, help="Wait so long at most, such as 30s or 2h; exit code 3 then.")
@click.option("--until-waiting", is_flag=True, help="Stop waiting, too, when it waits for an answer; exit code 3.")
@output_options
@runtime_options
@click.pass_obj
def wait(invocation: Invocation, run: str, timeout: timedelta | None, *, until_waiting: bool) -> int:
    """Wait until RUN has finished, and print its result.

    It ends as 'perdure run' does, and drives nothing: see 'perdure worker'.
    """
    seconds = None if timeout is None else timeout.total_seconds()
    return report_view(asyncio.run(_wait(invocation, run, seconds, until_waiting=until_waiting)), invocation)


async def _wait(invocation: Invocation, run: str, timeout: float | None, *, until_waiting: bool) -> RunView:
    async with invocation.open(drive=False) as runtime:
        noting = asyncio.create_task(_note(runtime, run))
        try:
            return await runtime.handle(run).wait(timeout, until_waiting=until_waiting)
        finally:
            noting.cancel()
            await asyncio.gather(noting, return_exceptions=True)


async def _note(runtime: Runtime, run: str) -> None:
    """Say so if it has not begun, or is set aside: it may be a long wait."""
    await runtime.clock.sleep_until(runtime.clock.now() + _PATIENCE)
    view = await runtime.view(run)
    if view.status in {"pending", "suspended"} and (more := hint(view, driven=False)):
        console(stderr=True).print(f"run {run} is {view.status}; {more}", style="dim", soft_wrap=True)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return wait
