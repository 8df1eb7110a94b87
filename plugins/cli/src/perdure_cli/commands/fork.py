"""``perdure fork``: begin another run with the first part of a run's journal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from perdure import hookimpl
from perdure.errors import AlreadyStarted
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.steering import Handed, introduce, look_after

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation


@click.command("fork")
@click.argument("run")
@click.option(
    "--at",
    type=click.IntRange(0),
    metavar="N",
    required=True,
    help="Take over the first N lines of its journal, as 'perdure show' numbers them.",
)
@click.option("--id", "new_id", help="The new run's id; by default an unguessable one.")
@output_options
@runtime_options
@click.pass_obj
def fork(invocation: Invocation, run: str, at: int, new_id: str | None) -> None:
    """Begin another run whose journal begins as RUN's; from there it goes its own way.

    Steps after that place run again, in the new run. RUN itself stays as it is, whatever its status.
    """
    introduce(invocation, f"is forked from {run}", asyncio.run(_fork(invocation, run, at, new_id)))


async def _fork(invocation: Invocation, run: str, at: int, new_id: str | None) -> Handed:
    async with invocation.open(drive=False) as runtime:
        forked = await runtime.handle(run).fork(at=at, id=new_id)
        if not forked.new:
            msg = f"run {new_id!r} is there already: choose another --id, or leave it out"
            raise AlreadyStarted(msg)
        return await look_after(runtime, forked.id)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return fork
