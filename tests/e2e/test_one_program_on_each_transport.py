"""The program of the page on transports, unchanged, over each of them: by configuration only, with the same result."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from perdure import App, Runtime
from perdure.clock import SystemClock
from perdure.testing import MemoryStore

from .commands import PATIENCE, perdure

PAGE = (Path(__file__).parents[2] / "docs" / "transports.md").read_text()


def shown(info: str) -> str:
    """The only block of the page that is marked so."""
    (block,) = re.findall(rf"^```{info}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return block


CONFIGURATIONS = {
    "inprocess": "",
    "inprocess-strict": "[transport-inprocess]\nstrict = true\n",
    "grpc": 'transport = "grpc"\n[transport-grpc]\nhost = "{grpc}"\n',
    "grpc-direct": 'transport = "grpc"\n[transport-grpc]\nhost = "{grpc}"\nlisten = "127.0.0.1:0"\n',
    "http": 'transport = "http"\n[transport-http]\nurl = "{http}"\n',
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
async def test_a_program_prints_the_same_over_each_transport(kind: str, tmp_path: Path) -> None:
    (tmp_path / "dinner.py").write_text(shown("python dinner.py"))
    configuration = tmp_path / "perdure.toml"
    async with AsyncExitStack() as stack:
        address = ""
        if "{" in CONFIGURATIONS[kind]:
            words = ("host", "--bind", "127.0.0.1:0", "--http", "127.0.0.1:0")
            _, ready = await stack.enter_async_context(perdure(tmp_path, *words))
            addresses = dict(zip(("grpc", "http"), (each.split()[0] for each in ready["addresses"]), strict=True))
            configuration.write_text(CONFIGURATIONS[kind].format(**addresses))
            address = addresses[kind.partition("-")[0]]
            words = ("worker", "dinner:app", "--host", address, "--data", "worker")
            await stack.enter_async_context(perdure(tmp_path, *words))
        else:
            configuration.write_text(CONFIGURATIONS[kind])
        assert await output(tmp_path) == shown("text")
        if address:
            assert await lives_elsewhere(tmp_path, kind.partition("-")[0], address) >= 1


async def output(folder: Path) -> str:
    """What the program prints."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "dinner.py"), cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(program.communicate(), PATIENCE)
    assert program.returncode == 0
    return said.decode()


async def lives_elsewhere(folder: Path, transport: str, address: str) -> int:
    """How many of its agents live with the worker, now that the program itself has ended."""
    where = {"url" if transport == "http" else "host": address}
    options = {"transport": transport, f"transport-{transport}": where, "data": str(folder / "here")}
    async with Runtime.open(App("watcher"), store=MemoryStore(SystemClock()), **options) as runtime:
        return sum(each.instances or 0 for each in await runtime.agents() if each.type.startswith("dinner."))
