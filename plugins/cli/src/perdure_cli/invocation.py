"""What one call of ``perdure`` was told by its options; they may stand before or after the subcommand.

Plugins' commands join with the decorators ``output_options`` and ``runtime_options`` and ``@click.pass_obj``, which
passes the ``Invocation``.
"""

from __future__ import annotations

import logging
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from perdure import App, Runtime, config
from perdure.errors import PluginBroken, UnknownName, UsageError
from perdure.plugins import Plugins

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

F = TypeVar("F", bound="Callable[..., Any]")


@dataclass
class Invocation:
    """The options that all commands share.

    Attributes:
        json: Write one JSON document to stdout instead of text for people.
        verbose: 1 for information, 2 for debugging; on stderr.
        traceback: Show the traceback of an error.
        data: Folder for local files.
        model: ``provider:model`` of agents that do not say.
        store: Which store plugin.
        engine: Which engine plugin.
        apps: Apps that are not installed, as ``module:attribute``.
        overrides: Further settings that beat those of files and environment, as a command's own options say.
    """

    json: bool = False
    verbose: int = 0
    traceback: bool = False
    data: Path | None = None
    model: str | None = None
    store: str | None = None
    engine: str | None = None
    apps: tuple[str, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)  # secrets may be among them

    def settings(self) -> config.Settings:
        """The configuration that holds here, the options included. Raises ``InvalidSetting``."""
        overrides = {
            # A path on the command line is relative to where it is typed, not to the configuration file.
            "data": None if self.data is None else str(self.data.absolute()),
            "model": self.model,
            "store": self.store,
            "engine": self.engine,
            **self.overrides,
        }
        return config.load(overrides=overrides)

    def plugins(self) -> Plugins:
        """What is installed and allowed; nothing of it is imported yet. Raises ``InvalidSetting``."""
        return Plugins(self.settings().plugins)

    @asynccontextmanager
    async def open(self, *, drive: bool = True) -> AsyncGenerator[Runtime]:
        """A runtime over the apps of ``--app`` and all that are installed.

        Args:
            drive: Whether to drive runs; otherwise it only looks and hands over, and a live process keeps driving.
        """
        apps = [app_named(name) for name in self.apps]
        async with Runtime.open(*apps, settings=self.settings(), drive=drive) as runtime:
            yield runtime


def app_named(name: str) -> App:
    """The app that ``module:attribute`` names; modules of the working directory are found, too.

    Raises:
        UsageError: The name has another form, or the attribute is no ``App``.
        PluginBroken: The module fails to import.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        msg = f"--app {name!r}: expected 'module:attribute', such as 'newsroom:app'"
        raise UsageError(msg)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
    except Exception as error:
        msg = f"--app {name!r}: module {module!r} fails to import: {type(error).__name__}: {error}"
        raise PluginBroken(msg) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, App):
        apps = [key for key, value in vars(import_module(module)).items() if isinstance(value, App)]
        msg = f"--app {name!r}: expected an App, {attribute!r} is {found!r}; apps there: {', '.join(apps) or 'none'}"
        raise UsageError(msg)
    return found


def target_named(runtime: Runtime, name: str) -> str:
    """The qualified name of an agent or workflow; a qualified one stands for itself, for its code may be gone.

    Raises ``UnknownName``, ``AmbiguousName``.
    """
    try:
        return runtime.catalog.find_any(name)[0]
    except UnknownName:
        if "." in name:
            return name
        raise


# -- the options, kept on the invocation wherever they stand ------------------------------------------------


def output_options(command: F) -> F:
    """Give a command ``--json``, ``-v`` and ``--traceback``."""
    for option in reversed(_OUTPUT):
        command = option(command)
    return command


def runtime_options(command: F) -> F:
    """Give a command ``--data``, ``--model``, ``--store``, ``--engine`` and ``--app``."""
    for option in reversed(_RUNTIME):
        command = option(command)
    return command


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Note a value that was given; what was given before and is not repeated stays."""
    if value:
        setattr(ctx.ensure_object(Invocation), param.name, value)


def _listen(ctx: click.Context, param: click.Parameter, value: int) -> None:
    _keep(ctx, param, value)
    if value:
        logging.getLogger("perdure").setLevel(logging.INFO if value == 1 else logging.DEBUG)


def _option(*names: str, callback: Callable[..., None] = _keep, **attributes: Any) -> Callable[[F], F]:
    return click.option(*names, expose_value=False, callback=callback, **attributes)


_OUTPUT: Final = (
    _option("--json", is_flag=True, help="Write one JSON document to stdout."),
    _option("-v", "--verbose", count=True, callback=_listen, help="Say more on stderr; twice for debugging."),
    _option("--traceback", is_flag=True, help="Show the traceback of an error."),
)
_RUNTIME: Final = (
    _option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder for local files."),
    _option("--model", metavar="PROVIDER:MODEL", help="Model of agents that do not say."),
    _option("--store", metavar="NAME", help="Store plugin."),
    _option("--engine", metavar="NAME", help="Engine plugin."),
    _option(
        "--app", "apps", metavar="MODULE:ATTRIBUTE", multiple=True, help="An app that is not installed; repeatable."
    ),
)
