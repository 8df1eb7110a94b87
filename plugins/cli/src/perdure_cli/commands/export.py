"""``perdure export``: a run's journal as a file, for ``perdure replay``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure import hookimpl
from perdure.errors import UsageError
from perdure.testing import export as exported
from perdure_cli.display import console, emit_json
from perdure_cli.invocation import output_options, runtime_options

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation


@click.command("export")
@click.argument("run")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; else stdout.")
@output_options
@runtime_options
@click.pass_obj
def export(invocation: Invocation, run: str, output: Path | None) -> None:
    """Write the journal of RUN, a workflow's, as JSON: for 'perdure replay' and perdure.testing.replay.

    It holds the run's input and results as they are: mind where you keep it.
    """
    data = asyncio.run(_export(invocation, run))
    if output is None:
        click.echo(data.decode())
        return
    try:
        output.write_bytes(data + b"\n")
    except OSError as error:
        msg = f"{str(output)!r} cannot be written: {error.strerror or error}; choose another file with --output"
        raise UsageError(msg) from error
    if invocation.json:
        emit_json({"run": run, "file": str(output), "bytes": len(data) + 1})
    else:
        console().print(f"wrote the journal of run {run} to {output}", soft_wrap=True)


async def _export(invocation: Invocation, run: str) -> bytes:
    async with invocation.open(drive=False) as runtime:
        return await exported(runtime, run)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return export
