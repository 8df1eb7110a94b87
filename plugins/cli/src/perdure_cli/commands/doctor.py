"""``perdure doctor``: whether what a run needs is there and works."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import sqlite3
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import click

from perdure import Runtime, hookimpl
from perdure.errors import PerdureError
from perdure.messages import RunFilter
from perdure.plugins import Plugins
from perdure_cli.display import console, emit_json, table
from perdure_cli.invocation import app_named, output_options, runtime_options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from perdure.catalog import Kind
    from perdure.config import Settings
    from perdure_cli.invocation import Invocation

_KINDS: Final[tuple[Kind, ...]] = ("agent", "workflow", "tool")
_STYLES: Final = {"ok": "green", "note": "yellow", "broken": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``state`` is ``ok``, ``note`` or ``broken``."""

    what: str
    state: str
    detail: str


@click.command("doctor")
@output_options
@runtime_options
@click.pass_obj
def doctor(invocation: Invocation) -> int:
    """Check Python, configuration, data folder, store, default model and plugins.

    Ends with exit code 1 if anything is broken. Values of plugins' sections are not shown: they may be secrets.
    """
    findings = list(_examine(invocation))
    broken = sum(finding.state == "broken" for finding in findings)
    if invocation.json:
        emit_json({"healthy": not broken, "findings": findings})
        return 1 if broken else 0
    listing = table("what", "state", "", unbroken=("what", "state"))
    for finding in findings:
        listing.add_row(finding.what, finding.state, finding.detail, style=_STYLES[finding.state])
    console().print(listing)
    console().print(f"{broken} broken" if broken else "everything that was looked at works")
    return 1 if broken else 0


def _examine(invocation: Invocation) -> list[Finding]:
    findings = [_finding("python", _python), _finding("sqlite", _sqlite)]
    try:
        settings = invocation.settings()
    except PerdureError as error:
        return [*findings, Finding("configuration", "broken", str(error))]
    findings += _configuration(settings)
    findings.append(_finding("data folder", lambda: _writable(settings.data)))
    findings += _plugins(settings, invocation)
    if all(finding.state != "broken" for finding in findings):
        findings += asyncio.run(_runtime(settings, invocation))
    return findings


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", look())
    except (PerdureError, OSError) as error:
        return Finding(what, "broken", str(error))


def _python() -> str:
    return f"{platform.python_version()} ({sys.executable}), perdure {version('perdure')}"


def _sqlite() -> str:
    return sqlite3.sqlite_version


def _configuration(settings: Settings) -> list[Finding]:
    where = str(settings.source) if settings.source else "no file; defaults, environment and options"
    values = {name: getattr(settings, name) for name in ("store", "engine", "transport", "model")}
    listed = ", ".join(f"{name}={value}" for name, value in values.items())
    found = [Finding("configuration", "ok", where), Finding("settings", "ok", f"{listed}, data={settings.data}")]
    for name, section in sorted(settings.sections.items()):
        found.append(Finding(f"section {name}", "ok", f"sets {', '.join(sorted(section)) or 'nothing'}"))
    return found


def _writable(folder: Path) -> str:
    """Write and remove a file; leave no folder behind that was not there."""
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(20, "this is no folder: choose another with --data", str(place))
    probe = place / f".perdure-{secrets.token_hex(8)}"
    probe.touch()
    probe.unlink()
    return str(folder) if place == folder else f"{folder} (will be made)"


def _plugins(settings: Settings, invocation: Invocation) -> list[Finding]:
    plugins = Plugins(settings.plugins)
    try:
        plugins.start([app_named(name) for name in invocation.apps])
    except PerdureError as error:
        return [Finding("--app", "broken", str(error))]
    infos = plugins.describe()
    found = [Finding("plugins", "ok", f"{sum(info.state != 'blocked' for info in infos)} installed")]
    for info in infos:
        if info.state in {"broken", "blocked"}:
            state = "broken" if info.state == "broken" else "note"
            found.append(Finding(f"plugin {info.name}", state, info.error or "blocked by the configuration"))
    return found


async def _runtime(settings: Settings, invocation: Invocation) -> list[Finding]:
    """Open what a run would use, without driving anything."""
    found: list[Finding] = []
    fresh = not settings.data.exists()
    try:
        async with Runtime.open(*map(app_named, invocation.apps), settings=settings, drive=False) as runtime:
            waiting = await runtime.query.runs(RunFilter(status=("waiting",)), limit=1000)
            found.append(Finding("store", "ok", f"{settings.store} opens; {_counted(waiting, 'run')} waiting"))
            names = [_counted(runtime.catalog.names(kind), kind) for kind in _KINDS]
            found.append(Finding("declared", "ok", ", ".join(names)))
            found.append(_finding("model", lambda: f"{runtime.model(None).name} is ready to be asked"))
    except PerdureError as error:
        found.append(Finding("runtime", "broken", str(error)))
    if fresh and settings.data.is_dir() and not os.listdir(settings.data):  # noqa: PTH208 - emptiness is all we want
        settings.data.rmdir()
    return found


def _counted(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return doctor
