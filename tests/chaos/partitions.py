"""Partitions between workers and their host: cut, one way only, swallowed, late; and what is said after they heal.

    python -m tests.chaos.partitions --rounds 500

Three workers reach one host over real sockets, each from an address of the loopback that is its own and not the host's,
through a proxy that stands there and harms what passes when told to. All of them send and publish before, while and
after some are parted from the host. Two kinds of rounds:

- healed **in time**, while the host still keeps the sessions: every request is replied to, every publication reaches
  each subscriber once, and nothing comes twice;
- healed **too late**: every request ends with a reply or an error that has a type, nothing is handled twice, and
  whoever kept its session all the time has each publication that was accepted.

What the network does and when comes from the seed; sockets keep their own time nevertheless.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import click

from perdure.clock import SystemClock
from perdure.errors import DeadlineExceeded, Overloaded, PerdureError, Undeliverable, WorkerLost
from perdure.messages import AgentId, Envelope, ErrorInfo, Hosted, Presence, Subscription, TopicId
from perdure.testing import FaultProxy
from perdure_hosting.client import LinkTransport
from perdure_hosting.errors import HostUnreachable
from perdure_hosting.host import Host
from perdure_hosting.settings import HostSettings
from perdure_transport_grpc import GrpcTransport, ServerSettings as GrpcServer, Settings as GrpcSettings
from perdure_transport_grpc.listening import GrpcListener
from perdure_transport_http import HttpTransport, ServerSettings as HttpServerSettings, Settings as HttpSettings
from perdure_transport_http.server import HttpServer

from .loopback import machines
from .verdicts import show_problems

Carrier = Literal["grpc", "http"]

NAMES = ("here", "left", "right")
PATIENCE = 60.0
MESSAGES = 12
"""Of each phase of a round."""

IN_TIME = {"heartbeat": 0.2, "silence": 0.8, "grace": 2 * PATIENCE, "patience": PATIENCE}
TOO_LATE = {"heartbeat": 0.1, "silence": 0.4, "grace": 0.4, "patience": 2.0}

PARTED: dict[str, Callable[[FaultProxy], object]] = {
    "stalled": lambda proxy: proxy.stall(),
    "stalled up": lambda proxy: proxy.stall("up"),
    "stalled down": lambda proxy: proxy.stall("down"),
    "swallowed": lambda proxy: proxy.black_hole(),
    "swallowed up": lambda proxy: proxy.black_hole("up"),
    "swallowed down": lambda proxy: proxy.black_hole("down"),
    "refused": lambda proxy: (proxy.refuse(), proxy.reset()),
    "closed to the worker": lambda proxy: (proxy.refuse(), proxy.cut("client")),
    "closed to the host": lambda proxy: (proxy.refuse(), proxy.cut("target")),
}
"""After these nothing is heard of a worker until the network heals."""

DISTURBED: dict[str, Callable[[FaultProxy], object]] = {
    "cut": lambda proxy: proxy.cut(),
    "late": lambda proxy: proxy.delay(0.05, jitter=0.2),
    "half-open": lambda proxy: (proxy.half_open(), proxy.cut("client")),
}
"""After these it may come back at once."""

TYPED = tuple(
    f"{kind.__module__}.{kind.__qualname__}"
    for kind in (WorkerLost, DeadlineExceeded, HostUnreachable, Overloaded, Undeliverable)
)


@dataclass
class Tally:
    """What it all came to."""

    rounds: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    publications: Counter[str] = field(default_factory=Counter)
    handled: int = 0
    delivered: int = 0
    back: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Site:
    """A worker, and the way from it to the host.

    Attributes:
        handled: How often each request was, by its id.
        heard: How often each publication was, by its id.
    """

    def __init__(self, name: str, proxy: FaultProxy, transport: LinkTransport, dice: random.Random) -> None:
        self.name = name
        self.proxy = proxy
        self.transport = transport
        self.handled: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()
        self._dice = dice
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Join the host."""
        await self.transport.start(self._deliver)
        reader = f"{self.name}.reader"
        await self.transport.announce(
            Presence((Hosted(f"{self.name}.clerk"), Hosted(reader)), (Subscription("s", reader, "news"),))
        )

    async def _deliver(self, envelope: Envelope) -> Envelope:
        (self.heard if envelope.kind == "event" else self.handled)[envelope.id] += 1
        self._news.set()
        if self._dice.random() < 0.3:
            await lapse(self._dice.uniform(0, 0.3))  # so that some are under way at any moment
        return Envelope(envelope.id, "reply", envelope.sender, "", envelope.payload, content=envelope.content)

    async def has_heard(self, ids: set[str]) -> set[str]:
        """Wait for these publications; return those that did not come."""
        try:
            async with asyncio.timeout(PATIENCE):
                while missing := ids - self.heard.keys():
                    self._news.clear()
                    if missing == ids - self.heard.keys():
                        await self._news.wait()
        except TimeoutError:
            return ids - self.heard.keys()
        return set()


