"""A process that has imported everything, and forks workers: one is there in milliseconds, not in half a second.

``python -m tests.chaos.nursery BELL`` reads orders as lines of JSON, and says ``born``, ``stopped``, ``woken``
and ``died`` with the worker's number and a process id, or the signal. When its input ends, its workers end.
It has one thread and opens no store, so that a fork of it is as clean as a new process.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import select
import signal
import sys
from contextlib import suppress
from typing import Any

from perdure import plugins

from . import worker

_PR_SET_PDEATHSIG = 1


async def end(nursery: asyncio.subprocess.Process) -> None:
    """End a nursery, and with it all that it bore."""
    assert nursery.stdin is not None
    nursery.stdin.close()
    try:
        async with asyncio.timeout(30):
            await nursery.wait()
    finally:
        if nursery.returncode is None:
            nursery.kill()
            await nursery.wait()


class Nursery:
    """See the module. Others bear other things: what they are told is ``orders``, what these do is ``live``."""

    orders: Any = worker.Orders

    def __init__(self, bell: int) -> None:
        self._bell = bell
        self._lives: dict[int, int] = {}
        self._rest = b""
        # Loaded before the fork: it lets a worker die with this process, however that dies.
        self._system = ctypes.CDLL(None) if sys.platform == "linux" else None

    def run(self) -> None:
        """Until the input ends."""
        # Ten thousand workers need not look for what is installed.
        found = plugins.entry_points()
        plugins.entry_points = lambda **chosen: found.select(**chosen) if chosen else found
        gc.collect()
        gc.freeze()
        hears, says = os.pipe()
        os.set_blocking(says, False)
        signal.set_wakeup_fd(says)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            while True:
                ready, _, _ = select.select([0, hears], [], [])
                if hears in ready:
                    os.read(hears, 4096)
                    self._look_after()
                if 0 in ready and not self._listen():
                    return
        finally:
            for pid in self._lives:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _listen(self) -> bool:
        data = os.read(0, 65536)
        *orders, self._rest = (self._rest + data).split(b"\n")
        for order in orders:
            self._bear(self.orders(*json.loads(order)))
        return bool(data)

    def live(self, orders: Any) -> None:
        """What a child does."""
        os.dup2(2, 1)
        worker.live(orders, self._bell)

    def _bear(self, orders: Any) -> None:
        own = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be(orders, own)
        self._lives[pid] = orders.life
        self._say("born", orders.life, pid)

    def _be(self, orders: Any, parent: int) -> None:
        """The child's part: never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if self._system is not None:
                self._system.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if os.getppid() == parent:
                self.live(orders)
            code = 0
        except BaseException:  # noqa: BLE001 - whatever ends it, it must not go on as a nursery
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _look_after(self) -> None:
        """Say what became of children."""
        while self._lives:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._say("stopped", self._lives[pid], pid)
            elif os.WIFCONTINUED(status):
                self._say("woken", self._lives[pid], pid)
            else:
                self._say("died", self._lives.pop(pid), os.waitstatus_to_exitcode(status))

    @staticmethod
    def _say(what: str, life: int, detail: int) -> None:
        os.write(1, f"{what} {life} {detail}\n".encode())


if __name__ == "__main__":
    Nursery(int(sys.argv[1])).run()
