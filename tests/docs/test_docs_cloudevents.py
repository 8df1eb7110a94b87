"""The page on CloudEvents: a host and a worker as it starts them, and its curl commands with what they answer."""

import asyncio
import json
import re
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from .pages import DOCS, blocks, program

PAGE = DOCS / "cloudevents.md"
PATIENCE = 100
AT = "127.0.0.1:7380"


def commands() -> list[tuple[str, str]]:
    """The page's commands, each with what it prints."""
    text = "".join(block.text for block in blocks(PAGE, "console"))
    found = []
    for part in text.split("$ ")[1:]:
        lines = part.splitlines()
        ends = next(n for n in range(1, len(lines) + 1) if whole("\n".join(lines[:n])))
        found.append(("\n".join(lines[:ends]), "\n".join(lines[ends:])))
    return found


def whole(command: str) -> bool:
    """Whether nothing of it stands on the next line."""
    try:
        shlex.split(command)
    except ValueError:  # a quotation is open
        return False
    return not command.endswith("\\")


@asynccontextmanager
async def perdure(folder: Path, *words: str) -> AsyncIterator[Any]:
    """A process of the command line, once it is ready: what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure_cli", *words, "--json"), cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
        assert line, f"{words} has died"
        yield json.loads(line)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.timeout(400)  # it starts a dozen processes, perhaps on a machine that has much else to do
@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl to call with")
async def test_the_commands_of_the_page_print_what_it_says(tmp_path):
    (tmp_path / "shop.py").write_text(program(PAGE))
    shown = commands()
    assert [command.split()[:2] for command, _ in shown[:2]] == [["perdure", "host"], ["perdure", "worker"]]
    async with perdure(tmp_path, "host", "--bind", "127.0.0.1:0", "--http", "127.0.0.1:0") as ready:
        url = next(address for address in ready["addresses"] if address.startswith("http"))
        worker = shown[1][0].replace(f"http://{AT}", url).split()[1:]
        async with perdure(tmp_path, *worker, "--data", "data"):
            assert len(shown) > 6
            for command, printed in shown[2:]:
                assert command.startswith("curl ")
                process = await asyncio.create_subprocess_shell(
                    command.replace("curl ", "curl --noproxy '*' ", 1).replace(f"http://{AT}", url),
                    cwd=tmp_path,
                    stdout=asyncio.subprocess.PIPE,
                )
                out, _ = await process.communicate()
                pattern = re.escape(printed).replace("…", "[0-9a-f]+")
                assert re.fullmatch(pattern, out.decode().strip()), f"{command}\n{out.decode()}"
