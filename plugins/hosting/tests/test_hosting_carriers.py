"""Carriers that go silent, deadlines of many, frames as bytes: the small parts."""

from __future__ import annotations

import asyncio
import random

import pytest

from perdure.errors import NotEncodable, Overloaded
from perdure.messages import AgentId, Envelope, ErrorInfo, Hosted, Presence, Subscription, TopicId, Whereabouts
from perdure.testing import ManualClock
from perdure_hosting import wire
from perdure_hosting.carrier import MemoryCarrier, Principal, pair, permits
from perdure_hosting.client import LinkTransport
from perdure_hosting.deadlines import Deadlines
from perdure_hosting.errors import HostUnreachable
from perdure_hosting.link import Link
from perdure_hosting.placement import Registry
from perdure_hosting.router import Member
from perdure_hosting.settings import HostSettings
from perdure_hosting.wire_pb2 import Frame

from .hosting_network import TIMEOUT, Desk, Network, event, request, settled

# -- carriers


async def test_a_carrier_that_swallows_everything_is_found_out_and_replaced():
    network = Network()
    await network.start()
    desk = Desk()
    await network.worker(desk, "kit.a")
    here = await network.worker(Desk())
    dark = network.carriers[-1]
    dark._other = pair()[0]  # noqa: SLF001 - what is sent goes nowhere, and the end stays open
    dark._inbox = type(dark._inbox)(maxlen=0)  # noqa: SLF001 - what comes is swallowed, too
    sending = asyncio.ensure_future(here.send(request("kit.a")))
    for _ in range(8):
        network.clock.advance(1)
        await settled()
    async with asyncio.timeout(TIMEOUT):
        assert (await sending).kind == "reply"
    assert len(network.carriers) == 3
    assert len(desk.delivered) == 1
    await network.stop()


async def test_a_quiet_session_stays():
    network = Network()
    await network.start()
    here = await network.worker(Desk(), "kit.a")
    for _ in range(60):
        network.clock.advance(1)
        await settled()
    assert len(network.carriers) == 1
    assert (await here.send(request("kit.a"))).kind == "reply"
    await network.stop()


async def test_who_cannot_reach_its_host_says_so():
    network = Network()
    starting = asyncio.ensure_future(network.worker(Desk(), connect=3.0))
    for _ in range(5):
        await settled()
        network.clock.advance(1)
    with pytest.raises(HostUnreachable, match=r"within 3\.0 s"):
        await starting
    await network.start()
    here = await network.worker(Desk(), "kit.a", patience=2.0)
    network.host, host = None, network.host
    network.carriers[-1].cut()
    for _ in range(40):
        await settled()
        network.clock.advance(1)
    sending = asyncio.ensure_future(here.send(request("kit.a")))
    for _ in range(5):
        await settled()
        network.clock.advance(1)
    assert (await sending).error.type.endswith("HostUnreachable")
    network.host = host
    await network.stop()


async def test_two_ends_in_memory_keep_order_and_make_the_sender_wait():
    near, far = pair(Principal("worker"), Principal("host"))
    assert (near.principal.name, far.principal.name) == ("host", "worker")

    async def send() -> None:
        for n in range(100):
            await near.send(b"%d" % n)
        await near.close()

    sending = asyncio.ensure_future(send())
    await settled()
    assert near.sent < 100
    got: list[bytes | None] = [await far.receive() for _ in range(100)]
    assert got == [b"%d" % n for n in range(100)]
    await sending
    assert await far.receive() is None
    with pytest.raises(ConnectionError):
        await far.send(b"x")


def test_permissions_are_patterns():
    assert permits(("*",), "anything")
    assert permits(("news.*", "kit.a"), "kit.a")
    assert not permits(("news.*", "kit.a"), "kit.ab")
    assert not permits((), "kit.a")
    assert not permits(("News.*",), "news.a")


# -- deadlines


async def test_many_deadlines_need_one_sleeper():
    clock = ManualClock()
    deadlines = Deadlines(clock)
    chance = random.Random(1)  # noqa: S311 - the same every time
    loop = asyncio.get_running_loop()
    before = len(asyncio.all_tasks())
    waits = []
    for _ in range(5000):
        when = clock.now() + chance.uniform(1, 100)
        future: asyncio.Future[None] = loop.create_future()
        deadlines.watch(future, when, lambda: Overloaded("late"))
        waits.append((when, future))
    await settled()
    assert len(asyncio.all_tasks()) == before + 1
    clock.advance(50)
    await settled()
    assert all(future.done() == (when <= clock.now()) for when, future in waits)
    for _, future in waits:
        if future.done():
            assert isinstance(future.exception(), Overloaded)
        else:
            future.set_result(None)
    for _ in range(10_000):  # what is done does not pile up
        future = loop.create_future()
        future.set_result(None)
        deadlines.watch(future, clock.now() + 1000, lambda: None)
    assert len(deadlines._heap) <= 2000  # noqa: SLF001 - what would leak
    await deadlines.stop()


# -- frames


FULL = Envelope(
    "an id, ünusual",
    "request",
    AgentId("kit.a", "a key/☕"),
    "kit.text",
    b"x" * 300,
    AgentId("kit.b", "1"),
    {"traceparent": "00-01", "k": ""},
    1234.5,
    TopicId("news", "here"),
    "application/json",
)


