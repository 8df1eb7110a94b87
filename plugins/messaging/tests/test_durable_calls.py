"""What durable message agents call, and who calls them: agents in memory, durable ones, workflows (P4, P7, P9, P11)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from perdure import AgentId, App, Attempt, Context, Runtime, hookimpl, workflow
from perdure.config import PluginSettings, Settings
from perdure.errors import CallFailed, MessageDropped, NotDurable, RetryableError, RunFailed, SessionBusy, UsageError
from perdure.messages import Envelope, RunFilter, TopicId
from perdure.testing import FaultyStore, Harness, ManualClock, MemoryStore, harness
from perdure_messaging import Intervention, MessageAgent, actor, dead_letters, handles, subscribes

PATIENCE = 60.0


@dataclass(frozen=True)
class Ask:
    """Do something, by its name, for somebody."""

    what: str
    whom: str = ""


@dataclass(frozen=True)
class Note:
    text: str


@dataclass(frozen=True)
class Unknown:
    pass


class World:
    def __init__(self) -> None:
        self.handled = Counter[str]()
        self.order: list[str] = []
        self.inside = self.most = 0
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()


WORLD = World()


@workflow
async def doubled(ctx: Context, text: str) -> str:
    WORLD.handled["workflow"] += 1
    return text * 2


@workflow
async def asks(ctx: Context, what: str) -> str:
    return str(await ctx.call(clerk, Ask(what), session="1"))


@workflow
async def sour(ctx: Context) -> None:
    msg = "too sour"
    raise ValueError(msg)


@workflow
async def listens(ctx: Context) -> str:
    return await ctx.wait_event("told", str)


async def key_here() -> str:
    return Attempt.current().key


class Memory(MessageAgent):
    """Lives in memory."""

    @handles
    async def ask(self, message: Ask, ctx: Context) -> str:
        WORLD.handled[f"memory:{message.what}"] += 1
        WORLD.entered.set()
        if message.what == "wait":
            await WORLD.gate.wait()
        if message.what == "fail":
            msg = "out of memory"
            raise KeyError(msg)
        if message.what == "back":
            return await ctx.call(AgentId("clerk", message.whom), Ask("simple"))
        return f"memory of {message.what}"

    @handles
    async def note(self, message: Note, ctx: Context) -> None:
        WORLD.order.append(message.text)


@subscribes("chat")
@subscribes("desk", key=lambda topic: topic.source.partition("/")[0])
class Clerk(MessageAgent):
    """Is durable."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def load(self, state: Any) -> None:
        self.notes = state

    async def save(self) -> Any:
        return self.notes or None

    @handles
    async def ask(self, message: Ask, ctx: Context) -> str:
        WORLD.handled[f"clerk:{message.what}"] += 1
        return str(await getattr(self, message.what)(ctx, message.whom))

    @handles
    async def note(self, message: Note, ctx: Context) -> None:
        WORLD.inside += 1
        WORLD.most = max(WORLD.most, WORLD.inside)
        await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(int))])
        WORLD.inside -= 1
        self.notes.append(message.text)
        if message.text == "greet":
            await ctx.publish(Note("greeted"), "chat")

    async def simple(self, ctx: Context, _whom: str) -> str:
        return "simply"

    async def list(self, ctx: Context, _whom: str) -> str:
        return " ".join(self.notes)

    async def memory(self, ctx: Context, whom: str) -> str:
        return await ctx.call(AgentId("memory", "1"), Ask(whom))

    async def durable(self, ctx: Context, whom: str) -> str:
        return await ctx.call(AgentId("clerk", whom), Ask("simple"))

    async def twice(self, ctx: Context, _whom: str) -> str:
        first = await ctx.call(AgentId("clerk", "2"), Ask("simple"))
        return f"{first} {await ctx.call(AgentId('memory', '1'), Ask('wait'))}"

    async def itself(self, ctx: Context, _whom: str) -> str:
        return await ctx.call(AgentId("clerk", ctx.session.id.key), Ask("simple"))

    async def circle(self, ctx: Context, whom: str) -> str:
        return await ctx.call(AgentId("clerk", whom), Ask("memory_back", ctx.session.id.key))

    async def memory_back(self, ctx: Context, whom: str) -> str:
        return await ctx.call(AgentId("memory", "1"), Ask("back", whom))

    async def declared(self, ctx: Context, _whom: str) -> str:
        return f"{await ctx.call(doubled, 'ab')} {await ctx.call(memory, Ask('declared'), session='1')}"

    async def sour(self, ctx: Context, _whom: str) -> str:
        return await ctx.call(sour)

    async def stepped(self, ctx: Context, _whom: str) -> str:
        return f"{ctx.run_id} {await ctx.step(key_here)} {await ctx.step(key_here)} {ctx.uuid()}"

    async def tell(self, ctx: Context, whom: str) -> None:
        await ctx.send_event(whom, "told", "news")

    async def question(self, ctx: Context, _whom: str) -> str:
        return await ctx.ask("Why?", str)

    async def launch(self, ctx: Context, whom: str) -> str:
        started = await ctx.send(doubled, "cd")
        await ctx.send(memory, Note("launched"), session="1")
        if whom == "fail":
            msg = "after all"
            raise RuntimeError(msg)
        return started


