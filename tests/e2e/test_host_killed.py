"""A host is killed and started again while workers without a store run durable agents: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from perdure import AgentId, App, Runtime
from perdure.clock import SystemClock
from perdure.config import PluginSettings, Settings
from perdure.errors import PerdureError
from perdure.testing import MemoryStore

from .processes.bank import BOOKED, Booked, Entry, HowMuch

PATIENCE = 90.0
PROCESSES = Path(__file__).with_name("processes")
ACCOUNT, AUDIT = AgentId("bank.account", "1"), AgentId("office.audit", BOOKED.source)
ENTRIES = 30
KILLED_AFTER = {5, 14, 22}


class Processes:
    """Processes of the command line in one folder; all end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[asyncio.subprocess.Process] = []
        self.bind = "127.0.0.1:0"
        (folder / "bank.py").write_text((PROCESSES / "bank.py").read_text())
        # Of a worker that was killed, the host waits this long for the return before its agents get another place.
        (folder / "perdure.toml").write_text("[transport-grpc.server]\ngrace = 1.0\n[store-sqlite]\nlease = 3.0\n")

    async def begin(self, *words: str) -> tuple[asyncio.subprocess.Process, Any]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perdure_cli", *words, "--json"), cwd=self.folder, stdout=asyncio.subprocess.PIPE
        )
        self.running.append(process)
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
        assert line, f"{words} has died"
        return process, json.loads(line)

    async def host(self, *words: str) -> asyncio.subprocess.Process:
        """A host; the next one is at the same address."""
        process, ready = await self.begin("host", "--bind", self.bind, "--store", "kept/host.db", *words)
        assert ready["store"] == f"sqlite {self.folder / 'kept/host.db'}"
        self.bind = ready["addresses"][0].split()[0]
        return process

    async def worker(self, app: str) -> asyncio.subprocess.Process:
        process, ready = await self.begin("worker", f"bank:{app}", "--host", self.bind, "--data", app)
        assert ready["store"] == "grpc"
        return process

    async def kill(self, process: asyncio.subprocess.Process) -> None:
        process.kill()
        await process.wait()
        self.running.remove(process)

    async def end(self) -> None:
        for process in list(self.running):
            await self.kill(process)


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    await processes.end()


def client(processes: Processes) -> Any:
    settings = Settings(
        transport="grpc",
        sections={"transport-grpc": {"host": processes.bind, "retry": 0.02}},
        plugins=PluginSettings(block=frozenset({"otel"})),
    )
    return Runtime.open(App("nobody"), settings=settings, store=MemoryStore(SystemClock()))


async def insist(runtime: Runtime, message: Any, to: AgentId, id: str) -> Any:
    """Send until there is a reply, always under the same id."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await runtime.send(message, to, id=id, deadline=PATIENCE)
            except PerdureError:
                continue


async def heard(runtime: Runtime, total: int) -> None:
    """Until the audit has heard of so much; it must never be more."""
    ids = count()
    async with asyncio.timeout(PATIENCE):
        while (now := await insist(runtime, HowMuch(), AUDIT, f"ask-{total}-{next(ids)}")) != total:
            assert now < total


async def test_a_host_killed_again_and_again_loses_nothing_and_doubles_nothing(processes: Processes):
    host = await processes.host()
    await processes.worker("bank")
    await processes.worker("office")
    async with client(processes) as runtime:
        for n in range(1, ENTRIES + 1):
            assert await insist(runtime, Entry(1), ACCOUNT, f"e{n}") == n
            if n in KILLED_AFTER:  # while what was published and committed is on its way to the other worker
                await processes.kill(host)
                host = await processes.host()
        await heard(runtime, ENTRIES)
    assert not list(processes.folder.glob("bank/*.db"))
    assert not list(processes.folder.glob("office/*.db"))


async def test_workers_killed_in_turn_lose_nothing_and_double_nothing(processes: Processes):
    await processes.host()
    workers = {app: await processes.worker(app) for app in ("bank", "office")}
    async with client(processes) as runtime:
        for n in range(1, 13):
            assert await insist(runtime, Entry(1), ACCOUNT, f"e{n}") == n
            if n % 4 == 0:
                app = ("bank", "office")[n // 4 % 2]
                await processes.kill(workers[app])
                workers[app] = await processes.worker(app)
        await heard(runtime, 12)


async def test_what_is_published_with_no_worker_alive_is_delivered_when_one_comes(processes: Processes):
    host = await processes.host()
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(client(processes))
        worker = await processes.worker("office")
        await heard(runtime, 0)
        await processes.kill(worker)
        await runtime.publish(Booked(1), BOOKED, id="one")
        await processes.kill(host)
        await processes.host()
        for _ in range(2):
            await runtime.publish(Booked(10), BOOKED, id="ten")
        with closing(sqlite3.connect(processes.folder / "kept/host.db")) as file:
            waiting = "SELECT count(*) FROM runs WHERE target = 'office.audit' AND status = 'pending'"
            assert file.execute(waiting).fetchone() == (2,)
        await processes.worker("office")
        await heard(runtime, 11)
