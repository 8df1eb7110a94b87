"""Connections that break, stand still or are half-open; hosts that die; what is large."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perdure.messages import Hosted, Presence, Subscription
from perdure.testing.proxy import FaultProxy
from perdure_hosting.host import Host

from .grpc_network import TIMEOUT, Desk, Network, event, request


@pytest.fixture
async def proxied() -> AsyncIterator[tuple[Network, FaultProxy]]:
    """A host behind a proxy, that soon gives up who is silent."""
    async with Network(heartbeat=0.1, silence=0.5) as network:
        host, _, port = network.listener.address.rpartition(":")
        async with FaultProxy(host, int(port)) as proxy:
            yield network, proxy
            for worker in network.workers:
                await worker.stop()


@pytest.mark.parametrize("fault", ["cut", "reset", "half open to the host", "half open to the worker", "black hole"])
async def test_a_session_goes_on_after_a_connection_is_lost(proxied: tuple[Network, FaultProxy], fault: str):
    network, proxy = proxied
    address = f"{proxy.host}:{proxy.port}"
    desk = Desk("there")
    await network.worker(desk, "kit.a", host=address)
    here = await network.worker(Desk(), host=address)
    before = set(network.host.workers())
    async with asyncio.timeout(TIMEOUT):
        assert (await here.send(request("kit.a", id="before"))).kind == "reply"
        faults = {
            "cut": proxy.cut,
            "reset": proxy.reset,
            "half open to the host": lambda: proxy.cut("client"),
            "half open to the worker": lambda: proxy.cut("target"),
            "black hole": proxy.black_hole,
        }
        faults[fault]()
        asked = [asyncio.ensure_future(here.send(request("kit.a", id=f"m{n}"))) for n in range(20)]
        if fault == "black hole":
            connections = proxy.connections
            while proxy.connections == connections:  # both sides gave up what swallows
                await asyncio.wait_for(_turn(network), TIMEOUT)
            proxy.heal()
        assert [(await each).type for each in asked] == ["there"] * 20
    assert [each.id for each in desk.delivered] == ["before", *(f"m{n}" for n in range(20))]
    assert set(network.host.workers()) == before


async def _turn(network: Network) -> None:
    """Let time pass: until somebody else's heartbeat."""
    asyncio.get_running_loop().call_later(0.05, (event := asyncio.Event()).set)
    await event.wait()


async def test_a_message_may_be_large_both_ways():
    async with Network() as network:
        await network.worker(Desk(), "kit.a")
        here = await network.worker(Desk())
        payload = b'"' + b"x" * 20 * 1024 * 1024 + b'"'
        async with asyncio.timeout(TIMEOUT):
            assert (await here.send(request("kit.a", payload))).payload == payload


async def test_500_publications_before_a_stop_are_500_deliveries():
    async with Network(drain=TIMEOUT) as network:
        desk = Desk()
        await network.worker(desk, "kit.a", subs=(Subscription("s", "kit.a", "news"),))
        here = await network.worker(Desk(), drain=TIMEOUT)
        told = [asyncio.ensure_future(here.publish(event("news", id=f"e{n}"))) for n in range(500)]
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*told)
            await here.stop()
            await network.host.stop()
            assert [each.id for each in await desk.has(500)] == [f"e{n}" for n in range(500)]


async def test_workers_reach_each_other_directly_and_through_the_host_again():
    async with Network() as network:
        desk = Desk("there")
        far = await network.worker(desk, "kit.a", listen="127.0.0.1:0")
        here = await network.worker(Desk())
        async with asyncio.timeout(TIMEOUT):
            for number in range(200):
                assert (await here.send(request("kit.a", id=f"m{number}"))).type == "there"
            counted = len(network.host.router.calls), network.host.router.registry
            assert counted[0] == 0
            await far.announce(Presence((Hosted("kit.b"),)))
            answer = await here.send(request("kit.a", id="gone"))
            assert answer.error.type.endswith("Undeliverable")
            assert (await here.send(request("kit.b"))).type == "there"
    assert [each.id for each in desk.delivered] == [*(f"m{n}" for n in range(200)), "m1"]


# -- a host in a process of its own


@asynccontextmanager
async def host_process(folder: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure_cli", "host", "--bind", f"127.0.0.1:{port}", "--json"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            ready = json.loads(await process.stdout.readline())
        assert ready["state"] == "ready"
        assert ready["addresses"] == [f"127.0.0.1:{port} (gRPC)"]
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_workers_come_back_by_themselves_to_a_host_that_was_killed(tmp_path: Path):
    port = free_port()
    async with Network() as network:
        async with host_process(tmp_path, port) as first:
            desk = Desk("there")
            await network.worker(desk, "kit.a", host=f"127.0.0.1:{port}")
            here = await network.worker(Desk(), host=f"127.0.0.1:{port}")
            assert (await here.send(request("kit.a"))).type == "there"
            first.kill()
            await first.wait()
        async with host_process(tmp_path, port), asyncio.timeout(TIMEOUT):
            types: list[str] = []
            while types != ["kit.a"]:
                types = [each.type for each in await here.agents()]
                await _turn(network)
            assert (await here.send(request("kit.a", id="m2"))).type == "there"
        assert [each.id for each in desk.delivered] == ["m1", "m2"]
        assert isinstance(network.host, Host)


async def test_a_host_that_is_told_to_stop_lets_what_is_under_way_end(tmp_path: Path):
    port = free_port()
    async with Network() as network, host_process(tmp_path, port) as process, asyncio.timeout(TIMEOUT):
        gate, entered = asyncio.Event(), asyncio.Event()
        desk = Desk("there")

        async def slow(envelope):
            entered.set()
            await gate.wait()
            return await desk(envelope)

        await network.worker(slow, "kit.a", host=f"127.0.0.1:{port}")
        here = await network.worker(Desk(), host=f"127.0.0.1:{port}")
        asked = asyncio.ensure_future(here.send(request("kit.a")))
        await entered.wait()
        process.send_signal(signal.SIGTERM)
        assert json.loads(await process.stdout.readline())["state"] == "stopping"
        gate.set()
        assert (await asked).type == "there"
        assert await process.wait() == 0
