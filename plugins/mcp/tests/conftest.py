"""Servers as real child processes, spoken to with the official client."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

HERE = Path(__file__).parent


class Serve(Protocol):
    def __call__(
        self, *options: str, mode: str = "auto", command: tuple[str, ...] = ...
    ) -> AbstractAsyncContextManager[Client]: ...


@pytest.fixture
def stderr(tmp_path: Path) -> Path:
    """Where the servers of a test write what is no protocol."""
    return tmp_path / "stderr.txt"


@pytest.fixture
def serve(tmp_path: Path, stderr: Path) -> Serve:
    """Starts a server on the test's own data, and a client of it."""

    @asynccontextmanager
    async def start(
        *options: str, mode: str = "auto", command: tuple[str, ...] = ("perdure_mcp",)
    ) -> AsyncGenerator[Client]:
        options = options or ("--app", "mcp_shop:app")
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", *command, "--data", "data", *options],
            env={"PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1", "PERDURE_PLUGINS__BLOCK": "otel"},
            cwd=tmp_path,
        )
        with stderr.open("a") as errors:
            async with Client(stdio_client(parameters, errors), mode=mode) as client:
                yield client

    return start


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


@pytest.fixture
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
