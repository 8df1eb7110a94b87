"""A bank over a host: a host with a store, workers without one, clients, each as if on a machine of its own.

Host and workers are processes of the command line; clients are runtimes of this one. Each reaches the host through a
proxy at an address of its own; one more client, which only looks, reaches it directly.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Literal

from perdure import App, Runtime, config
from perdure.clock import SystemClock
from perdure.errors import RetryableError, Undeliverable
from perdure.testing import FaultProxy, MemoryStore

from .branch import AUDIT, NAME, Ping, teller
from .loopback import free_port, machines
from .payments import PATIENCE, Clients, lapse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from .forked import Child, Processes

Carrier = Literal["grpc", "http"]

HOST: Final = "host"
WORKERS: Final = ("left", "right")
CLIENTS: Final = ("north", "south")

PASSING: Final = (RetryableError, Undeliverable)
"""What a message may be refused with while processes are killed: it is sent again."""

_MACHINES: Final = 8
"""Addresses of one town."""

_ACCOUNTS: Final = 2
"""Of each client."""

_PACE: Final = 0.05
_DEADLINE: Final = 10.0
_PLUGINS: Final = (
    *("store-sqlite", "store-grpc", "store-http", "transport-grpc", "transport-http"),
    *("engine-embedded", "messaging", "command-host", "command-worker"),
)
_SETTINGS: Final = f"""
[plugins]
allow = {list(_PLUGINS)}

[transport-grpc]
retry = 0.02

[transport-http]
retry = 0.02

[transport-grpc.server]
heartbeat = 0.2
silence = 0.8
grace = 1.0

[transport-http.server]
hosts = ["*"]

[store-sqlite]
lease = 1.0

