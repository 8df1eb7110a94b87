"""The work that chaos is done to: small runs of every kind, whose results can be told beforehand.

Each step's body writes when it begins and when it ends. Its result carries the number of the worker that it ran in, so
that a journal tells whose attempt won. In a worker, ``enter`` says where lines go and when the process dies.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure import App, Attempt, Context, encoding, hookimpl, workflow
from perdure.messages import ChatMessage

from .death import Death
from .testimony import Witness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from perdure.messages import Entry, RunView, Start
    from perdure.ports import Services, StepInfo


class Worker:
    """What bodies and hooks know of the process that they are in."""

    def __init__(self, life: int = 0, witness: Witness | None = None, death: Death | None = None) -> None:
        self.life = life
        self.witness = witness or Witness(Path("/dev/null"), life)
        self.death = death or Death()
        self.replayed: set[str] = set()


_workers = [Worker()]


def enter(worker: Worker) -> None:
    """From here on this process is that worker."""
    _workers[:] = [worker]


def here() -> Worker:
    """The worker that this process is."""
    return _workers[0]


# -- steps ------------------------------------------------------------------------------------------------------


def value(label: str) -> str:
    """What a step of that label must come to."""
    return blake2b(label.encode(), digest_size=6).hexdigest()


def body(label: str) -> tuple[str, int]:
    """Every step's body, in a thread."""
    worker, key = here(), Attempt.current().key
    worker.witness.note("begin", key, sync=True)
    worker.death.reach("mid-step")
    worker.witness.note("end", key, sync=True)
    return value(label), worker.life


async def mark(ctx: Context, label: str) -> str:
    """One step."""
    found, life = await ctx.step(body, label)
    worker = here()
    if life != worker.life:
        if ctx.run_id not in worker.replayed:
            worker.replayed.add(ctx.run_id)
            worker.witness.note("replay", ctx.run_id)
        worker.death.reach("replay")
    return found


# -- workflows, each with what it must return ----------------------------------------------------------------------


@workflow
async def chain(ctx: Context, name: str, count: int) -> list[str]:
    """Step after step."""
    return [await mark(ctx, f"{name}.{n}") for n in range(count)]


@workflow
async def fan(ctx: Context, name: str, count: int) -> list[str]:
    """Branches at once, two steps each, and one afterwards."""

    async def branch(n: int) -> str:
        return await mark(ctx, f"{name}.{n}.a") + await mark(ctx, f"{name}.{n}.b")

    return [*await asyncio.gather(*(branch(n) for n in range(count))), await mark(ctx, name)]


@workflow
async def nap(ctx: Context, name: str, seconds: float) -> list[str]:
    """A step, a timer, a step."""
    before = await mark(ctx, f"{name}.0")
    await ctx.sleep(seconds)
    return [before, await mark(ctx, f"{name}.1")]


@workflow
async def family(ctx: Context, name: str, children: int) -> list[list[str]]:
    """Children at once."""
    return list(await asyncio.gather(*(ctx.call(chain, f"{name}.{n}", 2) for n in range(children))))


@workflow
async def form(ctx: Context, name: str) -> list[str]:
    """A request to a person."""
    answer = await ctx.ask(f"What of {name}?", str)
    return [answer, await mark(ctx, f"{name}.{answer}")]


# -- sessions -----------------------------------------------------------------------------------------------------


class Clerk:
    """An agent that answers each message with its number in the conversation."""

    kind = "agent"
    name = "clerk"
    description = "Counts what it is told."

    def encode_input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        return encoding.encode(args[0], str, "the message")

    def decode_input(self, payload: bytes) -> str:
        return encoding.decode(payload, str, "the message")

    def encode_result(self, reply: str) -> bytes:
        return encoding.encode(reply, str, "the reply")

    def decode_result(self, data: bytes) -> str:
        return encoding.decode(data, str, "the reply")


class ClerkTurn:
    """Executes the clerk."""

    async def turn(self, ctx: Context, agent: Clerk, message: str) -> str:
        first = await mark(ctx, f"{message}.0")
        number = ctx.session.state.get("turns", 0)
        ctx.session.state["turns"] = number + 1
        reply = f"{number} {first} {await mark(ctx, f'{message}.1')}"
        ctx.session.append(ChatMessage(role="user", text=message), ChatMessage(role="assistant", text=reply))
        return reply


def reply_to(message: str, number: int) -> str:
    """What the clerk must answer."""
    return f"{number} {value(f'{message}.0')} {value(f'{message}.1')}"


clerk = Clerk()


# -- the app -------------------------------------------------------------------------------------------------------


class Mill(App):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("mill", workflows=[chain, fan, nap, family, form], agents=[clerk])

    @hookimpl
    def perdure_agent_kinds(self, services: Services) -> Mapping[type, Any]:
        return {Clerk: ClerkTurn()}

    @hookimpl
    def perdure_step_middleware(self) -> Sequence[Any]:
        return [around]

    @hookimpl
    def perdure_observers(self) -> Sequence[Any]:
        return [Commits()]


async def around(step: StepInfo, proceed: Callable[[], Awaitable[Any]]) -> Any:
    """Around each attempt."""
    worker = here()
    worker.witness.note("attempt", step.key)
    worker.death.reach("before step")
    outcome = await proceed()
    worker.death.reach("after step")
    return outcome


class Commits:
    """An observer: told after each commit, and of each journal that is taken over."""

    def __init__(self) -> None:
        self._runs = set[str]()

    def recorded(self, run: Start, entries: Sequence[Entry]) -> None:
        here().death.reach("after commit")

    def finished(self, run: Start, view: RunView) -> None:
        here().witness.note("finished", view.id, view.status)

    async def flush(self) -> None:
        pass


app = Mill()
