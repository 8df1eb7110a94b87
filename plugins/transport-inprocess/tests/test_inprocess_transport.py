"""The transport within one process: the kit, what it does not copy, and what the setting ``strict`` proves."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import AgentId, Reply
from perdure.clock import SystemClock
from perdure.errors import InvalidSetting, NotEncodable, UsageError
from perdure.messages import Envelope, Usage
from perdure.ports import Clock, Deliver, Transport
from perdure.testing import ManualClock
from perdure.testing.transport_kit import Connect, Endpoints, Office, Silent, TransportKit, echo, request
from perdure_transport_inprocess import perdure_transport

TIMEOUT = 20.0
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


class Receipt(BaseModel):
    total: float


async def sent(payload: Any, **settings: Any) -> tuple[Envelope, Envelope]:
    """What arrived, and what came back."""
    office = Office({"kit.echo": echo})
    near, _ = await network_of(ManualClock(), **settings)(office)
    answer = await near.send(request("kit.echo", payload))
    await near.stop()
    return office.delivered[0], answer


async def test_by_default_nothing_is_copied():
    order = Order(["pen"])
    arrived, answer = await sent(order)
    assert arrived.payload is order
    assert answer.payload is order


@pytest.mark.parametrize(
    "payload",
    [
        Order(["pen"]),
        Receipt(total=2.5),
        "text",
        None,
        {"a": [1, None]},
        Reply("7", Receipt(total=7), "s1", Usage(input_tokens=3)),
    ],
)
async def test_strict_hands_over_an_equal_value_of_its_own(payload: Any):
    arrived, answer = await sent(payload, strict=True)
    assert arrived.payload == payload
    assert answer.payload == payload
    if isinstance(payload, Order | Receipt | Reply | dict):
        assert arrived.payload is not payload
        assert answer.payload is not arrived.payload


@pytest.mark.parametrize("payload", [object(), Order([object()]), lambda: 0])
async def test_strict_refuses_what_has_no_json_form(payload: Any):
    with pytest.raises(NotEncodable, match=r"message 'kit.text' to 'kit.echo/1'|cannot travel as JSON"):
        await sent(payload, strict=True)


@pytest.mark.parametrize("payload", [[Receipt(total=1)], {"order": Order()}, (1, 2, Order())])
async def test_strict_refuses_what_would_arrive_as_something_else(payload: Any):
    with pytest.raises(NotEncodable, match="arrives as another value when it travels as JSON: send a pydantic model"):
        await sent(payload, strict=True)


async def test_strict_refuses_a_reply_that_is_not_portable():
    async def odd(_envelope: Envelope) -> Any:
        return [Receipt(total=1)]

    near, _ = await network_of(ManualClock(), strict=True)(Office({"kit.odd": odd}))
    answer = await near.send(request("kit.odd"))
    await near.stop()
    assert answer.kind == "error"
    assert answer.payload.type == "perdure.errors.NotEncodable"
    assert "the reply to message 'kit.text' to 'kit.odd/1'" in answer.payload.message


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
