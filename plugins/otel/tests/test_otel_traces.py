"""Whole traces, from a real engine to a real OTLP receiver."""

from datetime import timedelta

import pytest
from opentelemetry import trace
from pydantic import BaseModel

from perdure import Agent, App, Context, Retry, tool, workflow
from perdure.errors import ModelUnavailable, RunFailed
from perdure.ports import Model
from perdure.testing import ManualClock, MemoryStore, Script, calls, harness
from perdure_otel import Otel
from perdure_otel.outbox import NotExported

SECRET = "sk-do-not-tell"


class Approval(BaseModel):
    approved: bool


@tool
async def look_up(word: str) -> str:
    """Look a word up."""
    with trace.get_tracer("library").start_as_current_span("library call"):
        return f"{word} is {SECRET}"


reader = Agent("reader", instructions="Read.", tools=[look_up])


async def shout(text: str) -> str:
    return text.upper()


@workflow
async def inner(ctx: Context, text: str) -> str:
    return await ctx.step(shout, text)


@workflow
async def outer(ctx: Context, text: str) -> str:
    reply = await ctx.call(reader, text)
    approval = await ctx.ask("May I shout?", Approval)
    return await ctx.call(inner, reply.text) if approval.approved else ""


@workflow
async def careful(ctx: Context, text: str) -> str:
    loud = await ctx.step(shout, text)
    approval = await ctx.ask("Is that right?", Approval)
    return await ctx.step(shout, f"{loud} {approval.approved}")


@workflow
async def sleepy(ctx: Context) -> str:
    await ctx.sleep(timedelta(hours=1))
    return await ctx.options(retry=Retry(first=0)).step(unsteady)


attempts: list[int] = []


async def unsteady() -> str:
    attempts.append(1)
    if len(attempts) % 2:
        raise ModelUnavailable(SECRET)
    return "up"


@workflow
async def broken(ctx: Context) -> str:
    return await ctx.step(fail)


async def fail() -> str:
    raise ValueError(SECRET)


app = App("newsroom", agents=[reader], workflows=[inner, outer, careful, sleepy, broken])


def script() -> Model:
    return Script(calls(("look_up", {"word": "x"})), "it is known", name="scripted:model")


async def run_outer(plugin: Otel) -> None:
    async with harness(app, plugin, model=script()) as h:
        run = await h.start(outer, "look x up")
        [request] = await h.until_waiting(run)
        h.advance(seconds=60)
        await h.answer(request, {"approved": True})
        assert await h.result(run) == "IT IS KNOWN"


async def test_a_run_is_one_trace_with_the_right_parents(collector):
    await run_outer(collector.plugin(service_name="the newsroom"))
    root = collector.one("invoke_workflow newsroom.outer")
    turn = collector.one("invoke_agent newsroom.reader")
    child = collector.one("invoke_workflow newsroom.inner")
    acting = collector.one("execute_tool look_up")
    thinking = collector.named("chat model")
    assert {span.trace for span in collector.spans.values()} == {root.trace}
    assert root.parent == ""
    assert turn.parent == child.parent == collector.one("ask").parent == root.id
    assert len(thinking) == 2
    assert {span.parent for span in [*thinking, acting]} == {turn.id}
    assert collector.one("step shout").parent == child.id
    assert collector.one("library call").parent == acting.id
    assert {span.service for span in collector.spans.values() if span.name != "library call"} == {"the newsroom"}


