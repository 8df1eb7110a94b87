"""WebSockets of workers: who is refused and how, what a network does to them, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, web
from pydantic import ValidationError

from perdure.clock import SystemClock
from perdure.errors import InvalidSetting, NotPermitted
from perdure.messages import Envelope, Hosted
from perdure.testing import FaultProxy
from perdure.testing.transport_kit import Office, Silent, echo, event, packed, request, unpacked
from perdure_hosting.errors import HostUnreachable, Refused
from perdure_hosting.settings import PROTOCOL
from perdure_hosting.wire_pb2 import Goodbye, Hello, Packet
from perdure_transport_http import HttpTransport, ServerSettings, Settings, perdure_transport
from perdure_transport_http.listening import listener
from perdure_transport_http.server import HttpServer
from perdure_transport_http.settings import LINK, SUBPROTOCOL

from .http_network import TIMEOUT, TOKEN, Hosted as Hosting, certificates, hosting

QUICK = {"heartbeat": 0.1, "silence": 0.5, "drain": 0.1}
"""A host that finds out soon."""


@pytest.fixture
async def hosted() -> AsyncIterator[Hosting]:
    async with hosting() as hosted:
        yield hosted


async def asked(worker: HttpTransport, payload: Any = "hello", **more: Any) -> Envelope:
    async with asyncio.timeout(TIMEOUT):
        return unpacked(await worker.send(packed(request("kit.echo", payload, **more))))


def greeting(**more: Any) -> bytes:
    return Packet(hello=Hello(**{"protocol": PROTOCOL} | more)).SerializeToString()


class Socket:
    """A WebSocket of a stranger."""

    def __init__(self, session: ClientSession, websocket: ClientWebSocketResponse) -> None:
        self.session = session
        self.websocket = websocket

    async def packet(self) -> Packet:
        """The next welcome or goodbye."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                packet = Packet.FromString(await self.websocket.receive_bytes())
                if packet.HasField("welcome") or packet.HasField("goodbye"):
                    return packet

    async def end(self) -> Any:
        """What it ends with."""
        async with asyncio.timeout(TIMEOUT):
            while not self.websocket.closed:
                await self.websocket.receive()
        return self.websocket.close_code

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.websocket.close()
        await self.session.close()


async def stranger(hosted: Hosting, **settings: Any) -> Socket:
    session = ClientSession()
    websocket = await session.ws_connect(f"{hosted.url}{LINK}", protocols=(SUBPROTOCOL,), **settings)
    return Socket(session, websocket)


# -- who is refused


@pytest.mark.parametrize("token", [None, "not-the-one-that-it-knows"])
async def test_a_worker_without_the_token_is_told_so(token: str | None):
    async with hosting(tokens=[{"name": "worker", "token": TOKEN}]) as hosted:
        worker = hosted.worker(token=token)
        with pytest.raises(NotPermitted, match="set 'token'"):
            await worker.start(Office({}))
        await worker.stop()


async def test_a_worker_that_uses_another_name_of_the_host_is_told_so():
    async with hosting(bind="0.0.0.0:0", insecure=True, hosts=["shop.example"]) as hosted:
        worker = hosted.worker(url=f"http://127.0.0.1:{hosted.server.port}")
        with pytest.raises(NotPermitted, match="does not go by that name"):
            await worker.start(Office({}))
        await worker.stop()


async def test_a_worker_may_host_what_its_token_says():
    grants = [{"name": "worker", "token": TOKEN, "may_host": ["kit.*"]}]
    async with hosting(tokens=grants) as hosted:
        office = Office({"kit.echo": echo})
        worker = await hosted.joined(office, office.presence, token=TOKEN)
        with pytest.raises(NotPermitted, match=r"may not host \['lab.echo'\]"):
            await worker.announce(office.presence._replace(agents=(Hosted("lab.echo"),)))
        await worker.stop()


async def test_a_second_worker_of_the_same_name_is_refused(hosted: Hosting):
    first = await hosted.joined(Office({}), name="one")
    second = hosted.worker(name="one")
    with pytest.raises(Refused, match="DUPLICATE_NAME"):
        await second.start(Office({}))
    await first.stop()
    await second.stop()


