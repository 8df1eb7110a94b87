"""Workflows, agents and steps that the engine's conformance kit runs; their bodies leave traces on a ``Bench``."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from perdure import Agent, App, Attempt, Context, Retry, hookimpl, step, tool, workflow
from perdure.testing.models import calls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from perdure.messages import ModelRequest
    from perdure.ports import Query, StepInfo


class Approval(BaseModel):
    """What the kit's requests ask for."""

    approved: bool


class Draft(BaseModel):
    """What the kit's editor writes."""

    text: str


@dataclass
class Bench:
    """What step bodies did, in this test's memory, which no crash of a runtime touches.

    Attributes:
        bodies: Each body that ran, in order.
        keys: The idempotency keys that bodies saw.
        gate: Lets ``gated`` bodies through.
        recorded_again: Steps whose body began although they were recorded.
    """

    bodies: list[str] = field(default_factory=list[str])
    keys: list[str] = field(default_factory=list[str])
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    recorded_again: list[str] = field(default_factory=list[str])
    _recorded: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, what: str) -> None:
        """A body ran."""
        self.bodies.append(what)
        self._changed.set()

    async def reached(self, what: str, times: int = 1) -> None:
        """Until a body of that name has run so many times; 30 s at most."""
        async with asyncio.timeout(30):
            while self.bodies.count(what) < times:
                self._changed.clear()
                await self._changed.wait()

    async def attempted(self, times: int) -> None:
        """Until so many keys were seen."""
        await self.reached("attempted", times)

    async def note_recorded(self, query: Query) -> None:
        """Between two processes: remember which steps are recorded."""
        for view in await query.runs(limit=10_000):
            self._recorded |= {(view.id, e.path) for e in await query.journal(view.id) if e.kind == "step"}

    @property
    def middleware(self) -> Callable[[StepInfo, Callable[[], Awaitable[Any]]], Awaitable[Any]]:
        """Witnesses every body."""

        async def witness(info: StepInfo, proceed: Callable[[], Awaitable[Any]]) -> Any:
            if (info.run.run, info.path) in self._recorded:
                self.recorded_again.append(f"{info.run.run} {info.path}")
            token = _bench.set(self)
            try:
                return await proceed()
            finally:
                _bench.reset(token)

        return witness


_bench: ContextVar[Bench] = ContextVar("perdure_kit_bench")


async def number(n: int) -> int:
    """A step that leaves a trace."""
    _bench.get().note(f"number:{n}")
    return n


def fail(message: str) -> None:
    """A step that raises, in a thread."""
    raise ValueError(message)


async def quits() -> None:
    """A step that raises what a cancelled task raises, without having been cancelled."""
    raise asyncio.CancelledError


async def pair(n: int) -> tuple[int, int]:
    """A step whose result is a list in JSON."""
    return n, n


async def unencodable_result() -> Any:
    """A step whose result has no JSON form."""
    return asyncio.Event()


async def letters(count_: int) -> str:
    """A step with a large result."""
    return "x" * count_


async def gate() -> str:
    """A step that waits for the bench."""
    bench = _bench.get()
    bench.keys.append(Attempt.current().key)
    bench.note("gated")
    try:
        await bench.gate.wait()
    except asyncio.CancelledError:
        bench.note("gated cancelled")
        raise
    return "through"


@step(retry=Retry(attempts=5, first=1.0, on=(ConnectionError,)))
async def third_time(lucky: int) -> str:
    """A step that fails until its attempt is the lucky one."""
    attempt = Attempt.current()
    bench = _bench.get()
    bench.keys.append(attempt.key)
    bench.note("attempted")
    if attempt.number < lucky:
        msg = "line is busy"
        raise ConnectionError(msg)
    return f"done at attempt {attempt.number}"


@workflow
async def count(ctx: Context, n: int) -> list[int]:
    """Steps, one after the other."""
    return [await ctx.step(number, i) for i in range(n)]


@workflow
async def approved_count(ctx: Context, n: int) -> list[int]:
    """Steps, then a request."""
    numbers = [await ctx.step(number, i) for i in range(n)]
    return numbers if (await ctx.ask("Go on?", Approval)).approved else []


@workflow(name="approved_count")
async def renamed_count(ctx: Context, n: int) -> list[int]:
    """The same workflow after an edit that no longer fits."""
    numbers = [(await ctx.step(pair, i))[0] for i in range(n)]
    return numbers if (await ctx.ask("Go on?", Approval)).approved else []


@workflow
async def decoded(ctx: Context) -> list[str]:
    """What type code sees before and after a wait."""
    value = await ctx.step(pair, 1)
    seen = f"{type(value).__name__} of {type(value[0]).__name__}"
    await ctx.ask("Go on?", Approval)
    again = await ctx.step(pair, 2)
    return [seen, f"{type(again).__name__} of {type(again[0]).__name__}"]


@workflow
async def failing(ctx: Context, message: str) -> None:
    """Lets a step's failure through."""
    await ctx.step(fail, message)


@workflow
async def caught(ctx: Context, message: str) -> str:
    """Catches a step's failure by what it is."""
    try:
        await ctx.step(fail, message)
    except ValueError:
        return "ValueError"
    except Exception as error:  # noqa: BLE001 - the test wants to see which
        return f"{type(error).__name__} of {error.error.type}"  # type: ignore[attr-defined]
    return "nothing"


@workflow
async def quitting(ctx: Context) -> None:
    """A step ends as if it had been cancelled."""
    await ctx.step(quits)


