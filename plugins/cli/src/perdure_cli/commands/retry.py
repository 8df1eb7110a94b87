"""``perdure retry``: let a finished run go on from where it failed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from perdure import hookimpl
from perdure.errors import RunActive
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.steering import hand_over, tell

if TYPE_CHECKING:
    from typing import Any

    from perdure.runs import Run
    from perdure_cli.invocation import Invocation


@click.command("retry")
@click.argument("run")
@click.option(
    "--at",
    type=click.IntRange(0),
    metavar="N",
    help="Keep the first N lines of its journal, as 'perdure show' numbers them, and go on from there.",
)
@output_options
@runtime_options
@click.pass_obj
def retry(invocation: Invocation, run: str, at: int | None) -> None:
    """Let RUN, which has failed or was cancelled, go on from the step that failed.

    What is recorded before that stays. A run that it called and that failed is retried with it.
    """

    async def again(it: Run[Any]) -> None:
        if at is None and (await it.view()).status == "completed":
            msg = f"run {run!r} has completed, no step of it failed: say with --at N how much of its journal stays"
            raise RunActive(msg)
        await it.retry(at=at)

    tell(invocation, f"run {run} goes on", asyncio.run(hand_over(invocation, run, again, anew=True)))


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return retry
