"""What holds for every transport, over links in memory: through a host, directly, and cut again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest

from perdure.clock import SystemClock
from perdure.ports import Clock, Deliver, Transport
from perdure.testing.transport_kit import Connect, Endpoints, Office, TransportKit
from perdure_hosting.carrier import MemoryCarrier
from perdure_hosting.client import LinkTransport
from perdure_hosting.settings import WorkerSettings

from .hosting_network import Network


class TestThroughAHost(TransportKit):
    worker = WorkerSettings(drain=0.1, retry=0.001)
    address = ""

    @pytest.fixture
    async def hosted(self, clock: Clock) -> AsyncIterator[Network]:
        network = Network(clock)
        await network.start()
        yield network
        await network.stop()

    @pytest.fixture
    def unstarted(self, clock: Clock, hosted: Network) -> Transport:
        return LinkTransport(hosted.dial(), clock, self.worker)

    @pytest.fixture
    def network(self, clock: Clock, hosted: Network) -> Connect:
        async def connect(deliver: Deliver) -> Endpoints:
            near = LinkTransport(hosted.dial(), clock, self.worker)
            far = LinkTransport(hosted.dial(), clock, self.worker.model_copy(update={"address": self.address}))
            hosted.addresses[self.address] = far.accept
            await near.start(Office({}))
            await far.start(deliver)
            return Endpoints(near, far)

        return connect


class TestDirectly(TestThroughAHost):
    address = "far:1"


class TestWithinOneWorker(TestThroughAHost):
    @pytest.fixture
    def network(self, clock: Clock, hosted: Network) -> Connect:
        async def connect(deliver: Deliver) -> Endpoints:
            both = LinkTransport(hosted.dial(), clock, self.worker)
            await both.start(deliver)
            return Endpoints(both, both)

        return connect


class TestOverCarriersThatBreak(TestThroughAHost):
    """Every seventh packet is the last one of its carrier."""

    @pytest.fixture
    def clock(self) -> Clock:
        return SystemClock()

    @pytest.fixture
    async def hosted(self, clock: Clock) -> AsyncIterator[Network]:
        network = Network(clock)
        packets: Iterator[int] = count(1)

        def watch(near: MemoryCarrier, far: MemoryCarrier) -> None:
            def cut(_number: int) -> None:
                if next(packets) % 7 == 0:
                    near.cut()

            near.on_send = far.on_send = cut

        network.on_carrier = watch
        await network.start()
        yield network
        await network.stop()


class TestDirectlyOverCarriersThatBreak(TestOverCarriersThatBreak):
    address = "far:1"
