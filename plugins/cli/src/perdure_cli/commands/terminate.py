"""``perdure terminate``: end a run at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from perdure import hookimpl
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.steering import hand_over, tell

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation


@click.command("terminate")
@click.argument("run")
@click.option("--reason", default="", help="Why; its record keeps it.")
@output_options
@runtime_options
@click.pass_obj
def terminate(invocation: Invocation, run: str, reason: str) -> None:
    """End RUN at once: none of its code runs again, its clean-up neither.

    Where its code can still run, 'perdure cancel' is the better end.
    """
    handed = asyncio.run(hand_over(invocation, run, lambda it: it.terminate(reason), unless=lambda view: view.finished))
    tell(invocation, f"told run {run} to end at once", handed)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return terminate
