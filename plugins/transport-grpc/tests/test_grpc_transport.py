from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.clock import SystemClock
from perdure.ports import Clock, Deliver, Transport
from perdure.testing.transport_kit import Connect, Endpoints, TransportKit
from perdure_transport_grpc import GrpcTransport, Settings

from .grpc_network import Certificates, Network


@pytest.fixture(params=["plain", "tls", "mtls"])
async def hosted(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Network]:
    """A host, with TLS or without."""
    if request.param == "plain":
        network = Network()
    else:
        made = Certificates(tmp_path)
        mutual = {"authority": made.authority} if request.param == "mtls" else {}
        shown = made.issue("worker.example") if mutual else {}
        network = Network({"authority": made.authority, **shown}, **made.issue("127.0.0.1"), **mutual)
    async with network:
        yield network


class TestGrpcTransport(TransportKit):
    """The kit, over real sockets, near and far being two workers of one host."""

    @pytest.fixture
    def clock(self) -> Clock:
        return SystemClock()

    @pytest.fixture
    def unstarted(self, clock: Clock) -> Transport:
        return GrpcTransport(Settings(), clock)

    @pytest.fixture
    def network(self, hosted: Network) -> Connect:
        async def connect(deliver: Deliver) -> Endpoints:
            async def nobody(envelope):
                raise AssertionError(envelope)

            near = hosted.make()
            far = hosted.make()
            async with asyncio.timeout(30):
                await near.start(nobody)
                await far.start(deliver)
            return Endpoints(near, far)

        return connect
