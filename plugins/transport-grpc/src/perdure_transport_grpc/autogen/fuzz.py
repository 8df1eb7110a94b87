"""Random and damaged messages of AutoGen's workers: ``python -m perdure_transport_grpc.autogen.fuzz --seconds 600``.

Whatever a worker says, each of its requests is answered, an honest worker on the same host is served, and when it has
gone nothing of it is left. Each round has a seed of its own, which is named when it fails.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import random
import sys
import time
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from perdure.clock import SystemClock
from perdure.messages import AgentId, Envelope, Hosted, Presence, Subscription, TopicId
from perdure_hosting import HostSettings, Principal, WorkerSettings, pair
from perdure_hosting.client import LinkTransport
from perdure_hosting.host import Host
from perdure_transport_grpc.autogen import agent_worker_pb2 as pb
from perdure_transport_grpc.autogen.service import AutogenService
from perdure_transport_grpc.autogen.settings import AutogenSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from perdure_hosting import MemoryCarrier
    from perdure_transport_grpc.autogen.member import Member

_TYPES: Final = ("kit.desk", "desk", "clerk", "", "a b", "nobody")
_CONTENTS: Final = ("application/json", "application/x-protobuf", "", "what")
_MESSAGES: Final = 30
_PATIENCE: Final = 60.0
"""Seconds after which a round hangs."""


class Ground:
    """A host with an honest worker, and AutoGen's service."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.host = Host(clock, HostSettings(max_frame=100_000))
        self.service = AutogenService(self.host, clock, AutogenSettings(deadline=3600.0, max_message=10_000))

        async def dial(_address: str = "") -> MemoryCarrier:
            near, far = pair()
            self.host.accept(far)
            return near

        self.honest = LinkTransport(dial, clock, WorkerSettings(name="honest"))

    async def start(self) -> None:
        """Open it."""
        await self.host.start()
        await self.honest.start(_echo)
        news = Subscription("s", "kit.desk", "news", "prefix")
        await self.honest.announce(Presence((Hosted("kit.desk"),), (news,)))

    async def stop(self) -> None:
        """Close it; raise if anything is left."""
        await self.honest.stop()
        await self.service.stop()
        await self.host.stop()
        router = self.host.router
        if router.members or router.calls or router.registry.types() or len(router.routes):
            msg = f"something is left: {router.members!r}, {router.calls!r}, {router.registry.types()!r}"
            raise AssertionError(msg)

    async def attack(self, seed: int) -> int:
        """One round; returns how many messages were taken. Raises what must not happen."""
        chance = random.Random(seed)  # noqa: S311 - the same every time
        member = await self.service.join(Principal(f"attacker {seed}"))
        member.types["clerk"] = None
        member.subscriptions["s"] = Subscription("s", "clerk", "news")
        await member.announce()
        said, answered, asked = [message async for message in _said(chance)], 0, 0
        expected = sum(message.HasField("request") for message in said)
        reading = asyncio.create_task(member.read(_each(said)))
        waiting = [asyncio.create_task(self._use(number)) for number in range(3)]
        async with asyncio.timeout(_PATIENCE):
            await reading
            while answered < expected or asked < len(waiting):
                message = await member.outbox.take()
                if message is None:
                    msg = f"{answered} of {expected} requests were answered"
                    raise AssertionError(msg)
                answered += message.HasField("response")
                asked += message.HasField("request") and message.request.payload.data_type == "honest"
                if message.HasField("request"):
                    await member.read(_each([_answer(chance, message.request.request_id)]))
            await asyncio.gather(*waiting)
        await self._gone(member)
        return len(said)

    async def _use(self, number: int) -> None:
        """The honest worker asks the attacker, who answers anything; and hears what it publishes itself."""
        asked = Envelope(f"m{number}", "request", AgentId("clerk", "1"), "honest", b"1", content="application/json")
        await self.honest.send(asked)
        here = AgentId("kit.desk", "1")
        reply = await self.honest.send(asked._replace(target=here))
        if reply.payload != b"1":
            msg = f"the honest worker got {reply!r}"
            raise AssertionError(msg)
        await self.honest.publish(
            asked._replace(kind="event", target=None, topic=TopicId("news", f"{number}"), sender=here)
        )

    async def _gone(self, member: Member) -> None:
        stopping = asyncio.create_task(member.stop())
        while await member.outbox.take() is not None:
            pass
        await stopping


