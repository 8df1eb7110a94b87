"""``perdure update``: have a run's code do something, and wait for its answer."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from pydantic_core import from_json

from perdure import hookimpl
from perdure.messages import Inquiry
from perdure_cli.arguments import arguments
from perdure_cli.display import console, emit_json, print_value
from perdure_cli.driving import hint, taken_up
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.times import SPAN

if TYPE_CHECKING:
    from datetime import timedelta

    from perdure import Runtime
    from perdure_cli.invocation import Invocation


class Order(NamedTuple):
    """What is to be done, as the command line says it."""

    run: str
    name: str
    given: dict[str, Any]
    key: str
    timeout: timedelta | None


@click.command("update")
@click.argument("run")
@click.argument("name")
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--input", "json_input", metavar="JSON", help="The arguments as JSON; '-' reads them from stdin.")
@click.option("--key", help="Idempotency key: the same one twice is one update, with one answer.")
@click.option("--timeout", type=SPAN, help="Wait so long at most, such as 30s; the update stands. Exit code 3 then.")
@output_options
@runtime_options
@click.pass_obj
def update(invocation: Invocation, run: str, name: str, words: tuple[str, ...], **options: Any) -> None:
    """Have RUN's code do NAME, which it takes with ctx.on_update, and print its answer.

    Values are JSON, or text where they are none. The code may refuse, which leaves no trace.
    """
    given = arguments(words, options["json_input"], f"update {name!r}")
    order = Order(run, name, given, options["key"] or secrets.token_hex(8), options["timeout"])
    answer = asyncio.run(_update(invocation, order))
    if invocation.json:
        emit_json(answer)
    else:
        print_value(answer)


async def _update(invocation: Invocation, order: Order) -> Any:
    run, name, given, key, timeout = order
    async with invocation.open(drive=False) as runtime:
        looking = asyncio.create_task(_look(runtime, run))
        try:
            seconds = None if timeout is None else timeout.total_seconds()
            inquiry = Inquiry(run, "update", name, runtime.encoded(given, f"the input of update {name!r}"), key)
            return from_json(await runtime.engine.inquire(inquiry, timeout=seconds))
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


async def _look(runtime: Runtime, run: str) -> None:
    """Say so if nobody takes it up, as the answer would never come."""
    before = await runtime.view(run)
    driven = await taken_up(runtime, run, before)
    if more := hint(await runtime.view(run), driven=driven):
        console(stderr=True).print(more, style="dim", soft_wrap=True)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return update
