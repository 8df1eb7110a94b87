"""What is run in a simulated world: workflows and an agent, of all that durable code may do.

Each result is a function of the input and of what is recorded (answers, which of two was first): ``jobs`` tells what a
run must come to without having run it undisturbed. Steps take their time in the world's middleware, not here.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from perdure import encoding
from perdure.app import App
from perdure.catalog import Catalog
from perdure.config import PluginSettings
from perdure.context import Context
from perdure.errors import CallFailed, StepFailed
from perdure.hookspecs import hookimpl
from perdure.messages import ChatMessage
from perdure.plugins import Plugins
from perdure.saga import Saga
from perdure.steps import Attempt, Retry, step
from perdure.workflow import workflow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.ports import Services, TurnHandler

_GRAIN: Final = 1e-5
"""Seconds: what is lost where a time becomes a ``datetime``."""

# -- steps


async def double(n: int) -> int:
    """A step."""
    return 2 * n


async def echo(text: str) -> str:
    """A step of a turn."""
    return text


async def tidied() -> str:
    """A step of a clean-up."""
    return "tidy"


async def breaks(text: str) -> None:
    """A step that fails for good."""
    raise ValueError(text)


async def undone(n: int) -> int:
    """A step that takes back what another did."""
    return -n


@step(local=True)
async def cheap(n: int) -> int:
    """A step whose outcome may wait for the next write."""
    return n + 1


@step(retry=Retry(attempts=100, first=0.1, cap=1.0, on=(ConnectionError,)))
async def climbs(top: int) -> int:
    """A step that gets further with each attempt that knows how far the last one got."""
    attempt = Attempt.current()
    height = (attempt.details or 0) + 1
    attempt.heartbeat(height)
    if height < top:
        msg = "out of breath"
        raise ConnectionError(msg)
    return height


@step(retry=Retry(attempts=6, first=0.5, on=(ConnectionError,)))
async def third_time(lucky: int) -> int:
    """A step that fails until its attempt is the lucky one."""
    number = Attempt.current().number
    if number < lucky:
        msg = "line is busy"
        raise ConnectionError(msg)
    return number


# -- workflows


@workflow
async def sums(ctx: Context, n: int) -> list[int]:
    """Steps, one after the other; where the code was changed, the new way."""
    if ctx.patched("cheaper"):
        ctx.set_status("begun", done=await ctx.step(cheap, -1), total=n)
    return [await ctx.step(double, i) for i in range(n)]


@workflow
async def fan(ctx: Context, n: int) -> list[int]:
    """Branches of steps."""

    async def branch(i: int) -> int:
        return await ctx.step(double, await ctx.step(double, i))

    return await asyncio.gather(*(branch(i) for i in range(n)))


@workflow
async def hurried(ctx: Context, n: int, seconds: float) -> list[int]:
    """Parallel steps that have to be done in time; an empty list if they were not."""
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.step(double, i)) for i in range(n)]
    except TimeoutError:
        return []
    return [task.result() for task in tasks]


@workflow
async def family(ctx: Context, n: int) -> list[int]:
    """Children in parallel, then a step."""
    children = await asyncio.gather(*(ctx.call(sums, i) for i in range(n)))
    return [sum(child) for child in children] + [await ctx.step(double, n)]


@workflow
async def relay(ctx: Context, seconds: float, patience: float) -> str:
    """A child that has to be done in time."""
    try:
        async with asyncio.timeout(patience):
            return "slept" if await ctx.call(nap, seconds) else "woken early"
    except TimeoutError:
        return "gave up"


@workflow
async def nap(ctx: Context, seconds: float) -> bool:
    """Sleeps; whether it slept long enough."""
    before = ctx.now()
    await ctx.sleep(seconds)
    return (ctx.now() - before).total_seconds() >= seconds - _GRAIN


@workflow
async def naps(ctx: Context, seconds: float, n: int) -> list[int]:
    """Sleeps in parallel, the longest first; the order in which they ended."""
    ended: list[int] = []

    async def one(i: int) -> None:
        await ctx.sleep(seconds * (n - i))
        ended.append(i)

    await asyncio.gather(*(one(i) for i in range(n)))
    return ended


@workflow
async def asks(ctx: Context, seconds: float) -> dict[str, str]:
    """Two requests at once, one of them with a deadline; then a step."""
    sure, soon = await asyncio.gather(
        ctx.ask("sure", str, to="clerk", escalate={timedelta(seconds=seconds / 2): "head"}),
        ctx.ask("soon", str, deadline=timedelta(seconds=seconds), default="nobody"),
    )
    await ctx.step(double, 1)
    return {"sure": sure, "soon": soon}


@workflow
async def stubborn(ctx: Context, lucky: int) -> int:
    """A step that is tried again."""
    return await ctx.step(third_time, lucky)


@workflow
async def tidy(ctx: Context, seconds: float) -> str:
    """A clean-up step, cancelled or not."""
    try:
        await ctx.step(double, 1)
        await ctx.sleep(seconds)
        return "slept"
    finally:
        await ctx.step(tidied)


@workflow
async def race(ctx: Context, seconds: float) -> str:
    """A step against a timer; the loser is cancelled."""
    runner, sleeper = asyncio.ensure_future(ctx.step(double, 1)), asyncio.ensure_future(ctx.sleep(seconds))
    done, late = await asyncio.wait([runner, sleeper], return_when=asyncio.FIRST_COMPLETED)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)
    return "step" if runner in done else "timer"


@workflow
async def fails(ctx: Context, text: str) -> None:
    """Lets a step's failure through."""
    await ctx.step(breaks, text)


@workflow
async def rescue(ctx: Context, text: str) -> list[str]:
    """Catches a child's failure."""
    try:
        await ctx.call(fails, text)
    except CallFailed as error:
        await ctx.step(double, 1)
        return [link.message for link in error.error.chain() if link.type == "ValueError"]
    return []


