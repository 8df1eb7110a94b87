"""Kill the worker of durable message agents while clients pay; then hold what is left against the promises.

``uv run python -m tests.chaos.kill_bank --kills 300``

Clients send payments to accounts, and repeat under the same id what was not acknowledged. An account calls the vault,
publishes to the book (durable) and to the auditor (in memory), and replies. The worker dies by its own hand at a chosen
moment, or by SIGKILL after some payments, and another one is started at once. In the end each payment must be in
account, vault and book exactly once, and have been heard by the auditor.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

from perdure import Runtime

from . import bank
from .payments import PATIENCE, Clients, finished, heard_of, misbooked, payments
from .verdicts import show_problems

ROOT = Path(__file__).parents[2]
_AIMED = 0.6  # the share of workers that die by their own hand
_MOMENTS = {"before step": 25, "after step": 25, "after commit": 40, "commit": 60, "transaction": 60, "takeover": 1}
"""When a worker may die by its own hand, and by how many of these at most it lives through before."""
_PAYMENTS = 20  # after which a worker is killed, at most


@dataclass
class Tally:
    """What it all came to."""

    kills: Counter[str] = field(default_factory=Counter)
    payments: int = 0
    repeated: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Worker:
    """One process. See ``hired``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def die(self) -> int:
        """Kill -9, unless it is dead; return how it ended."""
        with suppress(ProcessLookupError):
            self.process.kill()
        return await self.process.wait()


@asynccontextmanager
async def hired(place: Path, life: int, aim: str = "") -> AsyncGenerator[Worker]:
    """A worker; killed in the end."""
    arguments = ["-m", "tests.chaos.bank", str(place), str(life), *([aim] if aim else [])]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    worker = Worker(process)
    try:
        yield worker
    finally:
        await worker.die()


async def reign(place: Path, clients: Clients, dice: random.Random, tally: Tally, life: int) -> None:
    """One worker's life: until its aim strikes, or so many payments are acknowledged."""
    aim, enough = "", clients.acknowledged + dice.randint(0, _PAYMENTS)
    if dice.random() < _AIMED:
        moment = dice.choice(list(_MOMENTS))
        aim, enough = f"{moment}:{dice.randint(1, _MOMENTS[moment])}:0", clients.acknowledged + 3 * _PAYMENTS
    async with hired(place, life, aim) as worker:
        dead = asyncio.create_task(worker.process.wait())
        while clients.acknowledged < enough and not dead.done():
            clients.news.clear()
            news = asyncio.create_task(clients.news.wait())
            done, _ = await asyncio.wait({news, dead}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            if not done:
                tally.problems.append(f"nothing moved for {PATIENCE:g} s in life {life} ({aim or 'no aim'})")
                break
        own = dead.done()
        code = await worker.die()
        dead.cancel()
    if code != -signal.SIGKILL:
        tally.problems.append(f"worker {life} ended by itself with {code}")
    tally.kills[f"{aim.partition(':')[0]} (aimed)" if own else "by the commander"] += 1


async def kill_bank(place: Path, *, kills: int, clients: int = 4, seed: int = 0) -> Tally:
    """Kill so many workers over a store in an empty folder.

    Args:
        place: The folder.
        kills: How many.
        clients: How many accounts are paid at once.
        seed: Of all chance here; processes keep their own time nevertheless.
    """
    began, dice, tally = time.monotonic(), random.Random(seed), Tally()  # noqa: S311 - kills, no keys
    async with Runtime.open(bank.Bank(), settings=bank.settings(place), drive=False) as runtime:
        paying = Clients(runtime, [f"account-{number}" for number in range(clients)])
        while tally.kills.total() < kills and not tally.problems:
            await reign(place, paying, dice, tally, tally.kills.total() + 1)
        async with hired(place, kills + 1), asyncio.timeout(PATIENCE * 2):
            await paying.close()
            tally.problems += [*paying.problems, *await _wrong(runtime, paying.paid, place)]
    tally.payments, tally.repeated = paying.acknowledged, paying.repeated.total()
    tally.seconds = time.monotonic() - began
    return tally


async def _wrong(runtime: Runtime, paid: dict[str, int], place: Path) -> list[str]:
    unfinished, heard = await finished(runtime), heard_of(place / "audit")
    unheard = [f"nobody heard of {payment}" for payment in payments(paid) if payment not in heard]
    return [*unfinished, *await misbooked(runtime, paid), *unheard]


def show(tally: Tally) -> None:
    """Print what it came to."""
    click.echo(f"kills: {tally.kills.total()}, in {tally.seconds:.0f} s")
    for where, count in tally.kills.most_common():
        click.echo(f"  {where:24} {count:6}")
    click.echo(f"payments acknowledged: {tally.payments}; sent again: {tally.repeated}")
    show_problems(tally.problems)


@click.command()
@click.option("--kills", default=300, show_default=True, help="How many.")
@click.option("--seed", default=0, show_default=True, help="Of all chance here.")
def main(*, kills: int, seed: int) -> None:
    """Kill -9 the worker of durable message agents; exit with 1 if a promise was broken."""
    with tempfile.TemporaryDirectory(prefix="perdure-bank-") as name:
        tally = asyncio.run(kill_bank(Path(name), kills=kills, seed=seed))
    show(tally)
    sys.exit(1 if tally.problems else 0)


if __name__ == "__main__":
    main()
