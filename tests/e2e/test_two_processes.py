"""Two runtimes on one SQLite file, in processes of their own: really killed, really stopped.

The first one drives, because it was there first; the second works through it, and takes over when it is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

T = TypeVar("T")

PEER = Path(__file__).with_name("processes") / "peer.py"
PATIENCE = 60
NEVER = 3600
"""Seconds of a lease that only a death ends."""


async def soon(event: Awaitable[T]) -> T:
    """The one timeout of whatever is waited for here."""
    return await asyncio.wait_for(event, PATIENCE)


class Peer:
    """One of the processes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process, self.pid = process, process.pid

    async def tell(self, *order: Any) -> None:
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        await self.process.stdin.drain()

    async def hear(self) -> Any:
        line = await soon(self.process.stdout.readline())
        assert line, "the process has died"
        return json.loads(line)

    async def ask(self, *order: Any) -> Any:
        await self.tell(*order)
        return await self.hear()

    async def stop(self, database: Path) -> None:
        """Stop it, outside a transaction: stopped inside one it keeps the file to itself, as SQLite's rule is."""
        while True:
            self.process.send_signal(signal.SIGSTOP)
            if await asyncio.to_thread(_writable, database):
                return
            self.process.send_signal(signal.SIGCONT)

    async def logged(self, words: str) -> None:
        """Until its log says so."""
        while words not in (line := (await soon(self.process.stderr.readline())).decode()):
            assert line, f"the log ended without {words!r}"


def _writable(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0.5, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


class Arrival(NamedTuple):
    """A step that stands at the gate."""

    pid: int
    writer: asyncio.StreamWriter

    def open(self) -> None:
        self.writer.write(b"!")


class Gate:
    """Where steps wait until the test lets them go on."""

    def __init__(self) -> None:
        self.port = 0
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._arrivals.put_nowait(Arrival(int(await reader.readline()), writer))

    async def arrival(self) -> Arrival:
        return await soon(self._arrivals.get())

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class Road(NamedTuple):
    """What a test has: where it is, its gate, and its peers."""

    folder: Path
    gate: Gate
    peers: list[Peer]

    @property
    def input(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "port": self.gate.port}

    @property
    def database(self) -> Path:
        return self.folder / "perdure.db"

    def witnessed(self) -> list[tuple[int, int]]:
        """Which leg was done by whom, in order."""
        lines = (self.folder / "witness").read_text().splitlines()
        return [(int(number), int(pid)) for number, pid in map(str.split, lines)]

    async def peer(self, *, lease: float = NEVER) -> Peer:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        settings = {
            "PERDURE_DATA": str(self.folder),
            "PERDURE_STORE_SQLITE__LEASE": str(lease),
            "PERDURE_ENGINE_EMBEDDED__TICK": "0.1",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PEER)),
            cwd=self.folder,
            env={**kept, **settings},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        peer = Peer(process)
        self.peers.append(peer)
        return peer

    async def first(self, *, lease: float = NEVER) -> Peer:
        """A peer that drives, as what it has done shows."""
        peer = await self.peer(lease=lease)
        run = (await peer.ask("start", "approve", {"folder": str(self.folder)}))["run"]
        request = await peer.ask("request", run)
        await peer.ask("answer", request, {"approved": True})
        assert await peer.ask("result", run) == [peer.pid, peer.pid]
        (self.folder / "witness").unlink()
        return peer


@pytest.fixture
async def road(tmp_path: Path) -> AsyncIterator[Road]:
    gate = Gate()
    server = await asyncio.start_server(gate.admit, "127.0.0.1", 0)
    gate.port = server.sockets[0].getsockname()[1]
    road = Road(tmp_path, gate, [])
    yield road
    for peer in road.peers:
        if peer.process.returncode is None:
            peer.process.kill()
        await peer.process.communicate()
    gate.close()
    server.close()