class Trial:
    """Rounds over one host.

    Args:
        host: What routes.
        sites: Its workers.
        dice: Chance.
        tally: What is counted.
        in_time: Whether the network heals while sessions are kept.
    """

    def __init__(self, host: Host, sites: list[Site], dice: random.Random, tally: Tally, *, in_time: bool) -> None:
        self._host = host
        self._sites = sites
        self._dice = dice
        self._tally = tally
        self._in_time = in_time
        self._count = 0

    async def round(self) -> None:
        """One partition, and what was sent around it."""
        await self._all_there()
        dice, before = self._dice, self._sessions()
        struck = dice.sample(self._sites, dice.randint(1, len(self._sites)))
        fault = dice.choice(list(PARTED | DISTURBED if self._in_time else PARTED))
        sent = self._messages()
        await lapse(dice.choice([0, 0, dice.uniform(0, 0.05)]))
        for site in struck:
            (PARTED | DISTURBED)[fault](site.proxy)
        sent += self._messages()
        await self._parted(struck)
        for site in struck:
            site.proxy.heal()
        sent += self._messages()
        await self._back()
        self._tally.rounds["in time" if self._in_time else "too late"] += 1
        self._tally.faults[fault] += len(struck)
        await self._judge(sent, before, f"{fault}: {', '.join(site.name for site in struck)}")

    def finish(self) -> None:
        """Count what was done more than once, also long after."""
        for site in self._sites:
            self._tally.handled += len(site.handled)
            self._tally.delivered += len(site.heard)
            for what, counts in (("handled", site.handled), ("heard", site.heard)):
                twice = [id_ for id_, count in counts.items() if count > 1]
                self._tally.problems += [f"{id_} was {what} {counts[id_]} times at {site.name}" for id_ in twice]

    # -- the network

    async def _parted(self, struck: list[Site]) -> None:
        """Until it heals: for some time, or until the host has given up who was struck."""
        if self._in_time:
            await lapse(self._dice.choice([self._dice.uniform(0, 0.2), self._dice.uniform(0.2, 2.0)]))
            return
        known = self._sessions()
        gone = {known[site.name] for site in struck}
        await self._until(lambda: not gone & set(self._sessions().values()), "their sessions do not end")

    def _sessions(self) -> dict[str, str]:
        """The secret of the session that each worker has at the host, by the types that live there."""
        router = self._host.router
        found: dict[str, str] = {}
        for where in self._host.whereabouts():
            member = router.members.get(where.worker)
            if member is not None:
                found[where.type.partition(".")[0]] = member.resume
        return found

    async def _all_there(self) -> None:
        await self._until(lambda: self._sessions().keys() == set(NAMES), "not all workers come back")

    async def _until(self, there: Callable[[], bool], problem: str) -> None:
        by = time.monotonic() + PATIENCE
        while not there():
            if time.monotonic() > by:
                self._tally.problems.append(f"after {PATIENCE:g} s {problem}")
                return
            await lapse(0.02)

    async def _back(self) -> None:
        """How long it takes until each reaches each again."""
        began = time.monotonic()
        for site in self._sites:
            for name in NAMES:
                while (answer := await self._asked(site, name, None))[1] != "reply" and answer[1] in TYPED:
                    if time.monotonic() - began > PATIENCE:
                        self._tally.problems.append(f"{site.name} does not reach {name} again: {answer[1]}")
                        return
                    await lapse(0.02)
        self._tally.back.append(time.monotonic() - began)

    # -- messages

    def _messages(self) -> list[asyncio.Task[tuple[str, str]]]:
        """Some requests and publications, each ends with its id and what came of it."""
        return [asyncio.create_task(self._message()) for _ in range(MESSAGES)]

    async def _message(self) -> tuple[str, str]:
        dice, site = self._dice, self._dice.choice(self._sites)
        if dice.random() < 0.5:
            seconds = None if self._in_time or dice.random() < 0.7 else dice.uniform(0.1, 1.0)
            return await self._asked(site, dice.choice(NAMES), seconds)
        id_ = self._id("e")
        event = Envelope(id_, "event", None, "kit.news", b"1", topic=TopicId("news"), content="application/json")
        try:
            await site.transport.publish(event)
        except PerdureError as error:
            return id_, ErrorInfo.of(error).type
        return id_, "accepted"

    async def _asked(self, site: Site, name: str, seconds: float | None) -> tuple[str, str]:
        id_, target = self._id("r"), AgentId(f"{name}.clerk", str(self._dice.randint(1, 3)))
        deadline = None if seconds is None else SystemClock().now() + seconds
        payload = b'"%s"' % id_.encode()
        request = Envelope(id_, "request", target, "kit.text", payload, deadline=deadline, content="application/json")
        try:
            answer = await site.transport.send(request)
        except PerdureError as error:
            return id_, ErrorInfo.of(error).type
        if answer.kind == "error":
            return id_, answer.error.type
        return id_, "reply" if answer.payload == payload else f"the reply {answer.payload!r}"

    def _id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    # -- what came of it

    async def _judge(self, sent: list[asyncio.Task[tuple[str, str]]], before: dict[str, str], what: str) -> None:
        problems = self._tally.problems
        done, open_ = await asyncio.wait(sent, timeout=PATIENCE)
        for task in open_:
            task.cancel()
        if open_:
            problems.append(f"{what}: {len(open_)} messages did not end within {PATIENCE:g} s")
        outcomes = dict(task.result() for task in done)
        for id_, outcome in outcomes.items():
            (self._tally.requests if id_[0] == "r" else self._tally.publications)[outcome.rpartition(".")[2]] += 1
            if outcome not in {"reply", "accepted"} and (self._in_time or outcome not in TYPED):
                problems.append(f"{what}: {id_} ended with {outcome}")
        accepted = {id_ for id_, outcome in outcomes.items() if outcome == "accepted"}
        now = self._sessions()
        for site in self._sites:
            if (self._in_time or now.get(site.name) == before[site.name]) and (
                missing := await site.has_heard(accepted)
            ):
                problems.append(f"{what}: {len(missing)} publications never came to {site.name}")


