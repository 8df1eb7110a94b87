"""``perdure purge``: forget runs that finished long ago."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import click

from perdure import hookimpl
from perdure.errors import UsageError
from perdure.messages import TERMINAL, RunFilter, Status
from perdure_cli.asking import aside, interactive
from perdure_cli.display import console, emit_json
from perdure_cli.invocation import output_options, runtime_options, target_named
from perdure_cli.times import SPAN

if TYPE_CHECKING:
    from datetime import timedelta

    from perdure import Runtime
    from perdure.messages import RunView
    from perdure_cli.invocation import Invocation

_FINISHED: Final = tuple(status for status in get_args(Status) if status in TERMINAL)
_PAGE: Final = 1000
_MANY: Final = 10_000
"""Where counting stops: beyond it the exact figure decides nothing."""


class Wanted(NamedTuple):
    """What is to go, as the command line says it."""

    older_than: timedelta
    status: tuple[Status, ...]
    target: str | None


@click.command("purge")
@click.option("--older-than", type=SPAN, required=True, help="Nothing was written about them for so long: 30d, 12h.")
@click.option(
    "--status",
    type=click.Choice(_FINISHED),
    multiple=True,
    help="Only runs that ended so; repeatable. By default all that have finished.",
)
@click.option("--target", "--workflow", metavar="NAME", help="Only runs of this agent or workflow.")
@click.option("--dry-run", is_flag=True, help="Count them only.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_options
@runtime_options
@click.pass_obj
def purge(invocation: Invocation, *, dry_run: bool, yes: bool, **options: Any) -> None:
    """Forget runs that have finished: their journals, requests and values. This cannot be undone.

    Runs whose caller has not finished stay, and so do the conversations of sessions. On a terminal it asks first;
    elsewhere it needs --yes.
    """
    wanted = Wanted(**options)
    gone = asyncio.run(_purge(invocation, wanted, dry_run=dry_run, yes=yes))
    if not dry_run:
        if invocation.json:
            emit_json({"purged": gone})
        else:
            console().print(f"forgot {_counted(gone)}")


async def _purge(invocation: Invocation, wanted: Wanted, *, dry_run: bool, yes: bool) -> int:
    async with invocation.open(drive=False) as runtime:
        target = None if wanted.target is None else target_named(runtime, wanted.target)
        wanted = wanted._replace(target=target)
        if dry_run:
            count = await _count(runtime, wanted)
            if invocation.json:
                emit_json({"would_purge": count, "at_least": count >= _MANY})
            else:
                console().print(f"would forget {_about(count)}")
            return 0
        if not yes and not await _confirmed(runtime, wanted):
            return 0
        return await runtime.purge(older_than=wanted.older_than, status=wanted.status, target=wanted.target)


async def _confirmed(runtime: Runtime, wanted: Wanted) -> bool:
    """Whether the person at the terminal agrees. Raises ``UsageError`` if there is none."""
    if not interactive():
        msg = "purge forgets for good, and there is no terminal to ask at: say --yes, or --dry-run to see how many"
        raise UsageError(msg)
    count = await _count(runtime, wanted)
    if not count:
        return True
    return await aside(lambda: click.confirm(f"Forget {_about(count)} for good?"))


async def _count(runtime: Runtime, wanted: Wanted) -> int:
    """How many would go, up to ``_MANY``: those that fit, but for those whose caller has not finished."""
    idle_since = runtime.clock.now() - wanted.older_than.total_seconds()
    which = RunFilter(target=wanted.target, status=wanted.status or _FINISHED, idle_since=idle_since)
    callers: dict[str, bool] = {}
    found, before = 0, None
    while found < _MANY and (page := await runtime.query.runs(which, before=before, limit=_PAGE)):
        for view in page:
            found += await _is_free(runtime, view, callers)
        before = page[-1].id
    return min(found, _MANY)


async def _is_free(runtime: Runtime, view: RunView, callers: dict[str, bool]) -> bool:
    if view.parent is None:
        return True
    if view.parent not in callers:
        caller = await runtime.query.run(view.parent)
        callers[view.parent] = caller is None or caller.finished
    return callers[view.parent]


def _about(count: int) -> str:
    return f"{_MANY:,} runs or more" if count >= _MANY else _counted(count)


def _counted(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return purge