async def test_names_kinds_and_attributes_are_those_of_the_conventions(collector):
    await run_outer(collector.plugin())
    internal, client = 1, 3
    turn = collector.one("invoke_agent newsroom.reader")
    assert turn.kind == internal
    assert turn.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert turn.attributes["gen_ai.agent.name"] == "newsroom.reader"
    assert turn.attributes["gen_ai.conversation.id"]
    thinking = sorted(collector.named("chat model"), key=lambda span: span.attributes["perdure.path"])
    first = thinking[0].attributes
    assert thinking[0].kind == client
    assert (first["gen_ai.provider.name"], first["gen_ai.request.model"]) == ("scripted", "model")
    assert {span.attributes["gen_ai.response.finish_reasons"][0] for span in thinking} == {"stop", "tool_call"}
    tokens = [span.attributes["gen_ai.usage.input_tokens"] for span in thinking]
    assert sum(tokens) == turn.attributes["gen_ai.usage.input_tokens"] > 0
    acting = collector.one("execute_tool look_up").attributes
    assert (acting["gen_ai.tool.name"], acting["gen_ai.tool.type"]) == ("look_up", "function")
    root = collector.one("invoke_workflow newsroom.outer").attributes
    assert (root["gen_ai.workflow.name"], root["perdure.run.status"]) == ("newsroom.outer", "completed")


async def test_times_are_those_of_the_journal(collector):
    await run_outer(collector.plugin())
    asked = collector.one("ask")
    assert asked.end - asked.start == 60 * 10**9
    root = collector.one("invoke_workflow newsroom.outer")
    assert root.start == int(ManualClock.START) * 10**9 <= asked.start
    assert root.end == asked.end


async def test_contents_stay_out_unless_they_are_switched_on(collector):
    await run_outer(collector.plugin())
    told = " ".join(span.texts for span in collector.spans.values())
    assert not [word for word in (SECRET, "look x up", "known", "KNOWN", "May I shout") if word in told]
    collector.received.clear()
    await run_outer(collector.plugin(capture_content=True))
    turn = collector.one("invoke_agent newsroom.reader").attributes
    assert "look x up" in turn["gen_ai.input.messages"]
    assert "it is known" in turn["gen_ai.output.messages"]
    assert SECRET in collector.one("execute_tool look_up").attributes["gen_ai.tool.call.result"]
    assert "May I shout" in collector.one("ask").attributes["perdure.ask.prompt"]
    assert "tool_call" in " ".join(s.attributes["gen_ai.output.messages"] for s in collector.named("chat model"))


async def test_a_failure_says_its_type_and_nothing_more(collector):
    async with harness(app, collector.plugin()) as h:
        run = await h.start(broken)
        with pytest.raises(RunFailed):
            await h.result(run)
    step, root = collector.one("step fail"), collector.one("invoke_workflow newsroom.broken")
    assert step.failed
    assert root.failed
    assert step.attributes["error.type"] == "ValueError"
    assert root.attributes["error.type"] == "perdure.errors.StepFailed"
    assert SECRET not in step.texts + root.texts


async def test_each_attempt_and_each_timer_has_its_span(collector):
    async with harness(app, collector.plugin()) as h:
        run = await h.start(sleepy)
        seen = 0
        while (await h.view(run)).wake_at is None:
            seen = await h.process.changed(seen)
        h.advance(hours=1)
        assert await h.result(run) == "up"
    assert collector.one("timer").end == int(ManualClock.START + 3600) * 10**9
    tries = sorted(collector.named("step unsteady"), key=lambda span: span.attributes["perdure.attempt"])
    assert [(span.attributes["perdure.attempt"], span.failed) for span in tries] == [(1, True), (2, False)]


async def test_what_is_told_again_after_a_crash_is_the_same_span(collector, flushed):
    plugin = collector.plugin()
    async with harness(app, plugin) as h:
        run = await h.start(careful, "so")
        [request] = await h.until_waiting(run)
        await flushed(plugin)
        before = collector.one("step shout")
        await h.crash()
        await h.answer(request, {"approved": True})
        await h.result(run)
    assert [span.id for span in collector.received].count(before.id) == 2, "the journal was told again"
    steps = sorted(collector.named("step shout"), key=lambda span: span.attributes["perdure.path"])
    assert [span.attributes["perdure.path"] for span in steps] == ["shout#1", "shout#2"]
    assert steps[0] == before
    assert len({(span.trace, span.parent) for span in steps}) == 1


