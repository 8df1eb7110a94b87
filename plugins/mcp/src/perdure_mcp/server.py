"""The MCP server: a runtime on one side, a client at the standard streams on the other."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, cast

from mcp.server import Server
from mcp.server.stdio import stdio_server

from perdure import Runtime, config
from perdure.errors import UnknownName
from perdure_mcp.apps import imported
from perdure_mcp.calls import Calls
from perdure_mcp.settings import Settings
from perdure_mcp.stdio import standard_streams
from perdure_mcp.tools import app_of, exposed

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from perdure_mcp.stdio import Lines
    from perdure_mcp.tools import Exposed

_log = logging.getLogger("perdure.mcp")

_HOW: Final = """\
Each agent and each workflow here is a tool. Calling one starts a durable run, which survives crashes and restarts and \
outlives your call: if the call times out, is cancelled or loses its connection, the run goes on.

Every tool returns run_id and status. 'completed' comes with result. 'failed' and 'cancelled' come with error. \
'pending' and 'running' mean that the run needs longer than one call: call get_run with run_id and wait (in seconds) \
until it is done. If there are requests, the run waits for a person: show them the prompt, then call answer_request \
with the request_id and an answer that fits answer_schema. 'parked' means that the code must be fixed first. \
cancel_run stops a run.

To be safe against doing work twice, give each new piece of work an idempotency_key of your own and repeat the same \
key when you retry: you get the same run. To go on with a conversation, pass the session_id of the agent's earlier \
result."""
_HOOKS: Final = ("perdure_agents", "perdure_workflows")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says.

    Attributes:
        apps: Names of installed apps, or ``module:attribute``; if there are any, only these are served.
        overrides: Settings that beat the configuration.
        wait_budget: Seconds; beats the configuration.
    """

    apps: Sequence[str] = ()
    overrides: dict[str, Any]
    wait_budget: float | None = None


async def serve(options: Options) -> None:
    """Serve one client at stdin and stdout until it leaves, or a SIGTERM or SIGINT comes.

    Raises:
        UsageError, PluginError: The options, the configuration or the installation are wrong.
    """
    with standard_streams() as (lines, output), _ended_by_signals(lines):
        named, given = imported(options.apps)
        settings = config.load(overrides=options.overrides)
        own = config.section(settings.section("mcp"), Settings, "mcp")
        budget = own.wait_budget if options.wait_budget is None else options.wait_budget
        async with Runtime.open(*given, settings=settings) as runtime:
            server = _server(runtime, named, budget)
            _log.info("serving the data in %s", settings.data)
            # The SDK's types ask for anyio's files; it iterates over the one, writes to and flushes the other.
            streams = stdio_server(stdin=cast("Any", lines), stdout=cast("Any", output))
            async with streams as (read, write):
                await server.run(read, write, server.create_initialization_options())


def _server(runtime: Runtime, apps: Sequence[str], budget: float) -> Server[Any]:
    every = {app_of(target) for kind in ("agent", "workflow") for target in runtime.catalog.names(kind)}
    for app in apps:
        if app not in every:
            raise UnknownName("app", app, every)
    tools = exposed(runtime, apps)
    calls = Calls(runtime, tools, budget)
    return Server(
        "perdure",
        version=version("perdure-mcp"),
        instructions=_instructions(runtime, tools),
        on_list_tools=calls.list,
        on_call_tool=calls.call,
    )


def _instructions(runtime: Runtime, tools: Sequence[Exposed]) -> str:
    plugins = {name: plugin for hook in _HOOKS for name, plugin, _ in runtime.plugins.each(hook)}
    descriptions = {
        getattr(plugin, "name", name): getattr(plugin, "description", "") for name, plugin in plugins.items()
    }
    lines: list[str] = []
    for app in sorted({app_of(tool.target) for tool in tools}):
        described = descriptions.get(app)
        names = ", ".join(f"{tool.tool_name} ({tool.kind})" for tool in tools if app_of(tool.target) == app)
        lines.append(f"- {app}: {described} Tools: {names}" if described else f"- {app}: {names}")
    return f"{_HOW}\n\nApps:\n" + "\n".join(lines)


@contextmanager
def _ended_by_signals(lines: Lines) -> Generator[None]:
    """SIGTERM and SIGINT end the input, which ends everything in order. A second one ends the process."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def end() -> None:
        release()
        lines.close()

    def release() -> None:
        for each in signals:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(each)

    for each in signals:
        with suppress(NotImplementedError):  # Windows, where the client closes the pipe
            loop.add_signal_handler(each, end)
    try:
        yield
    finally:
        release()
