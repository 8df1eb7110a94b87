"""Random and damaged packets against what decodes them: ``python -m perdure_hosting.fuzz --seconds 600``.

Whatever comes, a host and a worker may only hang up (``ProtocolViolated``); what a host hands on can be read; and when
all have left, nothing of them is left. Each round has a seed of its own, which is named when it fails.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import time
from typing import TYPE_CHECKING, Final, cast

from perdure.clock import SystemClock
from perdure.messages import AgentId, Envelope, Hosted, Presence, Subscription, TopicId
from perdure_hosting import link as links, wire
from perdure_hosting.carrier import Principal
from perdure_hosting.deadlines import Deadlines
from perdure_hosting.errors import ProtocolViolated
from perdure_hosting.handlers import Handlers
from perdure_hosting.introductions import Introductions
from perdure_hosting.link import Link
from perdure_hosting.peer import Peer
from perdure_hosting.router import Member, Router
from perdure_hosting.settings import HostSettings
from perdure_hosting.wire_pb2 import Frame, Goodbye, Hello, Packet, Welcome

if TYPE_CHECKING:
    from collections.abc import Sequence

_SETTINGS: Final = HostSettings(window_frames=50, window_bytes=50_000, max_frame=2048, deadline=1.0, patience=1.0)
_KINDS: Final = cast("list[Frame.Kind]", Frame.Kind.values())
_AGENTS: Final = ("kit.a", "kit.b", "", "lab.x")


class Damage:
    """Makes frames and packets that are right, nearly right, or nothing.

    Args:
        seed: The same seed makes the same.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - the same every time

    def packet(self, link: Link) -> bytes:
        """A packet for that link: most of them fit."""
        chance = self.chance
        if self.odds(3):
            return chance.randbytes(chance.randrange(200))
        packet = Packet(
            first=chance.randrange(20) if self.odds(3) else link.received + 1,
            ack=chance.choice([1, 2**63]) if self.odds(3) else link.acked,
            taken_frames=chance.randrange(4) if self.odds(3) else 0,
            taken_bytes=chance.randrange(500) if self.odds(3) else 0,
            urgent=self.odds(30),
            frames=[self._damaged(self.frame()) for _ in range(chance.randrange(4))],
        )
        if self.odds(5):
            openings = [Packet(hello=Hello(protocol=1)), Packet(welcome=Welcome(protocol=1)), Packet(goodbye=Goodbye())]
            packet.MergeFrom(chance.choice(openings))
        return self._damaged(packet.SerializeToString())

    def odds(self, percent: int) -> bool:
        """True so often."""
        return self.chance.randrange(100) < percent

    def frame(self) -> bytes:
        """A frame of any kind, known or not, with what belongs there or not."""
        chance = self.chance
        content = chance.randbytes(chance.choice([0, 3, 50, 50, 50, 3000]) if self.odds(30) else 9)
        target = AgentId(chance.choice(_AGENTS), chance.choice(["1", "", "2"]))
        call = chance.choice([0, 1, 2, 3, 2**64 - 1]) if self.odds(20) else chance.randrange(2**32)
        sent = Envelope(
            "x", chance.choice(["request", "event"]), target if target.type else None, "t", content, content="c"
        )
        if self.odds(3):
            targets = ["kit.a", "1", "kit.b"][: chance.randrange(4)]
            forbidden = Frame(kind=Frame.EVENT, id="e", targets=targets).SerializeToString()
            return chance.choice([forbidden, chance.randbytes(chance.randrange(60))])
        shapes = [
            lambda: wire.framed(sent._replace(topic=TopicId(chance.choice(["news", "", "ne"]), "1")), call),
            lambda: wire.framed(sent, call),
            lambda: wire.announcement(_presence(chance.choice(_AGENTS)), call),
            lambda: wire.note(chance.choice(_KINDS), call),
            lambda: Frame(kind=Frame.REPLY, call=call, payload=content).SerializeToString(),
            lambda: wire.asking(wire.framed(sent, call)),
        ]
        return chance.choice(shapes)()

    def _damaged(self, data: bytes) -> bytes:
        chance = self.chance
        if not data or not self.odds(5):
            return data
        at = chance.randrange(len(data))
        changes = [
            data[:at],
            data[:at] + chance.randbytes(1) + data[at + 1 :],
            data[:at] + chance.randbytes(chance.randrange(1, 9)) + data[at:],
            data + data[:at],
        ]
        return chance.choice(changes)


