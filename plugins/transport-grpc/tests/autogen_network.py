"""A host that AutoGen's workers may join, and such workers in their own processes and their own environment."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from uv import find_uv_bin

from perdure import AgentId, App, Runtime
from perdure.clock import SystemClock
from perdure.config import PluginSettings, Settings
from perdure.plugins import Plugins
from perdure_hosting.host import Host
from perdure_messaging import Actor, LocalMessenger
from perdure_transport_grpc import ServerSettings
from perdure_transport_grpc.autogen.settings import AutogenSettings
from perdure_transport_grpc.listening import GrpcListener

TIMEOUT = 60.0
SIDE = Path(__file__).with_name("autogen_side")
LACKS = "AutoGen 0.7.5 cannot be installed here, so its workers are not tried: "


def environment(folder: Path) -> Path:
    """The interpreter of an environment with AutoGen in it. Where it cannot be had: skips, in CI fails."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted = SIDE / "requirements.txt"
    clean = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    for command in (
        [find_uv_bin(), "venv", "--quiet", "--no-project", f"--python={sys.executable}", str(folder)],
        [find_uv_bin(), "pip", "install", "--quiet", "--no-config", f"--python={python}", f"--requirements={wanted}"],
    ):
        ran = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
        if ran.returncode:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(LACKS + ran.stderr)
    return python


class AutogenWorker:
    """A worker in a process of its own.

    Attributes:
        said: What it said, but for the ends of orders.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.said: list[dict[str, Any]] = []
        self.killed = False
        self._process = process
        self._changed = asyncio.Event()
        self._results: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    async def do(self, do: str, **order: Any) -> Any:
        """What came of an order; ``RuntimeError`` with the error's type and text if it failed."""
        number = len(self._results)
        future = self._results[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "number": number, **order}).encode() + b"\n")
        async with asyncio.timeout(TIMEOUT):
            return await future

    async def register(self, type: str, *topics: str, prefixes: tuple[str, ...] = ()) -> None:
        await self.do("register", type=type, topics=topics, prefixes=prefixes)

    async def ask(self, to: str, text: str) -> str:
        return await self.do("ask", to=to, text=text)

    async def says(self, **what: Any) -> dict[str, Any]:
        """The first thing that it says with these in it."""
        async with asyncio.timeout(TIMEOUT):
            while not (found := [each for each in self.said if what.items() <= each.items()]):
                self._changed.clear()
                await self._changed.wait()
        return found[0]

    async def has(self, count: int) -> None:
        """Wait until its agents have heard so much."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.heard()) < count:
                self._changed.clear()
                await self._changed.wait()

    def heard(self) -> list[str]:
        """Who of its agents heard what, in the order in which they did."""
        return [f"{each['by']} {each['heard']}" for each in self.said if "heard" in each]

    async def kill(self) -> None:
        self.killed = True
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            future = self._results.get(said.get("done"))
            if future is None:
                self.said.append(said)
                self._changed.set()
            elif "error" in said:
                future.set_exception(RuntimeError(said["error"]))
            else:
                future.set_result(said["result"])
        for future in self._results.values():
            if not future.done():
                future.set_exception(RuntimeError("the worker is gone"))
                future.exception()  # perhaps nobody waits for it


class Crew:
    """Processes with AutoGen in them, used again: starting one takes seconds.

    Args:
        python: The interpreter.
    """

    def __init__(self, python: Path) -> None:
        self._python = python
        self._idle: list[AutogenWorker] = []

    async def join(self, address: str, content: str) -> AutogenWorker:
        """A worker of that host."""
        worker = self._idle.pop() if self._idle else await self._begin()
        await worker.do("join", address=address, content=content)
        return worker

    async def dismiss(self, worker: AutogenWorker) -> None:
        """It leaves its host."""
        if worker.killed:
            return
        try:
            await worker.do("leave")
        except (RuntimeError, TimeoutError):  # the test has broken it
            await worker.kill()
        else:
            worker.said.clear()
            self._idle.append(worker)

    async def end(self) -> None:
        for worker in self._idle:
            await worker.kill()

    async def _begin(self) -> AutogenWorker:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return AutogenWorker(
            await asyncio.create_subprocess_exec(
                *(str(self._python), "-I", str(SIDE / "autogen_program.py")),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=clean,
            )
        )


class Meeting:
    """A host with the bridge; workers of both kinds come by ``autogen`` and ``perdure``; all end with the block."""

    def __init__(self, crew: Crew | None = None, settings: AutogenSettings | None = None, **server: Any) -> None:
        given = {"bind": "127.0.0.1:0", "drain": 0.1, "autogen": True, "autogen_workers": settings or AutogenSettings()}
        clock, self.settings = SystemClock(), ServerSettings(**(given | server))
        self.host = Host(clock, self.settings)
        self.listener = GrpcListener(self.host, clock, self.settings)
        self._crew = crew
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.host.start()
        await self.listener.start()
        self._stack.push_async_callback(self.listener.stop)
        self._stack.push_async_callback(self.host.stop)
        self._stack.push_async_callback(self.listener.close_doors)
        return self

    async def __aexit__(self, *_: object) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self._stack.aclose()

    async def autogen(self, content: str = "application/json") -> AutogenWorker:
        assert self._crew is not None
        async with asyncio.timeout(TIMEOUT):
            worker = await self._crew.join(self.listener.address, content)
        self._stack.push_async_callback(self._crew.dismiss, worker)
        return worker

    async def perdure(self, *agents: Actor[Any], app: str = "desk") -> LocalMessenger:
        """A worker of ours with these agents."""
        plugins = Plugins(PluginSettings(allow=frozenset({"messaging", "transport-grpc"})))
        plugins.start([App(app, agents=agents)])
        sections = {"transport-grpc": {"host": self.listener.address, "drain": 0.1}}
        runtime = Runtime(Settings(transport="grpc", sections=sections), plugins, SystemClock(), None)
        runtime.catalog.bind(runtime)
        messenger = LocalMessenger(runtime)
        self._stack.push_async_callback(messenger.stop)
        async with asyncio.timeout(TIMEOUT):
            await messenger.start()
        return messenger


async def ask(messenger: LocalMessenger, message: object, to: str, deadline: float | None = None) -> Any:
    """What an agent answers."""
    async with asyncio.timeout(TIMEOUT):
        return await messenger.send(message, AgentId.parse(to), deadline=deadline)
