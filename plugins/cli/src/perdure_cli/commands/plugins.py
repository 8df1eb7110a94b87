"""``perdure plugins``: what is installed, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from perdure import hookimpl
from perdure.plugins import Plugins
from perdure_cli.display import console, emit_json, table
from perdure_cli.invocation import app_named, output_options, runtime_options

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation

_WIDE = 120  # columns from which there is room for where each comes from; --json always has it
_STYLES: Final = {"loaded": "green", "available": "", "blocked": "yellow", "broken": "red"}


@click.command("plugins")
@output_options
@runtime_options
@click.pass_obj
def plugins(invocation: Invocation) -> None:
    """List each plugin with its state, version, origin, hooks and error.

    Loaded are those of the group 'perdure'; those that are available are imported when their name is first used.
    """
    found = Plugins(invocation.settings().plugins)
    found.start([app_named(name) for name in invocation.apps])
    infos = sorted(found.describe(), key=lambda info: info.name)
    if invocation.json:
        emit_json(infos)
        return
    out = console()
    wide = out.width >= _WIDE
    columns = ("plugin", "state", "distribution", *(("origin",) if wide else ()), "hooks")
    listing = table(*columns, unbroken=columns[:-1])
    for info in infos:
        hooks = ", ".join(hook.removeprefix("perdure_") for hook in info.hooks)
        origin = (info.origin,) if wide else ()
        listing.add_row(info.name, info.state, info.distribution, *origin, hooks, style=_STYLES[info.state])
    out.print(listing)
    for info in infos:
        if info.error:
            out.print(f"{info.name}: {info.error}", soft_wrap=True)


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return plugins
