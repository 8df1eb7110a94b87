"""What the guarantees run: an app whose bodies leave traces in this process's memory, which no crash touches."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from perdure import Agent, App, Attempt, Context, Reply, Retry, hookimpl, step, tool, workflow
from perdure.messages import ChatMessage, ModelRequest
from perdure.ports import DurableStore
from perdure.testing import calls

SECRET = "the word that nobody may read"


@dataclass
class Traces:
    """What bodies did.

    Attributes:
        bodies: Each that began, in order.
        keys: The idempotency keys that bodies saw, by step: the run's id and the step's path.
        again: Steps whose body began although they were recorded.
        gates: What bodies wait for, by name.
        reached: Set whenever a body begins or is cancelled.
    """

    bodies: list[str] = field(default_factory=list[str])
    keys: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    again: list[str] = field(default_factory=list[str])
    gates: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, what: str) -> None:
        self.bodies.append(what)
        self.reached.set()

    async def until(self, what: str, times: int = 1) -> None:
        """Until so many bodies of that name have begun."""
        while self.bodies.count(what) < times:
            self.reached.clear()
            await self.reached.wait()

    def gate(self, what: str) -> asyncio.Event:
        return self.gates.setdefault(what, asyncio.Event())


traces = Traces()


def clear() -> None:
    """Forget what the tests before this one left."""
    traces.__init__()


# -- steps


async def body(what: str) -> str:
    traces.note(what)
    return what


async def wait_at(what: str) -> str:
    """A body that takes as long as the test wants."""
    traces.note(what)
    try:
        await traces.gate(what).wait()
    except asyncio.CancelledError:
        traces.note(f"{what} is cancelled")
        raise
    return what


async def begin(what: str, gate: str) -> None:
    traces.note(f"{what} begins")
    await traces.gate(gate).wait()


async def fail(what: str) -> None:
    traces.note(what)
    raise LookupError(what)


@step(retry=Retry(attempts=3, first=0.0, on=(ConnectionError,)))
async def third_time(what: str) -> str:
    traces.note(what)
    if Attempt.current().number < 3:
        raise ConnectionError(what)
    return what


def pair(number: int) -> tuple[int, int]:
    return number, number


# -- workflows


@workflow
async def chain(ctx: Context, name: str, length: int) -> list[str]:
    """Steps, one after the other."""
    return [await ctx.step(body, f"{name}:{number}") for number in range(length)]


@workflow
async def mixed(ctx: Context, name: str) -> list[Any]:
    """Steps at once, in branches, in a child, tried again, failing."""
    branches = await asyncio.gather(*(_branch(ctx, f"{name}:{branch}") for branch in "ab"))
    try:
        await ctx.step(fail, f"{name}:fails")
    except Exception as error:  # noqa: BLE001 - whatever a failed step is to code
        branches.append([type(error).__name__])
    return [*branches, await ctx.call(chain, f"{name}:child", 2), await ctx.step(third_time, f"{name}:third")]


async def _branch(ctx: Context, name: str) -> list[str]:
    return [await ctx.step(body, f"{name}:{number}") for number in range(2)]


@workflow
async def errand(ctx: Context, name: str) -> list[Any]:
    """Takes whatever can be sent to a run: events, an update, an answer, the reply of another run."""
    put: list[str] = []

    async def add(item: str) -> int:
        put.append(await ctx.step(body, f"{name}:{item}"))
        return len(put)

    ctx.on_update(add)
    said = [await ctx.wait_event("said", int) for _ in range(2)]
    allowed = await ctx.ask("Go on?", bool)
    return [said, allowed, put, await ctx.call(chain, f"{name}:child", 1)]


@workflow
async def collect(ctx: Context, count: int) -> list[int]:
    """Takes events."""
    return [await ctx.wait_event("said", int) for _ in range(count)]


@workflow
async def decide(ctx: Context) -> list[bool]:
    """Two requests at once."""
    return list(await asyncio.gather(ctx.ask("First?", bool), ctx.ask("Second?", bool)))


@workflow
async def in_time(ctx: Context) -> str:
    """A request that nobody may ever answer, and a step that nobody may ever finish."""
    answer = await ctx.ask("In time?", str, deadline=timedelta(days=3), default="nobody answered")
    try:
        async with asyncio.timeout(60):
            await ctx.step(wait_at, "slow")
    except TimeoutError:
        return f"{answer}, and nothing came"
    return answer


@workflow
async def nap(ctx: Context, seconds: float) -> list[float]:
    """When it was due, and when it woke."""
    due = ctx.now().timestamp() + seconds
    await ctx.sleep(seconds)
    return [due, ctx.now().timestamp()]


@workflow
async def holds(ctx: Context, what: str) -> list[str]:
    """A step that waits, and one after it."""
    return [await ctx.step(wait_at, what), await ctx.step(body, f"after {what}")]


@workflow
async def delegates(ctx: Context, what: str) -> list[str]:
    """A child whose step waits; cleans up."""
    try:
        return await ctx.call(holds, what)
    finally:
        await ctx.step(body, f"{what}: clean")


@workflow
async def waits(ctx: Context, kind: str) -> Any:
    """Waits, in one way or another."""
    ways = {
        "event": lambda: ctx.wait_event("said", int),
        "answer": lambda: ctx.ask("Well?", bool),
        "timer": lambda: ctx.sleep(timedelta(days=30)),
        "child": lambda: ctx.call(waits, "event"),
    }
    return await ways[kind]()


@workflow(name="changing")
async def before(ctx: Context) -> list[str]:
    """As it was."""
    first = await ctx.step(body, "first")
    await ctx.wait_event("said", int)
    return [first, await ctx.step(body, "last")]


@workflow(name="changing")
async def after(ctx: Context) -> list[str]:
    """As it is after an edit that does not fit."""
    first = await ctx.step(wait_at, "instead of first")
    await ctx.wait_event("said", int)
    return [first, await ctx.step(body, "last")]


@workflow
async def tells(ctx: Context, word: str) -> str:
    """Puts a word wherever a word can be put; fails with it in the end."""
    await ctx.step(body, word)
    reply = await ctx.call(reader, word)
    ctx.set_status(word)
    heard = await ctx.wait_event("said", str)
    if not await ctx.ask(f"Is it {word}?", bool):
        return heard
    await ctx.step(fail, f"{word} {reply.text}")
    return word


@workflow
async def consults(ctx: Context, word: str) -> str:
    """An agent, a person, time, another workflow."""
    reply = await ctx.call(reader, word)
    await ctx.ask("Go on?", bool)
    await ctx.sleep(60)
    return (await ctx.call(chain, reply.text, 1))[0]


# -- agents


@tool
async def look_up(word: str) -> str:
    """Look a word up."""
    traces.note(f"look up {word}")
    return f"it says {word}"


class Clerk(Agent[str]):
    """An agent that the house itself executes."""


reader = Agent("reader", instructions="Read.", tools=[look_up])
clerk = Clerk("clerk")
porter = Clerk("porter")
probe = Clerk("probe")
listener = Clerk("listener")


def think(request: ModelRequest) -> Any:
    """The model of the reader: looks up what it hears, and repeats what it was told."""
    last = request.messages[-1]
    if "refuse" in last.text:
        return RuntimeError("the model is not amused")
    return f"heard {last.result.content}" if last.result else calls(("look_up", {"word": last.text}))


class House(App):
    """The app; witnesses each body.

    Attributes:
        store: Where it looks whether a step is recorded already.
    """

    store: DurableStore

    @hookimpl
    def perdure_agent_kinds(self) -> dict[type, Any]:
        return {Clerk: self}

    @hookimpl
    def perdure_step_middleware(self) -> list[Any]:
        return [self._witness]

    async def _witness(self, info: Any, proceed: Any) -> Any:
        place = f"{info.run.run} {info.path}"
        traces.keys.setdefault(place, []).append(info.key)
        journal = await self.store.journal(info.run.run) if info.run.generation == 0 else ()
        if any(entry.path == info.path and entry.kind == "step" for entry in journal):
            traces.again.append(place)
        return await proceed()

    async def turn(self, ctx: Context, agent: Clerk, message: str) -> Reply[str]:
        reply = str(await _TURNS[agent.name](ctx, message))
        return Reply(reply, reply, ctx.session.id.key)


async def _serve(ctx: Context, message: str) -> str:
    """A turn that changes all that a turn can change."""
    session = ctx.session
    session.append(ChatMessage(role="user", text=message))
    await ctx.step(body, f"{message} begins")
    session.state["served"] = session.state.get("served", 0) + 1
    await ctx.send(chain, f"{message}:sent", 1)
    await ctx.sleep(60)
    await ctx.step(body, f"{message} ends")
    session.append(ChatMessage(role="assistant", text=f"served {message}"))
    return f"served {message}"


async def _carry(ctx: Context, message: str) -> str:
    """A turn that only works, once the gate of its session is open."""
    ctx.session.append(ChatMessage(role="user", text=message))
    await ctx.step(begin, message, ctx.session.id.key)
    return await ctx.step(body, f"{message} ends")


async def _try(ctx: Context, message: str) -> list[str]:
    """What code sees of results and of errors."""
    seen = [repr(await ctx.step(pair, 1)), repr(await ctx.call(chain, message, 1))]
    seen.append((await ctx.call(reader, message, session="s")).text)
    for attempt in (ctx.step(fail, message), ctx.call(reader, f"refuse {message}"), ctx.step(pair, "no number")):
        try:
            await attempt
        except Exception as error:  # noqa: BLE001 - the test wants to see which
            carried = getattr(error, "error", None)
            seen.append(" from ".join([type(error).__name__, *(e.type for e in (carried.chain() if carried else []))]))
    return seen


async def _listen(ctx: Context, message: str) -> str:
    return await ctx.step(wait_at, message)


_TURNS = {"clerk": _serve, "porter": _carry, "probe": _try, "listener": _listen}
_WORKFLOWS = (chain, mixed, errand, collect, decide, in_time, nap, holds, delegates, waits, tells, consults)


def open_house(store: DurableStore, changing: Any = before) -> House:
    """The app, with one version or another of ``changing``."""
    made = House("house", agents=[reader, clerk, porter, probe, listener], workflows=[*_WORKFLOWS, changing])
    made.store = store
    return made
