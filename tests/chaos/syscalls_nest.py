"""A process that has imported everything and forks those that work: one is there in milliseconds, not in half a second.

``python -m tests.chaos.syscalls_nest`` reads orders as lines of JSON and says ``born`` with the order's number and a
process id, then ``died`` with the number and an exit code (negative: the signal). When its input ends, so does it, and
those that still work.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import json
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import syscalls_work as script
from .syscalls_work import Ending, Synchronous

_PR_SET_PDEATHSIG, _PR_SET_PTRACER, _ANYBODY = 1, 0x59616D61, -1


class Orders(NamedTuple):
    """What one process is to do.

    Attributes:
        number: The order's.
        life: Which part of the script; see ``syscalls_work.work``.
        file: The store's.
        witness: What it writes there; also what it says on stderr, in ``witness.said``.
        go: A pipe by name; it begins when it reads a byte there, so that a tracer can join it first.
        ending: After a refusal.
        synchronous: The store's setting.
    """

    number: int
    life: int
    file: str
    witness: str
    go: str
    ending: Ending = "go on"
    synchronous: Synchronous = "full"


class Nest:
    """See the module."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._rest = b""
        self._system = ctypes.CDLL(None)

    def run(self) -> None:
        """Until the input ends."""
        hears, says = os.pipe()
        os.set_blocking(says, False)
        signal.set_wakeup_fd(says)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            while True:
                ready, _, _ = select.select([0, hears], [], [])
                if hears in ready:
                    os.read(hears, 4096)
                    self._look_after()
                if 0 in ready and not self._listen():
                    return
        finally:
            for pid in self._numbers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _listen(self) -> bool:
        data = os.read(0, 65536)
        *orders, self._rest = (self._rest + data).split(b"\n")
        for order in orders:
            self._bear(Orders(*json.loads(order)))
        return bool(data)

    def _bear(self, orders: Orders) -> None:
        own = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be(orders, own)
        self._numbers[pid] = orders.number
        self._say("born", orders.number, pid)

    def _be(self, orders: Orders, parent: int) -> None:
        """The child's part: never returns."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._system.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            self._system.prctl(_PR_SET_PTRACER, _ANYBODY)  # some systems let only a parent trace
            said = os.open(f"{orders.witness}.said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(said, 2)
            os.dup2(said, 1)
            if os.getppid() == parent:
                live(orders)
        except BaseException:  # noqa: BLE001 - whatever ends it, it must not go on as a nest
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def _look_after(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._say("died", self._numbers.pop(pid), os.waitstatus_to_exitcode(status))

    @staticmethod
    def _say(what: str, number: int, detail: int) -> None:
        os.write(1, f"{what} {number} {detail}\n".encode())


def live(orders: Orders) -> None:
    """Wait for the word, then work. Never returns."""
    with Path(orders.go).open("rb", buffering=0) as go:
        go.read(1)
    faulthandler.dump_traceback_later(script.LIFE, exit=True)
    worker = script.Worker(Path(orders.file), orders.synchronous)
    asyncio.run(script.work(orders.life, worker, script.Witness(Path(orders.witness)), orders.ending))


if __name__ == "__main__":
    Nest().run()
