"""Spans of volatile messages."""

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from opentelemetry import trace

from perdure import Agent, AgentId, App, Context, hookimpl, tool
from perdure.context import Callee
from perdure.errors import CallFailed
from perdure.messages import TopicId
from perdure.ports import Services
from perdure.testing import Script, calls, harness
from perdure_messaging import MessageAgent, actor, handles, message_type


@message_type("house.told")
@dataclass(frozen=True)
class Told:
    text: str


class Echo:
    """An agent with no model: the smallest declaration that a message can be sent to."""

    kind = "agent"

    def __init__(self, name: str, asks: AgentId | None = None) -> None:
        self.name, self.asks = name, asks


class Echoes:
    """A plugin that executes them."""

    def __init__(self) -> None:
        self.runtime = None

    @hookimpl
    def perdure_agent_kinds(self, services: Services):
        self.runtime = services
        return {Echo: self}

    async def turn(self, ctx: Context, agent: Callee, message: str) -> str:
        if message == "fail":
            raise ValueError("sk-secret")
        if agent.asks is None:
            return message
        return await self.runtime.send(message, agent.asks)


app = App("house", agents=[Echo("far"), Echo("near", asks=AgentId("house.far", "k2"))])


def spans_of(collector, names: Iterable[str]):
    return [collector.one(name) for name in names]


async def test_a_message_is_a_span_where_it_is_sent_and_one_where_it_is_processed(collector):
    async with harness(app, Echoes(), collector.plugin()) as h:
        assert await h.runtime.send("hi", AgentId("near", "k1")) == "hi"
    sent, processed = spans_of(collector, ["send house.near", "process house.near"])
    sent_on, processed_on = spans_of(collector, ["send house.far", "process house.far"])
    assert len({span.trace for span in collector.spans.values()}) == 1
    assert [span.parent for span in (sent, processed, sent_on, processed_on)] == [
        "",
        sent.id,
        processed.id,
        sent_on.id,
    ]
    producer, consumer = 4, 5
    assert (sent.kind, processed.kind) == (producer, consumer)
    assert sent.attributes == {
        "messaging.system": "perdure",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "house.near",
        "messaging.message.conversation_id": "k1",
        "perdure.message.type": "str",
    }


async def test_a_publication_is_a_span_of_its_own_name_and_each_of_its_receivers_has_one(collector):
    class Listener(MessageAgent):
        """Listens."""

        @handles
        async def heard(self, message: Told, ctx: Context) -> None:
            """Nothing comes of it."""

    both = [actor(name, Listener, subscriptions=["news"]) for name in ("one", "two")]
    async with harness(App("house", agents=both), collector.plugin()) as h:
        await h.runtime.publish(Told("sk-secret"), TopicId("news", "today"))
    published, *processed = spans_of(collector, ["publish news", "process house.one", "process house.two"])
    assert {span.parent for span in processed} == {published.id}
    assert {span.attributes["messaging.message.conversation_id"] for span in processed} == {"today"}
    producer = 4
    assert published.kind == producer
    assert published.attributes == {
        "messaging.system": "perdure",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "news",
        "messaging.message.conversation_id": "today",
        "perdure.message.type": "house.told",
    }
    assert not [span for span in collector.spans.values() if "sk-secret" in span.texts]


async def test_a_failure_is_on_both_sides_and_says_its_type_only(collector):
    async with harness(app, Echoes(), collector.plugin()) as h:
        with pytest.raises(CallFailed):
            await h.runtime.send("fail", AgentId("far", "k"))
    for span in spans_of(collector, ["send house.far", "process house.far"]):
        assert span.failed
        assert span.attributes["error.type"] == "ValueError"
        assert "sk-secret" not in span.texts


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    if word == "y":
        raise ValueError("sk-secret")
    return "sk-secret"


async def test_a_volatile_turn_has_spans_of_its_model_and_tool_calls(collector):
    reader = Agent("reader", instructions="Read.", tools=[look_up])
    model = Script(calls(("look_up", {"word": "x"}), ("look_up", {"word": "y"})), "it is known", name="scripted:model")
    async with harness(App("room", agents=[reader]), collector.plugin(), model=model) as h:
        await h.runtime.send("look it up", AgentId("room.reader", "k"))
    turn = collector.one("process room.reader")
    thinking, acting = collector.named("chat model"), collector.named("execute_tool look_up")
    assert (len(thinking), len(acting)) == (2, 2)
    assert {span.parent for span in [*thinking, *acting]} == {turn.id}
    assert {span.attributes["gen_ai.agent.name"] for span in [*thinking, *acting]} == {"room.reader"}
    assert all(span.attributes["gen_ai.usage.input_tokens"] > 0 for span in thinking)
    assert sorted(span.attributes.get("error.type", "") for span in acting) == ["", "tool_error"]
    assert not [span for span in collector.spans.values() if "sk-secret" in span.texts or "known" in span.texts]


async def test_a_durable_turn_has_each_of_them_once(collector):
    reader = Agent("reader", instructions="Read.", tools=[look_up])
    model = Script(calls(("look_up", {"word": "x"})), "it is known", name="scripted:model")
    async with harness(App("room", agents=[reader]), collector.plugin(), model=model) as h:
        await h.call(reader, "look it up")
    assert sorted(span.name for span in collector.received) == [
        "chat model",
        "chat model",
        "execute_tool look_up",
        "invoke_agent room.reader",
    ]


async def test_other_libraries_spans_are_exported_without_the_texts_of_their_errors(collector):
    async with harness(app, Echoes(), collector.plugin()):
        with pytest.raises(ValueError, match="sk-secret"), trace.get_tracer("other").start_as_current_span("work"):
            raise ValueError("sk-secret")
    assert collector.one("work").failed
    assert "sk-secret" not in collector.one("work").texts
