"""``perdure send``: send a run an event."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from perdure import hookimpl
from perdure_cli.arguments import parsed
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.steering import hand_over, tell

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation


@click.command("send")
@click.argument("run")
@click.argument("event")
@click.argument("payload", metavar="[JSON]", default="null")
@click.option("--key", help="Idempotency key: the same one twice is one event.")
@output_options
@runtime_options
@click.pass_obj
def send(invocation: Invocation, run: str, event: str, payload: str, key: str | None) -> None:
    """Send RUN an EVENT, with a payload as JSON ('-' reads it from stdin).

    \b
      perdure send run_1f… paid '{"amount": 30}'

    It is kept until the run's code takes it.
    """  # noqa: D301 - click reads the backspace
    value = parsed(payload, "the payload")
    handed = asyncio.run(hand_over(invocation, run, lambda it: it.send(event, value, key=key)))
    before = f"event {event!r} was sent to run {run} before, under that key"
    tell(invocation, f"sent {event!r} to run {run}", handed, before=before)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return send
