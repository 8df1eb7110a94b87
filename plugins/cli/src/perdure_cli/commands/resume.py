"""``perdure resume``: let a suspended or parked run go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from perdure import hookimpl
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.steering import hand_over, tell

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation


@click.command("resume")
@click.argument("run")
@output_options
@runtime_options
@click.pass_obj
def resume(invocation: Invocation, run: str) -> None:
    """Let RUN go on, which is suspended, or parked until its code was fixed."""
    tell(invocation, f"resumed run {run}", asyncio.run(hand_over(invocation, run, lambda it: it.resume())))


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return resume