@workflow
async def talk(ctx: Context, where: str, words: list[str]) -> list[str]:
    """Turns in a session that others talk to, too."""
    return [await ctx.call(parrot, word, session=where) for word in words]


@workflow
async def errands(ctx: Context, n: int) -> int:
    """Cheap steps whose outcomes are written together, with dear ones between them."""
    total = 0
    for i in range(3 * n):
        total = await ctx.step(cheap, total)
        if i % 4 == 3:
            total = await ctx.step(double, total)
    return total


@workflow
async def climb(ctx: Context, top: int) -> int:
    """A step that reports how far it is."""
    return await ctx.step(climbs, top)


@workflow
async def trip(ctx: Context, n: int) -> str:
    """Steps that are undone when the last one fails."""
    try:
        async with Saga(ctx) as saga:
            for i in range(n):
                saga.undo(undone, await ctx.step(double, i))
            await ctx.step(breaks, "full")
    except StepFailed:
        return "undone"
    return "booked"


@workflow
async def letters(ctx: Context, n: int, seconds: float) -> list[str]:
    """Events, in the order in which they were sent, each waited for so long."""
    wait = timedelta(seconds=seconds)
    return [await ctx.wait_event("letter", str, deadline=wait, default="none") for _ in range(n)]


@workflow
async def serial(ctx: Context, n: int, got: list[str]) -> list[str]:
    """Events, each taken in a life of its own."""
    if len(got) < n:
        ctx.continue_as_new(n, [*got, await ctx.wait_event("letter", str)])
    return got


@workflow
async def laps(ctx: Context, n: int, total: int) -> int:
    """Steps and a child in each of several lives."""
    total += await ctx.step(double, n) + sum(await ctx.call(sums, 2))
    if n > 0:
        ctx.continue_as_new(n - 1, total)
    return total


@workflow
async def rounds(ctx: Context, n: int, seconds: float, since: float, short: int) -> int:
    """Sleeps once in each of several lives; how often it did not sleep long enough since the last one."""
    since = since or ctx.now().timestamp()
    await ctx.sleep(seconds)
    now = ctx.now().timestamp()
    short += now - since < seconds - _GRAIN
    if n > 0:
        ctx.continue_as_new(n - 1, seconds, now, short)
    return short


@workflow
async def penpal(ctx: Context, n: int) -> str:
    """Sends another run on its way, and events after it."""
    friend = await ctx.send(letters, n, 60.0)
    for i in range(n):
        await ctx.send_event(friend, "letter", f"letter {i}")
        await ctx.step(double, i)
    return friend


@workflow
async def leaves(ctx: Context, seconds: float, on_close: str, delay: float) -> str:
    """Ends while what it has sent is still under way, or has yet to begin."""
    later: Any = ctx.child(on_close=on_close, delay=timedelta(seconds=delay))  # type: ignore[arg-type]
    sent: str = await later.send(nap, seconds)
    await ctx.step(double, 1)
    return sent


@workflow
async def count(ctx: Context, goal: int) -> int:
    """Updates, each with a step, until there are enough."""
    total = 0
    reached = asyncio.Event()

    async def add(n: int) -> int:
        nonlocal total
        total += await ctx.step(double, n)
        if total >= goal:
            reached.set()
        return total

    def positive(n: int) -> None:
        if n <= 0:
            msg = f"{n} is not above 0"
            raise ValueError(msg)

    def current() -> int:
        return total

    ctx.on_query(current)
    ctx.on_update(add, validate=positive)
    await reached.wait()
    return total


# -- an agent


class Parrot:
    """An agent declaration: repeats what it hears, and counts."""

    kind = "agent"
    name = "parrot"

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:  # noqa: ARG002 - as callees have it
        """The message as JSON."""
        return encoding.encode(args[0], str, "the message")

    def decode_input(self, payload: bytes) -> str:
        """The message again."""
        return encoding.decode(payload, str, "the message")

    def encode_result(self, reply: str) -> bytes:
        """The reply as JSON."""
        return encoding.encode(reply, str, "the reply")

    def decode_result(self, value: bytes) -> str:
        """The reply again."""
        return encoding.decode(value, str, "the reply")


class ParrotTurn:
    """Executes it."""

    async def turn(self, ctx: Context, agent: Any, message: Any) -> Any:  # noqa: ARG002 - as turn handlers have it
        """See ``perdure.ports.TurnHandler``."""
        heard = await ctx.step(echo, message)
        session = ctx.session
        session.state["turns"] = ordinal = session.state.get("turns", 0) + 1
        reply = f"{ordinal}: {heard}"
        session.append(ChatMessage(role="user", text=message), ChatMessage(role="assistant", text=reply))
        return reply


parrot: Any = Parrot()


class _SimulatedApp(App):
    @hookimpl
    def perdure_agent_kinds(self, services: Services) -> Mapping[type, TurnHandler]:  # noqa: ARG002 - the hook's
        """What executes the parrot."""
        return {Parrot: ParrotTurn()}


_WORKFLOWS: Final = (
    sums, fan, hurried, family, relay, nap, naps, asks, stubborn, tidy, race, fails, rescue, talk,
    errands, climb, trip, letters, serial, laps, rounds, penpal, leaves, count,
)  # fmt: skip


def catalog() -> Catalog:
    """Everything above, by name; the same for all engines."""
    plugins = Plugins(PluginSettings(), points=())
    plugins.start([_SimulatedApp("world", agents=[parrot], workflows=_WORKFLOWS)])
    made = Catalog(plugins)
    made.bind(None)  # type: ignore[arg-type] - the parrot needs no services
    return made
