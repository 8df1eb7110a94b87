"""A host that listens on a real port, certificates made for the occasion, and workers that dial it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from perdure.clock import SystemClock
from perdure.messages import Presence
from perdure.ports import Clock, Deliver
from perdure_hosting.host import Host
from perdure_hosting.settings import HostSettings
from perdure_transport_http import HttpTransport, ServerSettings, Settings
from perdure_transport_http.server import HttpServer

TIMEOUT = 60.0
TOKEN = "a-token-for-tests-only"


class Certificates(NamedTuple):
    """Files: who vouches, a server's and a client's certificate with their keys."""

    authority: Path
    server: Path
    client: Path


def certificates(folder: Path) -> Certificates:
    authority = trustme.CA()
    made = Certificates(folder / "authority.pem", folder / "server.pem", folder / "client.pem")
    authority.cert_pem.write_to_path(str(made.authority))
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(made.server))
    authority.issue_cert("worker@example.test").private_key_and_cert_chain_pem.write_to_path(str(made.client))
    return made


class Hosted:
    """A host and its server.

    Attributes:
        host: What routes.
        server: What listens.
        clock: Theirs.
    """

    def __init__(self, clock: Clock, host: dict[str, Any], server: dict[str, Any]) -> None:
        self.clock = clock
        self.host = Host(clock, HostSettings(**({"drain": 0.1} | host)))
        self.server = HttpServer(self.host, clock, ServerSettings(**({"bind": "127.0.0.1:0"} | server)))

    @property
    def url(self) -> str:
        return self.server.url

    def worker(self, **settings: Any) -> HttpTransport:
        return HttpTransport(Settings(**({"url": self.url, "drain": 0.1, "retry": 0.001} | settings)), self.clock)

    async def joined(self, deliver: Deliver, presence: Presence | None = None, **settings: Any) -> HttpTransport:
        worker = self.worker(**settings)
        await worker.start(deliver)
        if presence is not None:
            await worker.announce(presence)
        return worker


@asynccontextmanager
async def hosting(
    clock: Clock | None = None, *, host: dict[str, Any] | None = None, **server: Any
) -> AsyncIterator[Hosted]:
    hosted = Hosted(clock or SystemClock(), host or {}, server)
    await hosted.host.start()
    await hosted.server.start()
    try:
        yield hosted
    finally:
        async with asyncio.timeout(TIMEOUT):
            await hosted.server.close_doors()
            await hosted.host.stop()
            await hosted.server.stop()
