"""``perdure replay``: whether the code that is here still fits the journals of runs that were."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.text import Text

from perdure import hookimpl
from perdure.errors import InvalidInput, NewerJournal, NonDeterminism, UnknownName
from perdure.testing import replay as replayed
from perdure_cli.display import console, emit_json
from perdure_cli.exits import EXIT_USAGE
from perdure_cli.invocation import app_named, output_options, runtime_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perdure_cli.invocation import Invocation

_STYLES: Final = {"fits": "green", "does not fit": "red", "is no journal": "bold red"}


@click.command("replay")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output_options
@runtime_options
@click.pass_obj
def replay(invocation: Invocation, files: tuple[Path, ...]) -> int:
    """Replay FILES, which 'perdure export' wrote, with the code that is here, and say whether it still fits.

    Nothing is executed but the workflows' own code: no step runs, no store is opened. Ends with exit code 1 if
    code does not fit a journal, 2 if a file is none.
    """
    found = asyncio.run(_replay(invocation, {file: file.read_bytes() for file in files}))
    if invocation.json:
        emit_json(found)
    else:
        out = console()
        for each in found:
            verdict = Text(each["verdict"], style=_STYLES[each["verdict"]])
            out.print(Text.assemble((each["file"], "bold"), " ", verdict, f": {_account(each)}"), soft_wrap=True)
    verdicts = {each["verdict"] for each in found}
    return EXIT_USAGE if "is no journal" in verdicts else 1 if "does not fit" in verdicts else 0


async def _replay(invocation: Invocation, journals: Mapping[Path, bytes]) -> list[dict[str, Any]]:
    apps = [app_named(name) for name in invocation.apps]
    return [{"file": str(file), **await _one(apps, journal)} for file, journal in journals.items()]


async def _one(apps: Sequence[object], journal: bytes) -> dict[str, Any]:
    try:
        found = await replayed(*apps, journal=journal)
    except (NonDeterminism, UnknownName, NewerJournal) as error:
        return {"verdict": "does not fit", "error": str(error)}
    except InvalidInput as error:
        return {"verdict": "is no journal", "error": str(error)}
    return {"verdict": "fits", **found._asdict()}


def _account(document: dict[str, Any]) -> str:
    if "error" in document:
        return document["error"]
    count = document["entries"]
    waits = ", ".join(document["waits_for"])
    end = document["outcome"] or (f"goes on, waiting for {waits}" if waits else "goes on")
    return f"{document['target']} version {document['version']}, {count} line{'' if count == 1 else 's'}, {end}"


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return replay
