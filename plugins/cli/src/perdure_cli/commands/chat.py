"""``perdure chat``: talk to an agent, line by line, in a durable session."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from typing import TYPE_CHECKING, Any

import click

from perdure import hookimpl
from perdure.errors import WorkFailed
from perdure_cli.asking import aside, line
from perdure_cli.course import follow, outcome_error, result_text
from perdure_cli.display import console, emit_json, show_request
from perdure_cli.driving import check_model
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from perdure import Runtime
    from perdure_cli.family import Family
    from perdure_cli.invocation import Invocation


@click.command("chat")
@click.argument("agent")
@click.option("--session", help="A session to go on with; without it a new one begins.")
@output_options
@runtime_options
@click.pass_obj
def chat(invocation: Invocation, agent: str, session: str | None) -> None:
    """Talk to AGENT: each line from stdin is a message, until the end of input (Ctrl-D) or Ctrl-C.

    The session is durable: whatever ends this command, --session goes on where it stopped.
    """
    asyncio.run(_chat(invocation, agent, session or secrets.token_hex(8)))


async def _chat(invocation: Invocation, agent: str, session: str) -> None:
    err = console(stderr=True)
    turns: list[dict[str, Any]] = []
    async with invocation.open() as runtime:
        target, declared = runtime.catalog.find("agent", agent)
        check_model(runtime, declared, invocation.model)
        resume = f"perdure chat {target} --session {session}"
        if not invocation.json:
            err.print(f"session {session} of {target}; go on with it later: {resume}", style="dim", soft_wrap=True)
        try:
            while (message := await aside(lambda: line("> "))) is not None:
                if message.strip():
                    turns.append(await _turn(invocation, runtime, target, message, session))
        finally:
            if not invocation.json and sys.stdin.isatty():
                err.print(f"\nto go on: {resume}", style="dim", soft_wrap=True)
    if invocation.json:
        emit_json({"session": session, "agent": target, "resume": resume, "turns": turns})


async def _turn(invocation: Invocation, runtime: Runtime, target: str, message: str, session: str) -> dict[str, Any]:
    started = await runtime.submit(target, json.dumps(message).encode(), session=session)
    family = await follow(runtime, started.id, quiet=invocation.json or not sys.stderr.isatty())
    if not invocation.json:
        _print(family)
    view = family.view
    return {
        "run": view.id,
        "status": view.status,
        "message": message,
        "reply": view.result,
        "error": view.error,
        "requests": list(family.requests),
    }


def _print(family: Family) -> None:
    """A turn that fails does not end the conversation."""
    if family.view.status == "completed":
        console().print(result_text(family.view), soft_wrap=True)
    elif family.view.finished or family.view.status == "parked":
        error: WorkFailed = outcome_error(family.view)
        click.echo(f"perdure: {error}", err=True)
    for request in family.requests:
        show_request(console(), request)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return chat
