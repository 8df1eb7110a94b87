"""Publish and subscribe: who gets what, once, in order; what nobody could handle."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from perdure import AgentId, Attempt, Context
from perdure.errors import UsageError
from perdure.messages import Envelope, TopicId, Whereabouts
from perdure_messaging import (
    MessageAgent,
    actor,
    closure,
    dead_letters,
    handles,
    message_type,
    subscribes,
    subscription,
)

if TYPE_CHECKING:
    from perdure import Runtime

House = "Callable[..., Runtime]"
TIMEOUT = 60.0


@message_type("shop.placed")
@dataclass(frozen=True)
class Placed:
    order: int


@message_type("shop.paid")
@dataclass(frozen=True)
class Paid:
    order: int


@message_type("shop.bad")
@dataclass(frozen=True)
class Bad:
    order: int


@message_type("shop.go")
@dataclass(frozen=True)
class Go:
    topic: str = ""


class Log:
    """What subscribers got, and a way to wait for it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = asyncio.Condition()

    async def note(self, line: str) -> None:
        self.lines.append(line)
        async with self._changed:
            self._changed.notify_all()

    async def has(self, count: int) -> list[str]:
        async with asyncio.timeout(TIMEOUT), self._changed:
            await self._changed.wait_for(lambda: len(self.lines) >= count)
        return self.lines


@pytest.fixture
def log() -> Log:
    return Log()


def listener(name: str, log: Log, *subscriptions: Any, cls: type[MessageAgent] | None = None) -> Any:
    class Listener(cls or MessageAgent):
        """Notes what it gets."""

        @handles
        async def any(self, message: Placed | Paid, ctx: Context) -> None:
            await log.note(f"{ctx.message.target} {type(message).__name__} {message.order}")

    return actor(name, Listener, subscriptions=subscriptions)


async def settled(runtime: Runtime) -> None:
    """All that was published is handled: the transport drains as it stops."""
    async with asyncio.timeout(TIMEOUT):
        await runtime.messenger.stop()


async def test_an_event_goes_to_the_instance_that_its_source_names(house: Any, log: Log):
    runtime = house(listener("cook", log, "orders"), listener("clerk", log, "orders"), listener("guest", log, "order"))
    await runtime.publish(Placed(1), TopicId("orders", "table 7"))
    await runtime.publish(Placed(2), "orders")
    await settled(runtime)
    assert sorted(log.lines) == [
        "shop.clerk/default Placed 2",
        "shop.clerk/table 7 Placed 1",
        "shop.cook/default Placed 2",
        "shop.cook/table 7 Placed 1",
    ]


async def test_decorators_subscribe_a_class_and_its_subclasses(house: Any, log: Log):
    @subscribes("paid")
    @subscribes()
    class Base(MessageAgent):
        pass

    runtime = house(listener("cook", log, "orders", cls=Base))
    for topic in ("default", "paid", "orders", "other"):
        await runtime.publish(Placed(1), topic)
    await settled(runtime)
    assert len(log.lines) == 3


async def test_each_receiver_of_an_event_has_idempotency_keys_of_its_own(house: Any, log: Log):
    async def key_here() -> str:
        return Attempt.current().key

    def witness(name: str) -> Any:
        class Witness(MessageAgent):
            """Notes the keys of its steps, and what else identifies its work."""

            @handles
            async def placed(self, message: Placed, ctx: Context) -> None:
                await log.note(f"{await ctx.step(key_here)} {ctx.uuid()}")

        return actor(name, Witness, subscriptions=["orders"])

    runtime = house(witness("cook"), witness("clerk"))
    event = Envelope("e1", "event", None, "shop.placed", Placed(1), topic=TopicId("orders"))
    for target in (AgentId("shop.cook", "1"), AgentId("shop.clerk", "1"), AgentId("shop.cook", "2")):
        await runtime.messenger.deliver(event._replace(target=target))
    keys, ids = zip(*(line.split() for line in log.lines), strict=True)
    assert (len(set(keys)), len(set(ids))) == (3, 3)
    await runtime.messenger.deliver(event._replace(target=AgentId("shop.cook", "1")))
    assert log.lines[3] == log.lines[0]  # the same again, to the same one


async def test_prefixes_match_and_matching_twice_is_one_delivery(house: Any, log: Log):
    runtime = house(listener("cook", log, subscription("orders.", prefix=True), "orders.new"))
    for n, topic in enumerate(("orders.new", "orders.old", "orders")):
        await runtime.publish(Placed(n), topic)
    await settled(runtime)
    assert log.lines == ["shop.cook/default Placed 0", "shop.cook/default Placed 1"]


async def test_code_may_say_whose_an_event_is(house: Any, log: Log):
    def table(topic: TopicId) -> str | None:
        return None if topic.source == "nobody" else f"table-{topic.source}"

    agent = listener("cook", log, subscription("orders", key=table), subscription("ord", key=table), "orders.plain")
    runtime = house(agent)
    await runtime.publish(Placed(1), TopicId("orders", "7"))
    await runtime.publish(Placed(2), TopicId("orders", "nobody"))
    await runtime.publish(Placed(3), TopicId("orders.plain", "7"))
    await log.has(3)
    await settled(runtime)
    assert sorted(log.lines) == [
        "shop.cook/7 Placed 3",
        "shop.cook/table-7 Placed 1",
        "shop.cook/table-7 Placed 3",
    ]


