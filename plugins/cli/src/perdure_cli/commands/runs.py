"""``perdure runs``: list runs and turns."""

from __future__ import annotations

import asyncio
import shlex
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import click
from rich.text import Text

from perdure import hookimpl
from perdure.messages import RunFilter, Status
from perdure_cli.arguments import pairs
from perdure_cli.display import console, duration, emit_json, moment, progress_text, status_text, table
from perdure_cli.invocation import output_options, runtime_options, target_named
from perdure_cli.times import MOMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perdure.messages import RunView
    from perdure_cli.invocation import Invocation

_STATUSES: Final[tuple[str, ...]] = get_args(Status)
_LIMIT: Final = 20
_WIDE: Final = 110  # columns from which there is room for tags, sessions and keys; --json always has them


class Wanted(NamedTuple):
    """Which runs, as the command line says it."""

    status: tuple[Status, ...]
    target: str | None
    tags: tuple[str, ...]
    since: float | None
    until: float | None
    parent: str | None
    before: str | None
    limit: int


@click.command("runs")
@click.option("--status", type=click.Choice(_STATUSES), multiple=True, help="Only runs of this status; repeatable.")
@click.option("--target", "--workflow", metavar="NAME", help="Only runs of this agent or workflow.")
@click.option("--tag", "tags", metavar="KEY=VALUE", multiple=True, help="Only runs with this tag; repeatable.")
@click.option("--since", type=MOMENT, help="Only runs accepted since then: 2026-01-31, 2026-01-31T09:30, or 2h ago.")
@click.option("--until", type=MOMENT, help="Only runs accepted before then.")
@click.option("--parent", metavar="RUN", help="Only runs that this one called.")
@click.option("--limit", type=click.IntRange(1, 1000), default=_LIMIT, show_default=True, help="How many at once.")
@click.option("--before", metavar="RUN", help="Go on after this run: the last one of the page before.")
@output_options
@runtime_options
@click.pass_obj
def runs(invocation: Invocation, **options: Any) -> None:
    """List runs and turns, newest first, a page at a time."""
    wanted = Wanted(**options)
    found = asyncio.run(_runs(invocation, wanted))
    page = found[: wanted.limit]
    if invocation.json:
        emit_json(page)
    elif page:
        _print(page)
        if len(found) > len(page):
            console().print(f"older ones: {_next_page(invocation, wanted, page[-1].id)}", style="dim", soft_wrap=True)
    else:
        console().print("no runs")


async def _runs(invocation: Invocation, wanted: Wanted) -> Sequence[RunView]:
    """One more than wanted, if there are more."""
    async with invocation.open(drive=False) as runtime:
        target = None if wanted.target is None else target_named(runtime, wanted.target)
        which = RunFilter(
            target=target,
            status=wanted.status,
            parent=wanted.parent,
            tags=pairs(wanted.tags, "--tag"),
            since=wanted.since,
            until=wanted.until,
        )
        return await runtime.query.runs(which, before=wanted.before, limit=wanted.limit + 1)


def _next_page(invocation: Invocation, wanted: Wanted, last: str) -> str:
    """The command line that goes on after the page's last run; ages are times by now, so that nothing slips."""
    given: list[tuple[str, object]] = [("--status", status) for status in wanted.status]
    given += [("--target", wanted.target)]
    given += [("--tag", tag) for tag in wanted.tags]
    given += [(name, at and moment(at)) for name, at in (("--since", wanted.since), ("--until", wanted.until))]
    given += [("--parent", wanted.parent), ("--limit", wanted.limit if wanted.limit != _LIMIT else None)]
    given += [("--data", invocation.data), ("--store", invocation.store), ("--engine", invocation.engine)]
    given += [("--app", app) for app in invocation.apps]
    words = [word for name, value in [*given, ("--before", last)] if value for word in (name, str(value))]
    return shlex.join(["perdure", "runs", *words])


def _print(page: Sequence[RunView]) -> None:
    """A table of the columns that there is something in, and room for."""
    out = console()
    columns: dict[str, Callable[[RunView], Text]] = {
        "run": lambda view: Text(view.id),
        "what": lambda view: _cut(view.target),
        "status": lambda view: status_text(view.status),
        "progress": lambda view: _cut(progress_text(view.progress)),
        "age": lambda view: Text(duration(max(time.time() - view.created, 0.0))),
    }
    if out.width >= _WIDE:
        columns["tags"] = lambda view: _cut(" ".join(f"{key}={value}" for key, value in view.tags.items()))
        columns["session or key"] = lambda view: _cut(view.session or view.key or "")
    cells = {name: [text(view) for view in page] for name, text in columns.items()}
    filled = {name: column for name, column in cells.items() if any(cell.plain for cell in column)}
    listing = table(*filled, unbroken=("run", "status", "age"))
    for row in zip(*filled.values(), strict=True):
        listing.add_row(*row)
    out.print(listing)


def _cut(text: str) -> Text:
    """What is shortened where there is no room."""
    return Text(text, no_wrap=True, overflow="ellipsis")


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return runs
