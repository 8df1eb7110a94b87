"""``perdure answer``: answer a request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from perdure import hookimpl
from perdure.errors import InvalidInput, UnknownName
from perdure_cli.arguments import by_name, parsed
from perdure_cli.asking import interactive, value_for
from perdure_cli.display import console, emit_json
from perdure_cli.driving import hint, taken_up
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from perdure.messages import RequestView
    from perdure_cli.invocation import Invocation


@click.command("answer")
@click.argument("request")
@click.argument("words", metavar="[VALUE]", nargs=-1)
@output_options
@runtime_options
@click.pass_obj
def answer(invocation: Invocation, request: str, words: tuple[str, ...]) -> None:
    """Answer REQUEST with VALUE: JSON ('-' reads it from stdin), or fields as key=value.

    \b
      perdure answer req_1f… approved=true
      perdure answer req_1f… '{"approved": true}'

    Without a VALUE it is asked for, on a terminal. A process that drives the run goes on with it at once.
    """  # noqa: D301 - click reads the backspace
    asyncio.run(_answer(invocation, request, words))


async def _answer(invocation: Invocation, id_: str, words: tuple[str, ...]) -> None:
    async with invocation.open(drive=False) as runtime:
        request = await runtime.query.request(id_)
        if request is None:
            way_out = "'perdure runs --status waiting' lists the runs that wait, 'perdure show RUN' their requests"
            raise UnknownName("request", id_, hint=way_out)
        before = await runtime.view(request.run)
        await runtime.answer(id_, _value(request, words))
        handed = await runtime.view(request.run)
        driven = await taken_up(runtime, request.run, before, handed.updated)
        after = await runtime.view(request.run)
    if invocation.json:
        emit_json({"request": id_, "run": request.run, "status": after.status, "driven": driven})
        return
    out = console()
    out.print(f"answered; run {request.run} is {after.status}", soft_wrap=True)
    if more := hint(after, driven=driven):
        out.print(more, soft_wrap=True)


def _value(request: RequestView, words: tuple[str, ...]) -> Any:
    """What the words say: JSON where the only one is, fields by name, or the word itself for a text."""
    schema = request.answer_schema
    if words:
        if len(words) == 1 and _is_json(words[0], schema):
            return parsed(words[0], "the answer")
        if schema.get("properties"):
            return by_name(words, schema, f"the answer to {request.id!r}")
        return " ".join(words) if schema.get("type") == "string" else parsed(" ".join(words), "the answer")
    if interactive():
        click.echo(request.prompt)
        return value_for(schema)
    msg = f"request {request.id!r} needs a value, as JSON or key=value, and there is no terminal to ask for it"
    raise InvalidInput(msg)


def _is_json(word: str, schema: dict[str, Any]) -> bool:
    return word == "-" or word.startswith(("{", "[") if schema.get("properties") else ("{", "[", '"'))


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return answer
