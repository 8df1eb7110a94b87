"""``perdure host``: the command and its options."""

from __future__ import annotations

import asyncio
import json
import os
from importlib.metadata import entry_points
from typing import Any, Final, NamedTuple

import click

from perdure import config, hookimpl
from perdure.clock import SystemClock
from perdure.errors import PluginMissing, UsageError
from perdure_cli.stopping import settle, stopped_by_signals
from perdure_hosting.host import Host
from perdure_transport_grpc.keeping import OFF, kept
from perdure_transport_grpc.listening import GrpcListener, Listener
from perdure_transport_grpc.settings import SECTION, ServerSettings

LISTENERS: Final = "perdure.listeners"
"""The group of entry points of what else a host may listen with."""


class Options(NamedTuple):
    """What the command line says."""

    bind: str | None = None
    deadline: float | None = None
    autogen: bool = False
    http: str | None = None
    store: str | None = None
    json: bool = False


@hookimpl
def perdure_command() -> click.Command:
    """The command line's ``host``."""
    return host


@click.command("host")
@click.option("--bind", metavar="HOST:PORT", help="Where workers come by gRPC (setting 'bind'; 127.0.0.1:50051).")
@click.option(
    "--deadline",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="When a request ends that names no deadline itself (setting 'deadline'; never).",
)
@click.option("--autogen", is_flag=True, help="Let AutoGen's workers join, too.")
@click.option(
    "--http", metavar="HOST:PORT", help="Where workers and CloudEvents come by HTTP (perdure-transport-http)."
)
@click.option(
    "--store",
    metavar="PATH|off",
    help="The SQLite file for what is durable, or 'off' for none (setting 'store'; perdure.db in the data folder).",
)
@click.option("--json", is_flag=True, help="Write one JSON document per line to stdout.")
def host(**options: Any) -> None:
    """Route messages between workers, until stopped (Ctrl-C, SIGTERM).

    It keeps a store for workers that have none, and for messages to durable agents whose workers are away.

    When stopped it takes in nothing new, lets what is under way end, and says goodbye; workers come back to the next
    host at that address by themselves. A second signal ends it at once.
    """
    asyncio.run(_serve(Options(**options)))


async def _serve(options: Options) -> None:
    clock, settings = SystemClock(), config.load()
    server = _server_settings(settings, options)
    keeping = kept(settings, options.store)
    routing = Host(clock, server, store=keeping.store, lease=keeping.lease)
    listeners: list[Listener] = [GrpcListener(routing, clock, server)]
    if options.http is not None:
        listeners.append(_other("http")(routing, clock, settings.section("transport-http"), options.http))
    with stopped_by_signals() as stopped:
        started: list[Listener] = []
        try:
            await routing.start()
            for listener in listeners:
                started.append(listener)
                await listener.start()
            settle()
            addresses = [each.url for each in listeners]
            _say(options, {"host": os.getpid(), "state": "ready", "addresses": addresses, "store": keeping.name})
            await stopped.wait()
            _say(options, {"host": os.getpid(), "state": "stopping"})
        except OSError as error:
            msg = f"the host cannot listen: {error}"
            raise UsageError(msg) from error
        finally:
            for listener in started:
                await listener.close_doors()
            await routing.stop()
            for listener in started:
                await listener.stop()
            if keeping.store is not None:
                await keeping.store.close()
    _say(options, {"host": os.getpid(), "state": "stopped"})


def _server_settings(settings: config.Settings, options: Options) -> ServerSettings:
    """The configuration, and what the command line says. Raises ``InvalidSetting``."""
    given = {"bind": options.bind, "deadline": options.deadline, "autogen": options.autogen or None}
    values = {**settings.section(SECTION).get("server", {}), **{key: each for key, each in given.items() if each}}
    return config.section(values, ServerSettings, f"{SECTION}.server")


def _other(name: str) -> Any:
    """What makes a listener of another plugin. Raises ``PluginMissing``."""
    for found in entry_points(group=LISTENERS, name=name):
        return found.load()
    msg = f"no installed plugin listens for {name!r}: pip install perdure-transport-{name}"
    raise PluginMissing(msg)


def _say(options: Options, event: dict[str, Any]) -> None:
    if options.json:
        click.echo(json.dumps(event))
    elif event["state"] == "ready":
        for address in event["addresses"]:
            click.echo(f"host listens at {address}")
        click.echo(f"what is durable is kept in: {event['store']}" if event["store"] != OFF else "nothing is kept")
    else:
        click.echo(f"host is {event['state']}", err=True)