async def test_what_is_no_host_is_named():
    application = web.Application()
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    worker = HttpTransport(Settings(url=url, connect=0.2), SystemClock())
    with pytest.raises(HostUnreachable, match="answered 404 where a host takes workers"):
        await worker.start(Office({}))
    await worker.stop()
    await runner.cleanup()
    worker = HttpTransport(Settings(url=url, connect=0.2), SystemClock())
    with pytest.raises(HostUnreachable, match=f"no connection to '{url}'"):
        await worker.start(Office({}))
    await worker.stop()


async def test_what_takes_websockets_and_is_no_host_is_named():
    async def chat(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(protocols=("chat",))
        await websocket.prepare(request)
        await websocket.receive()
        return websocket

    application = web.Application()
    application.router.add_get(LINK, chat)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    worker = HttpTransport(Settings(url=f"http://127.0.0.1:{runner.addresses[0][1]}", connect=0.2), SystemClock())
    with pytest.raises(HostUnreachable, match=r"does not speak 'perdure\.v1'"):
        await worker.start(Office({}))
    await worker.stop()
    await runner.cleanup()


async def test_a_host_that_nobody_vouches_for_is_not_joined(tmp_path: Path):
    made = certificates(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = certificates(tmp_path / "other")
    async with hosting(certificate=made.server, authority=made.authority) as hosted:
        for settings, message in (
            ({"authority": stranger.authority, "certificate": made.client}, "CERTIFICATE_VERIFY_FAILED"),
            ({"authority": made.authority}, "The last attempt"),
            ({"authority": made.authority, "certificate": stranger.client}, "The last attempt"),
        ):
            worker = hosted.worker(connect=0.3, **settings)
            with pytest.raises(HostUnreachable, match=message):
                await worker.start(Office({}))
            await worker.stop()
        worker = await hosted.joined(Office({}), authority=made.authority, certificate=made.client)
        [session] = hosted.host.reception.sessions.values()
        assert session.principal.name == "worker@example.test"
        await worker.stop()


# -- what strangers send


async def test_another_version_of_the_protocol_is_refused_by_name(hosted: Hosting):
    async with await stranger(hosted) as other:
        await other.websocket.send_bytes(greeting(protocol=PROTOCOL + 1))
        goodbye = (await other.packet()).goodbye
        assert goodbye.reason == Goodbye.WRONG_PROTOCOL
        assert await other.end() == 1000


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, Packet(ack=7).SerializeToString()], ids=["empty", "noise", "ack"])
async def test_what_is_no_greeting_is_refused_by_name(hosted: Hosting, data: bytes):
    async with await stranger(hosted) as other:
        await other.websocket.send_bytes(data)
        assert (await other.packet()).goodbye.reason == Goodbye.MALFORMED
        await other.end()


async def test_text_is_no_packet(hosted: Hosting):
    async with await stranger(hosted) as other:
        await other.websocket.send_str("hello")
        assert await other.end() == 1003


async def test_a_packet_that_is_too_large_is_refused_by_name_and_a_huge_one_is_not_read():
    async with hosting(host={"max_frame": 1024}) as hosted:
        async with await stranger(hosted) as other:
            await other.websocket.send_bytes(greeting())
            assert (await other.packet()).HasField("welcome")
            await other.websocket.send_bytes(bytes(500_000))
            assert (await other.packet()).goodbye.reason == Goodbye.OVERSIZE
        async with await stranger(hosted) as other:
            await other.websocket.send_bytes(bytes(2_000_000))
            assert await other.end() in {1009, 1006}  # the server may be gone before all was sent


