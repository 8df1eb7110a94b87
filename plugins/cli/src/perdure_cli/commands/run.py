"""``perdure run``: start a workflow or an agent, follow it, print its result."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import click

from perdure import hookimpl
from perdure.errors import InvalidInput
from perdure_cli.arguments import by_name, pairs, parsed
from perdure_cli.course import follow, report
from perdure_cli.display import console, moment
from perdure_cli.driving import check_model
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.steering import introduce, look_after
from perdure_cli.times import SPAN

if TYPE_CHECKING:
    from datetime import timedelta

    from perdure import Runtime
    from perdure.runs import Run
    from perdure.runtime import Reuse
    from perdure_cli.invocation import Invocation

_REUSES: Final = ("join", "fail", "restart", "restart-failed")


@click.command("run")
@click.argument("name")
@click.argument("words", nargs=-1)
@click.option("--input", "json_input", metavar="JSON", help="The input as JSON; '-' reads it from stdin.")
@click.option("--key", help="Idempotency key: with a key that was used before, this is that run.")
@click.option("--id", "run_id", help="The run's id; by default an unguessable one.")
@click.option(
    "--reuse",
    type=click.Choice(_REUSES),
    default="join",
    show_default=True,
    help="If that id is taken: follow that run, fail, or begin it anew once it has finished (without completing).",
)
@click.option("--tag", "tags", metavar="KEY=VALUE", multiple=True, help="A label that it is listed by; repeatable.")
@click.option("--delay", type=SPAN, help="Begin after so long: 90s, 2h, 1d.")
@click.option("--session", help="An agent's session to go on with.")
@click.option("--detach", is_flag=True, help="Return as soon as the run is accepted; a live process drives it.")
@output_options
@runtime_options
@click.pass_obj
def run(invocation: Invocation, name: str, words: tuple[str, ...], **options: Any) -> int:
    """Start the workflow or agent NAME and follow it.

    WORDS are a workflow's arguments, as key=value or in their order, or an agent's message:

    \b
      perdure run briefing folder=docs --tag team=news
      perdure run reader "Read docs/index.md" --session s1
      perdure run remind name=Ada --delay 2h --detach

    What the run asks is asked here, on a terminal; elsewhere the command ends with exit code 3, and the run waits.
    """  # noqa: D301 - click reads the backspace
    return asyncio.run(_run(invocation, Order(name, words, **options)))


_BEFORE: Final = "was started before"


class Order(NamedTuple):
    """What is to be started, as the command line says it."""

    name: str
    words: tuple[str, ...]
    json_input: str | None
    key: str | None
    run_id: str | None
    reuse: str
    tags: tuple[str, ...]
    delay: timedelta | None
    session: str | None
    detach: bool


async def _run(invocation: Invocation, order: Order) -> int:
    async with invocation.open(drive=not order.detach) as runtime:
        target, declared = runtime.catalog.find_any(order.name)
        payload = _payload(order, target, declared)
        check_model(runtime, declared, invocation.model)
        reuse = cast("Reuse", order.reuse.replace("-", "_"))
        starting = runtime.options(id=order.run_id, reuse=reuse, tags=pairs(order.tags, "--tag"), delay=order.delay)
        started = await starting.submit(target, payload, key=order.key, session=order.session)
        if order.detach:
            introduce(invocation, "is accepted" if started.new else _BEFORE, await look_after(runtime, started.id))
            return 0
        if not invocation.json:
            await _note(runtime, started)
        return report(await follow(runtime, started.id, quiet=invocation.json), invocation)


async def _note(runtime: Runtime, started: Run[Any]) -> None:
    due = (await runtime.view(started.id)).due if started.new else None
    more = "" if due is None else f"begins at {moment(due)}; --detach would leave it to another process"
    said = " ".join(part for part in (f"run {started.id}", more if started.new else _BEFORE) if part)
    console(stderr=True).print(said, style="dim", soft_wrap=True)


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
