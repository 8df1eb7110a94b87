"""``perdure show``: a run as it stands, with its whole history."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click
from rich.text import Text
from rich.tree import Tree

from perdure import hookimpl
from perdure_cli.course import follow, outcome_error, report
from perdure_cli.display import (
    STYLES,
    console,
    duration,
    emit_json,
    moment,
    preview,
    progress_text,
    show_request,
)
from perdure_cli.history import History, Record, record
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from rich.console import Console

    from perdure.messages import RunView
    from perdure_cli.invocation import Invocation


@click.command("show")
@click.argument("run")
@click.option(
    "--depth", type=click.IntRange(0), default=3, show_default=True, help="How deep to go into what it called."
)
@click.option("--follow", "follows", is_flag=True, help="Follow it to its end, driving it if no other process does.")
@output_options
@runtime_options
@click.pass_obj
def show(invocation: Invocation, run: str, depth: int, *, follows: bool) -> int:
    """Show RUN: status, progress, tags, input, result or error, its journal as a tree by branch, open requests.

    Each line of the journal has its number ('perdure retry --at' and 'perdure fork --at' keep so many), what it is,
    how long it took, the line of code that asked for it, and what came of it. --json has all of each.
    """
    if follows:
        return asyncio.run(_follow(invocation, run))
    found = asyncio.run(_record(invocation, run, depth))
    if invocation.json:
        emit_json(found.document())
    else:
        _print(found)
    return 0


async def _follow(invocation: Invocation, run: str) -> int:
    async with invocation.open() as runtime:
        return report(await follow(runtime, run, quiet=invocation.json, patience=1.0), invocation)


async def _record(invocation: Invocation, run: str, depth: int) -> Record:
    async with invocation.open(drive=False) as runtime:
        return await record(runtime.query, await runtime.view(run), depth)


# -- for people ---------------------------------------------------------------------------------------


def _print(found: Record) -> None:
    out, view = console(), found.run
    out.print(
        Text.assemble((f"{view.id}  ", "bold"), f"{view.target}  ", (view.status, STYLES[view.status])), soft_wrap=True
    )
    _facts(out, view)
    tree = Tree(Text("journal", style="bold"), guide_style="dim")
    History(found).grow(tree)
    if tree.children:
        out.print(tree)
    for request in found.requests():
        show_request(out, request)


def _facts(out: Console, view: RunView) -> None:
    facts = {
        **_origin(view),
        **_course(view),
        "input": preview(view.input, 400),
        "result": None if view.status != "completed" else preview(view.result, 400),
        "error": None if view.error is None or view.status == "suspended" else str(view.error),
    }
    for name, value in facts.items():
        if value:
            out.print(Text.assemble((f"  {name:11}", "dim"), value), soft_wrap=name in {"called by", "session"})
    if view.status == "parked":
        out.print(f"  {outcome_error(view)}: fix its code and resume it; nothing is lost")


def _origin(view: RunView) -> dict[str, str | None]:
    """What it was started with, besides its input."""
    return {
        "called by": view.parent and f"{view.parent}{f' at {view.path}' if view.path else ''}",
        "session": view.session,
        "key": view.key,
        "tags": " ".join(f"{key}={value}" for key, value in view.tags.items()),
        "version": str(view.version) if view.kind == "workflow" else None,
        "generation": f"{view.generation}, begun anew so often" if view.generation else None,
    }


def _course(view: RunView) -> dict[str, str | None]:
    """When what became of it."""
    later = duration(view.updated - view.created)
    is_delayed = view.due is not None and view.status == "pending" and view.due > time.time()
    return {
        "progress": progress_text(view.progress),
        "suspended": (view.error.message if view.error else "") if view.status == "suspended" else None,
        "started": moment(view.created),
        "begins": moment(view.due) if view.due is not None and is_delayed else None,
        "moved": f"{moment(view.updated)} ({later} later)",
        "wakes at": None if view.wake_at is None or is_delayed else moment(view.wake_at),
    }


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return show
