"""Messages between processes on Perdure, through its host; ``direct`` as a further argument: without it."""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from hosted import TEXT, asked_to_end, measured
from messages import print_line

from perdure import AgentId, App, Context, Runtime
from perdure.clock import SystemClock
from perdure.config import PluginSettings, Settings as Configuration
from perdure.messages import Envelope, TopicId
from perdure_hosting.host import Host
from perdure_messaging import MessageAgent, actor, handles, message_type, subscribes
from perdure_transport_grpc import GrpcTransport, ServerSettings, Settings
from perdure_transport_grpc.listening import GrpcListener


@message_type("bench.ping")
@dataclass
class Ping:
    """Asked, and answered."""

    text: str


@message_type("bench.news")
@dataclass
class News:
    """Published."""

    text: str


@message_type("bench.count")
@dataclass
class Count:
    """How many were handled?"""


@subscribes("news")
class Echo(MessageAgent):
    """Answers and counts."""

    def __init__(self) -> None:
        self.count = 0

    @handles
    async def ping(self, message: Ping, ctx: Context) -> Ping:
        """One of many."""
        return message

    @handles
    async def news(self, message: News, ctx: Context) -> None:
        """One of many."""
        self.count += 1

    @handles
    async def told(self, message: Count, ctx: Context) -> int:
        """So far."""
        return self.count


def opened(app: App, folder: str, **section: object):
    """A runtime with nothing but what messages need."""
    only = PluginSettings(allow=frozenset({"store-sqlite", "engine-embedded", "messaging", "transport-grpc"}))
    settings = Configuration(data=Path(folder), plugins=only, transport="grpc", sections={"transport-grpc": section})
    return Runtime.open(app, settings=settings)


async def host() -> None:
    """Route."""
    settings = ServerSettings(bind="127.0.0.1:0")
    routing = Host(SystemClock(), settings)
    listener = GrpcListener(routing, SystemClock(), settings)
    await routing.start()
    await listener.start()
    await asked_to_end(listener.address)
    await listener.close_doors()
    await routing.stop()
    await listener.stop()


async def serve(address: str) -> None:
    """Answer; whoever wants to come directly may."""
    with tempfile.TemporaryDirectory() as folder:
        async with opened(App("bench", agents=[actor("echo", Echo)]), folder, host=address, listen="127.0.0.1:0"):
            await asked_to_end("ready")


async def ask(address: str, seconds: str, way: str = "") -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        async with opened(App("asks"), folder, host=address, direct=way == "direct") as runtime:
            to, topic = AgentId("bench.echo", "1"), TopicId("news", "1")
            found = await measured(
                float(seconds),
                lambda: runtime.send(Ping(TEXT), to),
                lambda: runtime.publish(News(TEXT), topic),
                lambda: runtime.send(Count(), to),
            )
            print_line(**found, version=version("perdure"))


async def join(address: str, count: str) -> None:
    """Idle workers, each with a connection of its own."""
    idle = [GrpcTransport(Settings(host=address), SystemClock()) for _ in range(int(count))]
    for transport in idle:
        await transport.start(_nothing)
    await asked_to_end("ready")
    await asyncio.gather(*(transport.stop() for transport in idle))


async def _nothing(envelope: Envelope) -> Envelope:
    return envelope


if __name__ == "__main__":
    # A thousand connections are more files than most shells allow.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    asyncio.run({"host": host, "serve": serve, "ask": ask, "join": join}[sys.argv[1]](*sys.argv[2:]))
