"""The turn under a direct context: the loop, tools, structured output, limits, middleware."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from pydantic import BaseModel, Field

from perdure import Agent, Attempt, Context, Limits, Retry, Tool, tool
from perdure.direct import DirectContext, Memory
from perdure.errors import (
    InvalidInput,
    InvalidSetting,
    LimitExceeded,
    ModelRefused,
    ModelUnavailable,
    NotDurable,
    OutputInvalid,
    StepFailed,
    UnknownName,
    UsageError,
)
from perdure.messages import ChatMessage, ModelRequest, ModelResponse, ToolCall, ToolResult, Usage
from perdure.ports import AgentMiddleware, Services
from perdure.testing import ManualClock, Script, calls
from perdure_agent_llm import LlmTurn, perdure_agent_kinds

TIMEOUT = 60.0

Make = Callable[..., LlmTurn]


class Weather(BaseModel):
    city: str
    degrees: int = Field(ge=-90, le=60)


@tool
async def weather(city: str, day: str = "today") -> Weather:
    """The weather of a city."""
    return Weather(city=f"{city} {day}", degrees=9)


@tool
def broken(path: str) -> str:
    """Never works."""
    msg = f"no file {path!r}"
    raise FileNotFoundError(msg)


def of(*tools: Tool[..., object] | Callable[..., object], **options: object) -> Agent[str]:
    return Agent("reader", tools=tools, **options)


def said(log: Sequence[ChatMessage]) -> list[str]:
    return [f"{m.role}: {m.result.content if m.result else m.text or [c.name for c in m.calls]}" for m in log]


def results(session: Memory) -> list[ToolResult]:
    return [message.result for message in session.log if message.result]


# -- the loop ---------------------------------------------------------------------------------------------


async def test_a_text_is_answered_and_both_are_logged(llm: Make, ctx: DirectContext, session: Memory):
    script = Script("Good morning.")
    reply = await llm(script).turn(ctx, of(instructions="Be polite."), "Hello")
    assert (reply.text, reply.output, reply.session) == ("Good morning.", "Good morning.", "s1")
    assert said(session.log) == ["user: Hello", "assistant: Good morning."]
    assert said(script.requests[0].messages) == ["system: Be polite.", "user: Hello"]
    assert script.requests[0].output_schema is None


async def test_a_session_goes_on_under_the_instructions_of_today(llm: Make, ctx: DirectContext):
    script = Script("One.", "Two.")
    handler = llm(script)
    await handler.turn(ctx, of(instructions="Yesterday's."), "first")
    await handler.turn(ctx, of(instructions="Today's."), "second")
    assert said(script.requests[1].messages) == [
        "system: Today's.",
        "user: first",
        "assistant: One.",
        "user: second",
    ]


async def test_without_instructions_there_is_no_system_message(llm: Make, ctx: DirectContext):
    script = Script("Yes.")
    await llm(script).turn(ctx, of(), "Well?")
    assert said(script.requests[0].messages) == ["user: Well?"]


async def test_tools_are_called_and_the_model_is_told(llm: Make, ctx: DirectContext, session: Memory):
    script = Script(calls(("weather", {"city": "Oslo"}), ("weather", {"city": "Rome", "day": "friday"})), "Cold.")
    reply = await llm(script).turn(ctx, of(weather), "Where is it cold?")
    assert reply.text == "Cold."
    assert said(session.log) == [
        "user: Where is it cold?",
        "assistant: ['weather', 'weather']",
        'tool: {"city":"Oslo today","degrees":9}',
        'tool: {"city":"Rome friday","degrees":9}',
        "assistant: Cold.",
    ]
    assert [spec.name for spec in script.requests[0].tools] == ["weather"]
    assert script.requests[1].messages == tuple(session.log[:-1])


async def test_the_usage_of_all_model_calls_is_summed(llm: Make, ctx: DirectContext):
    responses = [
        ModelResponse(message=message, model="m", usage=Usage(input_tokens=10, output_tokens=1))
        for message in (calls(("weather", {"city": "Oslo"})), ChatMessage(role="assistant", text="Cold."))
    ]
    reply = await llm(Script(*responses)).turn(ctx, of(weather), "Well?")
    assert reply.usage == Usage(input_tokens=20, output_tokens=2)


async def test_tools_of_one_answer_run_at_once_and_answer_in_the_order_of_the_calls(
    llm: Make, ctx: DirectContext, session: Memory
):
    second_is_done = asyncio.Event()

    async def first() -> str:
        await second_is_done.wait()
        return "first"

    async def second() -> str:
        second_is_done.set()
        return "second"

    async with asyncio.timeout(TIMEOUT):
        await llm(Script(calls(("first", {}), ("second", {})), "Done.")).turn(ctx, of(first, second), "Go")
    assert [result.content for result in results(session)] == ["first", "second"]


async def test_a_tool_is_a_step_with_its_own_options(llm: Make, ctx: DirectContext, session: Memory):
    numbers: list[int] = []

    @tool(name="fetch", retry=Retry(attempts=3, first=0, on=(OSError,)))
    def flaky() -> int:
        numbers.append(Attempt.current().number)
        if len(numbers) < 3:
            raise OSError
        return 42

    await llm(Script(calls(("fetch", {})), "Done.")).turn(ctx, of(flaky), "Go")
    assert numbers == [1, 2, 3]
    assert [result.content for result in results(session)] == ["42"]


@pytest.mark.parametrize(
    ("given", "logged"),
    [
        (("", "a", "a", "", "a"), ["call_1_0", "a", "call_1_2", "call_1_3", "call_1_4"]),
        (("call_1_1", "call_1_1", "call_1_1_"), ["call_1_1", "call_1_1_", "call_1_2"]),
    ],
)
async def test_empty_and_repeated_ids_are_told_apart(
    llm: Make, ctx: DirectContext, session: Memory, given: Sequence[str], logged: Sequence[str]
):
    wanted = tuple(ToolCall(id=id_, name="weather", arguments='{"city": "Oslo"}') for id_ in given)
    answer = ChatMessage(role="assistant", calls=wanted)
    await llm(Script(answer, "Done.")).turn(ctx, of(weather), "Go")
    assert [call.id for call in session.log[1].calls] == logged
    assert [result.id for result in results(session)] == logged


async def test_the_model_failing_fails_the_turn(llm: Make, ctx: DirectContext):
    with pytest.raises(StepFailed) as caught:
        await llm(Script(ModelRefused("no such model"))).turn(ctx, of(), "Hello")
    assert caught.value.name == "scripted:model"
    assert caught.value.error.type == "perdure.errors.ModelRefused"


async def test_a_model_out_of_reach_is_asked_again(llm: Make, ctx: DirectContext, clock: ManualClock):
    script = Script(ModelUnavailable("busy"), "Here I am.")
    turn = asyncio.ensure_future(llm(script).turn(ctx, of(), "Hello"))
    async with asyncio.timeout(TIMEOUT):
        while not turn.done():
            await asyncio.wait({turn}, timeout=0)
            if clock.next_wake is not None:
                clock.set(clock.next_wake)
    assert turn.result().text == "Here I am."


async def test_an_unknown_model_is_named(llm: Make, ctx: DirectContext):
    with pytest.raises(UnknownName, match="unknown model 'x:y'; known: scripted:model"):
        await llm(Script("Hi")).turn(ctx, of(model="x:y"), "Hello")


@pytest.mark.parametrize("message", ["", " \n", None, {"text": "hi"}])
async def test_a_message_that_is_no_text_is_refused(llm: Make, ctx: DirectContext, session: Memory, message: object):
    with pytest.raises(InvalidInput, match="agent 'reader' takes a text as its message"):
        await llm(Script()).turn(ctx, of(), message)
    assert session.log == []


async def test_an_agents_settings_reach_the_model(llm: Make, ctx: DirectContext):
    script = Script("Hi")
    await llm(script).turn(ctx, of(settings={"temperature": 0}), "Hello")
    assert script.requests[0].settings == {"temperature": 0}


# -- tools that go wrong --------------------------------------------------------------------------------------


async def told(llm: Make, ctx: DirectContext, call: tuple[str, object], *tools: Tool[..., object]) -> ToolResult:
    """What the model is told of one call; the turn goes on in any case."""
    reply = await llm(Script(calls(call), "I see.")).turn(ctx, of(*tools), "Go")
    assert reply.text == "I see."
    (result,) = results(ctx.session)
    return result


async def test_a_tool_that_raises_is_told(llm: Make, ctx: DirectContext):
    result = await told(llm, ctx, ("broken", {"path": "a.md"}), broken)
    assert result.error
    assert result.content == "The tool 'broken' failed: FileNotFoundError: no file 'a.md'"


async def test_a_tool_that_takes_too_long_is_told(llm: Make, ctx: DirectContext):
    @tool(timeout=0.01, retry=Retry(attempts=1))
    async def slow() -> None:
        await asyncio.Event().wait()

    result = await told(llm, ctx, ("slow", {}), slow)
    assert result.error
    assert "DeadlineExceeded: step 'slow' took longer than its timeout of 0.01 s" in result.content


async def test_a_result_that_cannot_be_encoded_is_told(llm: Make, ctx: DirectContext):
    @tool
    def odd() -> object:
        return object()

    result = await told(llm, ctx, ("odd", {}), Tool(odd.fn))
    assert result.error
    assert "NotEncodable: the result of step 'odd' cannot be written as JSON" in result.content


async def test_an_unknown_tool_is_told_with_those_that_there_are(llm: Make, ctx: DirectContext):
    result = await told(llm, ctx, ("wether", {}), broken, weather)
    assert result.error
    assert result.content == "There is no tool 'wether'. The tools are: broken, weather."


async def test_a_call_where_there_are_no_tools_is_told(llm: Make, ctx: DirectContext):
    assert (await told(llm, ctx, ("weather", {}))).content == "There is no tool 'weather'. There are no tools; answer."


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"town": "Oslo"}, "city: field required"),
        ({"city": 7}, "city: input should be a valid string (got 7)"),
        ({"city": "Oslo", "unit": "K"}, "unit: extra inputs are not permitted"),
        ('{"city": "Oslo"', "invalid JSON"),
        ("[1, 2]", "the value"),
        ("", "city: field required"),
    ],
)
async def test_arguments_that_do_not_fit_are_told(llm: Make, ctx: DirectContext, arguments: object, complaint: str):
    result = await told(llm, ctx, ("weather", arguments), weather)
    assert result.error
    assert result.content.startswith("The input of tool 'weather' does not fit")
    assert complaint in result.content
    assert result.content.endswith("Correct the arguments and call it again.")


async def test_no_arguments_at_all_are_an_empty_object(llm: Make, ctx: DirectContext):
    @tool
    def ping() -> str:
        return "pong"

    assert (await told(llm, ctx, ("ping", ""), ping)).content == "pong"


async def test_one_failing_tool_leaves_the_others_alone(llm: Make, ctx: DirectContext, session: Memory):
    script = Script(calls(("broken", {"path": "x"}), ("weather", {"city": "Oslo"}), ("none", {})), "Done.")
    await llm(script).turn(ctx, of(broken, weather), "Go")
    assert [result.error for result in results(session)] == [True, False, True]


async def test_a_long_result_is_cut_with_a_sentence(llm: Make, ctx: DirectContext, session: Memory):
    @tool
    def dump() -> str:
        return "ä" * 2000

    await llm(Script(calls(("dump", {})), "Long."), max_tool_result=1025).turn(ctx, of(dump), "Go")
    (result,) = results(session)
    text, _, note = result.content.partition("\n")
    assert text == "ä" * 512
    assert note == "[Cut: these are the first 1025 of 4000 bytes. Ask for a smaller part.]"


async def test_more_calls_than_allowed_are_refused_one_by_one(llm: Make, ctx: DirectContext, session: Memory):
    script = Script(calls(*[("weather", {"city": "Oslo"})] * 3), "Done.")
    await llm(script, max_parallel_calls=2).turn(ctx, of(weather), "Go")
    assert [result.error for result in results(session)] == [False, False, True]
    assert results(session)[2].content == "This call was not executed: at most 2 calls at once. Call again with fewer."


async def test_a_broken_file_name_in_an_error_can_be_told(llm: Make, ctx: DirectContext):
    @tool
    async def odd(ctx: Context) -> str:
        msg = "no file '\udcff'"
        raise FileNotFoundError(msg)

    result = await told(llm, ctx, ("odd", {}), odd)
    assert result.content == "The tool 'odd' failed: FileNotFoundError: no file '\\udcff'"


# -- durable tools ----------------------------------------------------------------------------------------------


async def test_a_tool_with_a_context_does_its_work_in_steps(llm: Make, ctx: DirectContext, session: Memory):
    @tool
    async def compare(ctx: Context, a: str, b: str) -> dict[str, int]:
        """Compare two cities."""
        return {city: (await ctx.step(weather.fn, city)).degrees for city in (a, b)}

    script = Script(calls(("compare", {"a": "Oslo", "b": "Rome"})), "The same.")
    await llm(script).turn(ctx, of(compare), "Which is colder?")
    assert [result.content for result in results(session)] == ['{"Oslo":9,"Rome":9}']
    assert "ctx" not in script.requests[0].tools[0].parameters["properties"]


async def test_a_durable_tools_failed_step_is_told(llm: Make, ctx: DirectContext):
    @tool
    async def careless(ctx: Context) -> str:
        return await ctx.step(broken.fn, "a.md")

    result = await told(llm, ctx, ("careless", {}), careless)
    assert result.error
    assert result.content == "The tool 'careless' failed: FileNotFoundError: no file 'a.md'"


async def test_a_durable_tool_that_takes_too_long_is_told(llm: Make, ctx: DirectContext):
    @tool(timeout=0.01)
    async def slow(ctx: Context) -> None:
        await asyncio.Event().wait()

    result = await told(llm, ctx, ("slow", {}), slow)
    assert (
        result.content == "The tool 'slow' failed: DeadlineExceeded: tool 'slow' took longer than its timeout of 0.01 s"
    )


async def test_a_durable_tools_result_that_cannot_be_encoded_is_told(llm: Make, ctx: DirectContext):
    @tool
    async def odd(ctx: Context) -> str:
        return "\ud800"

    result = await told(llm, ctx, ("odd", {}), odd)
    assert result.error
    assert "NotEncodable: the result of tool 'odd'" in result.content


async def test_a_tool_that_cannot_be_durable_fails_the_turn_loudly(llm: Make, ctx: DirectContext):
    other_was_cancelled = asyncio.Event()

    @tool
    async def approve(ctx: Context) -> bool:
        return await ctx.ask("May I?", bool)

    @tool
    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            other_was_cancelled.set()

    with pytest.raises(NotDurable, match="May I"):
        await llm(Script(calls(("other", {}), ("approve", {})))).turn(ctx, of(approve, other), "Go")
    assert other_was_cancelled.is_set()


# -- structured output ------------------------------------------------------------------------------------------


@dataclass
class Pair:
    left: Weather
    right: Weather | None = None


async def test_an_answer_is_read_as_the_output_type(llm: Make, ctx: DirectContext):
    script = Script(Weather(city="Oslo", degrees=-3))
    agent = Agent("reader", output=Weather)
    reply = await llm(script).turn(ctx, agent, "How is it?")
    assert reply.output == Weather(city="Oslo", degrees=-3)
    assert reply.text == '{"city":"Oslo","degrees":-3}'
    assert script.requests[0].output_schema == Weather.model_json_schema()
    assert agent.decode_result(agent.encode_result(reply)) == reply


@pytest.mark.parametrize(
    ("output", "text", "expected"),
    [
        (list[int], "[1, 2]", [1, 2]),
        (Pair, '{"left": {"city": "a", "degrees": 1}}', Pair(Weather(city="a", degrees=1))),
        (int, "7", 7),
    ],
)
async def test_the_output_may_be_any_type_with_a_schema(
    llm: Make, ctx: DirectContext, output: type, text: str, expected: object
):
    assert (await llm(Script(text)).turn(ctx, Agent("reader", output=output), "Go")).output == expected


async def test_an_answer_that_does_not_fit_is_repaired_in_the_conversation(
    llm: Make, ctx: DirectContext, session: Memory
):
    script = Script({"city": "Oslo", "degrees": 900}, {"city": "Oslo", "degrees": 9})
    reply = await llm(script).turn(ctx, Agent("reader", output=Weather), "How is it?")
    assert reply.output.degrees == 9
    complaint = (
        "the answer of agent 'reader' does not fit: degrees: input should be less than or equal to 60 (got 900)."
        " Answer again, with JSON that fits the schema and nothing else."
    )
    assert said(session.log) == [
        "user: How is it?",
        'assistant: {"city":"Oslo","degrees":900}',
        f"user: {complaint}",
        'assistant: {"city":"Oslo","degrees":9}',
    ]
    assert reply.usage.output_tokens == 2


async def test_a_second_answer_that_does_not_fit_is_the_end(llm: Make, ctx: DirectContext, session: Memory):
    script = Script("Cold!", calls(("weather", {"city": "Oslo"})), "Very cold!")
    agent = Agent("reader", output=Weather, tools=[weather])
    with pytest.raises(OutputInvalid, match=r"the answer of agent 'reader' .* model 'scripted:model' was told"):
        await llm(script).turn(ctx, agent, "How is it?")
    assert len(session.log) == 6


async def test_an_answer_that_was_cut_off_is_told_so(llm: Make, ctx: DirectContext, session: Memory):
    cut = ModelResponse(message=ChatMessage(role="assistant", text='{"city'), model="m", finish="length")
    await llm(Script(cut, {"city": "Oslo", "degrees": 9})).turn(ctx, Agent("reader", output=Weather), "Go")
    assert "It was cut off: be shorter." in session.log[2].text


async def test_an_output_type_without_a_schema_is_named(llm: Make, ctx: DirectContext):
    with pytest.raises(UsageError, match=r"agent 'reader': its output type .* has no JSON schema"):
        await llm(Script()).turn(ctx, Agent("reader", output=Callable[[], int]), "Go")


# -- limits -------------------------------------------------------------------------------------------------------


async def test_the_limit_on_model_calls_ends_a_turn_before_its_last_tools_run(
    llm: Make, ctx: DirectContext, session: Memory
):
    ran: list[int] = []

    @tool
    def again() -> int:
        ran.append(1)
        return len(ran)

    with pytest.raises(LimitExceeded, match=r"'reader' .* limit of 3 model calls .*Limits\(turns="):
        await llm(Script(lambda _: calls(("again", {})))).turn(ctx, of(again, limits=Limits(turns=3)), "Go")
    assert len(ran) == 2
    assert [message.role for message in session.log] == ["user", *["assistant", "tool"] * 2]


async def test_the_repair_round_counts_as_a_model_call(llm: Make, ctx: DirectContext):
    with pytest.raises(LimitExceeded, match="1 model calls"):
        await llm(Script("no")).turn(ctx, Agent("reader", output=Weather, limits=Limits(turns=1)), "Go")


@pytest.mark.parametrize(("limit", "fits"), [(22, True), (21, False), (11, False), (5, False)])
async def test_the_limit_on_tokens_holds_for_input_and_output_together(
    llm: Make, ctx: DirectContext, limit: int, fits: bool
):
    usage = Usage(input_tokens=10, output_tokens=1)
    script = Script(
        ModelResponse(message=calls(("weather", {"city": "Oslo"})), model="m", usage=usage),
        ModelResponse(message=ChatMessage(role="assistant", text="Cold."), model="m", usage=usage),
    )
    turn = llm(script).turn(ctx, of(weather, limits=Limits(tokens=limit)), "Go")
    if fits:
        assert (await turn).text == "Cold."
    else:
        with pytest.raises(LimitExceeded, match=rf"limit of {limit} tokens .*Limits\(tokens="):
            await turn


async def test_the_limit_on_seconds_ends_a_turn_and_its_tools(llm: Make, ctx: DirectContext, session: Memory):
    was_cancelled = asyncio.Event()

    @tool
    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    with pytest.raises(LimitExceeded, match=r"limit of 0.02 s .*Limits\(seconds="):
        await llm(Script(calls(("forever", {})))).turn(ctx, of(forever, limits=Limits(seconds=0.02)), "Go")
    assert was_cancelled.is_set()
    assert said(session.log) == ["user: Go"]


async def test_a_timeout_of_someone_else_is_not_the_turns_limit(llm: Make, ctx: DirectContext):
    class Late(AgentMiddleware):
        async def model(self, ctx, request, proceed):
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await llm(Script("Hi"), Late()).turn(ctx, of(limits=Limits(seconds=60)), "Go")


# -- middleware ---------------------------------------------------------------------------------------------------


class Noted(AgentMiddleware):
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    async def model(self, ctx, request, proceed):
        self.notes.append(f"{self.name} asks")
        response = await proceed(request)
        self.notes.append(f"{self.name} hears")
        return response

    async def tool(self, ctx, call, proceed):
        self.notes.append(f"{self.name} calls {call.name}")
        return await proceed(call)


async def test_middleware_stands_outermost_first_around_models_and_tools(llm: Make, ctx: DirectContext):
    notes: list[str] = []
    script = Script(calls(("weather", {"city": "Oslo"})), "Cold.")
    await llm(script, Noted("outer", notes), Noted("inner", notes)).turn(ctx, of(weather), "Go")
    asked = ["outer asks", "inner asks", "inner hears", "outer hears"]
    assert notes == [*asked, "outer calls weather", "inner calls weather", *asked]


async def test_middleware_may_change_what_is_asked_and_what_is_called(llm: Make, ctx: DirectContext, session: Memory):
    class Changed(AgentMiddleware):
        async def model(self, ctx, request: ModelRequest, proceed):
            return await proceed(request.model_copy(update={"settings": {"seed": 1}}))

        async def tool(self, ctx, call: ToolCall, proceed):
            return await proceed(call.model_copy(update={"arguments": '{"city": "Rome"}', "id": "another"}))

    script = Script(calls(("weather", {"city": "Oslo"})), "Cold.")
    await llm(script, Changed()).turn(ctx, of(weather), "Go")
    assert script.requests[0].settings == {"seed": 1}
    assert results(session) == [ToolResult(id="call-0", name="weather", content='{"city":"Rome today","degrees":9}')]


async def test_middleware_may_refuse_a_tool_and_answer_for_a_model(llm: Make, ctx: DirectContext, session: Memory):
    class Guard(AgentMiddleware):
        async def model(self, ctx, request, proceed):
            if len(request.messages) > 1:
                return ModelResponse(message=ChatMessage(role="assistant", text="From the cache."), model="cache")
            return await proceed(request)

        async def tool(self, ctx, call, proceed):
            return ToolResult(id="", name="", content="Not allowed.", error=True)

    reply = await llm(Script(calls(("weather", {"city": "Oslo"}))), Guard()).turn(ctx, of(weather), "Go")
    assert reply.text == "From the cache."
    assert results(session) == [ToolResult(id="call-0", name="weather", content="Not allowed.", error=True)]


async def test_middleware_that_answers_for_ever_is_bounded_too(llm: Make, ctx: DirectContext):
    class Stuck(AgentMiddleware):
        async def model(self, ctx, request, proceed):
            return ModelResponse(message=calls(("weather", {"city": "Oslo"})), model="stuck")

    with pytest.raises(LimitExceeded):
        await llm(Script(), Stuck()).turn(ctx, of(weather), "Go")


async def test_middleware_that_asks_twice_is_counted_twice(llm: Make, ctx: DirectContext):
    class Twice(AgentMiddleware):
        async def model(self, ctx, request, proceed):
            await proceed(request)
            return await proceed(request)

    handler = llm(Script(lambda _: "Hi"), Twice())
    assert (await handler.turn(ctx, of(limits=Limits(turns=2)), "Go")).text == "Hi"
    with pytest.raises(LimitExceeded):
        await handler.turn(ctx, of(limits=Limits(turns=1)), "Go")


# -- the plugin -----------------------------------------------------------------------------------------------------


def test_a_setting_that_does_not_fit_is_named(llm: Make):
    with pytest.raises(InvalidSetting, match=r"agent-llm.*max_tool_result"):
        llm(Script(), max_tool_result=1)
    with pytest.raises(InvalidSetting, match=r"agent-llm.*max_tool_results"):
        llm(Script(), max_tool_results=4096)


def test_the_plugin_executes_agents(services: Callable[..., Services]):
    (kind, handler), *others = perdure_agent_kinds(services(Script())).items()
    assert kind is Agent
    assert isinstance(handler, LlmTurn)
    assert not others