async def test_an_agent_publishes_to_others_and_not_to_itself(house: Any, log: Log):
    @subscribes("gossip")
    class Talker(MessageAgent):
        @handles
        async def go(self, message: Go, ctx: Context) -> str:
            await ctx.publish(Placed(1), "gossip")
            await ctx.publish(Paid(2), TopicId("gossip", "b"))
            return "said"

        @handles
        async def hear(self, message: Placed | Paid, ctx: Context) -> None:
            await log.note(f"{ctx.message.target} {message.order} from {ctx.message.sender} on {ctx.message.topic}")

    runtime = house(actor("talker", Talker), listener("cook", log, "gossip"))
    assert await runtime.send(Go(), AgentId("shop.talker", "a")) == "said"
    await settled(runtime)
    assert sorted(log.lines) == [
        "shop.cook/a Placed 1",
        "shop.cook/b Paid 2",
        "shop.talker/b 2 from shop.talker/a on gossip/b",
    ]


async def test_two_that_answer_each_other_stop_when_they_have_said_enough(house: Any, log: Log):
    @subscribes()
    class Talker(MessageAgent):
        def __init__(self) -> None:
            self.said = 0

        @handles
        async def hear(self, message: Placed, ctx: Context) -> None:
            if self.said < 5:
                self.said += 1
                await log.note(f"{ctx.message.target}")
                await ctx.publish(Placed(self.said))

    runtime = house(actor("ann", Talker), actor("bob", Talker))
    await runtime.publish(Placed(0), "default")
    await log.has(10)
    await settled(runtime)
    assert sorted(log.lines) == ["shop.ann/default"] * 5 + ["shop.bob/default"] * 5


async def test_a_message_may_be_sent_to_an_address_without_waiting(house: Any, log: Log):
    async def go(message: Go, ctx: Context) -> str:
        return await ctx.send(AgentId("cook", "7"), Placed(1))

    runtime = house(closure("starter", go), listener("cook", log))
    assert await runtime.send(Go(), AgentId("starter", "1"))
    await settled(runtime)
    assert log.lines == ["shop.cook/7 Placed 1"]


async def test_events_of_one_sender_are_handled_in_order_one_at_a_time(house: Any, log: Log):
    gate = asyncio.Event()
    active: list[int] = []

    @subscribes("orders")
    class Slow(MessageAgent):
        @handles
        async def hear(self, message: Placed, ctx: Context) -> None:
            active.append(message.order)
            if message.order == 0:
                await gate.wait()
            assert active[-1] == message.order
            await log.note(str(message.order))

    runtime = house(actor("slow", Slow))
    for n in range(100):
        await runtime.publish(Placed(n), "orders")
    gate.set()
    await settled(runtime)
    assert log.lines == [str(n) for n in range(100)]


async def test_the_publisher_is_told_nothing_of_failures_which_are_dead_letters(house: Any, log: Log, strict: bool):
    async def fails(message: Bad, ctx: Context) -> None:
        msg = "burnt"
        raise LookupError(msg)

    agents = (closure("sour", fails, subscriptions=["orders"]), listener("cook", log, "orders"))
    runtime = house(*agents, dead_letters=3)
    await runtime.publish(Placed(1), "orders")
    for _ in range(4):
        await runtime.publish(Bad(2), "orders")
    await settled(runtime)
    assert log.lines == ["shop.cook/default Placed 1"]
    letters = dead_letters(runtime)
    assert len(letters) == 3
    assert runtime.messenger.letters.count == 9  # type: ignore[attr-defined]
    assert {letter.error.type for letter in letters} == {"LookupError", "perdure.errors.Undeliverable"}
    assert {letter.envelope.type for letter in letters} == {"shop.bad"}


@pytest.mark.parametrize(
    ("type_", "payload", "error"),
    [
        ("shop.placed", b"{", "perdure.errors.InvalidInput"),
        ("shop.placed", b'{"order": "x"}', "perdure.errors.InvalidInput"),
        ("shop.placed@7", b'{"order": 1}', "perdure.errors.InvalidInput"),
        ("os.system", b'"ls"', "perdure.errors.Undeliverable"),
    ],
    ids=range(4),
)
async def test_poison_is_a_dead_letter_with_its_cause(house: Any, log: Log, type_: str, payload: bytes, error: str):
    runtime = house(listener("cook", log))
    target = AgentId("shop.cook", "1")
    poison = Envelope("p1", "event", target, type_, payload, topic=TopicId("orders"), content="application/json")
    await runtime.messenger.deliver(poison)
    (letter,) = dead_letters(runtime)
    assert (letter.envelope, letter.error.type) == (poison, error)
    answer = await runtime.messenger.deliver(poison._replace(kind="request"))
    assert (answer.kind, answer.error.type, isinstance(answer.payload, bytes)) == ("error", error, True)
    assert not log.lines


async def test_what_lives_here_can_be_looked_up(house: Any, log: Log):
    runtime = house(listener("cook", log), listener("clerk", log))
    for key in ("a", "b"):
        await runtime.send(Placed(1), AgentId("cook", key))
    assert await runtime.agents() == [
        Whereabouts("shop.clerk", "local", 0),
        Whereabouts("shop.cook", "local", 2),
    ]


def test_a_subscription_that_cannot_be_is_named():
    with pytest.raises(UsageError, match="subscription to 'a b'"):
        subscription("a b")
    with pytest.raises(UsageError, match="with prefix=True, '' takes all"):
        subscription("")
    assert subscription("", prefix=True).matches(TopicId("anything"))
