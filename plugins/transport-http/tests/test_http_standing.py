"""An event that any program posts for a durable agent is kept by the host, whether or not a worker is there."""

from __future__ import annotations

import asyncio

from aiohttp import ClientSession

from perdure.clock import SystemClock
from perdure.messages import Envelope, Hosted, Presence, RunFilter, Subscription
from perdure.testing import MemoryStore
from perdure_hosting.host import Host
from perdure_hosting.remote_store import RemoteStore
from perdure_hosting.settings import HostSettings
from perdure_transport_http import HttpTransport, ServerSettings, Settings
from perdure_transport_http.dialer import Dialer
from perdure_transport_http.server import HttpServer

LEDGER = Hosted("shop.ledger", durable=True)


async def nothing(envelope: Envelope) -> Envelope:
    return envelope


async def test_what_is_posted_for_a_durable_agent_is_a_turn():
    clock, store = SystemClock(), MemoryStore(SystemClock())
    host = Host(clock, HostSettings(drain=0.1), store=store)
    server = HttpServer(host, clock, ServerSettings(bind="127.0.0.1:0"))
    await host.start()
    await server.start()
    settings = Settings(url=server.url, drain=0.1)
    dial = Dialer(settings)
    driver = RemoteStore(dial, clock, settings, closing=dial.close)
    worker = HttpTransport(settings, clock)
    async with asyncio.timeout(60):
        await driver.claim("w", clock.now(), targets=frozenset({LEDGER.type}))
        await worker.start(nothing)
        await worker.announce(Presence((LEDGER,), (Subscription("l", LEDGER.type, "news"),)))
        await worker.stop()
        await driver.close()
        headers = {"ce-specversion": "1.0", "ce-type": "shop.news", "ce-source": "/here", "ce-id": "1"}
        async with ClientSession() as session:
            for _ in range(2):
                posted = f"{server.url}/perdure/v1/topics/news/main"
                async with session.post(posted, json="hello", headers=headers) as answer:
                    assert answer.status == 202
        (view,) = await store.runs(RunFilter(target=LEDGER.type))
        assert (view.session, view.status) == ("main", "pending")
        await server.close_doors()
        await host.stop()
        await server.stop()
