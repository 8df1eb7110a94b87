"""Messages within one process on Perdure, as it comes; and what ten thousand idle agents weigh."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import tracemalloc
from importlib.metadata import version
from pathlib import Path

from messages import MANY, Counted, News, Ping, Pong, print_line, publications, requests, seconds_asked

from perdure import AgentId, App, Context, Runtime
from perdure.config import PluginSettings, Settings
from perdure_messaging import MessageAgent, actor, handles, subscribes

IDLE = 10_000


class Echo(MessageAgent):
    """Answers."""

    @handles
    async def ping(self, message: Ping, ctx: Context) -> Pong:
        """One of many."""
        return Pong(message.number)


@subscribes("news")
class Listener(MessageAgent):
    """Counts."""

    seen: Counted

    @handles
    async def news(self, message: News, ctx: Context) -> None:
        """One of many."""
        self.seen.one()


async def published(folder: Path, seconds: float, subscribers: int) -> float:
    """To so many subscribers."""
    Listener.seen = seen = Counted()
    agents = [actor(f"listener{n}", Listener) for n in range(subscribers)]
    async with opened(folder, *agents) as runtime:
        return await publications(seconds, lambda: runtime.publish(News(1), "news"), seen, subscribers)


def opened(folder: Path, *agents: object):
    """A runtime with nothing but what messages need."""
    only = PluginSettings(allow=frozenset({"store-sqlite", "engine-embedded", "messaging", "transport-inprocess"}))
    return Runtime.open(App("bench", agents=agents), settings=Settings(data=folder, plugins=only))


async def weight(runtime: Runtime) -> float:
    """Bytes of one idle agent."""
    await runtime.send(Ping(0), AgentId("bench.echo", "first"))
    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(IDLE):
        await runtime.send(Ping(number), AgentId("bench.echo", f"{number:08}"))
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / IDLE


async def main() -> None:
    """Measure."""
    seconds = seconds_asked()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with opened(folder, actor("echo", Echo)) as runtime:
            ping, to = Ping(1), AgentId("bench.echo", "1")
            measured = await requests(seconds, lambda: runtime.send(ping, to))
            idle = await weight(runtime)
        one, many = await published(folder, seconds, 1), await published(folder, seconds, MANY)
    print_line(**measured, publish_one=one, publish_many=many, idle_bytes=idle, version=version("perdure"))


if __name__ == "__main__":
    asyncio.run(main())