async def _echo(envelope: Envelope) -> Envelope:
    return Envelope(envelope.id, "reply", envelope.sender, "t", envelope.payload, content=envelope.content)


async def _each(messages: Sequence[pb.Message]) -> AsyncIterator[pb.Message]:
    for message in messages:
        yield message


async def _said(chance: random.Random) -> AsyncIterator[pb.Message]:
    """What of it can be read: over the rest, gRPC ends the call."""
    for _ in range(_MESSAGES):
        data = _message(chance).SerializeToString()
        if data and chance.random() < 0.3:  # noqa: PLR2004 - about as many as are right
            at = chance.randrange(len(data))
            data = data[:at] + chance.randbytes(chance.randrange(4)) + data[at + 1 :]
        try:
            yield pb.Message.FromString(data)
        except DecodeError:
            continue


def _message(chance: random.Random) -> pb.Message:
    payload = pb.Payload(
        data_type=chance.choice(["t", "", "a.B"]),
        data_content_type=chance.choice(_CONTENTS),
        data=chance.randbytes(chance.choice([0, 5, 50, 20_000])),
    )
    agent = pb.AgentId(type=chance.choice(_TYPES), key=chance.choice(["1", "", "x/y"]))
    kind = chance.randrange(4)
    if kind == 0:
        request = pb.RpcRequest(request_id=f"{chance.randrange(5)}", target=agent, payload=payload)
        if agent.type == "clerk":
            request.target.type = "kit.desk"  # it would have to answer itself, in turn
        if chance.randrange(2):
            request.source.CopyFrom(agent)
        return pb.Message(request=request)
    if kind == 1:
        return pb.Message(response=pb.RpcResponse(request_id=f"{chance.randrange(5)}", payload=payload, error="e"))
    if kind == 2:  # noqa: PLR2004 - one of four
        event = pb.CloudEvent(id="e", type=chance.choice(["news", "newest", "", "a/b"]), source=agent.key)
        for name in ("datacontenttype", "dataschema", "agagentsendertype", "agagentsenderkey", "traceparent"):
            if chance.randrange(2):
                event.attributes[name].ce_string = chance.choice([*_CONTENTS, *_TYPES])
        if chance.randrange(2):
            event.proto_data.value = payload.data
        else:
            event.binary_data = payload.data
        return pb.Message(cloud_event=event)
    return pb.Message()


def _answer(chance: random.Random, number: str) -> pb.Message:
    response = pb.RpcResponse(request_id=number, error=chance.choice(["", "", "e"]))
    if chance.randrange(2):
        response.payload.data = chance.randbytes(chance.randrange(20))
        response.payload.data_content_type = chance.choice(_CONTENTS)
    return pb.Message(response=response)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rounds for some seconds; say how many."""
    parser = argparse.ArgumentParser(prog="python -m perdure_transport_grpc.autogen.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    options = parser.parse_args(arguments)
    log = logging.getLogger("perdure.autogen")
    before = log.level
    log.setLevel(logging.ERROR)  # each event that is refused is a line
    try:
        rounds, messages = asyncio.run(_rounds(options.seed, options.seconds))
    finally:
        log.setLevel(before)
    sys.stdout.write(f"{rounds} rounds, {messages} messages taken, all requests answered, nothing left\n")
    return 0


async def _rounds(start: int, seconds: float) -> tuple[int, int]:
    until, messages = time.monotonic() + seconds, 0
    ground = Ground()
    await ground.start()
    for seed in itertools.count(start):
        try:
            messages += await ground.attack(seed)
        except BaseException:
            sys.stderr.write(f"the round with seed {seed} failed\n")
            raise
        if time.monotonic() >= until:
            await ground.stop()
            return seed - start + 1, messages
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main())
