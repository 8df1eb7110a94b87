"""``perdure query``: ask a run's code how it stands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from perdure import hookimpl
from perdure_cli.arguments import arguments
from perdure_cli.display import emit_json, print_value
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation


@click.command("query")
@click.argument("run")
@click.argument("name")
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--input", "json_input", metavar="JSON", help="The arguments as JSON; '-' reads them from stdin.")
@output_options
@runtime_options
@click.pass_obj
def query(invocation: Invocation, run: str, name: str, words: tuple[str, ...], json_input: str | None) -> None:
    """Ask RUN's code for NAME, which it answers with ctx.on_query; nothing is changed or recorded.

    Values are JSON, or text where they are none. No process needs to drive the run: its code is brought here to where
    the journal stands, so it must be installed here.
    """
    answer = asyncio.run(_query(invocation, run, name, arguments(words, json_input, f"query {name!r}")))
    if invocation.json:
        emit_json(answer)
    else:
        print_value(answer)


async def _query(invocation: Invocation, run: str, name: str, given: dict[str, Any]) -> Any:
    async with invocation.open(drive=False) as runtime:
        return await runtime.handle(run).query(name, **given)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return query
