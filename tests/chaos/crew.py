"""The workers, as the commander has them: hires, kills, stops and wakes them, and hears what they did."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.clock import SystemClock

from .nursery import end
from .testimony import Reader, Witness
from .worker import Orders

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from .testimony import Line

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()


@dataclass
class Hand:
    """One worker.

    Attributes:
        life: Its number.
        pid: Its process, once it is born.
        status: ``unborn``, ``alive``, ``stopped`` or ``dead``.
        code: How it ended: minus the signal's number.
        up: Whether its engine has started.
    """

    life: int
    pid: int = 0
    status: str = "unborn"
    code: int = 0
    up: bool = False


class Crew:
    """All workers there are and were. See ``open_crew``.

    Attributes:
        hands: By number.
        count: How many lines were testified so far.
        listeners: Called with each line that is new.
        driver: Who said last that it takes over, or 0.
    """

    def __init__(self, place: Path, nursery: asyncio.subprocess.Process, bell: int, lease: float) -> None:
        self.place = place
        self.hands: dict[int, Hand] = {}
        self.count = 0
        self.listeners: list[Callable[[Line], None]] = []
        self.driver = 0
        self._lease = lease
        self._nursery = nursery
        self._bell = bell
        self._reader = Reader(place / "witness")
        self._witness = Witness(place / "witness", 0)
        self._news = asyncio.Event()
        self._listener = asyncio.create_task(self._listen())
        asyncio.get_running_loop().add_reader(bell, self._ring)

    # -- what can be done to them

    def hire(self, aim: str = "", *, stops: bool = False) -> Hand:
        """Have a worker born; see ``Orders``."""
        hand = self.hands[len(self.hands) + 1] = Hand(len(self.hands) + 1)
        orders = Orders(hand.life, str(self.place), aim, self._lease, stops)
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(f"{json.dumps(orders)}\n".encode())
        return hand

    def kill(self, hand: Hand) -> None:
        """Kill -9."""
        self._signal(hand, signal.SIGKILL)

    def stop(self, hand: Hand) -> None:
        """Stop it, wherever it is."""
        self._witness.note("stops", "", str(hand.life))
        self._signal(hand, signal.SIGSTOP)

    def wake(self, hand: Hand) -> None:
        """Let it go on."""
        self._witness.note("wakes", "", str(hand.life))
        self._signal(hand, signal.SIGCONT)

    def aim(self, hand: Hand, aim: str) -> None:
        """Give it a new aim; it must be up."""
        Orders(hand.life, str(self.place)).later.write_text(aim)
        self._signal(hand, signal.SIGUSR1)

    @staticmethod
    def _signal(hand: Hand, blow: signal.Signals) -> None:
        if hand.pid and hand.status != "dead":
            with suppress(ProcessLookupError):
                os.kill(hand.pid, blow)

    # -- what is heard of them

    @property
    def alive(self) -> list[Hand]:
        """Those that are not dead, stopped ones included."""
        return [hand for hand in self.hands.values() if hand.status != "dead"]

    async def until(self, there: Callable[[], bool], patience: float) -> bool:
        """Wait for something to be true, looking whenever there is news; ``False`` after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    self.hear()
                    if there():
                        return True
                    await self._news.wait()
        self.hear()
        return there()

    def hear(self) -> None:
        """Take in the lines that are new."""
        self._news.clear()
        for line in self._reader.news():
            self.count += 1
            if line.event == "up":
                self.hands[line.life].up = True
            elif line.event == "drives":
                self.driver = line.life
            for listener in self.listeners:
                listener(line)

    def _ring(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._bell, 1 << 16)
        self._news.set()

    async def _listen(self) -> None:
        assert self._nursery.stdout is not None
        while line := await self._nursery.stdout.readline():
            what, life, detail = line.split()
            hand = self.hands[int(life)]
            if what == b"born":
                hand.pid, hand.status = int(detail), "alive"
            elif what == b"died":
                hand.status, hand.code = "dead", int(detail)
            else:
                hand.status = "stopped" if what == b"stopped" else "alive"
            self._news.set()

    async def close(self) -> None:
        """End all of them."""
        asyncio.get_running_loop().remove_reader(self._bell)
        try:
            await end(self._nursery)
        finally:
            await self._listener
        self.hear()
        self._reader.close()
        self._witness.close()


@asynccontextmanager
async def open_crew(place: Path, *, lease: float = 10.0) -> AsyncGenerator[Crew]:
    """A crew without hands over the store in a folder; all die at the end."""
    hears, rings = os.pipe()
    os.set_blocking(hears, False)
    os.set_blocking(rings, False)
    with (place / "log").open("a") as log:
        nursery = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.chaos.nursery", str(rings)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            # A shell's job that ends leaves an orphaned group, whose stopped members the system wakes.
            start_new_session=True,
            pass_fds=[rings],
            env={name: text for name, text in os.environ.items() if not name.startswith("PERDURE_")},
        )
    os.close(rings)
    crew = Crew(place, nursery, hears, lease)
    try:
        yield crew
    finally:
        await crew.close()
        os.close(hears)
