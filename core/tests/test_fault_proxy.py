"""The proxy that misbehaves: each fault, seen from real sockets on both sides."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress

import pytest

from perdure.testing import FaultProxy

BOUND = 30  # seconds for a wait that ends at once unless something is broken


class Echo:
    """A server that gives back what it gets, and keeps what became of its connections."""

    def __init__(self):
        self.ends = asyncio.Queue()
        self.writers = []

    async def serve(self, reader, writer):
        self.writers.append(writer)
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
            self.ends.put_nowait("closed")
        except ConnectionResetError:
            self.ends.put_nowait("reset")
        finally:
            writer.close()

    async def ended(self):
        return await asyncio.wait_for(self.ends.get(), BOUND)


@asynccontextmanager
async def through(seed=0):
    """An echo server behind a proxy."""
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    try:
        async with FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1], seed=seed) as proxy:
            yield echo, proxy
    finally:
        server.close()
        for writer in echo.writers:
            writer.transport.abort()


class Client:
    """One connection through the proxy."""

    @classmethod
    async def to(cls, proxy):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection(proxy.host, proxy.port)
        return self

    async def say(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def hear(self, size):
        return await asyncio.wait_for(self.reader.readexactly(size), BOUND)

    async def ended(self):
        try:
            rest = await asyncio.wait_for(self.reader.read(), BOUND)
        except ConnectionResetError:
            return "reset"
        return "closed", rest

    def leave(self):
        self.writer.transport.abort()


async def test_bytes_pass_both_ways_and_are_counted():
    async with through() as (echo, proxy):
        client = await Client.to(proxy)
        await client.say(b"x" * 300_000)
        assert await client.hear(300_000) == b"x" * 300_000
        assert (proxy.connections, proxy.open) == (1, 1)
        assert proxy.carried == Counter(up=300_000, down=300_000)
        client.writer.write_eof()
        assert (await echo.ended(), await client.ended()) == ("closed", ("closed", b""))
        client.leave()
        await proxy.until(lambda proxy: proxy.open == 0)
        assert proxy.swallowed == Counter()


@pytest.mark.parametrize(("fault", "seen"), [("cut", ("closed", b"")), ("reset", "reset")], ids=["cut", "reset"])
async def test_a_connection_is_ended_towards_both_sides(fault, seen):
    async with through() as (echo, proxy):
        client = await Client.to(proxy)
        await client.say(b"hello")
        await client.hear(5)
        assert getattr(proxy, fault)() == 1
        assert await client.ended() == seen
        assert await echo.ended() == ("closed" if fault == "cut" else "reset")
        client.leave()
        await proxy.until(lambda proxy: proxy.open == 0)
        again = await Client.to(proxy)
        await again.say(b"still there")
        assert await again.hear(11) == b"still there"
        again.leave()


async def test_a_cut_towards_one_side_leaves_the_other_in_the_dark_until_the_network_heals():
    async with through() as (echo, proxy):
        client = await Client.to(proxy)
        await client.say(b"hello")
        await client.hear(5)
        proxy.cut("client")
        assert await client.ended() == ("closed", b"")
        echo.writers[0].write(b"anybody?")
        await proxy.until(lambda proxy: proxy.swallowed["down"] == 8)
        assert (proxy.open, echo.ends.empty()) == (1, True)
        proxy.heal()
        assert await echo.ended() == "reset"
        await proxy.until(lambda proxy: proxy.open == 0)
        client.leave()


async def test_a_close_is_not_passed_on_while_connections_are_half_open():
    async with through() as (echo, proxy):
        client = await Client.to(proxy)
        await client.say(b"hello")
        await client.hear(5)
        proxy.half_open()
        client.leave()
        echo.writers[0].write(b"y" * 100_000)
        await proxy.until(lambda proxy: proxy.swallowed["down"] > 0)
        assert (proxy.open, echo.ends.empty()) == (1, True)
        proxy.heal()
        assert await echo.ended() in {"closed", "reset"}
        await proxy.until(lambda proxy: proxy.open == 0)


async def test_a_half_open_connection_that_the_other_side_leaves_too_is_over():
    async with through() as (echo, proxy):
        client = await Client.to(proxy)
        await client.say(b"hello")
        await client.hear(5)
        proxy.half_open()
        client.leave()
        echo.writers[0].close()
        await proxy.until(lambda proxy: proxy.open == 0)


async def test_a_black_hole_swallows_and_a_torn_connection_is_reset_when_the_network_heals():
    async with through() as (echo, proxy):
        torn, whole = await Client.to(proxy), await Client.to(proxy)
        for client in (torn, whole):
            await client.say(b"hello")
            await client.hear(5)
        proxy.black_hole()
        await torn.say(b"into the dark")
        await proxy.until(lambda proxy: proxy.swallowed["up"] == 13)
        proxy.heal()
        assert await torn.ended() == "reset"
        assert await echo.ended() == "reset"
        await whole.say(b"still here")
        assert await whole.hear(10) == b"still here"
        torn.leave()
        whole.leave()


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_black_hole_may_be_in_one_way_only(way):
    async with through() as (_, proxy):
        client = await Client.to(proxy)
        await client.say(b"hello")
        await client.hear(5)
        proxy.black_hole(way)
        await client.say(b"question")
        await proxy.until(lambda proxy: proxy.swallowed[way] == 8)
        assert proxy.carried["up"] == (5 if way == "up" else 13)
        assert proxy.carried["down"] == 5
        client.leave()


async def test_a_stalled_connection_goes_on_where_it_was():
    async with through() as (_, proxy):
        client = await Client.to(proxy)
        proxy.stall()
        await client.say(b"later")
        assert proxy.carried == Counter()
        proxy.heal()
        assert await client.hear(5) == b"later"
        client.leave()


async def test_late_bytes_keep_their_order_and_come_at_once_when_the_network_heals():
    async with through(seed=3) as (_, proxy):
        client = await Client.to(proxy)
        proxy.delay(0.001, jitter=0.01)
        for number in range(20):
            await client.say(b"%02d" % number)
        assert await client.hear(40) == b"".join(b"%02d" % number for number in range(20))
        proxy.delay(3600)
        await client.say(b"an hour")
        await proxy.pause(0.01)
        assert proxy.carried["up"] == 40
        proxy.heal()
        assert await client.hear(7) == b"an hour"
        client.leave()


async def test_a_throttled_connection_passes_pieces_and_the_rest_when_the_network_heals():
    async with through() as (_, proxy):
        client = await Client.to(proxy)
        proxy.throttle(1000)
        await client.say(b"z" * 50_000)
        await proxy.until(lambda proxy: proxy.carried["down"] >= 100)
        assert proxy.carried["up"] < 50_000
        proxy.heal()
        assert await client.hear(50_000) == b"z" * 50_000
        client.leave()


async def test_a_target_that_is_slow_to_read_makes_the_client_wait():
    gate = asyncio.Event()

    async def slow(reader, writer):
        await gate.wait()
        while await reader.read(65536):
            pass
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    async with FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        client = await Client.to(proxy)
        whole = 64 * 1024 * 1024
        saying = asyncio.create_task(client.say(bytes(whole)))
        before = -1
        while proxy.carried["up"] > before:  # until nothing moves any more
            before = proxy.carried["up"]
            await proxy.pause(0.2)
        assert proxy.carried["up"] < whole
        gate.set()
        await asyncio.wait_for(saying, BOUND)
        await proxy.until(lambda proxy: proxy.carried["up"] == whole)
        client.leave()
    server.close()


async def refused(proxy):
    """Whether a new connection comes to nothing; its reset may come while it is being made."""
    try:
        client = await Client.to(proxy)
    except ConnectionResetError:
        return True
    ending = await client.ended()
    client.leave()
    return ending in {"reset", ("closed", b"")}


async def test_new_connections_are_refused_until_the_network_heals():
    async with through() as (_, proxy):
        proxy.refuse()
        assert await refused(proxy)
        proxy.heal()
        client = await Client.to(proxy)
        await client.say(b"again")
        assert await client.hear(5) == b"again"
        client.leave()


async def test_a_target_that_is_away_resets_and_one_elsewhere_is_reached():
    async with through() as (_, proxy):
        there, proxy.target = proxy.target, (proxy.host, 1)
        assert await refused(proxy)
        proxy.target = there
        client = await Client.to(proxy)
        await client.say(b"found")
        assert await client.hear(5) == b"found"
        client.leave()


async def test_one_seed_strikes_in_one_order():
    async with through(seed=11) as (_, one), through(seed=11) as (_, same), through(seed=12) as (_, other):
        blows = [[proxy.strike() for _ in range(40)] for proxy in (one, same, other)]
    assert blows[0] == blows[1] != blows[2]
    assert len(set(blows[0])) > 5


async def test_a_storm_of_faults_leaves_a_network_that_works():
    async with through(seed=5) as (_, proxy):
        for number in range(60):
            with suppress(ConnectionResetError):
                client = await Client.to(proxy)
                proxy.strike()
                client.writer.write(b"w" * 1000)
                await proxy.pause(0.005)
                client.leave()
            if number % 3 == 0:
                proxy.heal()
        proxy.heal()
        await proxy.until(lambda proxy: proxy.open == 0)
        client = await Client.to(proxy)
        await client.say(b"calm")
        assert await client.hear(4) == b"calm"
        client.leave()


async def test_a_rate_of_nothing_is_refused():
    async with through() as (_, proxy):
        with pytest.raises(ValueError, match=r"throttle\(0\).*stall"):
            proxy.throttle(0)


async def test_a_proxy_that_closes_ends_what_is_open():
    async with through() as (_, proxy):
        client = await Client.to(proxy)
        await client.say(b"hello")
        await client.hear(5)
        proxy.half_open()
        await proxy.__aexit__(None, None, None)
        assert await client.ended() in {"reset", ("closed", b"")}
        assert proxy.open == 0
        client.leave()
        await proxy.__aenter__()


async def test_a_proxy_at_another_address_stands_there_for_both_sides():
    try:
        (await asyncio.start_server(lambda *_: None, "127.0.0.2", 0)).close()
    except OSError:
        pytest.skip("this system has no other address on its loopback")
    peers = []

    async def note(_reader, writer):
        peers.append(writer.get_extra_info("peername")[0])
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1], address="127.0.0.2") as proxy:
        assert proxy.host == "127.0.0.2"
        client = await Client.to(proxy)
        await client.ended()
        client.leave()
    assert peers == ["127.0.0.2"]
    server.close()
