"""One worker's life, from its fork to its end: it opens the app over the file that it shares with others, and drives.

It hangs itself into SQLite's own trace of statements, to die or stop at a chosen point of a transaction, and to tell
who drives. Nothing else in it differs from a worker that is left alone.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure import Runtime, config

from . import mill
from .death import Death
from .testimony import Witness

if TYPE_CHECKING:
    from collections.abc import Callable

_TAKES_OVER = re.compile(r"UPDATE driver SET epoch = (\d+)")


class Orders(NamedTuple):
    """What a worker is told before it begins.

    Attributes:
        life: Its number.
        place: The folder of the store, the witness and the orders.
        aim: When it is to die; see ``Death``.
        lease: Seconds.
        stops: Whether it is stopped at that moment, not killed.
    """

    life: int
    place: str
    aim: str = ""
    lease: float = 10.0
    stops: bool = False

    @property
    def later(self) -> Path:
        """The file that SIGUSR1 makes it read a new aim from."""
        return Path(self.place) / f"aim-{self.life}"


def settings(place: Path, lease: float = 10.0) -> config.Settings:
    """The configuration of workers and commander alike."""
    return config.Settings(
        data=place,
        plugins=config.PluginSettings(allow=frozenset({"store-sqlite", "engine-embedded", "transport-inprocess"})),
        sections={
            "store-sqlite": {"lease": lease},
            # Whoever is killed here did not die of its runs: none is poison.
            "engine-embedded": {"takeovers": 1_000_000, "tick": lease / 5, "pause": 0.1},
        },
    )


def live(orders: Orders, bell: int) -> None:
    """Work until killed."""
    witness = Witness(Path(orders.place) / "witness", orders.life, bell)
    death = Death(
        orders.aim,
        blow=signal.SIGSTOP if orders.stops else signal.SIGKILL,
        last_words=lambda moment: witness.note("stops" if orders.stops else "dies", "", moment),
    )
    signal.signal(signal.SIGUSR1, lambda *_: death.aim(orders.later.read_text()))
    mill.enter(mill.Worker(orders.life, witness, death))
    trace_statements(lambda: Transactions(witness, death))
    asyncio.run(_drive(orders, witness, death))


async def _drive(orders: Orders, witness: Witness, death: Death) -> None:
    death.reach("opening")
    async with Runtime.open(mill.app, settings=settings(Path(orders.place), orders.lease)):
        witness.note("up")
        await asyncio.get_running_loop().create_future()


# -- inside transactions ----------------------------------------------------------------------------------------


class Transactions:
    """Hears each statement of one connection before it is executed."""

    def __init__(self, witness: Witness, death: Death) -> None:
        self._witness, self._death = witness, death
        self._asked = False
        self._epoch = ""

    def __call__(self, statement: str) -> None:
        if statement == "BEGIN IMMEDIATE":
            self._asked = True
        elif statement == "COMMIT":
            if self._epoch:
                self._witness.note("drives", "", self._epoch)
            self._epoch = ""
            self._death.reach("commit")
        elif self._asked:
            self._asked = False
            self._death.reach("transaction")  # another statement than BEGIN: the file is locked by us
        elif statement == "ROLLBACK":
            self._epoch = ""
        if found := _TAKES_OVER.match(statement):
            self._epoch = found[1]
            self._death.reach("takeover")


def trace_statements(listener: Callable[[], Callable[[str], None]]) -> None:
    """Have each connection to a database that is opened from here on tell a listener of its own."""
    connect = sqlite3.connect

    def traced(path: Any, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(path, *args, **kwargs)
        if str(path).endswith(".db"):
            connection.set_trace_callback(listener())
        return connection

    sqlite3.connect = traced  # this process is a worker to be killed, and nothing else