async def lapse(seconds: float) -> None:
    """Let time pass."""
    clock = SystemClock()
    await clock.sleep_until(clock.now() + seconds)


@asynccontextmanager
async def _listening(carrier: Carrier, host: Host, address: str) -> AsyncIterator[int]:
    """The port at which a host at this address is reached."""
    clock = SystemClock()
    if carrier == "grpc":
        listener: Any = GrpcListener(host, clock, GrpcServer(bind=f"{address}:0"))
    else:
        listener = HttpServer(host, clock, HttpServerSettings(bind=f"{address}:0", hosts=("*",)))
    await listener.start()
    try:
        yield listener.port if carrier == "http" else int(listener.address.rpartition(":")[2])
    finally:
        await listener.close_doors()
        await host.stop()
        await listener.stop()


def _transport(carrier: Carrier, name: str, proxy: FaultProxy, patience: float) -> LinkTransport:
    worker = {"name": name, "direct": False, "drain": 1.0, "patience": patience, "connect": PATIENCE}
    if carrier == "grpc":
        return GrpcTransport(GrpcSettings(host=f"{proxy.host}:{proxy.port}", **worker), SystemClock())
    return HttpTransport(HttpSettings(url=f"http://{proxy.host}:{proxy.port}", **worker), SystemClock())


