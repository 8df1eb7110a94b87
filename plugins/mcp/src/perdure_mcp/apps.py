"""Apps as the command line names them: by name where they are installed, else as ``module:attribute``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure import App
from perdure.errors import PluginBroken, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


def imported(options: Iterable[str]) -> tuple[list[str], list[App]]:
    """The names of all apps in the options, and the apps that had to be imported.

    Raises:
        UsageError, PluginBroken: A ``module:attribute`` is no app, or fails to import.
    """
    names: list[str] = []
    apps: list[App] = []
    for option in options:
        if ":" in option:
            apps.append(_app(option))
            names.append(apps[-1].name)
        else:
            names.append(option)
    return names, apps


def _app(reference: str) -> App:
    module, _, attribute = reference.partition(":")
    if not (module and attribute):
        msg = f"--app {reference!r}: expected 'module:attribute', such as 'newsroom:app'"
        raise UsageError(msg)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` would
    try:
        found: Any = import_module(module)
    except Exception as error:
        msg = f"--app {reference!r}: module {module!r} fails to import: {type(error).__name__}: {error}"
        raise PluginBroken(msg) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, App):
        msg = f"--app {reference!r}: expected an App, {attribute!r} is {type(found).__name__}"
        raise UsageError(msg)
    return found
