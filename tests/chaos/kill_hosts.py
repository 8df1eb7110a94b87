"""Kill host and workers under load, over a network that fails, too; then hold what is left against the promises.

    python -m tests.chaos.kill_hosts --kills 1000 --seed 1

Each town has ``perdure host`` with a store, two ``perdure worker`` processes without one, in which durable agents live,
and clients that pay. Host and workers die by SIGKILL at random moments, some close to each other, and are started again
at once; meanwhile each one's way to the host suffers what ``FaultProxy.strike`` draws: delays, cuts, resets, black
holes, half-open connections. After some of that the network heals, and it is measured how long it takes until each
link that has survived carries an answer again, and until payments are acknowledged again.

In the end each acknowledged payment must be in account, vault and book exactly once, and no turn be stuck. The auditor,
who lives in memory, is promised less: what he heard is counted. At last, in a town of its own, a client publishes 500
over a link that fails, and stops; the host is killed; all 500 must be delivered.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from perdure.messages import TopicId

from . import bank
from .forked import Processes, open_processes
from .payments import PATIENCE, finished, heard_of, lapse, misbooked, payments
from .town import CLIENTS, HOST, WORKERS, Carrier, Town, open_town
from .verdicts import show_problems

PUBLISHED = 500
PROMISED = 2.0  # seconds until a link is there again, of 99 in 100

_HOSTS = 0.4  # the share of kills that hit a host
_STRUCK = 0.6  # the share of kills before which a link is struck
_BURSTS = (1, 1, 2, 2, 3)


@dataclass
class Tally:
    """What it all came to.

    Attributes:
        kills: By who was killed, and what was wrong with the network then.
        payments: How many were acknowledged.
        repeated: How often one was sent again, by why.
        reconnected: Seconds from when host and network were there again to the first answer, by kind of link.
        resumed: Seconds from a kill until a client has made another payment, from beginning to acknowledgement.
        returned: Seconds from a worker's kill until its successor answers.
        slow: What was said meanwhile on links that took longer than is promised.
        heard: How often the auditor heard of a payment.
        published: How many of those of who stopped were delivered.
        problems: What was wrong.
        seconds: How long it took.
    """

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    payments: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    reconnected: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    resumed: list[float] = field(default_factory=list)
    returned: list[float] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    heard: Counter[int] = field(default_factory=Counter)
    published: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def killed(self) -> int:
        """How many."""
        return self.kills.total()


class Storm:
    """What happens to a town.

    Args:
        town: Which.
        dice: Chance.
        tally: What is counted.
    """

    def __init__(self, town: Town, dice: random.Random, tally: Tally) -> None:
        self._town = town
        self._dice = dice
        self._tally = tally
        self._waiting: dict[str, deque[float]] = {name: deque() for name in town.clients}
        self._progress = asyncio.Event()
        self._round = ""
        for name, clients in town.clients.items():
            clients.acknowledged_at = self._acknowledges(name)

    async def round(self, most: int) -> int:
        """Some kills, close to each other, at most so many, and the peace afterwards; return how many."""
        dice, town = self._dice, self._town
        killed: dict[str, float] = {}
        struck: set[str] = set()
        burst = min(most, dice.choice(_BURSTS))
        for _ in range(burst):
            if dice.random() < _STRUCK:
                struck.add(self._strike())
            await lapse(dice.choice([0.0, dice.uniform(0, 0.1), dice.uniform(0, 0.5)]))
            name = HOST if dice.random() < _HOSTS else dice.choice(WORKERS)
            killed[name] = await self._kill(name)
        await lapse(dice.choice([0.0, dice.uniform(0, 0.5), dice.uniform(0.5, 1.5)]))
        faults = {name: town.links[name].fault for name in sorted(struck)}
        for name in faults:
            town.links[name].heal()
        disturbed = set(town.links) if HOST in killed else struck
        self._round = f"{faults} and kills of {', '.join(killed)}"
        async with asyncio.TaskGroup() as group:
            for name in sorted(disturbed - killed.keys()):
                group.create_task(self._reconnected(name, HOST in killed))
            for name in sorted(killed.keys() - {HOST}):
                group.create_task(self._returned(name, killed[name]))
            group.create_task(self._paid_again())
        return burst

    def _strike(self) -> str:
        name = self._dice.choice(list(self._town.links))
        self._town.links[name].strike()
        return name

    async def _kill(self, name: str) -> float:
        """Kill one; return when."""
        town = self._town
        faults = {link.fault for link in town.links.values() if link.fault and name in {HOST, link.name}}
        fault = "several" if len(faults) > 1 else "".join(faults) or "nothing"
        at = time.monotonic()
        await town.kill(name)
        self._tally.kills["host" if name == HOST else "worker", fault] += 1
        for waiting in self._waiting.values():
            waiting.append(at)
        return at

    # -- how long it takes

    async def _reconnected(self, name: str, host_too: bool) -> None:
        link = self._town.links[name]
        since = max(await self._town.up(HOST), link.well)
        kind = "client" if name in CLIENTS else "worker"
        after = "host" if host_too else "fault"
        took = max(0.0, await link.answered() - since)
        self._tally.reconnected[f"{kind}, after {after}"].append(took)
        if took > PROMISED:
            heard = [f"{at - since:.2f} s {error}" for at, error in link.refused]
            few = heard if len(heard) <= 3 else [heard[0], "...", *heard[-2:]]
            self._tally.slow.append(f"{name} took {took:.2f} s after {self._round}: {', '.join(few)}")

    async def _returned(self, name: str, killed: float) -> None:
        await self._town.up(name)
        self._tally.returned.append(await self._town.links[name].answered() - killed)

    def _acknowledges(self, name: str) -> Callable[[float, float], None]:
        def acknowledged(begun: float, now: float) -> None:
            waiting = self._waiting[name]
            while waiting and waiting[0] <= begun:
                self._tally.resumed.append(now - waiting.popleft())
            self._progress.set()

        return acknowledged

    async def _paid_again(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while any(self._waiting.values()) and not self._town.problems:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            stuck = [name for name, waiting in self._waiting.items() if waiting]
            msg = f"no payment of {stuck} began and was acknowledged within {PATIENCE:g} s after a kill"
            raise TimeoutError(msg) from None


class Campaign:
    """Towns, one after the other and side by side, until so many were killed.

    Args:
        folder: Empty; each town gets a folder in it.
        processes: What starts host and workers.
        carrier: What carries messages.
        seed: Of all chance.
        report: Told of each town that is done.
    """

    def __init__(
        self, folder: Path, processes: Processes, carrier: Carrier, seed: int, report: Callable[[str], None]
    ) -> None:
        self.tally = Tally()
        self._folder = folder
        self._processes = processes
        self._carrier: Carrier = carrier
        self._seed = seed
        self._report = report
        self._towns = 0

    async def line(self, number: int, quotas: deque[int]) -> None:
        """One town after the other, while there are kills to be done and nothing is wrong."""
        while quotas and not self.tally.problems:
            await self._guarded(number, self._town(number, quotas.popleft()))

    async def publish_and_stop(self) -> None:
        """Publish 500 over a link that breaks meanwhile, and stop; then kill the host: all 500 are delivered."""
        await self._guarded(0, self._published())

    async def _guarded(self, number: int, doing: Any) -> None:
        """What takes too long or breaks is a problem, not the end of what goes on beside it."""
        try:
            await doing
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported with all else
            self.tally.problems += [f"line {number}: {each!r}" for each in _leaves(error)]

    def _place(self) -> tuple[Path, int]:
        self._towns += 1
        place = self._folder / f"town-{self._towns}"
        place.mkdir()
        return place, self._seed * 1_000_003 + self._towns

    async def _town(self, number: int, kills: int) -> None:
        place, seed = self._place()
        dice, tally = random.Random(seed), self.tally  # noqa: S311 - kills, no keys
        began, done = time.monotonic(), 0
        async with open_town(place, self._processes, self._carrier, number=number, seed=seed) as town:
            storm = Storm(town, dice, tally)
            try:
                while done < kills and not town.problems:
                    done += await storm.round(kills - done)
                async with asyncio.timeout(2 * PATIENCE):
                    tally.problems += await _wrong(town, tally)
            finally:
                tally.problems += [f"{place.name}: {problem}" for problem in town.problems]
                tally.payments += sum(clients.acknowledged for clients in town.clients.values())
                for clients in town.clients.values():
                    tally.repeated += clients.repeated
        took = time.monotonic() - began
        self._report(
            f"{place.name}: {done} kills in {took:.0f} s; {tally.killed} in all, {len(tally.problems)} problems"
        )

    async def _published(self) -> None:
        place, seed = self._place()
        async with open_town(place, self._processes, self._carrier, seed=seed) as town:
            for clients in town.clients.values():
                await clients.close()
            proxy, topic = town.links[CLIENTS[0]].proxy, TopicId("paid", "book")
            async with town.runtime(proxy) as runtime, asyncio.TaskGroup() as group:
                for number in range(1, PUBLISHED + 1):
                    event = bank.Paid("rush", number)
                    group.create_task(runtime.publish(event, topic, id=f"rush{number}"))
                await lapse(0.02)
                proxy.reset()
            await town.kill(HOST)
            async with asyncio.timeout(PATIENCE):
                await town.links[WORKERS[0]].answered()
                await finished(town.looker)
                known = (await town.looker.send(bank.Statement(), bank.BOOK)).get("rush", [])
            self.tally.published = len(known)
            if sorted(known) != list(range(1, PUBLISHED + 1)):
                self.tally.problems.append(f"of {PUBLISHED} published the book knows {len(known)}: {sorted(known)}")


async def _wrong(town: Town, tally: Tally) -> list[str]:
    """Let everything end, and compare."""
    for clients in town.clients.values():
        await clients.close()
    paid = {name: count for clients in town.clients.values() for name, count in clients.paid.items()}
    problems = [*await finished(town.looker), *await misbooked(town.looker, paid)]
    heard, known = heard_of(town.folder / "audit"), payments(paid)
    tally.heard += Counter(heard[payment] for payment in known)
    problems += [f"the auditor heard of {each}, which nobody paid" for each in heard.keys() - set(known)]
    return [f"{town.folder.name}: {problem}" for problem in problems]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


async def kill_hosts(
    folder: Path,
    carrier: Carrier,
    *,
    kills: int,
    seed: int = 0,
    lines: int = 1,
    each: int = 50,
    report: Callable[[str], None] = lambda _text: None,
) -> Tally:
    """Kill so many hosts and workers.

    Args:
        folder: An empty one.
        carrier: What carries messages.
        kills: How many.
        seed: Of all chance here; processes keep their own time nevertheless.
        lines: Towns side by side.
        each: Kills in one town.
        report: Told of each town that is done.
    """
    began = time.monotonic()
    quotas = deque(min(each, kills - done) for done in range(0, kills, each))
    async with open_processes(folder / "log") as processes:
        campaign = Campaign(folder, processes, carrier, seed, report)
        await asyncio.gather(*(campaign.line(number, quotas) for number in range(lines)))
        if not campaign.tally.problems:
            await campaign.publish_and_stop()
    campaign.tally.seconds = time.monotonic() - began
    return campaign.tally


def show(carrier: Carrier, tally: Tally) -> None:
    """Print what it came to."""

    def spread(what: str, values: list[float]) -> None:
        if len(values) > 1:
            hundredths = statistics.quantiles(values, n=100, method="inclusive")
            figures = f"p50 {hundredths[49]:5.2f} s  p99 {hundredths[98]:5.2f} s  most {max(values):5.2f} s"
            click.echo(f"  {what:44} {figures}  ({len(values)})")

    click.echo(f"{carrier}: {tally.killed} kills in {tally.seconds:.0f} s")
    for who in ("host", "worker"):
        kills = [(fault, count) for (whom, fault), count in tally.kills.most_common() if whom == who]
        click.echo(f"  {who:8} {sum(count for _, count in kills):5}, while the network suffered:")
        for fault, count in kills:
            click.echo(f"    {fault:20} {count:5}")
    click.echo(f"payments acknowledged: {tally.payments}; sent again: {dict(tally.repeated.most_common())}")
    for what, values in sorted(tally.reconnected.items()):
        spread(f"reconnected: {what}", values)
    spread("reconnected: all", [each for values in tally.reconnected.values() for each in values])
    spread("from a worker's kill to its successor's answer", tally.returned)
    spread("from a kill to a payment begun after it", tally.resumed)
    heard = ", ".join(f"{count} {times} times" for times, count in sorted(tally.heard.items()))
    click.echo(f"the auditor, in memory, heard of payments: {heard}")
    click.echo(f"published, then stopped, then the host killed: {tally.published} of {PUBLISHED} delivered")
    for slow in tally.slow[:20]:
        click.echo(f"  slow: {slow}")
    show_problems(tally.problems)


@click.command()
@click.option("--kills", default=300, show_default=True, help="How many.")
@click.option("--seed", default=0, show_default=True, help="Of all chance here.")
@click.option("--transport", type=click.Choice(["grpc", "http"]), default="grpc", show_default=True)
@click.option("--lines", default=3, show_default=True, help="Towns side by side.")
def main(*, kills: int, seed: int, transport: Carrier, lines: int) -> None:
    """Kill -9 hosts and workers over a network that fails; exit with 1 if a promise was broken."""
    with tempfile.TemporaryDirectory(prefix="perdure-hosts-") as name:
        folder = Path(name)

        def report(text: str) -> None:
            click.echo(text, err=True)

        tally = asyncio.run(kill_hosts(folder, transport, kills=kills, seed=seed, lines=lines, report=report))
        log = (folder / "log").read_text()
    show(transport, tally)
    if tally.problems:
        click.echo(f"the end of what the processes said:\n{log[-20000:]}", err=True)
    sys.exit(1 if tally.problems else 0)


if __name__ == "__main__":
    main()