@pytest.mark.parametrize(
    "envelope",
    [
        FULL,
        FULL._replace(kind="event", target=None),
        FULL._replace(sender=None, headers={}, deadline=None, topic=None, payload=b"", id=""),
        FULL._replace(payload=b"\x00\xff" * 70_000, id="i" * 200),
    ],
    ids=["request", "event", "bare", "large"],
)
def test_an_envelope_is_the_same_after_its_frame(envelope: Envelope):
    frame = wire.parsed(wire.framed(envelope, 2**64 - 1))
    assert frame.call == 2**64 - 1
    assert wire.envelope_of(frame) == envelope
    assert Frame.FromString(frame.SerializeToString()) == frame


@pytest.mark.parametrize("kind", ["reply", "error"])
def test_an_answer_is_the_same_after_its_frame(kind: str):
    request_ = FULL._replace(headers={})
    answer = Envelope("an id, ünusual", kind, AgentId("kit.b", "1"), "t", b"{}", headers={"a": "b"}, content="c")
    assert wire.answer_of(wire.parsed(wire.answered(answer, 7)), request_) == answer


def test_a_live_error_travels_as_json():
    info = ErrorInfo(type="x.Y", message="m", retryable=True, cause=ErrorInfo(type="Z"))
    frame = wire.parsed(wire.answered(Envelope("m", "error", None, "", info), 7))
    assert wire.error_of(frame) == info
    assert frame.content == "application/json"
    assert wire.error_of(Frame(kind=Frame.ERROR, payload=b"{")).type.endswith("InvalidInput")


def test_what_a_host_appends_counts():
    raw = wire.framed(FULL._replace(kind="event"), 5)
    assert wire.parsed(wire.renumbered(raw, 300)).call == 300
    frame = wire.parsed(wire.addressed(raw, [AgentId("a", "ü" * 200), AgentId("b", "")]))
    assert (frame.call, list(frame.targets)) == (0, ["a", "ü" * 200, "b", ""])
    assert wire.parsed(wire.asking(raw)).locate
    assert wire.parsed(wire.note(Frame.MOVED, 9)) == Frame(kind=Frame.MOVED, call=9)


def test_what_lives_where_is_the_same_after_its_frame():
    presence = Presence(
        (Hosted("kit.a", durable=True, description="d"),),
        tuple(Subscription(f"s{n}", "kit.a", "t", kind) for n, kind in enumerate(("type", "prefix", "custom"))),
    )
    assert wire.presence_of(wire.parsed(wire.announcement(presence, 1))) == presence
    where = [Whereabouts("kit.a", "w", 3, healthy=False, durable=True)]
    assert wire.whereabouts_of(wire.parsed(wire.found(where, 1))) == where


@pytest.mark.parametrize(
    "wrong", [{"payload": {}}, {"payload": None}, {"id": "\udc80"}, {"type": "\udc80"}, {"headers": {"a": 1}}]
)
def test_what_is_no_bytes_or_no_text_is_not_encodable(wrong: dict[str, object]):
    with pytest.raises(NotEncodable, match="cannot be sent"):
        wire.framed(FULL._replace(**wrong), 1)


# -- limits


async def test_addresses_names_and_announcements_have_limits():
    network = Network(announced=3)
    await network.start()
    here = await network.worker(Desk(), "kit.a")
    assert (await here.send(request("kit.a", key="k" * 5000))).error.type.endswith("InvalidInput")
    with pytest.raises(Exception, match="more than 4096 characters"):
        await here.publish(event("news", source="s" * 5000))
    with pytest.raises(Exception, match="4 agent types and subscriptions, more than the 3"):
        await here.announce(Presence(tuple(Hosted(f"kit.{n}") for n in range(4))))
    await network.stop()


def test_places_are_bounded():
    member = Member("a", Principal(), Link(HostSettings()), "")
    registry: Registry[Member] = Registry(1000)
    registry.announce(member, [Hosted("kit.a")])
    for n in range(20_000):
        assert registry.place(AgentId("kit.a", str(n))) is member
        assert registry.place(AgentId("kit.a", "used")) is member
    assert len(registry) <= 1000
    assert member.load == len(registry)


# -- what ends a carrier


async def test_a_carrier_that_cancels_who_serves_it_leaves_its_session_for_its_return():
    network = Network()
    await network.start()
    here = await network.worker(Desk(), "kit.a", name="one")
    host = network.host
    assert host is not None
    (serving,) = host._serving  # noqa: SLF001 - as a server does when its client hangs up
    serving.cancel()
    await settled()
    assert host.workers() == ["one"]
    assert len(network.carriers) == 2
    assert (await here.send(request("kit.a"))).kind == "reply"
    await network.stop()


async def test_an_error_in_dialling_that_nobody_has_thought_of_ends_the_start():
    async def dial(_address: str = "") -> MemoryCarrier:
        msg = "no such scheme"
        raise LookupError(msg)

    here = LinkTransport(dial, ManualClock())
    with pytest.raises(LookupError, match="no such scheme"):
        await here.start(Desk())
    await here.stop()


async def test_an_error_in_carrying_that_nobody_has_thought_of_ends_what_is_under_way():
    network = Network()
    await network.start()
    desk = Desk()
    desk.gate = asyncio.Event()
    await network.worker(desk, "kit.a")
    here = await network.worker(Desk())
    sending = asyncio.ensure_future(here.send(request("kit.a")))
    await desk.has(1)
    here._host.told = lambda _frame: 1 // 0  # noqa: SLF001 - a mistake
    assert network.host is not None
    for member in network.host.router.members.values():
        if not member.hosts:
            member.put(wire.note(Frame.LOCATED, 1))
    async with asyncio.timeout(TIMEOUT):
        answer = await sending
    assert answer.error.type.endswith("WorkerLost")
    assert "ZeroDivisionError" in answer.error.message
    await network.stop()
