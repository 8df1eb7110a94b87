"""``perdure show``: a run as it stands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

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
    entry_document,
    gist,
    moment,
    preview,
    seconds_of,
    show_request,
)
from perdure_cli.family import called_runs
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from rich.console import Console

    from perdure.messages import Entry, RunView
    from perdure.ports import Query
    from perdure_cli.invocation import Invocation


class Record(NamedTuple):
    """A run with its whole journal, and what it called, by the path of the call."""

    run: RunView
    entries: list[Entry]
    called: dict[str, Record]


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
    """Show RUN: status, input, result or error, its journal as a tree by branch, open requests."""
    if follows:
        return asyncio.run(_follow(invocation, run))
    record = asyncio.run(_record(invocation, run, depth))
    if invocation.json:
        emit_json(_document(record))
    else:
        _print(record)
    return 0


async def _follow(invocation: Invocation, run: str) -> int:
    async with invocation.open() as runtime:
        return report(await follow(runtime, run, quiet=invocation.json, patience=1.0), invocation)


async def _record(invocation: Invocation, run: str, depth: int) -> Record:
    async with invocation.open(drive=False) as runtime:
        return await _gather(runtime.query, await runtime.view(run), depth)


async def _gather(query: Query, view: RunView, depth: int) -> Record:
    entries: list[Entry] = []
    while page := await query.journal(view.id, after=len(entries)):
        entries += page
    if not depth:
        return Record(view, entries, {})
    called: dict[str, Record] = {}
    for child in await called_runs(query, view):
        called[child.path or child.id] = await _gather(query, await query.run(child.id) or child, depth - 1)
    return Record(view, entries, called)


def _document(record: Record) -> dict[str, Any]:
    return {
        "run": record.run,
        "journal": [entry_document(entry) for entry in record.entries],
        "called": {path: _document(child) for path, child in record.called.items()},
    }


# -- for people ---------------------------------------------------------------------------------------


def _print(record: Record) -> None:
    out, view = console(), record.run
    out.print(Text.assemble((f"{view.id}  ", "bold"), f"{view.target}  ", (view.status, STYLES[view.status])))
    _facts(out, view)
    tree = Tree(Text("journal", style="bold"), guide_style="dim")
    _grow(tree, record)
    if tree.children:
        out.print(tree)
    for request in _requests(record):
        show_request(out, request)


def _facts(out: Console, view: RunView) -> None:
    took = duration(view.updated - view.created)
    facts = {
        "started": moment(view.created),
        "moved": f"{moment(view.updated)} ({took} later)",
        "session": view.session,
        "key": view.key,
        "called by": view.parent,
        "wakes at": None if view.wake_at is None else moment(view.wake_at),
        "input": preview(view.input, 400),
        "result": None if view.status != "completed" else preview(view.result, 400),
        "error": None if view.error is None else str(view.error),
    }
    for name, value in facts.items():
        if value is not None:
            out.print(Text.assemble((f"  {name:10}", "dim"), value), soft_wrap=name in {"called by", "session"})
    if view.status == "parked":
        out.print(f"  {outcome_error(view)}: fix its code and resume it; nothing is lost")


def _requests(record: Record) -> list[Any]:
    return [*record.run.requests, *(request for child in record.called.values() for request in _requests(child))]


def _grow(tree: Tree, record: Record) -> None:
    """Add a run's entries below a node: each branch of its code is a node of its own."""
    branches: dict[str, Tree] = {"": tree}
    shown: set[str] = set()
    for entry in record.entries:
        node = _branch(branches, entry.path.rpartition("/")[0]).add(_entry_text(entry, record.called.get(entry.path)))
        shown.add(entry.path)
        if entry.path in record.called:
            _grow(node, record.called[entry.path])
    for path, child in record.called.items():
        if path not in shown:
            text = Text.assemble("→ ", (path.rpartition("/")[2], "bold"), f"  {child.run.status}  {child.run.id}")
            _grow(_branch(branches, path.rpartition("/")[0]).add(text), child)


def _branch(branches: dict[str, Tree], scope: str) -> Tree:
    """The node of a branch (``0.2`` is below ``0``), made when it is first met."""
    if scope not in branches:
        branches[scope] = _branch(branches, scope.rpartition(".")[0]).add(Text(f"branch {scope}", style="dim"))
    return branches[scope]


def _entry_text(entry: Entry, called: Record | None) -> Text:
    text = Text()
    failed = entry.error is not None
    text.append("✗ " if failed else "✓ ", style="red" if failed else "green")
    text.append(entry.name if entry.role == "model" else entry.path.rpartition("/")[2], style="bold")
    text.append(f"  {entry.role if entry.kind == 'step' else entry.kind}", style="dim")
    if entry.attempt > 1 or entry.kind == "attempt":
        text.append(f"  attempt {entry.attempt}" if entry.kind == "attempt" else f"  {entry.attempt} attempts")
    text.append(f"  {duration(seconds_of(entry))}", style="dim")
    if called is not None:
        text.append(f"  {called.run.id}", style="dim")
    else:
        text.append(f"  {gist(entry, 100)}", style="dim")
    return text


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return show
