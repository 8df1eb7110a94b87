"""The same code on the direct and on the durable context: same results, same error types (P9)."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import Agent, AgentId, App, Attempt, Context, Reply, Retry, agent_ref, hookimpl, step, workflow
from perdure.errors import NotDurable, RunFailed
from perdure.messages import ChatMessage
from perdure.testing import Harness, ManualClock, harness

PATIENCE = 60.0
PROGRAMS: dict[str, Callable[[Context], Awaitable[Any]]] = {}


class Probe(Agent[str]):
    """An agent whose turn is the program that the message names."""


class Laboratory(App):
    """Executes probes, with the kernel's own contexts: direct for a message that is sent, durable for a call."""

    @hookimpl
    def perdure_agent_kinds(self) -> dict[type, Any]:
        return {Probe: self}

    async def turn(self, ctx: Context, agent: Probe, message: str) -> Reply[str]:
        outcome = str(await PROGRAMS[message](ctx))
        return Reply(outcome, outcome, ctx.session.id.key)


probe = Probe("probe")
other = Probe("other")


def program(fn: Callable[[Context], Awaitable[Any]]) -> str:
    PROGRAMS[fn.__name__] = fn
    return fn.__name__


@workflow
async def doubled(ctx: Context, number: int, *, times: int = 2) -> tuple[int, ...]:
    """A workflow to be called."""
    return (await ctx.step(abs, number),) * times


@workflow
async def sour(ctx: Context) -> None:
    """A workflow that fails."""
    msg = "too sour"
    raise ValueError(msg)


@pytest.fixture
async def h() -> AsyncGenerator[Harness]:
    async with harness(Laboratory("lab", agents=[probe, other], workflows=[doubled, sour])) as opened:
        yield opened


@pytest.fixture(params=["volatile", "durable"])
def ask(request: pytest.FixtureRequest, h: Harness) -> Callable[..., Awaitable[str]]:
    """Run a program in a turn of ``probe``; its outcome as text."""

    async def volatile(name: str, session: str = "s") -> str:
        async with asyncio.timeout(PATIENCE):
            return (await h.runtime.send(name, AgentId("lab.probe", session))).text

    async def durable(name: str, session: str = "s") -> str:
        return (await h.call(probe, name, session=session)).text

    return {"volatile": volatile, "durable": durable}[request.param]


def pair(number: int) -> tuple[int, int]:
    return number, number


def untyped(number):
    return number, number


def fail() -> None:
    msg = "burnt"
    raise LookupError(msg)


def unencodable() -> Any:
    return object()


async def told(act: Awaitable[Any]) -> str:
    try:
        return f"{await act!r}"
    except Exception as error:  # noqa: BLE001 - the test wants to see which
        carried = getattr(error, "error", None)
        return f"{type(error).__name__}({', '.join(each.type for each in carried.chain()) if carried else error})"


@program
async def steps(ctx: Context) -> Any:
    return [await told(ctx.step(fn, *args)) for fn, args in [(pair, (1,)), (fail, ()), (unencodable, ())]]


@program
async def live_argument(ctx: Context) -> Any:
    return (await told(ctx.step(str, asyncio.Event))).partition("(")[0]


@program
async def calls(ctx: Context) -> Any:
    ref = agent_ref("lab.other")
    return [
        await told(ctx.call(doubled, -2)),
        await told(ctx.call(doubled, -2, times=1)),
        await told(ctx.call(sour)),
        (await ctx.call(other, "who", session="k")).text,
        (await ctx.call(agent_ref("other"), "who", session="k")).output,
        await told(ctx.call(ref, "fails")),
        await told(ctx.call(ref, "")),
        (await told(ctx.call(agent_ref("lab.nobody"), "who"))).partition("(")[0],
        (await told(ctx.call(fail))).partition("(")[0],  # type: ignore[call-overload]
    ]


@program
async def who(ctx: Context) -> Any:
    return str(ctx.session.id)


@program
async def fails(ctx: Context) -> Any:
    await ctx.step(fail)


@program
async def fresh(ctx: Context) -> Any:
    return (await ctx.call(other, "who")).session != (await ctx.call(other, "who")).session


@program
async def identities(ctx: Context) -> Any:
    ids = [ctx.uuid(), ctx.uuid()]
    assert all(isinstance(id_, uuid.UUID) and id_.version == 8 and id_.variant == uuid.RFC_4122 for id_ in ids)
    first, second = ctx.random(), ctx.random()
    assert isinstance(first, random.Random)
    return [len(set(ids)), first.random() != second.random()]


@program
async def remembers(ctx: Context) -> Any:
    ctx.session.append(ChatMessage(role="user", text="noted"))
    ctx.session.state["count"] = ctx.session.state.get("count", 0) + 1
    return [ctx.session.state["count"], [message.text for message in ctx.session.log]]


@program
async def options_do_not_leak(ctx: Context) -> Any:
    typed = ctx.options(name="other", retry=Retry(attempts=1), returns=tuple[int, int])
    timed = ctx.options(timeout=timedelta(days=1))
    return [type(await each.step(untyped, 1)) for each in (typed, ctx, timed)]


keys: list[Attempt] = []


