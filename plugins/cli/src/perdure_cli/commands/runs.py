"""``perdure runs``: list runs and turns."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import click

from perdure import hookimpl
from perdure.messages import RunFilter, Status
from perdure_cli.display import console, duration, emit_json, status_text, table
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.messages import RunView
    from perdure_cli.invocation import Invocation

_STATUSES: Final[tuple[str, ...]] = get_args(Status)


@click.command("runs")
@click.option("--status", type=click.Choice(_STATUSES), help="Only runs of this status.")
@click.option("--target", help="Only runs of this agent or workflow.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@output_options
@runtime_options
@click.pass_obj
def runs(invocation: Invocation, status: str | None, target: str | None, limit: int) -> None:
    """List runs and turns, newest first."""
    found = asyncio.run(_runs(invocation, cast("Status | None", status), target, limit))
    if invocation.json:
        emit_json(found)
        return
    if not found:
        console().print("no runs")
        return
    listing = table("run", "target", "status", "age", "session or key", unbroken=("run", "status", "age"))
    for view in found:
        age = duration(max(time.time() - view.created, 0.0))
        listing.add_row(view.id, view.target, status_text(view.status), age, view.session or view.key or "")
    console().print(listing)


async def _runs(invocation: Invocation, status: Status | None, target: str | None, limit: int) -> Sequence[RunView]:
    async with invocation.open(drive=False) as runtime:
        qualified: Any = None if target is None else runtime.catalog.find_any(target)[0]
        return await runtime.query.runs(RunFilter(target=qualified, status=(status,) if status else ()), limit=limit)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return runs
