"""``perdure cancel``: ask a run to stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from perdure import hookimpl
from perdure_cli.display import console, emit_json
from perdure_cli.driving import moved, nobody_drives
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from perdure.messages import RunView
    from perdure_cli.invocation import Invocation


@click.command("cancel")
@click.argument("run")
@click.option("--reason", default="", help="Why; the run and its record see it.")
@output_options
@runtime_options
@click.pass_obj
def cancel(invocation: Invocation, run: str, reason: str) -> None:
    """Ask RUN to stop: its clean-up code still runs, and what it called is cancelled with it."""
    before, after, driven = asyncio.run(_cancel(invocation, run, reason))
    if invocation.json:
        emit_json({"run": run, "status": after.status, "asked": not before.finished, "driven": driven})
    elif before.finished:
        console().print(f"run {run} was {before.status} already", soft_wrap=True)
    else:
        console().print(f"asked run {run} to stop; it is {after.status}", soft_wrap=True)
        if not driven:
            console().print(nobody_drives(run), soft_wrap=True)


async def _cancel(invocation: Invocation, run: str, reason: str) -> tuple[RunView, RunView, bool]:
    async with invocation.open(drive=False) as runtime:
        before = await runtime.view(run)
        if before.finished:
            return before, before, False
        await runtime.cancel(run, reason)
        driven = await moved(runtime, before)
        return before, await runtime.view(run), driven


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return cancel
