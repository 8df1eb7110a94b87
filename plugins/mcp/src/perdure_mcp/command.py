"""``perdure mcp``: the command and its options."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import click

from perdure import hookimpl
from perdure_mcp.server import Options, serve


@hookimpl
def perdure_command() -> click.Command:
    """The command line's ``mcp``."""
    return mcp


@click.command("mcp")
@click.option(
    "--app",
    "apps",
    multiple=True,
    metavar="NAME|MODULE:ATTRIBUTE",
    help="Serve only this app: installed, or imported from here; repeatable. By default all that are installed.",
)
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="Folder for local files (setting 'data')."
)
@click.option("--model", metavar="PROVIDER:MODEL", help="Model of agents that do not say (setting 'model').")
@click.option(
    "--wait-budget",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Return from a call after this time although its run goes on (setting 'wait_budget' in [mcp]; 50).",
)
def mcp(apps: tuple[str, ...], data: Path | None, model: str | None, wait_budget: float | None) -> None:
    """Serve agents and workflows as MCP tools over stdin and stdout.

    Meant to be started by an MCP client. Ends when the client closes stdin, or at SIGTERM; runs that are under way go
    on when it is started again on the same data, or at once where another process serves it.
    """
    logging.basicConfig(format="perdure: %(levelname)s: %(message)s", stream=sys.stderr)
    if sys.stdin.isatty():
        click.echo("perdure: speaking MCP over stdin and stdout; end with Ctrl-D", err=True)
    # A path on the command line is relative to where it is typed, not to the configuration file.
    overrides = {"data": None if data is None else str(data.absolute()), "model": model}
    asyncio.run(serve(Options(apps=apps, overrides=overrides, wait_budget=wait_budget)))
