"""Servers as real child processes, spoken to with the official client."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

HERE = Path(__file__).parent


class Serve(Protocol):
    def __call__(
        self, *options: str, mode: str = "auto", command: tuple[str, ...] = ...
    ) -> AbstractAsyncContextManager[Client]: ...


STDERR = "stderr.txt"


def serving(folder: Path) -> Serve:
    """Return what starts a server on data within a folder, and a client of it."""

    @asynccontextmanager
    async def start(
        *options: str, mode: str = "auto", command: tuple[str, ...] = ("perdure_mcp",)
    ) -> AsyncGenerator[Client]:
        options = options or ("--app", "mcp_shop:app")
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", *command, "--data", "data", *options],
            env={"PYTHONPATH": str(HERE), "PERDURE_PLUGINS__BLOCK": "otel"},
            cwd=folder,
        )
        with (folder / STDERR).open("a") as errors:
            async with Client(stdio_client(parameters, errors), mode=mode) as client:
                yield client

    return start


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Starts a server on the test's own data, and a client of it."""
    return serving(tmp_path)


@pytest.fixture
def stderr(tmp_path: Path) -> Path:
    """Where the servers of a test write what is no protocol; all of it is there when they have ended."""
    return tmp_path / STDERR


@dataclass
class Shop:
    """Servers that tests share, one for each way of speaking, since a server takes seconds to start.

    For tests whose keys are their own, and that end nothing but their own runs.
    """

    folder: Path
    _clients: dict[str, asyncio.Task[Client]] = field(default_factory=dict)
    _closed: asyncio.Event = field(default_factory=asyncio.Event)
    _held: list[asyncio.Task[None]] = field(default_factory=list)

    async def client(self, mode: str = "auto") -> Client:
        """A client of the server that is spoken to in this way."""
        if mode not in self._clients:
            self._clients[mode] = asyncio.create_task(self._opened(mode))
        return await self._clients[mode]

    def data(self, mode: str = "auto") -> Path:
        """The data folder of that server."""
        return self.folder / mode / "data"

    async def close(self) -> None:
        """End the servers in order."""
        self._closed.set()
        await asyncio.gather(*self._held)

    async def _opened(self, mode: str) -> Client:
        opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._held.append(asyncio.create_task(self._hold(mode, opened)))
        await asyncio.wait([opened, self._held[-1]], return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            await self._held.pop()
        return opened.result()

    async def _hold(self, mode: str, opened: asyncio.Future[Client]) -> None:
        # One task opens and closes a client: its cancel scopes demand it, and a fixture's two halves are two tasks.
        (self.folder / mode).mkdir()
        async with serving(self.folder / mode)(mode=mode) as client:
            opened.set_result(client)
            await self._closed.wait()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    """The servers that tests share."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    yield shop
    await shop.close()


@dataclass
class Gate:
    """A place where workflows wait until the test lets them go on."""

    port: int = 0
    _arrivals: asyncio.Queue[tuple[int, asyncio.StreamWriter]] = field(default_factory=asyncio.Queue)

    async def arrival(self) -> int:
        """Until somebody stands at the gate; who it is. It stays shut."""
        arrived = await self._arrivals.get()
        self._arrivals.put_nowait(arrived)
        return arrived[0]

    async def open(self) -> int:
        """Let the next one through; who it was."""
        process, writer = await self._arrivals.get()
        writer.write(b"open\n")
        writer.close()
        return process

    async def forget(self) -> None:
        """The one who stands there is dead."""
        (await self._arrivals.get())[1].close()

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody comes."""
        self._arrivals.put_nowait((int(await reader.readline()), writer))


@pytest_asyncio.fixture(loop_scope="session")
async def gate() -> AsyncIterator[Gate]:
    gate = Gate()
    server = await asyncio.start_server(gate.admit, "127.0.0.1", 0)
    gate.port = server.sockets[0].getsockname()[1]
    yield gate
    server.close()


class Called(Protocol):
    async def __call__(self, client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]: ...


@pytest.fixture
def call() -> Called:
    """Calls a tool and returns its envelope, which the client has validated."""

    async def call_tool(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
        result = await client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        return result.structured_content

    return call_tool


@pytest.fixture
def refusal() -> Any:
    """Calls a tool that refuses; returns what it says."""

    async def call_tool(client: Client, tool: str, /, **arguments: Any) -> str:
        result = await client.call_tool(tool, arguments)
        assert result.is_error
        assert result.structured_content is None
        return "".join(block.text for block in result.content)

    return call_tool
