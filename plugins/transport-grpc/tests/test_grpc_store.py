"""The host's store over real sockets: the contract of every store, and runtimes without a database of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self

import pytest

from perdure import AgentId, App, Context, Runtime
from perdure.clock import SystemClock
from perdure.config import PluginSettings, Settings as Configuration
from perdure.errors import StoreUnusable
from perdure.messages import RunFilter, TopicId
from perdure.ports import Clock, DurableStore
from perdure.testing import ManualClock, MemoryStore
from perdure.testing.store_kit import StoreKit
from perdure_hosting.host import Host
from perdure_hosting.remote_store import RemoteStore
from perdure_messaging import MessageAgent, actor, handles, message_type, subscribes, subscription
from perdure_store_sqlite import SqliteStore
from perdure_transport_grpc import ServerSettings, Settings
from perdure_transport_grpc.dialling import Dialler
from perdure_transport_grpc.listening import GrpcListener

TIMEOUT = 60.0
PATIENT = {"silence": 1e9, "heartbeat": 1e9, "grace": 1e9}


class Stores:
    """Fills ``perdure.testing``'s ``Stores``: many workers of one host, over gRPC."""

    def __init__(self, clock: Clock, lease: float) -> None:
        self.clock = clock
        self.backing = MemoryStore(clock, lease=lease)
        settings = ServerSettings(bind="127.0.0.1:0", drain=0.1, **PATIENT)
        self.host = Host(clock, settings, store=self.backing, lease=lease)
        self.listener = GrpcListener(self.host, clock, settings)
        self.opened: list[RemoteStore] = []

    async def start(self) -> None:
        await self.host.start()
        await self.listener.start()

    def open(self) -> RemoteStore:
        settings = Settings(host=self.listener.address, retry=0.001)
        dial = Dialler(settings)
        store = RemoteStore(dial, self.clock, settings, closing=dial.close)
        self.opened.append(store)
        return store

    async def kill(self, store: RemoteStore, worker: str) -> None:
        await store.close()
        self.backing.kill(worker)

    async def close(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            for store in self.opened:
                await store.close()
            await self.host.stop()
            await self.listener.stop()


class TestAStoreOverGrpc(StoreKit):
    @pytest.fixture
    async def stores(self, clock: ManualClock) -> AsyncIterator[Stores]:
        stores = Stores(clock, self.lease)
        await stores.start()
        yield stores
        await stores.close()


# -- runtimes


@message_type("grpc-store.entry")
@dataclass(frozen=True)
class Entry:
    amount: int


@message_type("grpc-store.booked")
@dataclass(frozen=True)
class Booked:
    amount: int


@message_type("grpc-store.unheard")
@dataclass(frozen=True)
class Unheard:
    """Nobody handles it."""


class Total(MessageAgent):
    """Keeps one."""

    def __init__(self) -> None:
        self.total = 0

    async def load(self, state: Any) -> None:
        self.total = state

    async def save(self) -> Any:
        return self.total


class Account(Total):
    """Durable: adds up, and tells of it."""

    @handles
    async def add(self, message: Entry, ctx: Context) -> int:
        self.total += message.amount
        await ctx.publish(Booked(message.amount), TopicId("booked", "all"))
        return self.total


@subscribes("booked")
class Audit(Total):
    """Durable, in another program: is told by topic."""

    @handles
    async def note(self, message: Booked, ctx: Context) -> None:
        self.total += message.amount

    @handles
    async def tell(self, message: Entry, ctx: Context) -> int:
        return self.total


class Branch(Total):
    """Durable: code of its own says which of them is told."""

    @handles
    async def note(self, message: Booked, ctx: Context) -> None:
        self.total += message.amount

    @handles
    async def tell(self, message: Entry, ctx: Context) -> int:
        return self.total


def nearest(topic: TopicId) -> str | None:
    return topic.source.partition("-")[0] or None


BRANCHES = App(
    "town", agents=[actor("branch", Branch, durable=True, subscriptions=[subscription("town.", key=nearest)])]
)
BANK = App("bank", agents=[actor("account", Account, durable=True)])
OFFICE = App("office", agents=[actor("audit", Audit, durable=True)])
ACCOUNT, AUDIT = AgentId("bank.account", "1"), AgentId("office.audit", "all")


class Town:
    """A host over one store; ``open`` opens a program that has none."""

    def __init__(self, store: DurableStore | None, **server: Any) -> None:
        self.store = store
        self.settings = ServerSettings(**({"bind": "127.0.0.1:0", "drain": 0.1} | server))

    async def __aenter__(self) -> Self:
        self.host = Host(SystemClock(), self.settings, store=self.store)
        self.listener = GrpcListener(self.host, SystemClock(), self.settings)
        await self.host.start()
        await self.listener.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self.host.stop()
            await self.listener.stop()

    def open(self, *apps: App, **worker: Any) -> AbstractAsyncContextManager[Runtime]:
        sections = {
            "transport-grpc": {"host": self.listener.address, "retry": 0.01, **worker},
            "engine-embedded": {"others": "leave"},
        }
        plugins = PluginSettings(block=frozenset({"otel"}))
        return Runtime.open(
            *apps, settings=Configuration(transport="grpc", store="grpc", sections=sections, plugins=plugins)
        )


async def until(runtime: Runtime, total: int) -> None:
    """Until the audit has heard of so much."""
    async with asyncio.timeout(TIMEOUT):
        asked = count()
        while await runtime.send(Entry(0), AUDIT, id=f"ask-{next(asked)}") != total:
            pass


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "town.db")
    yield store
    await store.close()


