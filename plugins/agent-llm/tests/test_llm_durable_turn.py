"""The same turn on the machine: recorded, crashed at every prefix of its journal, and replayed."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from perdure import Agent, Attempt, Context, Limits, tool
from perdure.context import Callee
from perdure.errors import LimitExceeded
from perdure.execution import Command, Execution
from perdure.messages import ChatMessage, Entry, ErrorInfo, Loaded, Start
from perdure.ports import Program
from perdure.testing import Script, calls
from perdure_agent_llm import LlmTurn

TURN = Start("turn_1", "turn", "newsroom.reader", b'"Compare Oslo and Rome"', 1_000.0, session="s1")

Make = Callable[..., LlmTurn]


class Verdict(BaseModel):
    colder: str


bodies: list[str] = []
"""Each body that ran, by its step's idempotency key."""


@tool
async def degrees(city: str) -> int:
    bodies.append(Attempt.current().key)
    if city == "Atlantis":
        msg = "not found"
        raise LookupError(msg)
    return {"Oslo": -3, "Rome": 12}[city]


@tool
async def average(ctx: Context, cities: list[str]) -> float:
    values = await asyncio.gather(*(ctx.step(degrees.fn, city) for city in cities))
    return sum(values) / len(values)


agent = Agent("reader", tools=[degrees, average], output=Verdict)

SCRIPT = (
    calls(("degrees", {"city": "Oslo"}), ("degrees", {"city": "Rome"}), ("degrees", {"city": "Atlantis"})),
    calls(("average", {"cities": ["Oslo", "Rome"]}), ("nothing", {})),
    "Oslo, clearly.",
    Verdict(colder="Oslo"),
)


class OneAgent:
    """``perdure.ports.Programs`` of a single agent."""

    def __init__(self, agent: Agent[Any], handler: LlmTurn) -> None:
        self._agent, self._handler = agent, handler

    def program(self, target: str, version: int) -> Program:
        async def turn(ctx: Context, payload: bytes) -> bytes:
            reply = await self._handler.turn(ctx, self._agent, self._agent.decode_input(payload))
            return self._agent.encode_result(reply)

        return turn

    def version(self, target: str) -> int:
        assert target
        return 1

    def target(self, callee: Callee, caller: str) -> str:
        return callee.name


def answer_by_position(request: Any) -> Any:
    """The script, by how far the conversation has come: what a model knows that is asked again after a crash."""
    return SCRIPT[sum(message.role == "assistant" for message in request.messages)]


async def attempted(command: Command, at: float) -> Entry:
    """What a driver does with a step."""
    call = command.body
    try:
        value, error = call.encode(await call.attempt(Attempt(command.path)))[0], None
    except LookupError as failure:
        value, error = None, ErrorInfo.of(failure).model_dump_json().encode()
    return Entry("step", command.path, at, command.name, command.fingerprint, value, error, role=call.role)


async def driven(execution: Execution, journal: Sequence[Entry], *, last_first: bool = False) -> list[Entry]:
    """Go on from a journal to the end; return the whole journal."""
    entries = list(journal)
    execution.begin(journal)
    async with asyncio.timeout(20):
        while execution.outcome is None:
            steps = [command for command in execution.pending.values() if command.kind == "step"]
            entry = await attempted(steps[-1 if last_first else 0], 1_000.0 + len(entries))
            execution.feed(entry)
            entries.append(entry)
    return entries


@pytest.fixture
def execution(llm: Make) -> Callable[..., Execution]:
    def make(agent: Agent[Any] = agent, loaded: Loaded | None = None, start: Start = TURN) -> Execution:
        programs = OneAgent(agent, llm(Script(answer_by_position)))
        return Execution(programs, start, loaded or Loaded(), debug=True)

    return make


async def test_a_turn_records_each_model_and_tool_call_as_a_step(execution: Callable[..., Execution]):
    bodies.clear()
    entries = await driven(execution(), ())
    assert [(entry.path, entry.role, entry.name) for entry in entries] == [
        ("scripted:model#1", "model", "scripted:model"),
        ("0/degrees#1", "tool", "degrees"),
        ("1/degrees#1", "tool", "degrees"),
        ("2/degrees#1", "tool", "degrees"),
        ("scripted:model#2", "model", "scripted:model"),
        ("3.0/degrees#1", "step", "degrees"),
        ("3.1/degrees#1", "step", "degrees"),
        ("scripted:model#3", "model", "scripted:model"),
        ("scripted:model#4", "model", "scripted:model"),
    ]
    assert [entry.fingerprint for entry in entries if entry.role == "model"] == ["1", "5", "8", "10"]


@pytest.mark.parametrize("last_first", [False, True])
async def test_a_crash_at_any_place_repeats_no_finished_call_and_changes_no_result(
    execution: Callable[..., Execution], last_first: bool
):
    bodies.clear()
    whole = execution()
    entries = await driven(whole, (), last_first=last_first)
    assert agent.decode_result(whole.outcome.value).output == Verdict(colder="Oslo")
    for crash in range(len(entries) + 1):
        recorded = {entry.path for entry in entries[:crash]}
        bodies.clear()
        again = execution()
        await driven(again, entries[:crash], last_first=not last_first)
        assert again.outcome.value == whole.outcome.value
        assert again.log() == whole.log()
        assert not recorded & set(bodies)
        again.close()


async def test_volatile_and_durable_say_the_same(llm: Make, ctx: Context, execution: Callable[..., Execution]):
    durable = execution()
    await driven(durable, ())
    volatile = await llm(Script(answer_by_position)).turn(ctx, agent, "Compare Oslo and Rome")
    assert agent.encode_result(volatile) == durable.outcome.value
    assert [message.model_dump_json().encode() for message in ctx.session.log] == list(durable.log())


async def test_an_edited_prompt_does_not_park_a_turn_under_way(execution: Callable[..., Execution]):
    entries = await driven(execution(), ())
    edited = Agent("reader", instructions="Be brief.", tools=[average, degrees], output=Verdict)
    again = execution(edited)
    again.begin(entries)
    assert again.outcome.status == "completed"


async def test_a_later_turn_goes_on_with_the_log_and_adds_only_its_own(execution: Callable[..., Execution]):
    earlier = (
        ChatMessage(role="user", text="Hello").model_dump_json().encode(),
        *(ChatMessage(role="assistant", text=f"{n}").model_dump_json().encode() for n in range(3)),
    )
    later = execution(loaded=Loaded(log=earlier))
    entries = await driven(later, ())
    assert [entry.fingerprint for entry in entries] == ["5"]
    assert len(later.log()) == 2


async def test_the_limit_on_seconds_is_a_durable_timer(execution: Callable[..., Execution]):
    patient = Agent("reader", tools=[degrees], output=Verdict, limits=Limits(seconds=60))
    turn = execution(patient)
    turn.begin()
    assert turn.wake_at() == TURN.at + 60
    (timer,) = (command for command in turn.pending.values() if command.kind == "timer")
    turn.feed(Entry("timer", timer.path, TURN.at + 60, timer.name))
    assert isinstance(turn.outcome.error, LimitExceeded)
    assert not turn.pending


async def test_a_turn_can_be_evicted_while_its_tools_run(execution: Callable[..., Execution]):
    turn = execution()
    turn.begin()
    (model,) = turn.pending.values()
    turn.feed(await attempted(model, 1_001.0))
    assert len(turn.pending) == 3
    turn.close()
    assert turn.outcome is None