async def test_a_refused_export_fails_the_flush_and_loses_nothing(collector, flushed):
    plugin = collector.plugin(delay=3600)
    async with harness(app, plugin) as h:
        collector.refuse = True
        assert await h.call(inner, "hi") == "HI"
        with pytest.raises(NotExported, match="endpoint"):
            await flushed(plugin)
        assert not collector.received
        collector.refuse = False
        await flushed(plugin)
        assert collector.one("step shout").parent == collector.one("invoke_workflow newsroom.inner").id


async def test_what_was_finished_and_never_exported_is_told_after_the_next_start(collector):
    clock = ManualClock()
    store = MemoryStore(clock)
    collector.refuse = True
    async with harness(app, collector.plugin(), store=store, clock=clock) as h:
        assert await h.call(inner, "hi") == "HI"
    assert collector.refused
    assert not collector.received
    collector.refuse = False
    async with harness(app, collector.plugin(), store=store, clock=clock):
        pass
    assert collector.one("step shout").parent == collector.one("invoke_workflow newsroom.inner").id
    assert not await store.unreported()


async def test_a_run_started_in_a_live_span_stands_in_the_trace_of_that_span(collector):
    async with harness(app, collector.plugin()) as h:
        with trace.get_tracer("client").start_as_current_span("root"):
            await h.call(inner, "hi")
    root = collector.one("root")
    run = collector.one("invoke_workflow newsroom.inner")
    assert (run.trace, run.parent, run.links) == (root.trace, root.id, ())
    assert root.attributes["perdure.run.id"] == run.attributes["perdure.run.id"]


async def test_a_run_stands_in_the_remote_span_and_links_to_the_local_one_that_dies_with_its_process(collector):
    remote = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    async with harness(app, collector.plugin()) as h:
        with trace.get_tracer("server").start_as_current_span("tools/call inner", context):
            await h.call(inner, "hi")
    run = collector.one("invoke_workflow newsroom.inner")
    assert (run.trace, run.parent) == (f"{0xABC:032x}", f"{0xDEF:016x}")
    assert run.links == (collector.one("tools/call inner").id,)


async def test_what_is_not_sampled_is_not_exported(collector):
    unsampled = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(0))
    async with harness(app, collector.plugin(), model=script()) as h:
        with trace.use_span(trace.NonRecordingSpan(unsampled)):
            await h.call(inner, "hi")
            await h.call(reader, "look x up")
    assert not collector.received


@workflow
async def open_shop(ctx: Context) -> list[str]:
    sold: list[str] = []

    def sell(what: str) -> None:
        sold.append(what)

    ctx.on_update(sell)
    ctx.patched("shop")
    said = await ctx.wait_event("said", str)
    await ctx.ask("Close?", Approval)
    return [said, *sold]


async def test_what_reaches_a_run_has_its_span_and_a_suspended_run_ends_once(collector, flushed):
    plugin = collector.plugin()
    async with harness(App("shop", workflows=[open_shop]), plugin) as h:
        run = await h.start(open_shop)
        await run.send("said", SECRET)
        [request] = await h.until_waiting(run)
        await run.update("sell", what=SECRET)
        await run.suspend()
        seen = 0
        while (await h.view(run)).status != "suspended":
            seen = await h.process.changed(seen)
        await run.resume()
        await h.answer(request, {"approved": True})
        assert await h.result(run) == [SECRET, SECRET]
        await flushed(plugin)
    root = collector.one("invoke_workflow shop.open_shop")
    assert root.attributes["perdure.run.status"] == "completed"
    assert [span.id for span in collector.received].count(root.id) == 1
    told = [collector.one("event said"), collector.one("update sell"), collector.one("park"), collector.one("ask")]
    assert {span.parent for span in told} == {root.id}
    assert SECRET not in " ".join(span.texts for span in collector.spans.values())