async def test_the_second_starts_answers_and_awaits_through_the_first(road: Road):
    first = await road.first()
    second = await road.peer()
    begun = await second.ask("start", "approve", {"folder": str(road.folder)}, "the same key")
    assert begun["new"]
    request = await second.ask("request", begun["run"])
    await second.ask("answer", request, {"approved": True})
    assert await second.ask("result", begun["run"]) == [first.pid, first.pid]
    assert road.witnessed() == [(0, first.pid), (1, first.pid)]
    assert await first.ask("start", "approve", {"folder": "elsewhere"}, "the same key") == {**begun, "new": False}
    assert await first.ask("result", begun["run"]) == [first.pid, first.pid]


async def test_the_first_goes_on_with_what_the_second_began_and_did_not_live_to_see(road: Road):
    first = await road.first()
    second = await road.peer()
    run = (await second.ask("start", "journey", road.input))["run"]
    arrival = await road.gate.arrival()
    second.process.kill()
    await soon(second.process.wait())
    arrival.open()
    assert await first.ask("result", run) == [first.pid] * 7


@pytest.mark.parametrize("starter", ["first", "second"])
async def test_after_a_kill_the_second_takes_over_and_no_recorded_step_runs_again(road: Road, starter: str):
    first = await road.first()
    second = await road.peer()
    run = (await (first if starter == "first" else second).ask("start", "journey", road.input))["run"]
    assert (await road.gate.arrival()).pid == first.pid
    await second.tell("result", run)
    first.process.kill()
    taken_over = await road.gate.arrival()
    assert taken_over.pid == second.pid
    taken_over.open()
    assert await second.hear() == [first.pid] * 3 + [second.pid] * 4
    assert road.witnessed() == [*((n, first.pid) for n in range(3)), *((n, second.pid) for n in range(3, 6))]


async def test_a_request_outlives_the_process_that_asked(road: Road):
    first = await road.first()
    second = await road.peer()
    run = (await first.ask("start", "approve", {"folder": str(road.folder)}))["run"]
    request = await first.ask("request", run)
    first.process.kill()
    await second.ask("answer", request, {"approved": True})
    assert await second.ask("result", run) == [first.pid, second.pid]
    assert road.witnessed() == [(0, first.pid), (1, second.pid)]


async def test_a_stopped_process_is_taken_over_from_and_commits_nothing_stale_when_it_goes_on(road: Road):
    first = await road.first(lease=3)
    second = await road.peer(lease=NEVER)
    run = (await second.ask("start", "journey", road.input))["run"]
    stopped = await road.gate.arrival()
    assert stopped.pid == first.pid
    await first.stop(road.database)
    taken_over = await road.gate.arrival()
    assert taken_over.pid == second.pid
    taken_over.open()
    done = [first.pid] * 3 + [second.pid] * 4
    assert await second.ask("result", run) == done
    journal = await second.ask("journal", run)

    stopped.open()  # what its step returns when it goes on
    first.process.send_signal(signal.SIGCONT)
    await first.logged(f"run {run} goes on elsewhere")
    assert await first.ask("result", run) == done
    assert await first.ask("journal", run) == await second.ask("journal", run) == journal
    assert road.witnessed() == [*((n, first.pid) for n in range(3)), *((n, second.pid) for n in range(3, 6))]

    again = (await first.ask("start", "journey", road.input))["run"]  # it works, through the one that drives now
    (arrival := await road.gate.arrival()).open()
    assert arrival.pid == second.pid
    assert await first.ask("result", again) == [second.pid] * 7


async def test_a_process_that_was_stopped_while_the_run_goes_on_elsewhere_does_not_disturb_it(road: Road):
    first = await road.first(lease=3)
    second = await road.peer(lease=NEVER)
    run = (await first.ask("start", "journey", road.input))["run"]
    stopped = await road.gate.arrival()
    await first.stop(road.database)
    taken_over = await road.gate.arrival()
    stopped.open()
    first.process.send_signal(signal.SIGCONT)
    await first.logged(f"run {run} goes on elsewhere")
    assert len(await first.ask("journal", run)) == 3
    taken_over.open()
    done = [first.pid] * 3 + [second.pid] * 4
    assert await first.ask("result", run) == done
    assert await second.ask("result", run) == done