async def test_two_programs_with_different_agents_share_the_host_s_store(store: SqliteStore):
    async with Town(store) as town, town.open(BANK) as bank, town.open(OFFICE) as office:
        for n in range(1, 6):
            assert await bank.send(Entry(1), ACCOUNT, id=f"e{n}") == n
            assert await office.send(Entry(1), ACCOUNT, id=f"e{n}") == n
        await until(bank, 5)
        assert {view.status for view in await office.query.runs(RunFilter(target="bank.account"))} == {"completed"}
        assert await office.query.runs(RunFilter(status=("parked", "failed"))) == []


async def test_what_is_published_while_a_program_is_away_is_there_when_it_comes_back(store: SqliteStore):
    async with Town(store) as town:
        async with town.open(OFFICE) as office:
            assert await office.send(Entry(0), AUDIT) == 0
        async with town.open(BANK) as bank:
            for n in range(1, 4):
                assert await bank.send(Entry(1), ACCOUNT, id=f"e{n}") == n
            await bank.publish(Booked(10), TopicId("booked", "all"))
            there = {each.type: each.healthy for each in await bank.agents()}
            assert (there["bank.account"], there["office.audit"]) == (True, False)
    async with Town(store) as town:
        async with town.open(App("nobody")) as client:
            await client.publish(Booked(100), TopicId("booked", "all"))
        async with town.open(OFFICE) as office:
            await until(office, 113)


async def test_where_code_says_who_gets_it_nothing_is_lost_either(store: SqliteStore):
    async with Town(store) as town, town.open(App("nobody")) as client:
        async with town.open(BRANCHES) as branches:
            assert await branches.send(Entry(0), AgentId("town.branch", "east")) == 0
        for number, source in enumerate(("east-1", "west-7", "east-2", "-")):
            for _ in range(2):
                await client.publish(Booked(1), TopicId("town.news", source), id=f"n{number}")
        async with town.open(BRANCHES) as branches, asyncio.timeout(TIMEOUT):
            asked = count()
            for key, total in (("east", 2), ("west", 1)):
                branch = AgentId("town.branch", key)
                while await branches.send(Entry(0), branch, id=f"ask-{next(asked)}") != total:
                    pass
            assert await branches.query.runs(RunFilter(status=("failed", "parked"))) == []


async def test_what_no_handler_takes_fails_visibly_and_holds_up_nothing(store: SqliteStore):
    async with Town(store) as town, town.open(OFFICE) as office, town.open(BANK) as bank:
        assert await office.send(Entry(0), AUDIT) == 0
        await bank.publish(Unheard(), TopicId("booked", "all"))
        await bank.publish(Booked(3), TopicId("booked", "all"))
        await until(office, 3)
        (failed,) = await office.query.runs(RunFilter(target="office.audit", status=("failed", "parked")))
        assert failed.status == "failed"
        assert "grpc-store.unheard" in str((await office.view(failed.id)).error)


async def test_a_program_whose_host_keeps_no_store_is_told_so_when_it_opens():
    async with Town(None) as town:
        with pytest.raises(StoreUnusable, match="keeps no store"):
            async with town.open(BANK):
                pass
