"""``perdure worker``: a process that does nothing but drive runs, and handle messages that reach it through a host."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from perdure import hookimpl
from perdure_cli.display import console, emit_line
from perdure_cli.invocation import output_options, runtime_options
from perdure_cli.stopping import settle, stopped_by_signals
from perdure_cli.times import SPAN

if TYPE_CHECKING:
    from perdure_cli.invocation import Invocation

_OF_HOSTS: Final = frozenset({"grpc", "http"})
"""Stores that are a host's."""


@click.command("worker")
@click.argument("app", metavar="[MODULE:ATTRIBUTE]", required=False)
@click.option(
    "--host",
    metavar="HOST:PORT",
    help="The host to join over gRPC, or over HTTP by its URL; other agents are reached through it.",
)
@click.option(
    "--token", help="What the host knows this worker by; better PERDURE_TRANSPORT_GRPC__TOKEN, which stays hidden."
)
@click.option(
    "--authority",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificates (PEM) that vouch for the host; with it, the way there is TLS.",
)
@click.option(
    "--grace",
    type=SPAN,
    default=timedelta(seconds=10),
    show_default="10s",
    help="How long steps that run may take to finish when it is stopped.",
)
@output_options
@runtime_options
@click.pass_obj
def worker(
    invocation: Invocation,
    app: str | None,
    host: str | None,
    token: str | None,
    authority: Path | None,
    grace: timedelta,
) -> None:
    """Drive runs until stopped (Ctrl-C, SIGTERM), also those that other processes start or steer.

    MODULE:ATTRIBUTE is an app that is not installed, as with --app. With --host, the agents here are there for all
    workers of that host, and theirs for those here; and unless a store is named (--store, or in the configuration),
    runs are driven in the host's, as far as their code is here.

    When stopped it begins nothing new, lets steps that run finish, and hands over what is left; a second signal
    ends it at once. Of several over one SQLite file, one drives and the others stand by.
    """
    if app is not None:
        invocation.apps = (*invocation.apps, app)
    if host is not None:
        kind, where = ("http", "url") if host.startswith(("http://", "https://")) else ("grpc", "host")
        section = {where: host, "token": token, "authority": authority and str(authority.absolute())}
        invocation.overrides["transport"] = kind
        invocation.overrides[f"transport-{kind}"] = {key: value for key, value in section.items() if value is not None}
        if "store" not in invocation.settings().model_fields_set:
            invocation.overrides["store"] = kind
    elif token or authority:
        msg = "--token and --authority say how to reach a host: give --host, too"
        raise click.UsageError(msg)
    settings = invocation.settings()
    if settings.store in _OF_HOSTS and settings.engine == "embedded":  # there, others have code that is not here
        invocation.overrides["engine-embedded"] = {"others": "leave", **settings.section("engine-embedded")}
    asyncio.run(_work(invocation, grace.total_seconds()))


async def _work(invocation: Invocation, grace: float) -> None:
    async with invocation.open() as runtime:
        settle()
        with stopped_by_signals() as stopped:
            if invocation.json:
                store = runtime.configuration.store
                emit_line({"worker": os.getpid(), "data": str(runtime.data), "store": store, "state": "ready"})
            else:
                declared = [*runtime.catalog.names("workflow"), *runtime.catalog.names("agent")]
                where = "the host's store" if runtime.configuration.store in _OF_HOSTS else str(runtime.data)
                console().print(f"driving the runs in {where}: {', '.join(declared) or 'nothing is installed'}")
            await stopped.wait()
            console(stderr=True).print(f"stopping; steps that run have {grace:g} s", style="dim")
            await runtime.engine.stop(grace=grace)
    if invocation.json:
        emit_line({"worker": os.getpid(), "state": "stopped"})


@hookimpl
def perdure_command() -> click.Command:
    """The command."""
    return worker
