"""Requests from worker to worker: they spare the host, keep their order, and find their way when it is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.clock import SystemClock
from perdure.messages import AgentId, Subscription
from perdure_hosting.carrier import Principal, pair
from perdure_hosting.client import LinkTransport
from perdure_hosting.wire_pb2 import Goodbye, Hello, Packet

from .hosting_network import TIMEOUT, Desk, Network, event, presence, request

NEWS = (Subscription("s", "kit.a", "news"),)


@pytest.fixture
async def network() -> Any:
    network = Network(SystemClock())
    await network.start()
    yield network
    await network.stop()


def through_the_host(network: Network) -> int:
    """How many calls the host has routed."""
    assert network.host is not None
    return network.host.router._last  # noqa: SLF001 - its counter


async def connected(worker: LinkTransport, name: str = "there", *, is_: bool = True) -> None:
    """The direct way of a worker to another one is open; or is no more."""
    assert worker._ways is not None  # noqa: SLF001 - nobody else sees the way
    async with asyncio.timeout(TIMEOUT):
        while (name in worker._ways._peers and worker._ways._peers[name].open) is not is_:  # noqa: SLF001 - as above
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, None)
            await future


async def test_requests_go_directly_once_the_host_has_said_where(network: Network):
    desk = Desk("there")
    await network.worker(desk, "kit.a", name="there", address="there:1")
    here = await network.worker(Desk(), name="here")
    assert (await here.send(request("kit.a", id="first"))).type == "there"
    await connected(here)
    before = through_the_host(network)
    for n in range(10):
        assert (await here.send(request("kit.a", b"%d" % n, id=f"m{n}"))).payload == b"%d" % n
    assert through_the_host(network) == before
    assert [each.id for each in desk.delivered] == ["first", *(f"m{n}" for n in range(10))]


async def test_who_has_no_address_is_reached_through_the_host(network: Network):
    await network.worker(Desk("there"), "kit.a", name="there")
    here = await network.worker(Desk(), name="here")
    for _ in range(5):
        await here.send(request("kit.a"))
    assert through_the_host(network) == 5


@pytest.mark.parametrize("seed", range(5))
async def test_the_order_of_requests_and_publications_stays(network: Network, seed: int):
    desk = Desk("there")
    await network.worker(desk, "kit.a", name="there", address="there:1", subs=NEWS)
    here = await network.worker(Desk(), name="here")
    await here.send(request("kit.a", id="first"))
    await connected(here)
    before = through_the_host(network)
    sent: list[str] = []
    jobs = []
    for n in range(300):
        id_ = f"m{n}"
        sent.append(id_)
        if (n * (seed + 3)) % 17 == 0:
            jobs.append(asyncio.ensure_future(here.publish(event("news", id=id_))))
        else:
            jobs.append(asyncio.ensure_future(here.send(request("kit.a", id=id_))))
        if n % (seed + 2) == 0:
            await asyncio.gather(*jobs)
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*jobs)
        await desk.has(301)
    assert [each.id for each in desk.delivered][1:] == sent
    assert through_the_host(network) - before < 250


async def test_when_the_way_is_lost_requests_go_through_the_host(network: Network):
    desk = Desk("there")
    await network.worker(desk, "kit.a", name="there", address="there:1")
    here = await network.worker(Desk(), name="here")
    await here.send(request("kit.a"))
    await connected(here)
    way = network.carriers[-1]
    network.addresses.clear()
    way.cut()
    await connected(here, is_=False)  # what is written to it before that may have arrived, so it is lost
    async with asyncio.timeout(TIMEOUT):
        for n in range(5):
            assert (await here.send(request("kit.a", id=f"m{n}"))).type == "there"


async def test_a_direct_session_goes_on_after_a_cut(network: Network):
    desk = Desk("there")
    await network.worker(desk, "kit.a", name="there", address="there:1")
    here = await network.worker(Desk(), name="here")
    await here.send(request("kit.a"))
    await connected(here)
    desk.gate = asyncio.Event()
    before = through_the_host(network)
    asking = [asyncio.ensure_future(here.send(request("kit.a", id=f"m{n}"))) for n in range(10)]
    await desk.has(11)
    network.carriers[-1].cut()
    desk.gate.set()
    async with asyncio.timeout(TIMEOUT):
        assert [(await each).kind for each in asking] == ["reply"] * 10
    assert through_the_host(network) == before
    assert len(desk.delivered) == 11


async def test_an_agent_that_moved_is_found_through_the_host(network: Network):
    there = await network.worker(Desk("there"), "kit.a", name="there", address="there:1")
    here = await network.worker(Desk(), name="here")
    await here.send(request("kit.a"))
    await connected(here)
    await network.worker(Desk("other"), "kit.a", name="other")
    await there.announce(presence("kit.b"))
    assert (await here.send(request("kit.a"))).type == "other"


async def test_a_worker_that_stops_answers_what_came_directly(network: Network):
    desk = Desk("there")
    there = await network.worker(desk, "kit.a", name="there", address="there:1", drain=TIMEOUT)
    here = await network.worker(Desk(), name="here")
    await here.send(request("kit.a"))
    await connected(here)
    desk.gate = asyncio.Event()
    asking = asyncio.ensure_future(here.send(request("kit.a", id="m2")))
    await desk.has(2)
    stopping = asyncio.ensure_future(there.stop())
    await asyncio.wait({stopping}, timeout=0)
    desk.gate.set()
    async with asyncio.timeout(TIMEOUT):
        assert (await asking).kind == "reply"
        await stopping
    assert (await here.send(request("kit.a", id="m3"))).error.type.endswith("Undeliverable")


async def test_a_worker_that_stops_waits_for_what_it_asked_directly(network: Network):
    desk = Desk("there")
    await network.worker(desk, "kit.a", name="there", address="there:1")
    here = await network.worker(Desk(), name="here", drain=TIMEOUT)
    await here.send(request("kit.a"))
    await connected(here)
    desk.gate = asyncio.Event()
    asking = asyncio.ensure_future(here.send(request("kit.a", id="m2")))
    await desk.has(2)
    stopping = asyncio.ensure_future(here.stop())
    await asyncio.wait({stopping}, timeout=0.01)
    assert not stopping.done()
    desk.gate.set()
    async with asyncio.timeout(TIMEOUT):
        assert (await asking).kind == "reply"
        await stopping


async def test_cancelling_a_direct_request_cancels_its_handler(network: Network):
    cancelled = asyncio.Event()
    entered = asyncio.Event()

    async def silent(envelope: Any) -> Any:
        if envelope.id == "m1":
            return await Desk()(envelope)
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await network.worker(silent, "kit.a", name="there", address="there:1")
    here = await network.worker(Desk(), name="here")
    await here.send(request("kit.a"))
    await connected(here)
    before = through_the_host(network)
    asking = asyncio.ensure_future(here.send(request("kit.a", id="m2")))
    await entered.wait()
    asking.cancel()
    async with asyncio.timeout(TIMEOUT):
        await cancelled.wait()
    assert through_the_host(network) == before


async def test_nobody_comes_in_whom_the_host_has_not_named(network: Network):
    await network.worker(Desk("there"), "kit.a", name="there", address="there:1")
    near, far = pair()
    network.addresses["there:1"](far)
    await near.send(Packet(hello=Hello(protocol=1, name="thief", ticket="guess")).SerializeToString())
    async with asyncio.timeout(TIMEOUT):
        goodbye = Packet.FromString(await near.receive() or b"").goodbye
        assert goodbye.reason == Goodbye.NOT_PERMITTED
        assert await near.receive() is None


async def test_what_a_worker_may_not_send_to_it_may_not_send_to_directly(network: Network):
    desk = Desk("there")
    await network.worker(desk, "kit.a", "lab.a", name="there", address="there:1")
    guest = await network.worker(Desk(), name="guest", principal=Principal("guest", ("guest.*",), ("kit.*",), ()))
    await guest.send(request("kit.a"))
    await connected(guest, "there")
    assert guest._ways is not None  # noqa: SLF001 - who lies to its own transport
    route = guest._ways.through(AgentId("lab.a", "1"))  # noqa: SLF001 - as above
    guest._ways.answered(route, 0)  # noqa: SLF001 - as above
    route.worker, route.until = "there", float("inf")
    answer = await guest.send(request("lab.a"))
    assert answer.error.type.endswith("NotPermitted")
    answer = await guest.send(request("kit.a", sender=AgentId("kit.b", "1")))
    assert answer.error.type.endswith("NotPermitted")
    assert [each.target.type for each in desk.delivered if each.target] == ["kit.a"]


async def test_a_new_host_session_ends_what_the_last_one_had_arranged(network: Network):
    desk = Desk("there")
    there = await network.worker(desk, "kit.a", name="there", address="there:1", retry=0.001)
    here = await network.worker(Desk(), name="here", retry=0.001)
    await here.send(request("kit.a"))
    await connected(here)
    await network.kill_host()
    await network.start()
    async with asyncio.timeout(TIMEOUT):
        while not there._host.open or (await here.send(request("kit.a"))).kind != "reply":  # noqa: SLF001 - its state
            await asyncio.wait({asyncio.ensure_future(here.agents())})
        await connected(here)
        assert (await here.send(request("kit.a"))).type == "there"
