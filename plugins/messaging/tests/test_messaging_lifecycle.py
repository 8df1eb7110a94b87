"""How instances come and go; how many messages may wait; what a handler sees; interventions."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from perdure import AgentId, Context, hookimpl
from perdure.errors import CallFailed, MessageDropped, NotPermitted, Overloaded, SessionBusy, UsageError
from perdure.messages import Envelope
from perdure_messaging import Intervention, MessageAgent, actor, closure, dead_letters, handles, message_type
from perdure_messaging.contexts import handling
from perdure_transport_inprocess.transport import InProcess

if TYPE_CHECKING:
    from perdure.testing import ManualClock

TIMEOUT = 60.0


@message_type("life.say")
@dataclass(frozen=True)
class Say:
    text: str


@message_type("life.wait")
@dataclass(frozen=True)
class Wait:
    pass


class Diary(MessageAgent):
    """Keeps what it was told."""

    def __init__(self, events: list[str], *, saves: bool = True) -> None:
        self.events = events
        self.saves = saves
        self.pages: list[str] = []

    async def on_start(self) -> None:
        self.events.append(f"start {self.pages}")

    async def on_stop(self) -> None:
        self.events.append("stop")

    async def save(self) -> Any:
        return self.pages if self.saves else None

    async def load(self, state: Any) -> None:
        self.pages = state

    @handles
    async def say(self, message: Say, ctx: Context) -> list[str]:
        self.pages.append(message.text)
        return list(self.pages)


async def swept(clock: ManualClock, seconds: float) -> None:
    """Let time pass in steps, with turns of the loop between them."""
    for _ in range(10):
        clock.advance(seconds / 10)
        for _ in range(5):
            await asyncio.wait({asyncio.ensure_future(_nothing())})


async def _nothing() -> None:
    """A turn of the loop."""


async def test_an_idle_instance_is_let_go_and_made_anew_as_it_was(house: Any, clock: ManualClock):
    events: list[str] = []
    runtime = house(actor("diary", Diary, make=lambda: Diary(events), idle=60))
    to = AgentId("shop.diary", "1")
    assert await runtime.send(Say("a"), to) == ["a"]
    await swept(clock, 40)
    assert await runtime.send(Say("b"), to) == ["a", "b"]
    await swept(clock, 40)
    assert events == ["start []"]
    await swept(clock, 100)
    assert events == ["start []", "stop"]
    assert [each.instances for each in await runtime.agents()] == [0]
    assert await runtime.send(Say("c"), to) == ["a", "b", "c"]
    await runtime.messenger.stop()
    assert events == ["start []", "stop", "start ['a', 'b']", "stop"]


async def test_what_saves_nothing_begins_anew(house: Any, clock: ManualClock):
    runtime = house(actor("diary", Diary, make=lambda: Diary([], saves=False), idle=60))
    to = AgentId("shop.diary", "1")
    await runtime.send(Say("a"), to)
    await swept(clock, 200)
    assert await runtime.send(Say("b"), to) == ["b"]


async def test_a_busy_instance_stays(house: Any, clock: ManualClock):
    gate, events = asyncio.Event(), list[str]()

    class Busy(Diary):
        @handles
        async def wait(self, message: Wait, ctx: Context) -> None:
            await gate.wait()

    runtime = house(actor("busy", Busy, make=lambda: Busy(events), idle=60))
    sending = asyncio.ensure_future(runtime.send(Wait(), AgentId("busy", "1")))
    await swept(clock, 500)
    assert events == ["start []"]
    gate.set()
    await sending
    await swept(clock, 500)
    assert events == ["start []", "stop"]


async def test_a_start_that_fails_fails_its_message_and_is_tried_again(house: Any):
    tries: list[int] = []

    class Late(Diary):
        async def on_start(self) -> None:
            tries.append(1)
            if len(tries) == 1:
                msg = "not yet"
                raise ConnectionError(msg)

    runtime = house(actor("late", Late, make=lambda: Late([])))
    with pytest.raises(CallFailed, match="ConnectionError: not yet"):
        await runtime.send(Say("a"), AgentId("late", "1"))
    assert await runtime.send(Say("b"), AgentId("late", "1")) == ["b"]


async def test_a_concurrent_agent_starts_once(house: Any):
    events: list[str] = []
    runtime = house(actor("diary", Diary, make=lambda: Diary(events), concurrent=True))
    await asyncio.gather(*(runtime.send(Say(str(n)), AgentId("diary", "1")) for n in range(20)))
    assert events == ["start []"]


async def test_ten_thousand_agents_come_and_go(house: Any, clock: ManualClock):
    runtime = house(actor("diary", Diary, make=lambda: Diary([], saves=False), idle=60))
    for n in range(10_000):
        await runtime.send(Say("x"), AgentId("shop.diary", str(n)))
    assert [each.instances for each in await runtime.agents()] == [10_000]
    await swept(clock, 200)
    assert [each.instances for each in await runtime.agents()] == [0]
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Diary]


def test_an_idle_time_that_cannot_be_is_named():
    with pytest.raises(UsageError, match="idle=0"):
        actor("diary", Diary, idle=0)


async def test_more_messages_than_may_wait_are_refused(house: Any):
    gate = asyncio.Event()

    async def wait(message: Wait, ctx: Context) -> None:
        await gate.wait()

    runtime = house(closure("slow", wait), mailbox=2)
    to = AgentId("slow", "1")
    waiting = [asyncio.ensure_future(runtime.send(Wait(), to)) for _ in range(3)]
    await asyncio.wait(waiting, timeout=0)
    await asyncio.wait({asyncio.ensure_future(_nothing())})
    with pytest.raises(Overloaded, match=r"2 messages wait for agent 'shop\.slow/1' already"):
        await runtime.send(Wait(), to)
    gate.set()
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*waiting)


async def test_a_handler_sees_its_message(house: Any):
    seen: list[Envelope] = []

    async def look(message: Say, ctx: Context) -> str:
        seen.append(ctx.message)
        return "ok"

    async def ask(message: Wait, ctx: Context) -> str:
        return await ctx.call(AgentId("look", "2"), Say("hello"))

    runtime = house(closure("look", look), closure("ask", ask))
    assert await runtime.send(Wait(), AgentId("ask", "1"), deadline=60, id="mine") == "ok"
    (message,) = seen
    assert (message.kind, message.type, message.payload) == ("request", "life.say", Say("hello"))
    assert (message.sender, message.target) == (AgentId("shop.ask", "1"), AgentId("shop.look", "2"))
    assert message.deadline == runtime.clock.now() + 60
    assert message.id != "mine"


async def test_a_call_by_address_that_comes_back_fails_instead_of_waiting_for_ever(house: Any):
    async def ask(message: Wait, ctx: Context) -> str:
        return await ctx.call(AgentId("b" if ctx.message.target.type == "shop.a" else "a", "1"), Wait())

    runtime = house(closure("a", ask), closure("b", ask))
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(SessionBusy, match=r"session shop\.a/1 waits, directly or not"):
            await runtime.send(Wait(), AgentId("a", "1"))


# -- interventions ----------------------------------------------------------------------------------------------


class Stamp(Intervention):
    """Adds its mark to each text, wherever it passes."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def stamped(self, envelope: Envelope, stage: str) -> Envelope:
        return envelope._replace(payload=Say(f"{envelope.payload.text} {stage}{self.mark}"))

    async def on_send(self, envelope: Envelope) -> Envelope:
        return self.stamped(envelope, "s")

    async def on_publish(self, envelope: Envelope) -> Envelope:
        return self.stamped(envelope, "p")

    async def on_deliver(self, envelope: Envelope) -> Envelope:
        return self.stamped(envelope, "d")

    async def on_reply(self, reply: Envelope, request: Envelope) -> Envelope:
        return reply._replace(payload=f"{reply.payload} r{self.mark}")


