"""Durable message agents on one worker, and those who send to them and hear of them on others, over a gRPC host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from perdure import AgentId, App, Context, Runtime
from perdure.clock import SystemClock
from perdure.config import PluginSettings, Settings
from perdure.errors import RetryableError
from perdure.messages import RunFilter, TopicId
from perdure.testing import MemoryStore
from perdure_hosting.host import Host
from perdure_messaging import MessageAgent, actor, closure, handles, message_type, subscribes
from perdure_transport_grpc import ServerSettings
from perdure_transport_grpc.listening import GrpcListener

PATIENCE = 100.0
EDITOR = AgentId("desk.editor", "1")

Open = Callable[..., AbstractAsyncContextManager[Runtime]]


@message_type("desk.draft")
@dataclass(frozen=True)
class Draft:
    text: str


@message_type("desk.printed")
@dataclass(frozen=True)
class Printed:
    text: str


class World:
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.news = asyncio.Event()
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()


WORLD = World()


class Keeper(MessageAgent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    async def load(self, state: Any) -> None:
        self.texts = state

    async def save(self) -> Any:
        return self.texts


class Editor(Keeper):
    """Durable: keeps drafts, checks them with an agent in another process's memory, and has them printed."""

    @handles
    async def edit(self, message: Draft, ctx: Context) -> list[str]:
        self.texts.append(await ctx.call(AgentId("lexicon.speller", "1"), message))
        await ctx.publish(Printed(message.text), TopicId("printed", "today"))
        return self.texts


@subscribes("printed")
class Archive(Keeper):
    """Durable: is told by topic."""

    @handles
    async def keep(self, message: Printed, ctx: Context) -> list[str]:
        self.texts.append(message.text)
        return self.texts


async def spell(message: Draft, ctx: Context) -> str:
    if message.text == "slow":
        WORLD.entered.set()
        await WORLD.gate.wait()
    return message.text.capitalize()


async def hear(message: Printed, ctx: Context) -> None:
    WORLD.heard.append(message.text)
    WORLD.news.set()


DESK = App("desk", agents=[actor("editor", Editor, durable=True), actor("archive", Archive, durable=True)])
LEXICON = App("lexicon", agents=[closure("speller", spell), closure("reader", hear, subscriptions=["printed"])])


@pytest.fixture(autouse=True)
def _fresh_world():
    WORLD.__init__()


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Opens runtimes that are workers of one host."""
    settings = ServerSettings(bind="127.0.0.1:0", drain=0.1)
    host = Host(SystemClock(), settings)
    listener = GrpcListener(host, SystemClock(), settings)
    await host.start()
    await listener.start()

    @asynccontextmanager
    async def opened(app: App, store: MemoryStore | None = None) -> AsyncIterator[Runtime]:
        worker = Settings(
            transport="grpc",
            sections={"transport-grpc": {"host": listener.address}},
            plugins=PluginSettings(block=frozenset({"otel"})),
        )
        async with Runtime.open(app, settings=worker, store=store or MemoryStore(SystemClock())) as runtime:
            yield runtime

    try:
        yield opened
    finally:
        await listener.stop()
        await host.stop()


async def insist(runtime: Runtime, message: Any, to: AgentId, id: str) -> Any:
    """Send until there is a reply, always under the same id."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await runtime.send(message, to, id=id)
            except RetryableError:
                continue


async def quiet(runtime: Runtime) -> None:
    known = -1
    async with asyncio.timeout(PATIENCE):
        while len(views := await runtime.query.runs(RunFilter(), limit=1000)) > known:
            known = len(views)
            for view in views:
                await runtime.handle(view.id).wait()


async def test_durable_agents_are_called_call_and_publish_across_workers(opened: Open) -> None:
    async with opened(LEXICON) as lexicon, opened(DESK) as desk, opened(App("nobody")) as client:
        for _ in range(2):
            assert await insist(client, Draft("first"), EDITOR, "d1") == ["First"]
        assert await insist(client, Draft("second"), EDITOR, "d2") == ["First", "Second"]
        for _ in range(2):
            await client.publish(Printed("third"), TopicId("printed", "today"), id="p3")
        async with asyncio.timeout(PATIENCE):
            while set(WORLD.heard) != {"first", "second", "third"}:
                WORLD.news.clear()
                await WORLD.news.wait()
        await quiet(desk)
        archive = AgentId("desk.archive", "today")
        assert sorted(await insist(lexicon, Printed("last"), archive, "p4")) == ["first", "last", "second", "third"]
        durable = {each.type for each in await client.agents() if each.durable}
        assert durable == {"desk.editor", "desk.archive"}
        assert {view.status for view in await desk.query.runs(RunFilter(), limit=100)} == {"completed"}


async def test_a_message_outlives_the_worker_that_handles_it(opened: Open) -> None:
    store = MemoryStore(SystemClock())
    async with opened(LEXICON), opened(App("nobody")) as client:
        async with opened(DESK, store):
            waiting = asyncio.ensure_future(client.send(Draft("slow"), EDITOR, id="d1"))
            await asyncio.wait_for(WORLD.entered.wait(), PATIENCE)
        with pytest.raises(RetryableError):
            await waiting
        WORLD.gate.set()
        async with opened(DESK, store):
            assert await insist(client, Draft("slow"), EDITOR, "d1") == ["Slow"]
