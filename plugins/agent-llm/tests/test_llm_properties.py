"""Whatever a model answers, a turn ends with a reply or a typed error, and leaves a well-formed log."""

import asyncio
import json
from typing import Any

from hypothesis import given, settings, strategies as st
from pydantic import BaseModel

from perdure import Agent, AgentId, Context, Limits, tool
from perdure.direct import DirectContext, Memory
from perdure.errors import LimitExceeded, OutputInvalid
from perdure.messages import ChatMessage, ModelResponse, ToolCall, ToolResult, Usage
from perdure.testing import ManualClock, Script
from perdure_agent_llm import LlmTurn


class Note(BaseModel):
    title: str
    lines: list[int] = []


@tool
async def add(a: int, b: int = 1) -> int:
    return a + b


@tool
def divide(a: float, by: float) -> float:
    return a / by


@tool
async def twice(ctx: Context, text: str) -> list[str]:
    return [await ctx.step(add.fn, len(text)) and text, await ctx.step(divide.fn, 1, len(text)) and text]


short = st.text(max_size=8)
arguments = st.one_of(
    st.sampled_from(['{"a": 1}', '{"a": 1, "by": 0}', '{"a": 1, "by": 2}', '{"text": "no"}', '{"text": "yes"}']),
    st.sampled_from(["", "{", "null", "[]", '{"a": 1e999}', '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 5000]),
    st.dictionaries(st.sampled_from(["a", "b", "by", "text"]) | short, st.integers() | short | st.none()).map(
        json.dumps
    ),
)
call = st.builds(
    ToolCall,
    id=st.sampled_from(["", "a", "b", "call_1_0", "call_1_1"]) | short,
    name=st.sampled_from(["add", "divide", "twice", "unknown", ""]) | short,
    arguments=arguments,
)
message = st.builds(
    ChatMessage,
    role=st.sampled_from(["assistant", "user", "system", "tool"]),
    text=short | st.sampled_from(['{"title": "x"}', '{"title": "x", "lines": ["y"]}', "{}", "null"]),
    calls=st.lists(call, max_size=5).map(tuple),
    result=st.none() | st.builds(ToolResult, id=short, name=short, content=short),
)
response = st.builds(
    ModelResponse,
    message=message,
    model=short,
    usage=st.builds(Usage, input_tokens=st.integers(0, 500), output_tokens=st.integers(0, 500)),
    finish=st.sampled_from(["stop", "length", "tool_call", "content_filter", "?"]),
)


class Lent:
    def __init__(self, model: Script) -> None:
        self.model = lambda name: model
        self.settings = lambda section: {"max_parallel_calls": 4, "max_tool_result": 1024}
        self.agent_middleware = ()


def assert_well_formed(log: list[ChatMessage]) -> None:
    """Each call has exactly one result, after it, in the order of the calls; ids of one answer differ."""
    rest = iter(log)
    for entry in rest:
        assert entry.role in {"user", "assistant"}, "a result without its call"
        assert entry.result is None
        assert len({call.id for call in entry.calls}) == len(entry.calls)
        for wanted in entry.calls:
            result = next(rest).result
            assert wanted.id
            assert (result.id, result.name) == (wanted.id, wanted.name)


async def had(handler: Any, agent: Agent[Any], session: Memory) -> Any:
    ctx = DirectContext(no_call, ManualClock(), session=session)
    async with asyncio.timeout(20):
        return await handler.turn(ctx, agent, "Go")


async def no_call(*args: object) -> bytes:
    raise AssertionError


@settings(deadline=None)  # other work on the machine is no failure
@given(st.lists(response, min_size=1, max_size=6), st.sampled_from([str, Note, list[int]]))
def test_any_answers_end_in_a_reply_or_a_typed_error(responses: list[ModelResponse], output: Any):
    from_there_on = ModelResponse(message=ChatMessage(role="assistant", text='{"title": "end"}'), model="m")
    script = Script(*responses, *[from_there_on] * 3)
    limits = Limits(turns=len(responses) + 2, tokens=2000)
    agent = Agent("reader", tools=[add, divide, twice], output=output, limits=limits)
    session = Memory(AgentId("newsroom.reader", "s1"))
    try:
        reply = asyncio.run(had(LlmTurn(Lent(script)), agent, session))
    except (LimitExceeded, OutputInvalid):
        pass
    else:
        assert agent.decode_result(agent.encode_result(reply)).output == reply.output
        assert session.log[-1] == ChatMessage(role="assistant", text=reply.text)
    assert_well_formed(list(session.log))
    assert session.log[0] == ChatMessage(role="user", text="Go")
