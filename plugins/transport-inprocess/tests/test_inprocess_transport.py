"""The transport within one process: the kit, what it does not copy, and what the setting ``strict`` proves."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from perdure import AgentId
from perdure.clock import SystemClock
from perdure.errors import InvalidSetting, UsageError
from perdure.messages import Envelope
from perdure.ports import Clock, Deliver, Transport
from perdure.testing import ManualClock
from perdure.testing.transport_kit import Connect, Endpoints, Office, Silent, TransportKit, echo, event, request
from perdure_transport_inprocess import perdure_transport

TIMEOUT = 60.0
SETTINGS: dict[str, Any] = {"grace": 0.1}


def network_of(clock: Clock, **settings: Any) -> Connect:
    async def connect(deliver: Deliver) -> Endpoints:
        transport = perdure_transport(settings={**SETTINGS, **settings}, clock=clock)
        await transport.start(deliver)
        return Endpoints(transport, transport)

    return connect


class TestInProcess(TransportKit):
    @pytest.fixture
    def unstarted(self, clock: Clock) -> Transport:
        return perdure_transport(settings=SETTINGS, clock=clock)

    @pytest.fixture
    def network(self, clock: Clock) -> Connect:
        return network_of(clock)


class TestInProcessStrict(TestInProcess):
    @pytest.fixture
    def network(self, clock: Clock) -> Connect:
        return network_of(clock, strict=True)


class TestInProcessOnTheSystemsClock(TestInProcess):
    @pytest.fixture
    def clock(self) -> Clock:
        return SystemClock()


@dataclass
class Order:
    items: list[str] = field(default_factory=list)


async def test_by_default_nothing_is_copied():
    order, office = Order(["pen"]), Office({"kit.echo": echo})
    near, _ = await network_of(ManualClock())(office)
    answer = await near.send(request("kit.echo", order))
    await near.stop()
    assert office.delivered[0].payload is order
    assert answer.payload is order


async def test_strict_takes_bytes_only():
    near, _ = await network_of(ManualClock(), strict=True)(Office({"kit.echo": echo}))
    assert near.serialises
    with pytest.raises(UsageError, match=r"strict and carries bytes, but message .* is a live object"):
        await near.send(request("kit.echo", Order()))
    with pytest.raises(UsageError, match="strict and carries bytes"):
        await near.publish(event("news", Order()))
    await near.stop()


@pytest.mark.parametrize("count", [1, 1000])
async def test_a_handler_that_waits_for_nothing_begins_and_ends_within_the_send(count: int):
    near, _ = await network_of(ManualClock())(Office({"kit.echo": echo}))
    answers = await asyncio.gather(*(near.send(request("kit.echo", n)) for n in range(count)))
    await near.stop()
    assert [answer.payload for answer in answers] == list(range(count))


async def test_others_have_their_turns_while_messages_are_handled_at_once():
    near, _ = await network_of(ManualClock())(Office({"kit.echo": echo}))
    turns: list[int] = []

    def turn() -> None:
        turns.append(len(turns))
        asyncio.get_running_loop().call_soon(turn)

    turn()
    for n in range(1000):
        await near.send(request("kit.echo", n))
    assert len(turns) > 10
    await near.stop()


async def test_messages_that_beget_messages_do_not_grow_the_stack():
    there: list[Transport] = []

    async def deeper(envelope: Envelope) -> Any:
        if not envelope.payload:
            return 0
        return 1 + (await there[0].send(request("kit.deep", envelope.payload - 1))).payload

    near, _ = await network_of(ManualClock())(Office({"kit.deep": deeper}))
    there.append(near)
    async with asyncio.timeout(TIMEOUT):
        answer = await near.send(request("kit.deep", 300))
    await near.stop()
    assert answer.payload == 300


async def test_a_handler_may_still_send_while_the_transport_stops():
    there: list[Transport] = []
    stopping = asyncio.Event()

    async def late(_envelope: Envelope) -> Any:
        await stopping.wait()
        return (await there[0].send(request("kit.echo", "in time", id="m2"))).payload

    near, _ = await network_of(ManualClock(), grace=TIMEOUT)(Office({"kit.late": late, "kit.echo": echo}))
    there.append(near)
    sending = asyncio.ensure_future(near.send(request("kit.late")))
    await asyncio.wait({sending}, timeout=0)
    stop = asyncio.ensure_future(near.stop())
    await asyncio.wait({stop}, timeout=0)
    with pytest.raises(UsageError, match="stopping"):
        await near.send(request("kit.echo"))
    stopping.set()
    async with asyncio.timeout(TIMEOUT):
        assert (await sending).payload == "in time"
        await stop


async def test_a_handler_that_cancels_itself_ends_its_request():
    async def gives_up(_envelope: Envelope) -> None:
        raise asyncio.CancelledError

    near, _ = await network_of(ManualClock())(Office({"kit.gives_up": gives_up}))
    async with asyncio.timeout(TIMEOUT):
        answer = await near.send(request("kit.gives_up"))
    await near.stop()
    assert answer.payload.type == "perdure.errors.RunCancelled"
    assert answer.payload.message == "the handler of message 'kit.text' to 'kit.gives_up/1' was cancelled"


async def test_a_deliver_that_raises_against_its_contract_ends_the_request():
    async def raises(_envelope: Envelope) -> Envelope:
        msg = "oh"
        raise LookupError(msg)

    near, _ = await network_of(ManualClock())(raises)
    answer = await near.send(request("kit.echo"))
    await near.stop()
    assert (answer.kind, answer.payload.type) == ("error", "LookupError")


async def test_only_requests_are_sent():
    near, _ = await network_of(ManualClock())(Office({}))
    with pytest.raises(UsageError, match="was given a reply to send"):
        await near.send(Envelope("m1", "reply", AgentId("kit.echo", "1"), "", None))
    await near.stop()


async def test_a_transport_starts_once():
    near, _ = await network_of(ManualClock())(Office({}))
    with pytest.raises(UsageError, match="it is started"):
        await near.start(Office({}))
    await near.stop()
    with pytest.raises(UsageError, match="it is stopped"):
        await near.start(Office({}))


async def test_nothing_is_left_behind():
    silent = Silent()
    near, _ = await network_of(ManualClock())(Office({"kit.echo": echo, "kit.silent": silent}))
    before = asyncio.all_tasks()
    await asyncio.gather(*(near.send(request("kit.echo", n, deadline=near._clock.now() + 60)) for n in range(10)))  # noqa: SLF001 - its clock
    sending = asyncio.ensure_future(near.send(request("kit.silent")))
    await silent.entered.wait()
    await near.stop()
    await sending
    assert asyncio.all_tasks() == before
    assert not near._under_way  # noqa: SLF001 - what would leak


def test_a_setting_that_does_not_fit_is_named():
    with pytest.raises(InvalidSetting, match=r"transport-inprocess.*stict"):
        perdure_transport(settings={"stict": True}, clock=ManualClock())