[engine-embedded]
takeovers = 1000000
tick = 0.2
pause = 0.1
"""


class Link:
    """The way from one of them to the host.

    Args:
        name: Whose.
        proxy: What it leads through.
        ask: Has something answered over it.

    Attributes:
        fault: What is wrong with it at present; empty: nothing.
        well: Since when nothing is (of the monotonic clock).
        refused: What was heard, and when, instead of the last answer.
    """

    def __init__(self, name: str, proxy: FaultProxy, ask: Callable[[], Awaitable[Any]]) -> None:
        self.name = name
        self.proxy = proxy
        self.fault = ""
        self.well = 0.0
        self.refused: list[tuple[float, str]] = []
        self._ask = ask

    def strike(self) -> None:
        """Let a fault happen; it lasts until ``heal``."""
        self.fault = self.proxy.strike()

    def heal(self) -> None:
        """Let nothing be wrong."""
        self.proxy.heal()
        self.fault, self.well = "", time.monotonic()

    async def answered(self) -> float:
        """When the next answer came over it. Raises ``TimeoutError``."""
        self.refused.clear()
        try:
            async with asyncio.timeout(PATIENCE):
                while not await self._answers():
                    await lapse(0.02)
        except TimeoutError:
            msg = f"nothing was answered over the link of {self.name!r} for {PATIENCE:g} s"
            raise TimeoutError(msg) from None
        return time.monotonic()

    async def _answers(self) -> bool:
        try:
            await self._ask()
        except PASSING as error:
            self.refused.append((time.monotonic(), repr(error)))
            return False
        return True


class Town:
    """See the module and ``open_town``.

    Attributes:
        folder: Where all of it lies.
        links: By name of worker or client.
        clients: By name.
        looker: What reaches the host directly.
    """

    def __init__(self, folder: Path, processes: Processes, carrier: Carrier, number: int) -> None:
        self.folder = folder
        self.links: dict[str, Link] = {}
        self.clients: dict[str, Clients] = {}
        self.looker: Runtime
        self._problems: list[str] = []
        self._processes = processes
        self._carrier: Carrier = carrier
        self._children: dict[str, Child] = {}
        self._address, *self._others = machines(_MACHINES, first=2 + _MACHINES * number)
        self._port, self._web = free_port(self._address), free_port(self._address)

    @property
    def problems(self) -> list[str]:
        """What was wrong at once."""
        return [*self._problems, *(each for clients in self.clients.values() for each in clients.problems)]

    async def kill(self, name: str) -> None:
        """Kill -9 host or worker, and start it again at once, at the same address."""
        child = self._children[name]
        await child.kill()
        if child.code != -signal.SIGKILL:
            self._problems.append(f"{name} (process {child.life}) ended by itself with {child.code}; see the log")
        self.begin(name)

    def begin(self, name: str) -> None:
        """Start host or worker."""
        if name == HOST:
            words = ["host", "--bind", f"{self._address}:{self._port}", "--store", "host.db"]
            words += ["--http", f"{self._address}:{self._web}"] if self._carrier == "http" else []
            self._children[name] = self._processes.begin(self.folder, *words)
            return
        proxy = self.links[name].proxy
        words = ["worker", "tests.chaos.branch:app", "--host", self._where(proxy.host, proxy.port), "--data", name]
        named = {NAME: name, AUDIT: str(self.folder / "audit")}
        self._children[name] = self._processes.begin(self.folder, *words, **named)

    async def up(self, name: str) -> float:
        """When host or worker, as it was started last, was ready (of the monotonic clock). Raises ``TimeoutError``."""
        child = self._children[name]
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE / 2):
                await child.up.wait()
        if not child.up_at:
            for each in self._children.values():
                each.ask()
            await lapse(1.0)
            msg = f"{name} (process {child.life}, {child.pid}) did not come up; see the log"
            raise TimeoutError(msg)
        return child.up_at

    def runtime(self, proxy: FaultProxy | None = None, *, looks: bool = False) -> Any:
        """Open a runtime that reaches the host through a proxy, or directly; one that ``looks`` uses its store."""
        where = (proxy.host, proxy.port) if proxy else (self._address, self._web if self._is_web else self._port)
        carrier = self._carrier
        settings = config.Settings(
            data=self.folder / "client",
            transport=carrier,
            store=carrier,
            plugins=config.PluginSettings(allow=frozenset(_PLUGINS)),
            sections={f"transport-{carrier}": {"url" if self._is_web else "host": self._where(*where), "retry": 0.02}},
        )
        store = None if looks else MemoryStore(SystemClock())
        return Runtime.open(App("nobody"), settings=settings, store=store, drive=not looks)

    @property
    def _is_web(self) -> bool:
        return self._carrier == "http"

    def _where(self, host: str, port: int) -> str:
        return f"http://{host}:{port}" if self._is_web else f"{host}:{port}"

    async def settle(self, stack: AsyncExitStack, seed: int) -> None:
        """Start everything; clients begin to pay."""
        (self.folder / "perdure.toml").write_text(_SETTINGS)
        self.begin(HOST)
        await self.up(HOST)
        self.looker = await stack.enter_async_context(self.runtime(looks=True))
        runtimes: dict[str, Runtime] = {}
        for number, name in enumerate((*WORKERS, *CLIENTS)):
            target = self._address, self._web if self._is_web else self._port
            address = self._others[number] if self._others[number] != self._address else ""
            proxy = await stack.enter_async_context(FaultProxy(*target, seed=seed + number, address=address))
            if name in WORKERS:
                self.links[name] = Link(name, proxy, self._asks_teller(name))
                self.begin(name)
            else:
                runtimes[name] = await stack.enter_async_context(self.runtime(proxy))
                self.links[name] = Link(name, proxy, runtimes[name].agents)
        for name in WORKERS:
            await self.links[name].answered()
        for name, runtime in runtimes.items():
            accounts = [f"{name}-{number}" for number in range(_ACCOUNTS)]
            self.clients[name] = Clients(runtime, accounts, passing=PASSING, deadline=_DEADLINE, pace=_PACE)
            stack.push_async_callback(self.clients[name].abandon)

    async def end(self) -> None:
        """Kill host and workers."""
        for child in self._children.values():
            await child.kill()

    def _asks_teller(self, name: str) -> Callable[[], Awaitable[Any]]:
        async def ask() -> None:
            await self.looker.send(Ping(), teller(name), deadline=5.0)

        return ask


@asynccontextmanager
async def open_town(
    folder: Path, processes: Processes, carrier: Carrier, *, number: int = 0, seed: int = 0
) -> AsyncGenerator[Town]:
    """A town in an empty folder; all in it ends with it.

    Args:
        folder: Where it keeps its files.
        processes: What starts host and workers.
        carrier: What carries messages.
        number: Of this town, among those that are there at the same time.
        seed: Of the faults.
    """
    town = Town(folder, processes, carrier, number)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(town.end)
        await town.settle(stack, seed)
        yield town