async def test_whatever_comes_the_server_goes_on(hosted: Hosting):
    dice = random.Random(7)  # noqa: S311 - a test's dice
    upgrade = (
        f"GET {LINK} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()
    plain = b"POST /perdure/v1/topics/news HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nce-id: 1\r\n\r\nhello"
    for number in range(200):
        data = bytearray(upgrade if number % 2 else plain)
        if number % 4 > 1:
            place = dice.randrange(len(data))
            data[place : place + dice.randint(0, 3)] = dice.randbytes(dice.randint(0, 3))
        reader, writer = await asyncio.open_connection("127.0.0.1", hosted.server.port)
        writer.write(bytes(data) + dice.randbytes(dice.randint(0, 300)))
        writer.write_eof()
        async with asyncio.timeout(TIMEOUT):
            while await reader.read(65536):
                pass
        writer.close()
    office = Office({"kit.echo": echo})
    worker = await hosted.joined(office, office.presence)
    assert (await asked(worker)).payload == "hello"
    await worker.stop()


async def test_a_body_that_does_not_arrive_is_not_waited_for():
    async with hosting(patience=0.1) as hosted:
        reader, writer = await asyncio.open_connection("127.0.0.1", hosted.server.port)
        writer.write(
            b"POST /perdure/v1/topics/news HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
            b"Content-Type: application/json\r\nConnection: close\r\n\r\n1"
        )
        async with asyncio.timeout(TIMEOUT):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"did not arrive within 0.1 s" in answer
        writer.close()


# -- what a network does


async def test_a_worker_joins_the_next_host_at_the_same_address_by_itself():
    office = Office({"kit.echo": echo})
    async with hosting() as hosted:
        port = hosted.server.port
        worker = await hosted.joined(office, office.presence)
        other = await hosted.joined(Office({}))
        assert (await asked(other)).payload == "hello"
    async with hosting(bind=f"127.0.0.1:{port}") as hosted:
        async with asyncio.timeout(TIMEOUT):
            while not (await other.agents()):
                pass
        assert (await asked(other, "again")).payload == "again"
        await worker.stop()
        await other.stop()


@pytest.mark.parametrize("fault", ["cut", "reset", "black_hole", "half_open"])
async def test_a_session_goes_on_after_a_fault(fault: str):
    silent = Silent()
    office = Office({"kit.echo": echo, "kit.silent": silent})
    async with hosting(host=QUICK) as hosted, FaultProxy("127.0.0.1", hosted.server.port) as proxy:
        worker = await hosted.joined(office, office.presence, url=f"http://{proxy.host}:{proxy.port}")
        other = await hosted.joined(Office({}))
        sending = asyncio.create_task(other.send(packed(request("kit.silent"))))
        async with asyncio.timeout(TIMEOUT):
            await silent.entered.wait()
        before = proxy.connections
        if fault == "half_open":
            proxy.cut("client")  # the host is not told
        else:
            getattr(proxy, fault)()
        if fault == "black_hole":
            await proxy.until(lambda proxy: proxy.connections > before)
            proxy.heal()
        silent.released.set()
        assert (await asked(other)).payload == "hello"
        async with asyncio.timeout(TIMEOUT):
            assert unpacked(await sending).payload == "late"
        assert proxy.connections > before
        assert len(hosted.host.workers()) == 2
        await worker.stop()
        await other.stop()


async def test_nothing_is_lost_and_nothing_comes_twice_while_connections_break():
    office = Office({"kit.echo": echo})
    async with hosting(host=QUICK) as hosted, FaultProxy("127.0.0.1", hosted.server.port, seed=7) as proxy:
        url = f"http://{proxy.host}:{proxy.port}"
        worker = await hosted.joined(office, office.presence, url=url)
        other = await hosted.joined(Office({}), url=url)
        for n in range(100):
            if n % 10 == 5:
                (proxy.cut, proxy.reset)[n // 10 % 2]()
            answers = await asyncio.gather(*(asked(other, m, id=f"m{n}.{m}") for m in range(5)))
            assert [answer.payload for answer in answers] == list(range(5))
        counts = Counter(envelope.id for envelope in office.delivered)
        assert len(counts) == 500
        assert set(counts.values()) == {1}
        await worker.stop()
        await other.stop()


async def test_a_side_that_does_not_read_is_not_waited_for_when_it_is_closed(hosted: Hosting):
    """Its buffers are full, so that even the close does not go out."""
    plain = socket.create_connection(("127.0.0.1", hosted.server.port))
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    key = "AAAAAAAAAAAAAAAAAAAAAA=="
    await loop.sock_sendall(
        plain,
        f"GET {LINK} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode(),
    )
    packet = greeting(name="deaf")
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(packet))
    await loop.sock_sendall(plain, bytes([0x82, 0x80 | len(packet)]) + mask + masked)
    async with asyncio.timeout(TIMEOUT):
        while "deaf" not in hosted.host.workers():
            await loop.sock_recv(plain, 1)
        carrier: Any = hosted.host.reception.sessions["deaf"].line.carrier  # type: ignore[union-attr]
        filling = asyncio.ensure_future(carrier.send(bytes(50_000_000)))
        await asyncio.wait({filling}, timeout=0)
        await carrier.ended()
        assert carrier.gone
        await asyncio.wait({filling})
    plain.close()


# -- what is left


async def test_nothing_is_left_behind():
    before = asyncio.all_tasks()
    office = Office({"kit.echo": echo})
    async with hosting() as hosted:
        worker = await hosted.joined(office, office.presence)
        other = await hosted.joined(Office({}))
        await asyncio.gather(*(asked(other, n, id=f"m{n}") for n in range(10)))
        await other.publish(packed(event("news")))
        await worker.stop()
        await other.stop()
        await other.stop()
    assert asyncio.all_tasks() == before


# -- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "127.0.0.1:7380"}, "is no URL of a host"),
        ({"url": "http://me:secret@127.0.0.1"}, "set 'token' instead"),
        ({"url": "http://host.example", "token": TOKEN}, "for all to read"),
        ({"direct": True}, "not reach each other directly"),
        ({"address": "127.0.0.1:1"}, "not reach each other directly"),
        ({"uri": "http://127.0.0.1"}, "uri"),
        ({"url": "https://127.0.0.1", "authority": "nowhere.pem"}, "cannot be used"),
        ({"url": "https://127.0.0.1", "certificate": "nowhere.pem"}, "cannot be used"),
    ],
)
def test_a_workers_setting_that_does_not_fit_is_named(settings: dict[str, Any], message: str):
    with pytest.raises(InvalidSetting, match=message) as refused:
        perdure_transport(settings=settings, clock=SystemClock())
    assert "secret" not in str(refused.value)
    assert TOKEN not in str(refused.value)