def listed(*interventions: Intervention) -> Any:
    class Plugin:
        @hookimpl
        def perdure_interventions(self) -> Any:
            return interventions

    return Plugin()


async def repeat(message: Say, ctx: Context) -> str:
    return message.text


async def test_each_intervention_sees_what_the_one_before_left(house: Any):
    runtime = house(closure("parrot", repeat), plugins=[listed(Stamp("1"), Stamp("2"))])
    assert await runtime.send(Say("hi"), AgentId("parrot", "1")) == "hi s1 s2 d1 d2 r1 r2"


async def test_published_messages_pass_interventions_too(house: Any):
    heard: list[str] = []

    async def hear(message: Say, ctx: Context) -> None:
        heard.append(message.text)

    runtime = house(closure("ear", hear, subscriptions=["news"]), plugins=[listed(Stamp("1"))])
    await runtime.publish(Say("hi"), "news")
    await runtime.messenger.stop()
    assert heard == ["hi p1 d1"]


@pytest.mark.parametrize("stage", ["on_send", "on_deliver", "on_reply"])
@pytest.mark.parametrize("error", [MessageDropped("gone"), NotPermitted("no")], ids=["dropped", "refused"])
async def test_who_waits_is_told_that_a_message_was_dropped_or_refused(house: Any, stage: str, error: Exception):
    class Stop(Intervention):
        pass

    async def stop(self: Any, *_: Any) -> Envelope:
        raise error

    setattr(Stop, stage, stop)
    runtime = house(closure("parrot", repeat), plugins=[listed(Stop())])
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(type(error), match=str(error)):
            await runtime.send(Say("hi"), AgentId("parrot", "1"))