@asynccontextmanager
async def _trial(
    carrier: Carrier, dice: random.Random, tally: Tally, *, in_time: bool, named: bool
) -> AsyncIterator[Trial]:
    settings = IN_TIME if in_time else TOO_LATE
    async with AsyncExitStack() as stack:
        host = Host(SystemClock(), HostSettings(**settings, drain=1.0))
        await host.start()
        there, *addresses = machines(1 + len(NAMES))
        port = await stack.enter_async_context(_listening(carrier, host, there))
        sites: list[Site] = []
        for name, address in zip(NAMES, addresses, strict=True):
            # Where they are all the same, there is one machine, whose ports stand for others.
            proxy = FaultProxy(there, port, seed=dice.randint(0, 1 << 30), address=address if address != there else "")
            await stack.enter_async_context(proxy)
            transport = _transport(carrier, name if named else "", proxy, settings["patience"])
            site = Site(name, proxy, transport, dice)
            stack.push_async_callback(transport.stop)
            await site.start()
            sites.append(site)
        trial = Trial(host, sites, dice, tally, in_time=in_time)
        yield trial
        trial.finish()


async def play(carrier: Carrier, *, rounds: int, seed: int = 0, each: int = 10) -> Tally:
    """Part workers from their host so often, and see what came of what was sent.

    Args:
        carrier: What carries messages.
        rounds: How often; half of the times, the network heals in time.
        seed: Of all chance here.
        each: Rounds with one host.
    """
    began, dice, tally = time.monotonic(), random.Random(f"{carrier} {seed}"), Tally()  # noqa: S311 - faults, no keys
    for start in range(0, rounds, each):
        for in_time in (True, False):
            half = min(each, rounds - start) // 2 + (in_time and min(each, rounds - start) % 2)
            async with _trial(carrier, dice, tally, in_time=in_time, named=dice.random() < 0.5) as trial:
                for _ in range(half):
                    await trial.round()
    tally.seconds = time.monotonic() - began
    return tally


def show(carrier: str, tally: Tally) -> None:
    """Print what it came to."""

    def listed(counter: Counter[str]) -> str:
        return ", ".join(f"{count} {what}" for what, count in counter.most_common())

    click.echo(f"{carrier}: {tally.rounds.total()} partitions in {tally.seconds:.0f} s, healed {listed(tally.rounds)}")
    click.echo(f"  of single workers: {listed(tally.faults)}")
    click.echo(f"  requests: {listed(tally.requests)}; handled: {tally.handled}")
    click.echo(f"  publications: {listed(tally.publications)}; heard: {tally.delivered}")
    if len(tally.back) > 1:
        worst = statistics.quantiles(tally.back, n=100)[-1]
        click.echo(f"  all reach all again after {statistics.median(tally.back):.2f} s, p99 {worst:.2f} s")
    show_problems(tally.problems)


@click.command()
@click.option("--transport", type=click.Choice(["grpc", "http"]), help="What carries messages; both.")
@click.option("--rounds", default=200, show_default=True, help="How often workers are parted, over each transport.")
@click.option("--seed", default=0, show_default=True, help="Of all chance here.")
def main(*, transport: Carrier | None, rounds: int, seed: int) -> None:
    """Part workers from their host; exit with 1 if a promise was broken."""
    carriers: tuple[Carrier, ...] = (transport,) if transport else ("grpc", "http")
    tallies = {carrier: asyncio.run(play(carrier, rounds=rounds, seed=seed)) for carrier in carriers}
    for carrier, tally in tallies.items():
        show(carrier, tally)
    sys.exit(1 if any(tally.problems for tally in tallies.values()) else 0)


if __name__ == "__main__":
    main()