def attack_router(seed: int) -> int:
    """One round against a host; returns how many packets were taken. Raises what must not happen."""
    damage = Damage(seed)
    router = Router(_SETTINGS, Introductions(1.0))
    honest, taken = _member(router, "honest"), 0
    router.arrived(honest, [wire.announcement(_presence("kit.a"), 1)])
    for number in range(damage.chance.randrange(1, 4)):
        attacker = _member(router, f"attacker {number}")
        for _ in range(20):
            try:
                packet = links.parsed(damage.packet(attacker.link), _SETTINGS.max_frame)
                router.arrived(attacker, attacker.link.receive(packet))
            except ProtocolViolated:
                break
            taken += 1
            if damage.odds(20):
                router.sweep(router.now + damage.chance.random())
            _read(honest.link)
            attacker.link.take()
        router.lost(attacker)
    _read(honest.link)
    router.lost(honest)
    if router.calls or router.members or router.registry.types() or len(router.routes):
        msg = f"something is left: {router.calls!r}, {router.members!r}, {router.registry.types()!r}"
        raise AssertionError(msg)
    return taken


async def attack_worker(seed: int) -> int:
    """One round against a worker, by what it takes for its host; returns how many packets were taken."""
    damage = Damage(seed)
    clock = SystemClock()
    deadlines, handlers = Deadlines(clock), Handlers(5)
    handlers.start(_deliver)
    peer = Peer("the host", clock, deadlines, handlers, patience=1.0)
    peer.renewed(Link(_SETTINGS))
    asked = Envelope("m", "request", AgentId("kit.a", "1"), "t", b"1", content="c")
    waits = [asyncio.ensure_future(peer.ask(asked._replace(kind=kind))) for kind in ("request", "event")]
    await asyncio.wait(waits, timeout=0)
    taken = 0
    try:
        for _ in range(20):
            packet = links.parsed(damage.packet(peer.link), _SETTINGS.max_frame)
            peer.arrived(peer.link.receive(packet))
            peer.link.take()
            taken += 1
    except ProtocolViolated:
        pass
    peer.closed(ConnectionError())
    await asyncio.wait(waits)
    for each in waits:
        each.exception()
    await deadlines.stop()
    return taken


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rounds for some seconds; say how many."""
    parser = argparse.ArgumentParser(prog="python -m perdure_hosting.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    options = parser.parse_args(arguments)
    rounds, packets = asyncio.run(_rounds(options.seed, options.seconds))
    sys.stdout.write(f"{rounds} rounds, {packets} packets taken, none that did more than break a connection\n")
    return 0


async def _rounds(start: int, seconds: float) -> tuple[int, int]:
    until = time.monotonic() + seconds
    packets = 0
    for seed in itertools.count(start):
        try:
            packets += attack_router(seed) + await attack_worker(seed)
        except BaseException:
            sys.stderr.write(f"the round with seed {seed} failed\n")
            raise
        if time.monotonic() >= until:
            return seed - start + 1, packets
    raise AssertionError


def _member(router: Router, name: str) -> Member:
    member = Member(name, Principal(name), Link(_SETTINGS), "address:1")
    router.joined(member)
    return member


def _read(link: Link) -> None:
    """What was handed on can be read."""
    while (data := link.take()) is not None:
        for raw in links.parsed(data, _SETTINGS.max_frame).frames:
            wire.parsed(raw)


def _presence(type_: str) -> Presence:
    subscriptions = (Subscription("s", type_, "news"), Subscription("p", type_, "ne", "prefix"))
    return Presence((Hosted(type_),), (*subscriptions, Subscription("c", type_, "new", "custom")))


async def _deliver(envelope: Envelope) -> Envelope:
    return Envelope(envelope.id, "reply", envelope.sender, "", envelope.payload, content=envelope.content)


if __name__ == "__main__":
    sys.exit(main())