@step(retry=Retry(attempts=3, first=60.0, cap=60.0, on=(ConnectionError,)))
async def stubborn() -> int:
    keys.append(Attempt.current())
    if len(keys) < 3:
        raise ConnectionError
    return Attempt.current().number


@program
async def tries(ctx: Context) -> Any:
    return await ctx.step(stubborn)


@program
async def sleeps(ctx: Context) -> Any:
    began = ctx.now()
    await ctx.sleep(timedelta(hours=1))
    await ctx.sleep_until(began + timedelta(hours=3))
    await ctx.sleep_until(began)
    return (ctx.now() - began).total_seconds()


@program
async def naive_sleep(ctx: Context) -> Any:
    return await told(ctx.sleep_until(datetime(2026, 1, 1)))  # noqa: DTZ001 - that is what is refused


@program
async def calls_itself(ctx: Context) -> Any:
    return await told(ctx.call(probe, "who", session=ctx.session.id.key))


@program
async def is_called_back(ctx: Context) -> Any:
    return (await ctx.call(other, "calls_back", session="o")).text


@program
async def calls_back(ctx: Context) -> Any:
    return await told(ctx.call(probe, "who", session="s"))


OUTCOMES = [
    ("steps", ["(1, 1)", "StepFailed(LookupError)", "StepFailed(perdure.errors.NotEncodable)"]),
    ("live_argument", "NotEncodable"),
    (
        "calls",
        [
            "(2, 2)",
            "(2,)",
            "CallFailed(ValueError)",
            "lab.other/k",
            "lab.other/k",
            "CallFailed(perdure.errors.StepFailed, LookupError)",
            "InvalidInput(the message to agent 'lab.other': expected a text, got an empty one)",
            "UnknownName",
            "UsageError",
        ],
    ),
    ("fresh", True),
    ("identities", [2, True]),
    ("options_do_not_leak", [tuple, list, list]),
]


@pytest.mark.parametrize(("name", "outcome"), OUTCOMES, ids=[name for name, _ in OUTCOMES])
async def test_code_has_the_same_result_volatile_and_durable(ask, name, outcome):
    assert await ask(name) == str(outcome)


async def test_a_session_goes_on_and_others_do_not_see_it(ask):
    assert [await ask("remembers", key) for key in ("a", "a", "b")] == [
        "[1, ['noted']]",
        "[2, ['noted', 'noted']]",
        "[1, ['noted']]",
    ]


async def test_a_time_without_a_zone_is_refused(ask):
    assert "ValueError" in await ask("naive_sleep")


async def test_a_call_into_a_waiting_session_fails_instead_of_waiting_for_ever(ask):
    assert "SessionBusy(session lab.probe/s waits, directly or not, for this very call" in await ask("calls_itself")
    assert "SessionBusy(session lab.probe/s waits" in await ask("is_called_back")


async def _advanced(clock: ManualClock, task: asyncio.Future[str]) -> str:
    """The clock is moved to each time that somebody waits for, until the task is done."""
    async with asyncio.timeout(PATIENCE):
        while not task.done():
            if clock.next_wake is not None:
                clock.set(max(clock.now(), clock.next_wake))
            await asyncio.wait({task}, timeout=0.001)
        return await task


async def test_attempts_share_a_key_and_pauses_are_of_the_runtime_s_clock(ask, h):
    keys.clear()
    began = h.clock.now()
    assert await _advanced(h.clock, asyncio.ensure_future(ask("tries"))) == "3"
    assert [attempt.number for attempt in keys] == [1, 2, 3]
    assert len({attempt.key for attempt in keys}) == 1
    assert h.clock.now() - began == 2 * 60


async def test_sleep_is_of_the_runtime_s_clock(ask, h):
    assert await _advanced(h.clock, asyncio.ensure_future(ask("sleeps"))) == str(3 * 3600.0)


class Approval(BaseModel):
    approved: bool


@program
async def asks(ctx: Context) -> Any:
    return (await ctx.ask("Publish?", Approval)).approved


async def test_a_question_in_volatile_code_fails_loudly(h):
    with pytest.raises(NotDurable, match=r"ctx\.ask\('Publish\?'\): a request outlives its process.*start it as a run"):
        await h.runtime.send("asks", AgentId("lab.probe", "s"))
    run = await h.start(probe, "asks")
    [request] = await h.until_waiting(run)
    await h.answer(request, Approval(approved=True))
    assert (await h.result(run)).text == "True"


async def test_a_workflow_has_no_session(h):
    @workflow
    async def nosy(ctx: Context) -> str:
        return str(ctx.session)

    async with harness(Laboratory("other", agents=[other], workflows=[nosy])) as opened:
        with pytest.raises(RunFailed, match=r"NotDurable: ctx\.session is the conversation of an agent's turn"):
            await opened.call(nosy)


async def test_state_without_a_json_form_fails_the_turn_and_changes_nothing(h):
    with pytest.raises(RunFailed, match=r"NotEncodable: the state of session lab\.probe/s cannot be written as JSON"):
        await h.call(probe, "spoils", session="s")
    assert (await h.call(probe, "remembers", session="s")).text == "[1, ['noted']]"


@program
async def spoils(ctx: Context) -> Any:
    ctx.session.state["event"] = asyncio.Event()
    ctx.session.append(ChatMessage(role="user", text="lost"))
