"""The transport over HTTP: the kit over real sockets, with TLS and without, and what only sockets can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from perdure.ports import Clock, Deliver, Transport
from perdure.testing.transport_kit import Connect, Endpoints, Office, TransportKit
from perdure_transport_http import HttpTransport, Settings

from .http_network import TOKEN, Hosted, certificates, hosting


class TestHttp(TransportKit):
    @pytest.fixture
    async def hosted(self, clock: Clock) -> AsyncIterator[Hosted]:
        async with hosting(clock) as hosted:
            yield hosted

    @pytest.fixture
    def settings(self) -> dict[str, Any]:
        return {}

    @pytest.fixture
    def unstarted(self, clock: Clock) -> Transport:
        return HttpTransport(Settings(), clock)

    @pytest.fixture
    def network(self, hosted: Hosted, settings: dict[str, Any]) -> Connect:
        async def connect(deliver: Deliver) -> Endpoints:
            return Endpoints(await hosted.joined(Office({}), **settings), await hosted.joined(deliver, **settings))

        return connect


class TestHttps(TestHttp):
    """With TLS both ways, and a token."""

    @pytest.fixture
    async def hosted(self, clock: Clock, tmp_path: Path) -> AsyncIterator[Hosted]:
        made = certificates(tmp_path)
        tokens = [{"name": "worker", "token": TOKEN}]
        async with hosting(
            clock, certificate=made.server, key=made.server, authority=made.authority, tokens=tokens
        ) as hosted:
            yield hosted

    @pytest.fixture
    def settings(self, tmp_path: Path) -> dict[str, Any]:
        return {"authority": tmp_path / "authority.pem", "certificate": tmp_path / "client.pem", "token": TOKEN}