def test_an_insecure_way_can_be_said():
    assert Settings(url="http://host.example/under/here/", token=TOKEN, insecure=True).url.endswith("/here")  # type: ignore[arg-type]


@pytest.mark.parametrize("bind", ["7380", ":7380", "127.0.0.1", "127.0.0.1:", "::1:80", "127.0.0.1:70000", "a:b"])
def test_an_address_that_is_none_is_named(bind: str):
    with pytest.raises(ValidationError, match="no address to listen at"):
        ServerSettings(bind=bind)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"bind": "0.0.0.0:0", "insecure": True}, "set 'hosts'"),
        ({"bind": "10.0.0.1:80"}, "there is no TLS and tokens"),
        ({"bind": "10.0.0.1:80", "tokens": [{"name": "a", "token": TOKEN}]}, "there is no TLS"),
        ({"key": "key.pem"}, "need a 'certificate'"),
        ({"certificate": "nowhere.pem"}, "cannot be used"),
        ({"tokens": [{"name": "a", "token": "short"}]}, "token of 'a' does not do"),
    ],
)
async def test_a_servers_setting_that_does_not_fit_is_named(hosted: Hosting, server: dict[str, Any], message: str):
    with pytest.raises(InvalidSetting, match=message):
        listener(hosted.host, hosted.clock, {"server": server})


def has_ipv6_loopback() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


async def test_the_command_line_says_where_to_listen(hosted: Hosting):
    section = {"server": {"bind": "10.0.0.1:80", "max_body": 5000}}
    second = listener(hosted.host, hosted.clock, section, "[::1]:0" if has_ipv6_loopback() else "localhost:0")
    assert isinstance(second, HttpServer)
    await second.start()
    office = Office({"kit.echo": echo})
    worker = await hosted.joined(office, office.presence)
    other = await hosted.joined(Office({}), url=second.url)
    assert (await asked(other)).payload == "hello"  # one host, two servers
    await worker.stop()
    await other.stop()
    await second.stop()


async def test_a_port_that_is_taken_is_an_error(hosted: Hosting):
    second = listener(hosted.host, hosted.clock, {}, f"127.0.0.1:{hosted.server.port}")
    with pytest.raises(OSError, match="in use"):
        await second.start()
    await second.stop()
