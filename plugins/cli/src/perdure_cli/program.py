"""``perdure`` itself: finds commands by name, imports the one that is called, turns errors into one line.

Knows no command: each is an entry point of the group ``perdure.commands``, the built-in ones included. The names and
help lines of those in ``KNOWN`` are there without importing anything.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem

from perdure.config import PluginSettings
from perdure.errors import InvalidSetting, PerdureError, PluginError, PluginMissing, StoreUnavailable, UsageError
from perdure.plugins import Plugins
from perdure_cli.exits import EXIT_INTERRUPTED, EXIT_UNFINISHED, EXIT_USAGE
from perdure_cli.invocation import Invocation, output_options, runtime_options

if TYPE_CHECKING:
    from collections.abc import Sequence


class Known(NamedTuple):
    """A command's line in the help, what people do with it, and which distribution brings it."""

    help: str
    group: str
    distribution: str = "perdure-cli"


_RUN: Final = "Run"
_LOOK: Final = "Look"
_STEER: Final = "Steer"
_KEEP: Final = "Keep house"
_MORE: Final = "More"

KNOWN: Final = {
    "run": Known("Start a workflow or an agent, follow it, print its result.", _RUN),
    "chat": Known("Talk to an agent, line by line, in a durable session.", _RUN),
    "worker": Known("Drive runs until stopped, also those that others start.", _RUN),
    "host": Known("Route messages between workers until stopped.", _RUN, "perdure-transport-grpc"),
    "mcp": Known("Serve agents and workflows as MCP tools over stdio.", _RUN, "perdure-mcp"),
    "demo": Known("See a run survive kill -9, on the example package.", _RUN, "perdure-example-briefing"),
    "runs": Known("List runs and turns, newest first.", _LOOK),
    "show": Known("Show a run: status, result, journal, open requests.", _LOOK),
    "watch": Known("Watch a run's status and progress until it ends.", _LOOK),
    "wait": Known("Wait until a run has finished, print its result.", _LOOK),
    "query": Known("Ask a run's code how it stands.", _LOOK),
    "answer": Known("Answer a request that a run waits on.", _STEER),
    "send": Known("Send a run an event.", _STEER),
    "update": Known("Have a run's code do something, and print its answer.", _STEER),
    "suspend": Known("Set a run aside until it is resumed.", _STEER),
    "resume": Known("Let a suspended or parked run go on.", _STEER),
    "cancel": Known("Ask a run to stop.", _STEER),
    "terminate": Known("End a run at once, without its clean-up.", _STEER),
    "retry": Known("Let a failed run go on from the step that failed.", _STEER),
    "fork": Known("Begin another run with the first part of a run's journal.", _STEER),
    "export": Known("Write a run's journal to a file.", _KEEP),
    "replay": Known("Check whether the code that is here still fits exported journals.", _KEEP),
    "purge": Known("Forget runs that finished long ago.", _KEEP),
    "plugins": Known("List the plugins: state, version, origin, hooks.", _KEEP),
    "doctor": Known("Check the installation, the configuration and the store.", _KEEP),
    "init": Known("Write a new package with an app, a test and an entry point.", _KEEP),
}

_WIDEST: Final = max(map(len, KNOWN))


class Program(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names only: the known ones in their order, then the others."""
        names = _plugins(ctx).names("command")
        return [*(name for name in KNOWN if name in names), *sorted(set(names) - KNOWN.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command. Raises ``PluginMissing``, ``PluginBroken``."""
        plugins = _plugins(ctx)
        if all(info.name != f"command-{cmd_name}" for info in plugins.describe()):
            known = KNOWN.get(cmd_name)
            if known is None:
                return None
            msg = f"command {cmd_name!r} is not installed: pip install {known.distribution}"
            raise PluginMissing(msg)
        return plugins.named("command", cmd_name)()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Hand the options that stand before the command on to it, as its defaults."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and command is not None:
            ctx.default_map = {name: _handed_on(ctx, name, command)}
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write names and help lines by what people do with them; no command is imported for it."""
        infos = {info.name: info for info in _plugins(ctx).describe()}
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            group = KNOWN[name].group if name in KNOWN else _MORE
            row = (name.ljust(_WIDEST), _help_of(name, infos[f"command-{name}"].distribution))
            groups.setdefault(group, []).append(row)
        for group, rows in groups.items():
            with formatter.section(group):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names without importing commands."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=KNOWN[name].help if name in KNOWN else None) for name in names]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="perdure", prog_name="perdure")
@output_options
@runtime_options
def program() -> None:
    """Durable agents and workflows: start them, look at them, answer them.

    The options below may stand before or after a command.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run ``perdure`` and exit: 0 done, 1 failed, 2 refused, 3 waits for an answer, 130 interrupted.

    Refused is what was not begun: a wrong call, a wrong installation, a store that cannot be written.

    Args:
        args: The arguments; by default those of the process.
    """
    sys.exit(_outcome(list(sys.argv[1:] if args is None else args)))


def _outcome(args: list[str]) -> int:
    invocation = Invocation()
    logging.basicConfig(format="perdure: %(levelname)s: %(message)s", stream=sys.stderr)
    try:
        returned = program.main(args, prog_name="perdure", standalone_mode=False, obj=invocation)
    except (click.Abort, KeyboardInterrupt):
        click.echo("perdure: interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last place that can turn an error into one line
        return _report(error, invocation)
    return returned if isinstance(returned, int) else 0


def _report(error: Exception, invocation: Invocation) -> int:
    """One line on stderr; with ``--json`` the error as a document on stdout."""
    if invocation.traceback:
        traceback.print_exception(error)
    kind, text = type(error).__name__, str(error)
    if isinstance(error, PerdureError | TimeoutError):
        click.echo(f"perdure: {text}", err=True)
    else:
        click.echo(f"perdure: unexpected {kind}: {text} (--traceback shows where)", err=True)
    if invocation.json:
        click.echo(json.dumps({"error": {"type": kind, "message": text}}, ensure_ascii=False))
    if isinstance(error, TimeoutError):
        return EXIT_UNFINISHED
    return EXIT_USAGE if isinstance(error, UsageError | PluginError | StoreUnavailable) else 1


def _plugins(ctx: click.Context) -> Plugins:
    """The installed plugins, scanned once per call of the program."""
    root = ctx.find_root()
    key = f"{__name__}.plugins"
    if key not in root.meta:
        try:
            root.meta[key] = root.ensure_object(Invocation).plugins()
        except InvalidSetting:
            # Help, `doctor` and `init` must work with a broken configuration; whoever needs it reads it again.
            root.meta[key] = Plugins(PluginSettings())
    return root.meta[key]


def _help_of(name: str, distribution: str) -> str:
    if name in KNOWN:
        return KNOWN[name].help
    try:
        return metadata(distribution.rpartition(" ")[0])["Summary"] or ""
    except (PackageNotFoundError, KeyError):
        return ""


def _handed_on(ctx: click.Context, name: str, command: click.Command) -> dict[str, Any]:
    invocation, defaults = ctx.ensure_object(Invocation), dict[str, Any]()
    for param in ctx.command.params:
        value = getattr(invocation, param.name or "", None)
        if not value or param.name in {"verbose", "traceback"}:  # these are the program's own
            continue
        takers = [other.name for other in command.params if set(other.opts) & set(param.opts)]
        if not takers:
            msg = f"command {name!r} takes no {param.opts[0]}"
            raise click.UsageError(msg, ctx)
        defaults |= {taker: value for taker in takers if taker}
    return defaults