async def test_a_dropped_publication_is_silent_and_a_refused_one_is_not(house: Any):
    class Choose(Intervention):
        async def on_publish(self, envelope: Envelope) -> Envelope:
            if envelope.payload.text == "drop":
                raise MessageDropped("dropped")
            raise NotPermitted("refused")

        async def on_send(self, envelope: Envelope) -> Envelope:
            return None  # type: ignore[return-value]

    runtime = house(closure("parrot", repeat, subscriptions=["news"]), plugins=[listed(Choose())])
    await runtime.publish(Say("drop"), "news")
    with pytest.raises(NotPermitted, match="refused"):
        await runtime.publish(Say("no"), "news")
    with pytest.raises(UsageError, match=r"Choose.on_send returned None, expected the envelope"):
        await runtime.send(Say("hi"), AgentId("parrot", "1"))
    await runtime.messenger.stop()
    assert not dead_letters(runtime)


async def test_an_intervention_may_delay(house: Any):
    gate = asyncio.Event()

    class Delay(Intervention):
        async def on_deliver(self, envelope: Envelope) -> Envelope:
            await gate.wait()
            return envelope

    runtime = house(closure("parrot", repeat), plugins=[listed(Delay())])
    sending = asyncio.ensure_future(runtime.send(Say("hi"), AgentId("parrot", "1")))
    await asyncio.wait({sending}, timeout=0)
    assert not sending.done()
    gate.set()
    assert await sending == "hi"


async def test_a_transport_is_no_part_of_the_message_whose_handler_is_the_first_to_need_it(
    house: Any, monkeypatch: pytest.MonkeyPatch
):
    start, seen = InProcess.start, list[object]()

    async def noting(self: InProcess, deliver: Any) -> None:
        seen.append(handling.get())  # so would every task have it that the transport delivers from
        await start(self, deliver)

    async def ask(message: Say, ctx: Context) -> str:
        seen.append(handling.get())
        return await ctx.call(AgentId("shop.parrot", "1"), message)

    monkeypatch.setattr(InProcess, "start", noting)
    runtime = house(closure("parrot", repeat), closure("asker", ask))
    reply = await runtime.messenger.deliver(Envelope("1", "request", AgentId("shop.asker", "1"), "life.say", Say("hi")))
    assert reply.payload == "hi"
    asking, connecting = seen
    assert asking is not None
    assert connecting is None
