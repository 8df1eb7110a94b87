"""A host and its workers: who gets what, who may, and what happens when somebody does not read, or goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from perdure.errors import DeadlineExceeded, NotEncodable, NotPermitted, Overloaded, PayloadTooLarge, Undeliverable
from perdure.messages import AgentId, Envelope, ErrorInfo, Subscription, Whereabouts
from perdure_hosting import wire
from perdure_hosting.carrier import Principal, pair
from perdure_hosting.errors import Refused
from perdure_hosting.link import Link
from perdure_hosting.settings import SessionSettings
from perdure_hosting.wire_pb2 import Frame, Goodbye, Hello, Packet

from .hosting_network import TIMEOUT, Desk, Network, event, presence, request, settled


@pytest.fixture
async def network() -> Any:
    network = Network()
    await network.start()
    yield network
    await network.stop()


def answer_type(answer: Envelope) -> str:
    return answer.error.type.rpartition(".")[2]


# -- placement


async def test_an_agent_stays_with_the_worker_that_had_its_first_message(network: Network):
    here = await network.worker(Desk())
    for name in ("one", "two"):
        await network.worker(Desk(name), "kit.echo", name=name)

    async def where() -> list[str]:
        return [(await here.send(request("kit.echo", key=str(key)))).type for key in range(20)]

    first = await where()
    assert Counter(first) == {"one": 10, "two": 10}
    assert await where() == first
    await network.worker(Desk("three"), "kit.echo", name="three")
    assert await where() == first
    new = [(await here.send(request("kit.echo", key=f"new{key}"))).type for key in range(10)]
    assert new == ["three"] * 10  # who joined gets what is new, until all are even
    assert await here.agents() == [Whereabouts("kit.echo", name, 10) for name in ("one", "three", "two")]


async def test_agents_move_when_their_worker_leaves(network: Network):
    here = await network.worker(Desk())
    one = await network.worker(Desk("one"), "kit.echo", name="one")
    assert (await here.send(request("kit.echo"))).type == "one"
    await network.worker(Desk("two"), "kit.echo", name="two")
    assert (await here.send(request("kit.echo"))).type == "one"
    await one.stop()
    assert (await here.send(request("kit.echo"))).type == "two"
    assert await here.agents() == [Whereabouts("kit.echo", "two", 1)]


async def test_what_is_under_way_when_a_worker_is_lost_fails_and_may_be_sent_again(network: Network):
    here = await network.worker(Desk())
    desk = Desk("one")
    desk.gate = asyncio.Event()
    await network.worker(desk, "kit.echo", name="one")
    carrier = network.carriers[-1]
    sending = asyncio.ensure_future(here.send(request("kit.echo")))
    await desk.has(1)
    host, network.host = network.host, None
    carrier.cut()
    await settled()
    assert not sending.done()  # it may come back
    assert host is not None
    assert [each.healthy for each in host.whereabouts()] == [False]
    for _ in range(35):  # the other one keeps saying that it is there
        network.clock.advance(1)
        await settled()
    async with asyncio.timeout(TIMEOUT):
        answer = await sending
    assert (answer_type(answer), answer.error.retryable) == ("WorkerLost", True)
    network.host = host
    assert answer_type(await here.send(request("kit.echo"))) == "Undeliverable"


async def test_what_a_lost_worker_never_saw_goes_to_another(network: Network):
    here = await network.worker(Desk())
    subs = (Subscription("s", "kit.echo", "news"),)
    await network.worker(Desk("one"), "kit.echo", name="one", subs=subs)
    carrier = network.carriers[-1]
    assert (await here.send(request("kit.echo"))).type == "one"
    two = Desk("two")
    await network.worker(two, "kit.echo", name="two", subs=subs)
    network.addresses.clear()
    host, network.host = network.host, None
    carrier.cut()
    await settled()
    sending = asyncio.ensure_future(here.send(request("kit.echo", id="kept")))
    await here.publish(event("news", id="kept too"))
    await settled()
    assert not sending.done()
    assert host is not None
    host.reception.end(host.reception.sessions["one"])
    async with asyncio.timeout(TIMEOUT):
        assert (await sending).type == "two"
        assert {each.id for each in await two.has(2)} == {"kept", "kept too"}
    network.host = host


async def test_a_worker_that_comes_back_under_its_name_before_its_grace_is_over_is_taken(network: Network):
    one = await network.worker(Desk("old"), "kit.echo", name="one")
    here = await network.worker(Desk())
    carrier = network.carriers[0]
    one._running.cancel()  # noqa: SLF001 - its process died
    carrier.cut()
    await settled()
    await network.worker(Desk("new"), "kit.echo", name="one")
    assert (await here.send(request("kit.echo"))).type == "new"
    network.workers.remove(one)


# -- topics


async def test_each_agent_gets_a_publication_once_and_its_sender_does_not(network: Network):
    subs = (
        Subscription("a", "kit.a", "news"),
        Subscription("b", "kit.a", "ne", "prefix"),
        Subscription("c", "kit.b", "news"),
        Subscription("d", "kit.c", "news"),
        Subscription("e", "kit.a", "other"),
    )
    desk = Desk()
    here = await network.worker(desk, "kit.a", "kit.b", "kit.c", subs=subs)
    await here.publish(event("news", source="7", sender=AgentId("kit.b", "7")))
    await here.publish(event("nothing"))
    await here.send(request("kit.a", key="end"))
    await desk.has(3)
    assert [str(each.target) for each in desk.delivered] == ["kit.a/7", "kit.c/7", "kit.a/end"]
    assert desk.delivered[0].topic == ("news", "7")


async def test_a_publication_for_one_agent_goes_to_that_one_only(network: Network):
    subs = (Subscription("a", "kit.a", "news"), Subscription("b", "kit.b", "news"))
    desk = Desk()
    here = await network.worker(desk, "kit.a", "kit.b", subs=subs)
    await here.publish(event("other", target=AgentId("kit.a", "9")))
    assert [str(each.target) for each in await desk.has(1)] == ["kit.a/9"]
    with pytest.raises(Undeliverable, match=r"kit\.nobody/1"):
        await here.publish(event("other", id="e2", target=AgentId("kit.nobody", "1")))


async def test_custom_subscriptions_are_asked_where_the_agents_live_by_one_worker(network: Network):
    subs = (Subscription("x", "kit.a", "news", "custom"), Subscription("y", "kit.a", "newsroom"))
    desks = [Desk(), Desk()]
    here = await network.worker(
        desks[0], "kit.a", subs=subs, principal=Principal("here", may_host=("kit.*",), may_send=(), may_publish=())
    )
    await network.worker(desks[1], "kit.a", subs=subs)
    other = await network.worker(Desk())
    sent = event("newsroom", source="7", sender=AgentId("lab.x", "1"))
    await other.publish(sent)
    await settled()
    delivered = {each.target for desk in desks for each in desk.delivered}
    assert delivered == {AgentId("kit.a", ""), AgentId("kit.a", "7")}
    await here.publish(sent._replace(target=AgentId("kit.a", "7")))  # what its code says; that one got it already
    await here.publish(sent._replace(target=AgentId("kit.a", "8")))
    await settled()
    targets = [each.target.key for desk in desks for each in desk.delivered if each.kind == "event" and each.target]
    assert sorted(targets) == ["", "7", "8"]


async def test_publications_and_requests_from_one_sender_arrive_in_order(network: Network):
    desk = Desk()
    await network.worker(desk, "kit.a", subs=(Subscription("a", "kit.a", "news"),))
    here = await network.worker(Desk())
    jobs = [
        here.send(request("kit.a", id=f"m{n}")) if n % 2 else here.publish(event("news", id=f"m{n}"))
        for n in range(3000)
    ]
    await asyncio.gather(*jobs)
    await desk.has(3000)
    assert [each.id for each in desk.delivered] == [f"m{n}" for n in range(3000)]


async def test_20_000_topics_and_back_leave_nothing_behind():
    network = Network(topics=1000, forget=10.0)
    await network.start()
    desk = Desk()
    there = await network.worker(desk, "kit.a", subs=(Subscription("a", "kit.a", "flood", "prefix"),))
    here = await network.worker(Desk())
    for start in range(0, 20_000, 500):
        jobs = [here.publish(event(f"flood{n}", source=str(n), id=f"e{n}")) for n in range(start, start + 500)]
        await asyncio.gather(*jobs)
    await desk.has(20_000)
    host = network.host
    assert host is not None
    router = host.router
    assert router.routes.remembered <= 1000
    assert len(router.registry) == 20_000
    for _ in range(3):
        network.clock.advance(11)
        router.sweep(network.clock.now())
    assert len(router.registry) == 0
    await there.announce(presence())
    assert router.registry.types() == []
    assert router.routes.remembered == 0
    members = list(router.members.values())
    assert [(each.load, len(each.placed), len(each.serving), len(each.calls)) for each in members] == [(0, 0, 0, 0)] * 2
    await network.stop()


# -- windows


async def test_a_worker_that_does_not_read_makes_its_senders_wait_and_nobody_else():
    network = Network(window_frames=8, patience=5.0)
    await network.start()
    slow, quick = Desk("slow"), Desk("quick")
    slow.gate = asyncio.Event()
    await network.worker(slow, "kit.slow", handlers=2)
    await network.worker(quick, "kit.quick")
    here = await network.worker(Desk(), patience=100.0)
    other = await network.worker(Desk())
    asked = [asyncio.ensure_future(here.send(request("kit.slow", id=f"m{n}"))) for n in range(40)]
    await settled()
    assert len(slow.delivered) == 2
    assert network.host is not None
    there = next(each for each in network.host.router.members.values() if "kit.slow" in each.hosts)
    assert len(there.parked) == 8  # a window full of them; the others are still with their sender
    assert len(network.host.router.calls) == 18
    assert (await other.send(request("kit.quick"))).type == "quick"
    slow.gate.set()
    async with asyncio.timeout(TIMEOUT):
        assert [(await each).type for each in asked] == ["slow"] * 40
    assert [each.id for each in slow.delivered] == [f"m{n}" for n in range(40)]
    await network.stop()


async def test_who_waits_too_long_for_one_that_does_not_read_is_told_so():
    network = Network(window_frames=4, patience=5.0)
    await network.start()
    slow = Desk("slow")
    slow.gate = asyncio.Event()
    await network.worker(slow, "kit.slow", handlers=1, subs=(Subscription("s", "kit.slow", "news"),))
    here = await network.worker(Desk(), patience=100.0)
    asked = [asyncio.ensure_future(here.send(request("kit.slow", id=f"m{n}"))) for n in range(5)]
    await settled()
    parked = asyncio.ensure_future(here.send(request("kit.slow", id="parked")))
    told = asyncio.ensure_future(here.publish(event("news")))
    await settled()
    assert not told.done()  # its acknowledgement alone does not mean that it is accepted
    network.clock.advance(1)
    await settled()
    network.clock.advance(5)
    await settled()
    async with asyncio.timeout(TIMEOUT):
        answer = await parked
        assert (answer_type(answer), answer.error.retryable) == ("Overloaded", True)
        with pytest.raises(Overloaded):
            await told
        slow.gate.set()
        assert [(await each).type for each in asked] == ["slow"] * 5
    await network.stop()


async def test_a_publication_that_had_to_wait_is_accepted_when_there_is_room():
    network = Network(window_frames=4, patience=5.0)
    await network.start()
    slow = Desk()
    slow.gate = asyncio.Event()
    await network.worker(slow, "kit.slow", handlers=1, subs=(Subscription("s", "kit.slow", "news"),))
    here = await network.worker(Desk())
    told = [asyncio.ensure_future(here.publish(event("news", id=f"e{n}"))) for n in range(20)]
    await settled()
    assert sum(each.done() for each in told) == 5  # one is handled, four fill the window
    slow.gate.set()
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*told)
        assert len(await slow.has(20)) == 20
    await network.stop()


async def test_a_cancelled_request_leaves_its_place_in_the_queue():
    network = Network(window_frames=2)
    await network.start()
    slow = Desk()
    slow.gate = asyncio.Event()
    await network.worker(slow, "kit.slow", handlers=1)
    here = await network.worker(Desk())
    asked = [asyncio.ensure_future(here.send(request("kit.slow", id=f"m{n}"))) for n in range(10)]
    await settled()
    for each in asked[1:9]:
        each.cancel()
    await settled()
    slow.gate.set()
    async with asyncio.timeout(TIMEOUT):
        done = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in done] == [False, *[True] * 8, False]
    assert "m9" in [each.id for each in slow.delivered]
    assert network.host is not None
    assert network.host.router.calls == {}
    assert (await here.send(request("kit.slow"))).kind == "reply"
    await network.stop()


# -- deadlines


async def test_the_hosts_deadline_ends_a_request_that_has_none():
    network = Network(deadline=3.0)
    await network.start()
    slow = Desk()
    slow.gate = asyncio.Event()
    await network.worker(slow, "kit.slow")
    here = await network.worker(Desk())
    sending = asyncio.ensure_future(here.send(request("kit.slow")))
    await slow.has(1)
    for _ in range(4):
        network.clock.advance(1)
        await settled()
    async with asyncio.timeout(TIMEOUT):
        answer = await sending
    assert answer_type(answer) == DeadlineExceeded.__name__
    await network.stop()


# -- who may


async def test_a_worker_does_what_it_is_permitted_to_and_nothing_else(network: Network):
    await network.worker(Desk(), "kit.a", "lab.a")
    guest = await network.worker(
        Desk(), principal=Principal("guest", may_host=("guest.*",), may_send=("kit.*",), may_publish=("news",))
    )
    await guest.announce(presence("guest.a"))
    with pytest.raises(NotPermitted, match=r"'guest' may not host \['kit.b'\]"):
        await guest.announce(presence("kit.b"))
    with pytest.raises(NotPermitted, match=r"kit\.c"):
        await guest.announce(presence("guest.a", subs=(Subscription("s", "kit.c", "news"),)))
    assert (await guest.send(request("kit.a"))).kind == "reply"
    assert answer_type(await guest.send(request("lab.a"))) == "NotPermitted"
    assert answer_type(await guest.send(request("kit.a", sender=AgentId("kit.b", "1")))) == "NotPermitted"
    await guest.publish(event("news"))
    with pytest.raises(NotPermitted, match="'secrets'"):
        await guest.publish(event("secrets", id="e2"))
    with pytest.raises(NotPermitted, match=r"lab\.a"):
        await guest.publish(event("news", id="e3", target=AgentId("lab.a", "1")))


async def test_a_refused_announcement_leaves_in_force_what_was(network: Network):
    guest = await network.worker(Desk("guest"), "guest.a", principal=Principal("guest", may_host=("guest.*",)))
    with pytest.raises(NotPermitted):
        await guest.announce(presence("guest.b", "kit.b"))
    assert [each.type for each in await guest.agents()] == ["guest.a"]
    await network.kill_host()
    await network.start()
    async with asyncio.timeout(TIMEOUT):
        assert [each.type for each in await guest.agents()] == ["guest.a"]
        assert (await guest.send(request("guest.a"))).type == "guest"


async def test_a_name_that_is_taken_is_refused(network: Network):
    await network.worker(Desk(), "kit.a", name="one")
    with pytest.raises(Refused, match="'one' is here already") as caught:
        await network.worker(Desk(), name="one")
    assert caught.value.reason == Goodbye.DUPLICATE_NAME


async def test_a_session_goes_on_for_its_own_principal_only(network: Network):
    await network.worker(Desk(), "kit.a", name="one", principal=Principal("owner"))
    assert network.host is not None
    session = network.host.reception.sessions["one"]
    thief, far = pair(Principal("thief"))
    network.host.accept(far)
    await thief.send(Packet(hello=Hello(protocol=1, resume=session.resume)).SerializeToString())
    welcome = Packet.FromString(await thief.receive() or b"").welcome
    assert not welcome.resumed
    assert welcome.name != "one"
    await thief.close()


async def greeted(network: Network, *packets: Packet | bytes) -> list[Packet]:
    """What the host says to these packets until it hangs up."""
    near, far = pair()
    assert network.host is not None
    network.host.accept(far)
    for each in packets:
        await near.send(each if isinstance(each, bytes) else each.SerializeToString())
    said: list[Packet] = []
    async with asyncio.timeout(TIMEOUT):
        while (data := await near.receive()) is not None:
            said.append(Packet.FromString(data))
    return said


HELLO = Packet(hello=Hello(protocol=1))


@pytest.mark.parametrize(
    ("packets", "reason", "why"),
    [
        ([Packet(hello=Hello(protocol=2))], Goodbye.WRONG_PROTOCOL, "version 2 of the protocol, expected 1"),
        ([Packet(ack=0)], Goodbye.MALFORMED, "no hello"),
        ([b"\xff\xff"], Goodbye.MALFORMED, "cannot be read"),
        ([HELLO, b"\xff\xff"], Goodbye.MALFORMED, "cannot be read"),
        ([HELLO, Packet(first=1, frames=[b"\xff\xff"])], Goodbye.MALFORMED, "a frame of 2 bytes cannot be read"),
        ([HELLO, Packet(first=5, frames=[b""])], Goodbye.MALFORMED, "expected at most 1"),
        ([HELLO, Packet(ack=5)], Goodbye.MALFORMED, "never sent"),
        (
            [HELLO, Packet(first=1, frames=[Frame(kind=Frame.EVENT, targets=["a", "b"]).SerializeToString()])],
            Goodbye.MALFORMED,
            "only hosts",
        ),
        (
            [HELLO, Packet(first=1, frames=[Frame(kind=Frame.REQUEST, payload=b"x" * 5000).SerializeToString()])],
            Goodbye.OVERSIZE,
            "more than the 4096",
        ),
        ([HELLO, b"x" * 1_000_000], Goodbye.OVERSIZE, "a packet of 1000000 bytes"),
    ],
    ids=["version", "no hello", "no packet", "no packet later", "no frame", "gap", "ack", "targets", "frame", "packet"],
)
async def test_who_breaks_the_protocol_is_told_and_hung_up_on(
    packets: list[Packet | bytes], reason: Goodbye.Reason, why: str
):
    network = Network(max_frame=4096)
    await network.start()
    *_, last = await greeted(network, *packets)
    assert last.goodbye.reason == reason
    assert why in last.goodbye.message
    assert network.host is not None
    await settled()
    assert network.host.workers() == []
    await network.stop()


async def test_more_sessions_than_allowed_are_refused():
    network = Network(sessions=1)
    await network.start()
    await network.worker(Desk())
    (last,) = await greeted(network, HELLO)
    assert last.goodbye.reason == Goodbye.BUSY
    await network.stop()


async def test_who_says_nothing_is_hung_up_on(network: Network):
    near, far = pair()
    assert network.host is not None
    network.host.accept(far)
    await settled()
    for _ in range(8):
        network.clock.advance(1)
        await settled()
    async with asyncio.timeout(TIMEOUT):
        assert await near.receive() is None


async def test_who_asks_and_does_not_read_the_answers_is_hung_up_on():
    network = Network(window_frames=1)
    await network.start()
    near, far = pair()
    assert network.host is not None
    network.host.accept(far)
    await near.send(HELLO.SerializeToString())
    discover = wire.note(Frame.DISCOVER, 1)
    first = 1
    async with asyncio.timeout(TIMEOUT):
        while far._closed is False:  # noqa: SLF001 - until the host hangs up
            packet = Packet(first=first, frames=[discover] * 500, ack=0)
            first += 500
            await near.send(packet.SerializeToString())
            await settled()
            network.clock.advance(1)
            await settled()
            if first > 100_000:
                break
    assert network.host.workers() == []
    assert first < 100_000
    await network.stop()


async def test_nobody_answers_for_somebody_else(network: Network):
    desk = Desk("honest")
    desk.gate = asyncio.Event()
    await network.worker(desk, "kit.a")
    here = await network.worker(Desk())
    sending = asyncio.ensure_future(here.send(request("kit.a")))
    await desk.has(1)
    near, far = pair()
    assert network.host is not None
    network.host.accept(far)
    await near.send(HELLO.SerializeToString())
    forged = [Frame(kind=Frame.REPLY, call=n, payload=b'"forged"').SerializeToString() for n in range(100)]
    await near.send(Packet(first=1, frames=forged).SerializeToString())
    await settled()
    assert not sending.done()
    desk.gate.set()
    assert (await sending).type == "honest"
    await near.close()


async def test_a_host_that_does_not_know_a_kind_says_so(network: Network):
    near, far = pair()
    assert network.host is not None
    network.host.accept(far)
    await near.send(HELLO.SerializeToString())
    await near.receive()
    await near.send(Packet(first=1, frames=[b"\x08\x63\x11\x07" + bytes(7)], urgent=True).SerializeToString())
    frames: list[bytes] = []
    async with asyncio.timeout(TIMEOUT):
        while not frames:
            frames += Packet.FromString(await near.receive() or b"").frames
    answer = wire.parsed(frames[0])
    assert (answer.kind, answer.call) == (Frame.ERROR, 7)
    assert "kind 99" in ErrorInfo.model_validate_json(answer.payload).message
    await near.close()


# -- what cannot be carried


async def test_what_is_too_large_is_refused_before_it_goes_and_so_is_a_reply():
    network = Network(max_frame=4096)
    await network.start()

    async def large(envelope: Envelope) -> Envelope:
        return Envelope(envelope.id, "reply", envelope.sender, "", b"x" * 5000, content="application/json")

    await network.worker(large, "kit.large")
    here = await network.worker(Desk())
    with pytest.raises(PayloadTooLarge, match="more than the 4096"):
        await here.send(request("kit.large", b"x" * 5000))
    with pytest.raises(PayloadTooLarge):
        await here.publish(event("news", b"x" * 5000))
    answer = await here.send(request("kit.large"))
    assert (answer_type(answer), "the reply has 5" in answer.error.message) == ("PayloadTooLarge", True)
    await network.stop()


async def test_what_is_no_bytes_cannot_be_carried(network: Network):
    async def odd(envelope: Envelope) -> Envelope:
        return Envelope(envelope.id, "reply", envelope.sender, "", {"live": 1})

    here = await network.worker(odd, "kit.odd")
    with pytest.raises(NotEncodable, match="a payload is bytes"):
        await here.send(request("kit.odd")._replace(payload={"live": 1}))
    with pytest.raises(NotEncodable, match="Unicode"):
        await here.send(request("kit.odd", key="\udc80"))
    assert answer_type(await here.send(request("kit.odd"))) == "NotEncodable"


def test_links_of_a_thousand_workers_are_small():
    links = [Link(SessionSettings()) for _ in range(1000)]
    assert sum(each.held for each in links) == 0
