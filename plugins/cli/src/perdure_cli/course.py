"""Following a run to its end before the eyes of a person, who is asked what it asks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

import click
from rich.text import Text

from perdure.errors import InvalidInput, RequestClosed, RunCancelled, RunFailed, RunParked
from perdure.messages import HALTED, ErrorInfo
from perdure_cli.asking import aside, interactive, value_for
from perdure_cli.display import (
    MARKS,
    console,
    duration,
    emit_json,
    gist,
    preview,
    progress_text,
    seconds_of,
    show_request,
)
from perdure_cli.exits import EXIT_UNFINISHED
from perdure_cli.family import Family, Recorded

if TYPE_CHECKING:
    from perdure import Runtime
    from perdure.messages import Entry, Progress, RequestView, RunView
    from perdure_cli.invocation import Invocation

_UNTOLD: Final = frozenset({"begin", "heartbeat"})
"""Kinds of entries that are no news."""


async def follow(runtime: Runtime, run: str, *, quiet: bool = False, patience: float = 0.2) -> Family:
    """Follow a run until it is finished or parked, or waits for an answer that nobody here can give.

    Args:
        runtime: Where it runs.
        run: Its id.
        quiet: Show nothing and ask nothing.
        patience: See ``Family.recorded``.
    """
    err = console(stderr=True)
    family = Family(runtime, await runtime.view(run))
    asks = interactive() and not quiet
    told: Progress | None = None
    while True:
        async for recorded in family.recorded(patience=patience):
            if quiet:
                continue
            if recorded.entry.kind not in _UNTOLD:
                err.print(line_of(recorded), overflow="ellipsis", no_wrap=err.is_terminal)
            if (progress := family.view.progress) is not None and progress != told:
                told = progress
                err.print(Text(progress_text(told), style="cyan"), overflow="ellipsis", no_wrap=err.is_terminal)
        if family.view.finished or family.view.status in HALTED or not asks:
            return family
        for request in family.requests:
            await _answer(runtime, request)


def report(family: Family, invocation: Invocation) -> int:
    """Print how a followed run stands; return the exit code.

    Raises:
        RunFailed, RunCancelled, RunParked: It ended so (with ``--json`` the document says it, and 1 is returned).
    """
    view = family.view.model_copy(update={"requests": tuple(family.requests)})
    return report_view(view, invocation)


def report_view(view: RunView, invocation: Invocation) -> int:
    """Print how a run stands that was followed or waited for; return the exit code. Raises as ``report``."""
    ended = view.finished or view.status == "parked"
    if invocation.json:
        emit_json(view)
        return 0 if view.status == "completed" else 1 if ended else EXIT_UNFINISHED
    out = console()
    if view.status == "completed":
        out.print(result_text(view), soft_wrap=True)
        return 0
    if ended:
        raise outcome_error(view)
    for request in view.requests:
        show_request(out, request)
    once = "once answered, it goes on" if view.requests else "it goes on"
    way_on = f"resume {view.id}" if view.status == "suspended" else f"show {view.id} --follow"
    out.print(f"run {view.id} is {view.status}; {once} with: perdure {way_on}", soft_wrap=True)
    return EXIT_UNFINISHED


def result_text(view: RunView) -> Text:
    """A result for people: an agent's text, or JSON."""
    result = view.result
    if view.kind == "turn" and isinstance(result, dict):
        text = cast("dict[str, Any]", result).get("text")
        result = text if isinstance(text, str) else cast("Any", result)
    return Text(result if isinstance(result, str) else json.dumps(result, indent=2, ensure_ascii=False))


def outcome_error(view: RunView) -> RunFailed | RunCancelled | RunParked:
    """The error that says how a run ended."""
    error = view.error or ErrorInfo(type="unknown")
    if view.status in {"cancelled", "terminated"}:
        return RunCancelled(f"run {view.id!r} was {view.status}: {error.message or 'no reason given'}")
    return RunParked(view.id, error) if view.status == "parked" else RunFailed(view.id, error)


def line_of(recorded: Recorded) -> Text:
    """One recorded entry as one line."""
    run, depth, entry = recorded
    name = preview(entry.name or entry.path, 40)
    where = f"{run.target.rpartition('.')[2]} " if depth else ""
    line = Text("  " * depth)
    line.append(f"{MARKS[entry.kind]} ", style="red" if entry.error else "green")
    line.append(where, style="dim")
    line.append(name, style="bold")
    line.append(f"  {_account(entry)}", style="dim")
    return line


def _account(entry: Entry) -> str:
    attempts = f"attempt {entry.attempt}" if entry.attempt > 1 or entry.kind == "attempt" else ""
    return "  ".join(part for part in (duration(seconds_of(entry)), attempts, gist(entry, 80)) if part)


async def _answer(runtime: Runtime, request: RequestView) -> None:
    """Ask the person until the answer fits, or somebody else has answered."""
    click.echo(f"\n{request.prompt}")
    while True:
        value = await aside(lambda: value_for(request.answer_schema))
        try:
            return await runtime.answer(request.id, value)
        except InvalidInput as error:
            click.echo(f"that does not fit: {error}", err=True)
        except RequestClosed as error:
            return click.echo(str(error), err=True)
