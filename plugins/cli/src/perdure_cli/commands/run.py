"""``perdure run``: start a workflow or an agent, follow it, print its result."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from perdure import hookimpl
from perdure.errors import InvalidInput
from perdure_cli.arguments import by_name, parsed
from perdure_cli.course import follow, report
from perdure_cli.display import console, emit_json
from perdure_cli.driving import check_model, moved, nobody_drives
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from perdure import Runtime
    from perdure_cli.invocation import Invocation


@click.command("run")
@click.argument("name")
@click.argument("words", nargs=-1)
@click.option("--input", "json_input", metavar="JSON", help="The input as JSON; '-' reads it from stdin.")
@click.option("--key", help="Idempotency key: with a key that was used before, this is that run.")
@click.option("--session", help="An agent's session to go on with.")
@click.option("--detach", is_flag=True, help="Return as soon as the run is accepted; a live process drives it.")
@output_options
@runtime_options
@click.pass_obj
def run(invocation: Invocation, name: str, words: tuple[str, ...], **options: Any) -> int:
    """Start the workflow or agent NAME and follow it.

    WORDS are a workflow's arguments, as key=value or in their order, or an agent's message:

    \b
      perdure run briefing folder=docs
      perdure run reader "Read docs/index.md" --session s1

    What the run asks is asked here, on a terminal; elsewhere the command ends with exit code 3, and the run waits.
    """  # noqa: D301 - click reads the backspace
    return asyncio.run(_run(invocation, Order(name, words, **options)))


class Order(NamedTuple):
    """What is to be started, as the command line says it."""

    name: str
    words: tuple[str, ...]
    json_input: str | None
    key: str | None
    session: str | None
    detach: bool


async def _run(invocation: Invocation, order: Order) -> int:
    async with invocation.open(drive=not order.detach) as runtime:
        target, declared = runtime.catalog.find_any(order.name)
        payload = _payload(order, target, declared)
        check_model(runtime, declared, invocation.model)
        started = await runtime.submit(target, payload, key=order.key, session=order.session)
        if order.detach:
            return await _detach(invocation, runtime, started.id)
        if not invocation.json:
            note = "" if started.new else " (started before with this key)"
            console(stderr=True).print(f"run {started.id}{note}", style="dim")
        return report(await follow(runtime, started.id, quiet=invocation.json), invocation)


async def _detach(invocation: Invocation, runtime: Runtime, run_id: str) -> int:
    view = await runtime.view(run_id)
    driven = view.status != "pending" or await moved(runtime, view)
    view = await runtime.view(run_id)
    if invocation.json:
        emit_json({"run": view, "driven": driven})
        return 0
    console().print(f"run {run_id} is accepted ({view.status}); perdure show {run_id} shows it", soft_wrap=True)
    if not driven:
        console().print(nobody_drives(run_id), soft_wrap=True)
    return 0


def _payload(order: Order, target: str, declared: Any) -> bytes:
    """The input as JSON. Raises ``InvalidInput``."""
    json_input, words = order.json_input, order.words
    if json_input is not None and words:
        msg = f"the input of {target!r} was given twice, by --input and as {' '.join(words)!r}: leave one out"
        raise InvalidInput(msg)
    if json_input is not None:
        value = parsed(json_input, "--input")
    elif declared.kind == "workflow":
        value = by_name(words, declared.parameters.schema, f"workflow {target!r}")
    elif any(word.strip() for word in words):
        value = " ".join(words)
    else:
        msg = f"agent {target!r} takes a message: perdure run {order.name} 'the message'"
        raise InvalidInput(msg)
    return json.dumps(value).encode()


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return run