@workflow
async def unencodable(ctx: Context) -> None:
    """A step's result has no JSON form."""
    await ctx.step(unencodable_result)


@workflow
async def live_argument(ctx: Context) -> None:
    """A step's argument has no JSON form."""
    await ctx.step(pair, asyncio.Lock())  # type: ignore[arg-type]


@workflow
async def huge(ctx: Context, size: int) -> int:
    """A step's result is larger than may be."""
    return len(await ctx.step(letters, size))


@workflow
async def huge_result(ctx: Context, size: int) -> str:
    """Its own result is larger than may be."""
    return "x" * size + (await ctx.step(letters, 1))


@workflow
async def gated(ctx: Context) -> str:
    """A step that takes as long as the test wants."""
    return await ctx.step(gate)


@workflow
async def calls_gated(ctx: Context) -> str:
    """A child that takes as long as the test wants."""
    return await ctx.call(gated)


@workflow
async def impatient(ctx: Context) -> str:
    """Gives a slow step up."""
    try:
        async with asyncio.timeout(60):
            return await ctx.step(gate)
    except TimeoutError:
        return "gave up"


@workflow
async def flaky(ctx: Context, lucky: int) -> str:
    """A step that is tried again."""
    return await ctx.step(third_time, lucky)


@workflow
async def sleeper(ctx: Context, seconds: float) -> float:
    """Sleeps; returns when it woke."""
    await ctx.sleep(seconds)
    return ctx.now().timestamp()


@workflow
async def times(ctx: Context) -> list[float]:
    """The time before and after a wait."""
    before = ctx.now().timestamp()
    await ctx.ask("Go on?", Approval)
    return [before, ctx.now().timestamp()]


@workflow
async def two_questions(ctx: Context) -> list[bool]:
    """Two requests at once."""
    answers = await asyncio.gather(ctx.ask("First?", Approval), ctx.ask("Second?", Approval))
    return [answer.approved for answer in answers]


@workflow
async def deadline(ctx: Context) -> bool:
    """A request with a deadline."""
    answer = await ctx.ask("In time?", Approval, deadline=timedelta(days=3), default=Approval(approved=False))
    return answer.approved


@workflow
async def asks_through_a_child(ctx: Context) -> list[int]:
    """A request two levels down."""
    return await ctx.call(approved_count, 1)


@workflow
async def cleans_up(ctx: Context) -> bool:
    """A clean-up step on cancellation."""
    try:
        return (await ctx.ask("Wait?", Approval)).approved
    finally:
        await ctx.step(number, 99)


@tool
async def read(name: str) -> str:
    """Read a document."""
    _bench.get().note(f"read:{name}")
    return f"text of {name}"


@tool
async def shout(ctx: Context, text: str) -> str:
    """Ask the agent that is asking."""
    return (await ctx.call(echo_chamber, text, session=ctx.session.id.key)).text


reader: Agent[str] = Agent("reader", instructions="Read.", tools=[read])
editor: Agent[Draft] = Agent("editor", instructions="Edit.", output=Draft)
parrot: Agent[str] = Agent("parrot", instructions="Repeat.")
echo_chamber: Agent[str] = Agent("echo_chamber", instructions="Shout.", tools=[shout])


@workflow
async def briefing(ctx: Context, names: list[str]) -> Draft:
    """Parallel turns with tools, a structured turn, a timer, a request and a last step."""
    notes = await asyncio.gather(*(ctx.call(reader, f"Read {name}") for name in names))
    draft = (await ctx.call(editor, "\n".join(note.text for note in notes))).output
    async with asyncio.timeout(3600):
        await ctx.step(number, len(notes))
    answer = await ctx.ask("Publish?", Approval, deadline=timedelta(days=3), default=Approval(approved=False))
    await ctx.step(number, int(answer.approved))
    return draft


def think(request: ModelRequest) -> Any:
    """The model of the kit's agents: reads what it is told to, repeats what it hears."""
    last = request.messages[-1]
    if request.output_schema is not None:
        return Draft(text=last.text)
    if last.role == "tool":
        return f"note on {last.result.content if last.result else ''}"
    names = {spec.name for spec in request.tools}
    if "refuse" in last.text:
        return RuntimeError("the model is not amused")
    if "read" in names:
        return calls(("read", {"name": last.text.split()[-1]}))
    if "shout" in names:
        return calls(("shout", {"text": last.text}))
    return f"heard {last.text}"


class KitApp(App):
    """The kit's app: also witnesses every step body on its bench."""

    bench: Bench

    @hookimpl
    def perdure_step_middleware(self) -> list[Any]:
        """The witness."""
        return [self.bench.middleware]


_WORKFLOWS = (
    count, decoded, failing, caught, quitting, unencodable, live_argument, huge, huge_result, gated, calls_gated,
    impatient, flaky, sleeper, times, two_questions, deadline, asks_through_a_child, cleans_up, briefing,
)  # fmt: skip
_AGENTS = (reader, editor, parrot, echo_chamber)


def app(bench: Bench) -> App:
    """The kit's app, leaving its traces on ``bench``."""
    made = KitApp("kit", agents=_AGENTS, workflows=[*_WORKFLOWS, approved_count])
    made.bench = bench
    return made


def changed_app(bench: Bench) -> App:
    """The kit's app after an edit that no longer fits the journals of ``approved_count``."""
    made = KitApp("kit", agents=_AGENTS, workflows=[*_WORKFLOWS, renamed_count])
    made.bench = bench
    return made
