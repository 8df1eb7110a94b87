"""``perdure`` commands as processes, forked from one that has imported everything: what kills them need not wait.

``python -m tests.chaos.forked`` takes orders as a ``Nursery`` does. Its children are what ``perdure WORDS`` is, in a
folder of their own; with ``--json`` they say on the same output when they are ready.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure_cli import main

from .nursery import Nursery, end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

ROOT = Path(__file__).parents[2]
_GROUPS = ("perdure.stores", "perdure.engines", "perdure.transports", "perdure.listeners")
_COMMANDS = ("host", "worker")


class Orders(NamedTuple):
    """What a process is told before it begins.

    Attributes:
        life: Its number.
        folder: Its working directory.
        words: The command line after ``perdure``.
        environment: What stands in its environment besides.
    """

    life: int
    folder: str
    words: Sequence[str]
    environment: dict[str, str]


class Commands(Nursery):
    """See the module."""

    orders = Orders

    def live(self, orders: Orders) -> None:
        """Be the command, until killed."""
        os.chdir(orders.folder)
        os.environ.update(orders.environment)
        signal.signal(signal.SIGUSR1, _tell)
        main(orders.words)


def _tell(*_: object) -> None:
    """Write down what each task waits for."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # there is no loop yet
        return
    for task in tasks:
        waits, inner = [], task.get_coro()
        while inner is not None:
            frame = getattr(inner, "cr_frame", None)
            waits.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}" if frame else repr(inner))
            inner = getattr(inner, "cr_await", None)
        sys.stderr.write(f"{os.getpid()} {task.get_name()}: {' > '.join(waits)}\n")
    sys.stderr.flush()


def _import_all() -> None:
    chosen = [point for group in _GROUPS for point in entry_points(group=group)]
    chosen += [point for name in _COMMANDS for point in entry_points(group="perdure.commands", name=name)]
    for point in (*chosen, *entry_points(group="perdure", name="messaging")):
        point.load()
    import_module("tests.chaos.bank")


class Child:
    """One process.

    Attributes:
        life: Its number.
        pid: Its process, once it is born.
        code: How it ended: minus the signal's number.
        up_at: When it said that it is ready (of the monotonic clock); 0: not yet.
        born: Set when it has a ``pid``.
        up: Set when it has said that it is ready, or died before.
        dead: Set when it has died.
    """

    def __init__(self, life: int) -> None:
        self.life = life
        self.pid = self.code = 0
        self.up_at = 0.0
        self.born, self.up, self.dead = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def kill(self) -> None:
        """Kill -9; return when it is dead."""
        await self.born.wait()
        if not self.dead.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            await self.dead.wait()

    def ask(self) -> None:
        """Have it write down what it waits for; that ends in the log."""
        if self.pid and not self.dead.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)


class Processes:
    """All that there are. See ``open_processes``."""

    def __init__(self, nursery: asyncio.subprocess.Process) -> None:
        self._nursery = nursery
        self._children: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._early: set[int] = set()  # ready before the nursery said that they were born
        self._listening = asyncio.create_task(self._listen())

    def begin(self, folder: Path, *words: str, **environment: str) -> Child:
        """Start a command in a folder."""
        child = Child(len(self._children) + 1)
        self._children[child.life] = child
        orders = Orders(child.life, str(folder), (*words, "--json"), environment)
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(f"{json.dumps(orders)}\n".encode())
        return child

    async def close(self) -> None:
        """End all of them."""
        try:
            await end(self._nursery)
        finally:
            await self._listening

    async def _listen(self) -> None:
        assert self._nursery.stdout is not None
        while line := await self._nursery.stdout.readline():
            if line.startswith(b"{"):
                self._hear(json.loads(line))
                continue
            what, life, detail = line.split()
            child = self._children[int(life)]
            if what == b"born":
                child.pid = int(detail)
                self._by_pid[child.pid] = child
                child.born.set()
                if child.pid in self._early:
                    self._early.discard(child.pid)
                    self._hear({"worker": child.pid, "state": "ready"})
            elif what == b"died":
                self._by_pid.pop(child.pid, None)
                child.code = int(detail)
                child.dead.set()
                child.up.set()

    def _hear(self, said: dict[str, Any]) -> None:
        if said.get("state") != "ready":
            return
        pid = said.get("host") or said["worker"]
        child = self._by_pid.get(pid)
        if child is None:
            self._early.add(pid)
        else:
            child.up_at = time.monotonic()
            child.up.set()


@asynccontextmanager
async def open_processes(log: Path) -> AsyncGenerator[Processes]:
    """Processes that write what they complain of to a file; all die at the end."""
    with log.open("a") as errors:
        nursery = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.chaos.forked"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            start_new_session=True,
            env={name: text for name, text in os.environ.items() if not name.startswith("PERDURE_")},
        )
    processes = Processes(nursery)
    try:
        yield processes
    finally:
        await processes.close()


if __name__ == "__main__":
    _import_all()
    Commands(2).run()
