"""``perdure watch``: a run's status and progress before one's eyes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import click
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from perdure import hookimpl
from perdure.messages import HALTED
from perdure_cli.course import report_view
from perdure_cli.display import console, duration, emit_line, moment, progress_text, show_request, status_text
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from rich.console import Console, ConsoleOptions, RenderResult

    from perdure import Runtime
    from perdure.messages import RunView
    from perdure_cli.invocation import Invocation

_FIRST: Final = 0.1
"""Seconds between two looks; while nothing changes they grow apart, up to ``_LAST``."""

_LAST: Final = 1.0
_BAR: Final = 20  # columns


class Standing(NamedTuple):
    """What is told of a run whenever it changes."""

    status: str
    progress: str
    requests: tuple[str, ...]

    @classmethod
    def of(cls, view: RunView) -> Standing:
        """How a run stands."""
        return cls(view.status, progress_text(view.progress), tuple(request.id for request in view.requests))


@click.command("watch")
@click.argument("run")
@output_options
@runtime_options
@click.pass_obj
def watch(invocation: Invocation, run: str) -> int:
    """Watch RUN's status and progress until it ends, and then print its result.

    On a terminal there is one line that lives; elsewhere, one for each change, and with --json a document for each.
    It drives nothing: see 'perdure worker'. Ctrl-C stops watching, not the run.
    """
    return asyncio.run(_watch(invocation, run))


async def _watch(invocation: Invocation, run: str) -> int:
    async with invocation.open(drive=False) as runtime:
        if invocation.json:
            return await _lines_of_json(runtime, run)
        err = console(stderr=True)
        if err.is_terminal:
            await _live(runtime, run, err)
        else:
            async for view in _changes(runtime, run):
                err.print(_line(view), soft_wrap=True)
        return report_view(await runtime.view(run), invocation)


async def _live(runtime: Runtime, run: str, err: Console) -> None:
    """One line that lives; what the run asks is printed above it."""
    shown: set[str] = set()
    with Live(console=err, refresh_per_second=8, transient=True, redirect_stdout=False) as live:
        async for view in _changes(runtime, run):
            for request in view.requests:
                if request.id not in shown:
                    shown.add(request.id)
                    show_request(err, request)
            live.update(_Living(view))


async def _lines_of_json(runtime: Runtime, run: str) -> int:
    view = None
    async for view in _changes(runtime, run):
        requests = [request.id for request in view.requests]
        emit_line(
            {"run": run, "at": view.updated, "status": view.status, "progress": view.progress, "requests": requests}
        )
    return 0 if view is not None and view.status == "completed" else 1


async def _changes(runtime: Runtime, run: str) -> AsyncGenerator[RunView]:
    """The run whenever what is told of it has changed, the last time when it has finished or is parked."""
    told: Standing | None = None
    pause = _FIRST
    while True:
        view = await runtime.view(run)
        if (standing := Standing.of(view)) != told:
            told, pause = standing, _FIRST
            yield view
        if view.finished or view.status == "parked":
            return
        await runtime.engine.wait(run, timeout=pause)
        pause = min(_LAST, pause * 1.5)


# -- for people ---------------------------------------------------------------------------------------


def _line(view: RunView) -> Text:
    """A change as one line."""
    asks = [f"asks: perdure answer {request.id}" for request in view.requests]
    line = Text(f"{moment(view.updated)}  ", style="dim")
    line.append_text(status_text(view.status))
    line.append("  ".join(["", progress_text(view.progress), *asks]).rstrip())
    return line


class _Living:
    """A run on one line: drawn anew several times a second, so that its age grows and its spinner turns."""

    def __init__(self, view: RunView) -> None:
        self._view = view
        self._spinner = Spinner("dots", style="cyan")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, progress = self._view, self._view.progress
        line = Table.grid(padding=(0, 1), expand=False)
        for name in ("spinner", "what", "status", "bar", "progress", "age"):
            line.add_column(name, no_wrap=name in {"status", "age"})
        bar = None
        if progress is not None and progress.done is not None and progress.total:
            bar = ProgressBar(progress.total, max(0.0, min(progress.done, progress.total)), width=_BAR)
        rests = view.finished or view.status in HALTED
        line.add_row(
            "" if rests else self._spinner,
            Text(view.target, style="bold", no_wrap=True, overflow="ellipsis"),
            status_text(view.status),
            bar or "",
            Text(progress_text(progress), no_wrap=True, overflow="ellipsis"),
            Text(duration(max(time.time() - view.created, 0.0)), style="dim"),
        )
        yield line


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return watch
