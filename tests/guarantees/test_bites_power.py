"""Nothing is acknowledged before it is synced to the disk; and a store that skips that is caught.

What a power cut then leaves is drawn by ``tests/chaos/syscalls_power.py``; here the order of calls is looked at.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

UNSYNCED = Path(__file__).with_name("unsynced.py")
PATIENCE = 60
STRACE = shutil.which("strace")

needs_strace = pytest.mark.skipif(
    STRACE is None and not os.environ.get("CI"),
    reason="strace is not installed: 'apt-get install strace'",
)


async def traced(place: Path, synchronous: str) -> str:
    """The calls of the process on its store's log and its witness, in the order in which they returned."""
    assert STRACE is not None, "strace is not installed: 'apt-get install strace'"
    file, lines, trace = place / "perdure.db", place / "lines", place / "trace"
    process = await asyncio.create_subprocess_exec(
        *(STRACE, "-f", "-y", "-o", str(trace), "-e", "trace=pwrite64,write,fdatasync,fsync"),
        *(sys.executable, str(UNSYNCED), str(file), str(lines), synchronous),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0, said.decode()
    return trace.read_text(errors="replace")


def premature(trace: str) -> list[str]:
    """What was acknowledged while the log had something that was not synced."""
    found: list[str] = []
    seen, unsynced = 0, False
    halves: dict[str, str] = {}
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        call = call.lstrip()
        if call.endswith("<unfinished ...>"):
            halves[thread] = call
            continue
        if call.startswith("<... "):
            call = halves.pop(thread)
        if not (match := re.match(r"(\w+)\(\d+<([^>]*)>", call)):
            continue
        name, path = match.groups()
        if path.endswith("-wal"):
            unsynced = name in {"pwrite64", "write"}
        elif path.endswith("/lines"):
            seen += 1
            found += [call] if unsynced else []
    assert seen == 9, "not all calls were acknowledged, or not all were traced"
    return found


@needs_strace
@pytest.mark.promise("P1")
async def test_nothing_is_acknowledged_before_it_is_on_the_disk(tmp_path: Path) -> None:
    assert premature(await traced(tmp_path, "full")) == []


@needs_strace
@pytest.mark.promise("P1")
async def test_a_store_that_skips_the_sync_is_caught(tmp_path: Path) -> None:
    assert len(premature(await traced(tmp_path, "normal"))) > 3


def test_an_acknowledgement_between_a_write_and_its_sync_is_found() -> None:
    lines = ["1 write(3</x/lines>, 2) = 2"] * 8
    write, sync = (
        "2 pwrite64(4</x/db-wal>, 1, 0) = 1",
        ["2 fdatasync(4</x/db-wal> <unfinished ...>", "2 <... fdatasync resumed>) = 0"],
    )
    last = "1 write(3</x/lines>, 2) = 2"
    assert premature("\n".join([*lines, write, *sync, last])) == []
    assert premature("\n".join([*lines, write, sync[0], last, sync[1]])) == [last[2:]]
