"""``perdure cancel``: ask a run to stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from perdure import hookimpl
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.steering import hand_over, tell

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation


@click.command("cancel")
@click.argument("run")
@click.option("--reason", default="", help="Why; the run and its record see it.")
@output_options
@runtime_options
@click.pass_obj
def cancel(invocation: Invocation, run: str, reason: str) -> None:
    """Ask RUN to stop: its clean-up code still runs, and what it called is cancelled with it."""
    handed = asyncio.run(hand_over(invocation, run, lambda it: it.cancel(reason), unless=lambda view: view.finished))
    tell(invocation, f"asked run {run} to stop", handed)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return cancel