memory, clerk = actor("memory", Memory), actor("clerk", Clerk, durable=True)
OFFICE = App("office", agents=[memory, clerk], workflows=[doubled, asks, sour, listens])
ONE, TWO = AgentId("clerk", "1"), AgentId("clerk", "2")


@pytest.fixture(autouse=True)
def _fresh_world():
    WORLD.__init__()


@pytest.fixture
async def h() -> AsyncIterator[Harness]:
    async with harness(OFFICE) as h:
        yield h


async def send(runtime: Runtime, message: Any, to: AgentId = ONE, **options: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await runtime.send(message, to, **options)


async def quiet(runtime: Runtime) -> None:
    """Until all there is has finished, and what that started."""
    known = -1
    async with asyncio.timeout(PATIENCE):
        while len(views := await runtime.query.runs(RunFilter(), limit=1000)) > known:
            known = len(views)
            for view in views:
                await runtime.handle(view.id).wait()


# -- calls


@pytest.mark.parametrize(
    ("what", "whom", "expected"),
    [
        ("memory", "Rome", "memory of Rome"),
        ("durable", "2", "simply"),
        ("declared", "", "abab memory of declared"),
    ],
)
async def test_a_durable_agent_calls_whatever_there_is(h, what, whom, expected):
    assert await send(h.runtime, Ask(what, whom)) == expected


async def test_an_agent_in_memory_calls_a_durable_one(h):
    assert await send(h.runtime, Ask("back", "1"), AgentId("memory", "1")) == "simply"


async def test_a_workflow_calls_a_durable_agent(h):
    assert await h.result(await h.start(asks, "simple")) == "simply"
    with pytest.raises(RunFailed) as caught:
        await h.result(await h.start(asks, "nothing"))
    kinds = [each.type for each in caught.value.error.chain()]
    assert kinds == ["perdure.errors.CallFailed", "AttributeError"]


@pytest.mark.parametrize(("what", "whom"), [("itself", ""), ("circle", "2")], ids=["itself", "a circle of three"])
async def test_a_call_that_would_wait_for_itself_is_refused(h, what, whom):
    with pytest.raises((SessionBusy, CallFailed)) as caught:
        await send(h.runtime, Ask(what, whom))
    assert "wait for ever" in str(caught.value)


async def test_what_an_agent_in_memory_raises_reaches_the_caller_of_the_durable_one(h):
    with pytest.raises(CallFailed) as caught:
        await send(h.runtime, Ask("memory", "fail"))
    assert [each.type for each in caught.value.error.chain()] == ["perdure.errors.CallFailed", "KeyError"]
    with pytest.raises(CallFailed, match="too sour"):
        await send(h.runtime, Ask("sour"))


async def test_a_turn_that_dies_in_a_call_is_run_again_and_its_callee_is_not(h):
    waiting = asyncio.ensure_future(h.runtime.send(Ask("twice"), ONE, id="m1"))
    await asyncio.wait_for(WORLD.entered.wait(), PATIENCE)
    await h.crash()
    await asyncio.wait([waiting])
    WORLD.gate.set()
    assert await send(h.runtime, Ask("twice"), id="m1") == "simply memory of wait"
    assert (WORLD.handled["clerk:twice"], WORLD.handled["clerk:simple"]) == (2, 1)


async def test_a_runtime_that_closes_fails_no_turn_whose_call_it_ends():
    store = MemoryStore(clock := ManualClock())
    async with harness(OFFICE, store=store, clock=clock) as h:
        waiting = asyncio.ensure_future(h.runtime.send(Ask("memory", "wait"), ONE, id="m1"))
        await asyncio.wait_for(WORLD.entered.wait(), PATIENCE)
    with pytest.raises(RetryableError):
        await waiting
    WORLD.gate.set()
    async with harness(OFFICE, store=store, clock=clock) as h:
        assert await send(h.runtime, Ask("memory", "wait"), id="m1") == "memory of wait"


async def test_what_is_sent_to_something_declared_starts_with_the_commit_or_not_at_all(h):
    run = await send(h.runtime, Ask("launch"))
    assert await h.result(h.runtime.handle(run)) == "cdcd"
    with pytest.raises(CallFailed, match="after all"):
        await send(h.runtime, Ask("launch", "fail"))
    await quiet(h.runtime)
    assert (WORLD.handled["workflow"], WORLD.order) == (1, ["launched"])


async def test_a_durable_agent_tells_a_run_something_with_its_commit(h):
    run = await h.start(listens)
    await send(h.runtime, Ask("tell", run.id))
    assert await h.result(run) == "news"


async def test_steps_of_a_handler_have_keys_of_their_own(h):
    first, again, other = [
        (await send(h.runtime, Ask("stepped"), to, id="m1")).split() for to in (ONE, ONE, AgentId("clerk", "2"))
    ]
    assert first == again
    assert len({*first, *other}) == 8
    assert all(key.startswith(f"{first[0]}:") for key in first[1:3])


async def test_a_handler_cannot_wait_for_people_and_says_what_can(h):
    with pytest.raises(NotDurable, match="call a workflow that does"):
        await send(h.runtime, Ask("question"))


# -- order, and who gets what


async def test_messages_are_handled_one_at_a_time_in_the_order_of_their_acceptance(h):
    texts = [str(number) for number in range(30)]
    for text in texts:
        await h.runtime.publish(Note(text), TopicId("chat", "1"))
    assert (await send(h.runtime, Ask("list"))).split() == texts
    assert WORLD.most == 1


async def test_who_publishes_does_not_get_it(h):
    await h.runtime.publish(Note("greet"), TopicId("chat", "1"))
    await quiet(h.runtime)
    assert await send(h.runtime, Ask("list")) == "greet"


async def test_code_may_say_which_durable_agent_gets_an_event(h):
    await h.runtime.publish(Note("for two"), TopicId("desk", "2/urgent"))
    await h.crash()
    assert await send(h.runtime, Ask("list"), TWO) == "for two"


async def test_the_messages_of_a_strict_transport_are_turns_too():
    app = App("office", agents=[memory, clerk], workflows=[doubled, asks, sour])
    settings = Settings(
        plugins=PluginSettings(block=frozenset({"otel"})), sections={"transport-inprocess": {"strict": True}}
    )
    async with Runtime.open(app, settings=settings, store=MemoryStore(ManualClock())) as runtime:
        assert await send(runtime, Ask("memory", "Rome")) == "memory of Rome"
        for _ in range(2):
            await runtime.publish(Note("hello"), TopicId("chat", "1"), id="p1")
        assert await send(runtime, Ask("list")) == "hello"


# -- what goes wrong


async def test_an_event_that_a_durable_agent_does_not_handle_is_a_dead_letter(h):
    await h.runtime.publish(Unknown(), TopicId("chat", "1"))
    (letter,) = dead_letters(h.runtime)
    assert (letter.envelope.target, letter.error.type) == (AgentId("office.clerk", "1"), "perdure.errors.Undeliverable")


async def test_who_publishes_is_told_when_it_could_not_be_made_safe():
    refusing: list[str] = []
    store = FaultyStore(MemoryStore(clock := ManualClock()), fails=lambda effect, _: effect in refusing)
    async with harness(OFFICE, store=store, clock=clock) as h:
        refusing.append("accept")
        with pytest.raises(RetryableError, match="refuses"):
            await h.runtime.publish(Note("hello"), TopicId("chat", "1"), id="p1")
        refusing.clear()
        await h.runtime.publish(Note("hello"), TopicId("chat", "1"), id="p1")
        assert await send(h.runtime, Ask("list")) == "hello"
        assert dead_letters(h.runtime) == ()


async def test_nobody_makes_an_agent_post_what_it_did_not_send(h):
    post = b'{"type":"perdure.posts","value":[]}'
    with pytest.raises(RunFailed, match="not started by a turn"):
        await h.result(await h.runtime.submit("office.clerk", post))


def test_a_durable_agent_that_is_concurrent_is_refused():
    with pytest.raises(UsageError, match="one message at a time"):
        actor("clerk", Clerk, durable=True, concurrent=True)


# -- interventions


class Censor(Intervention):
    """Sees everything."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def on_publish(self, envelope: Envelope) -> Envelope:
        self.seen.append(f"publish {envelope.payload.text}")
        return envelope._replace(payload=Note(envelope.payload.text.upper()))

    async def on_deliver(self, envelope: Envelope) -> Envelope:
        if envelope.payload == Ask("simple"):
            raise MessageDropped("not that")
        self.seen.append(f"deliver {envelope.kind}")
        return envelope

    async def on_reply(self, reply: Envelope, request: Envelope) -> Envelope:
        self.seen.append(f"{reply.kind} to {request.payload.what}")
        return reply._replace(payload="changed") if reply.payload == "memory of Rome" else reply


async def test_interventions_stand_around_the_turn_of_a_durable_agent():
    censor = Censor()

    class Watched(App):
        @hookimpl
        def perdure_interventions(self) -> list[Intervention]:
            return [censor]

    async with harness(Watched("office", agents=[clerk, memory], workflows=[doubled, asks, sour])) as h:
        await h.runtime.publish(Note("quiet"), TopicId("chat", "1"))
        assert await send(h.runtime, Ask("list")) == "QUIET"
        assert await send(h.runtime, Ask("memory", "Rome")) == "changed"
        with pytest.raises(MessageDropped):
            await send(h.runtime, Ask("simple"))
    assert censor.seen[:4] == ["publish quiet", "deliver event", "deliver request", "reply to list"]
