"""Sessions outlive their carriers: whatever is cut wherever, nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import NamedTuple

import pytest

from perdure.clock import SystemClock
from perdure.errors import WorkerLost
from perdure.messages import Subscription
from perdure_hosting.carrier import MemoryCarrier

from .hosting_network import TIMEOUT, Desk, Network, event, request, settled

REQUESTS, EVENTS = 12, 12
NEWS = (Subscription("s1", "kit.echo", "news"),)


class Played(NamedTuple):
    """What came of the play: how often each message was delivered, what was answered, how many packets went."""

    delivered: Counter[str]
    answers: list[bytes]
    packets: int


async def play(cut_at: int) -> Played:
    """Requests and events between two workers; the carrier of the packet of that number is cut before it goes."""
    network = Network(SystemClock(), drain=0)
    packets = 0

    def watch(near: MemoryCarrier, far: MemoryCarrier) -> None:
        def count(_number: int) -> None:
            nonlocal packets
            packets += 1
            if packets == cut_at:
                near.cut()

        near.on_send = far.on_send = count

    network.on_carrier = watch
    await network.start()
    async with asyncio.timeout(TIMEOUT):
        far = Desk()
        there = await network.worker(far, "kit.echo", subs=NEWS, retry=0.001, drain=TIMEOUT)
        here = await network.worker(Desk(), retry=0.001, drain=TIMEOUT)
        asked = [here.send(request("kit.echo", b"%d" % n, id=f"r{n}")) for n in range(REQUESTS // 2)]
        told = [here.publish(event("news", id=f"e{n}")) for n in range(EVENTS)]
        answers, _ = await asyncio.gather(asyncio.gather(*asked), asyncio.gather(*told))
        for n in range(REQUESTS // 2, REQUESTS):  # one after the other: a packet each
            answers.append(await here.send(request("kit.echo", b"%d" % n, id=f"r{n}")))
        await here.stop()
        await there.stop()
    await network.stop()
    return Played(Counter(each.id for each in far.delivered), [each.payload for each in answers], packets)


EXPECTED = Counter([f"r{n}" for n in range(REQUESTS)] + [f"e{n}" for n in range(EVENTS)])


async def test_a_cut_at_any_packet_loses_nothing_and_doubles_nothing():
    packets = (await play(0)).packets
    assert packets > 30
    for cut_at in range(1, packets + 1):
        played = await play(cut_at)
        assert played.delivered == EXPECTED, f"cut at packet {cut_at}"
        assert played.answers == [b"%d" % n for n in range(REQUESTS)], f"cut at packet {cut_at}"


async def test_a_host_that_dies_at_any_packet_loses_no_publication_and_leaves_no_request_open():
    outcomes: Counter[str] = Counter()
    for die_at in (7, 9, 11, 13, 15, 17):
        network = Network(SystemClock())
        await network.start()
        far = Desk()
        there = await network.worker(far, "kit.echo", subs=NEWS, retry=0.001)
        here = await network.worker(Desk(), retry=0.001)
        packets = 0

        def count(_number: int, network: Network = network, die_at: int = die_at) -> None:
            nonlocal packets
            packets += 1
            if packets == die_at:
                asyncio.get_running_loop().call_soon(asyncio.ensure_future, restart(network))

        for carrier in network.carriers:
            carrier.on_send = count
        async with asyncio.timeout(TIMEOUT):
            for n in range(10):
                answer, _ = await asyncio.gather(
                    here.send(request("kit.echo", id=f"r{n}")), here.publish(event("news", id=f"e{n}"))
                )
                outcomes[answer.kind] += 1
                assert answer.kind == "reply" or answer.error.retryable
            await here.publish(event("news", id="last", target=request("kit.echo").target))
            await far.has(1)
        await network.stop()
        assert not any(count > 1 for count in Counter(each.id for each in far.delivered).values())
        assert there is not here
    assert outcomes["reply"] > outcomes["error"]


async def restart(network: Network) -> None:
    if network.host is not None:
        await network.kill_host()
        await network.start()


async def test_a_request_whose_host_dies_is_lost_and_a_publication_is_repeated():
    network = Network(SystemClock())
    await network.start()
    far = Desk()
    far.gate = asyncio.Event()
    await network.worker(far, "kit.echo", subs=NEWS, retry=0.001)
    here = await network.worker(Desk(), retry=0.001)
    asking = asyncio.ensure_future(here.send(request("kit.echo")))
    await far.has(1)
    await network.kill_host()
    telling = asyncio.ensure_future(here.publish(event("news")))
    await network.start()
    async with asyncio.timeout(TIMEOUT):
        answer = await asking
        await telling
    assert answer.error.type == f"{WorkerLost.__module__}.WorkerLost"
    assert answer.error.retryable
    await network.stop()


async def test_500_publications_and_a_stop_are_500_deliveries():
    network = Network(drain=TIMEOUT)
    await network.start()
    far = Desk()
    await network.worker(far, "kit.echo", subs=NEWS, drain=TIMEOUT)
    here = await network.worker(Desk(), drain=TIMEOUT)
    telling = [asyncio.ensure_future(here.publish(event("news", id=f"e{n}"))) for n in range(500)]
    await asyncio.wait(telling, timeout=0)
    await here.stop()
    await asyncio.gather(*telling)
    await network.stop()
    assert [each.id for each in far.delivered] == [f"e{n}" for n in range(500)]


async def test_who_stops_does_not_wait_for_a_host_that_is_gone():
    network = Network()
    await network.start()
    far = Desk()
    far.gate = asyncio.Event()
    there = await network.worker(far, "kit.echo", drain=10 * TIMEOUT)
    here = await network.worker(Desk(), subs=NEWS, drain=10 * TIMEOUT)
    asking = asyncio.ensure_future(here.send(request("kit.echo")))
    await far.has(1)
    await network.kill_host()
    telling = asyncio.ensure_future(here.publish(event("news")))
    await settled()
    async with asyncio.timeout(TIMEOUT):
        await here.stop()
        answer = await asking
        with pytest.raises(WorkerLost, match="host is gone"):
            await telling
        stopping = asyncio.ensure_future(there.stop())
        await settled()
        assert not stopping.done()  # a handler is at work
        far.gate.set()
        await stopping
    assert answer.error.type == f"{WorkerLost.__module__}.WorkerLost"


@pytest.mark.parametrize("grace", [0.05, 30.0])
async def test_a_session_is_kept_for_its_grace(grace: float):
    network = Network(grace=grace)
    await network.start()
    far = Desk()
    worker = await network.worker(far, "kit.echo")
    host = network.host
    assert host is not None
    resume = host.reception.sessions[host.workers()[0]].resume
    dialled = len(network.carriers)
    network.host = None  # nobody answers
    network.carriers[-1].cut()
    await settled()
    network.clock.advance(10)
    await settled()
    assert bool(host.workers()) == (grace > 10)
    network.host = host
    for _ in range(5):
        network.clock.advance(1)
        await settled()
    assert len(network.carriers) == dialled + 1
    (name,) = host.workers()
    assert (host.reception.sessions[name].resume == resume) == (grace > 10)
    assert [each.type for each in await worker.agents()] == ["kit.echo"]
    await network.stop()
