"""``perdure suspend``: set a run aside."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from perdure import hookimpl
from perdure.messages import HALTED
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.steering import hand_over, tell

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation


@click.command("suspend")
@click.argument("run")
@click.option("--reason", default="", help="Why; 'perdure show' says it.")
@output_options
@runtime_options
@click.pass_obj
def suspend(invocation: Invocation, run: str, reason: str) -> None:
    """Set RUN aside: a step that runs may finish, nothing new begins, and what arrives waits.

    'perdure resume' lets it go on.
    """
    handed = asyncio.run(
        hand_over(invocation, run, lambda it: it.suspend(reason), unless=lambda view: view.status in HALTED)
    )
    tell(invocation, f"asked run {run} to halt", handed)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return suspend
