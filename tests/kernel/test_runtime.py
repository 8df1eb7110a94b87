"""Opening, calling and closing: plugins, middleware, codecs, observers and the engine, put together."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

import perdure
from perdure import Agent, AgentId, App, Context, agent_ref, hookimpl, workflow, workflow_ref
from perdure.config import PluginSettings, Settings
from perdure.errors import (
    AmbiguousName,
    CallFailed,
    DeadlineExceeded,
    InvalidInput,
    ModelUnavailable,
    PluginBroken,
    PluginMissing,
    RunFailed,
    StoreUnavailable,
    Undeliverable,
    UnknownName,
    UsageError,
)
from perdure.messages import Entry, ErrorInfo, RunView, Start
from perdure.ports import AgentMiddleware, Operation, StepInfo
from perdure.runtime import Runtime
from perdure.testing import ManualClock, MemoryStore, Script, calls, harness

PATIENCE = 60.0
SETTINGS = Settings(plugins=PluginSettings(block=frozenset({"otel"})))


@perdure.tool
def shelf(title: str) -> str:
    """Where a book stands."""
    return f"{title} stands on shelf 7"


async def test_an_agent_names_a_tool_of_another_app() -> None:
    clerk = Agent("clerk", tools=["library.shelf"])
    script = Script(calls(("shelf", {"title": "Faust"})), lambda request: request.messages[-1].result.content)
    async with harness(App("library", tools=[shelf]), App("desk", agents=[clerk]), model=script) as h:
        assert (await h.call(clerk, "Where is Faust?")).text == "Faust stands on shelf 7"


async def test_an_agent_that_names_an_unknown_tool_fails_with_the_known_ones() -> None:
    clerk = Agent("clerk", tools=["library.attic"])
    async with harness(App("library", tools=[shelf]), App("desk", agents=[clerk]), model=Script("hello")) as h:
        with pytest.raises(RunFailed, match=r"unknown tool 'library\.attic'; known: library\.shelf"):
            await h.call(clerk, "Where is Faust?")


class Approval(BaseModel):
    approved: bool


def secret(text: str) -> str:
    return text.upper()


@workflow
async def greet(ctx: Context, name: str, *, greeting: str = "Hello", times: int = 1) -> list[str]:
    """Greets."""
    return [await ctx.step(secret, f"{greeting} {name}")] * times


@workflow
async def approved(ctx: Context, name: str) -> str:
    """Asks first."""
    said = await ctx.step(secret, name)
    return said if (await ctx.ask(f"Greet {name}?", Approval)).approved else "no"


@workflow
async def across(ctx: Context, name: str) -> list[str]:
    """Calls another app."""
    reply = await ctx.call(agent_ref("hall.porter"), f"Announce {name}")
    greeting: list[str] = await ctx.call(workflow_ref("hall.greet", list[str]), name=reply.text, times=2)
    return greeting


porter = Agent("porter", instructions="Announce.")
hall = App("hall", agents=[porter], workflows=[greet, approved])


class Recorder(App):
    """Middleware of every kind that leaves its mark."""

    def __init__(self, name: str, log: list[str]) -> None:
        super().__init__(name)
        self.log = log

    @hookimpl
    def perdure_runtime_middleware(self) -> list[Any]:
        return [self.around_operation]

    @hookimpl
    def perdure_step_middleware(self) -> list[Any]:
        return [self.around_step]

    @hookimpl
    def perdure_agent_middleware(self) -> list[AgentMiddleware]:
        return [Around(self)]

    async def around_operation(self, operation: Operation, proceed: Any) -> Any:
        if "refused" in operation.headers:
            msg = f"{self.name} refuses {operation.target}"
            raise UsageError(msg)
        self.log.append(f"{self.name} {operation.kind} {operation.target}")
        return await proceed(operation._replace(headers={**operation.headers, self.name: "was here"}))

    async def around_step(self, info: StepInfo, proceed: Any) -> Any:
        self.log.append(f"{self.name} {info.role} {info.name} {info.attempt}")
        value = await proceed()
        return f"{self.name}({value})" if isinstance(value, str) else value


class Around(AgentMiddleware):
    def __init__(self, app: Recorder) -> None:
        self.app = app

    async def model(self, ctx: Any, request: Any, proceed: Any) -> Any:
        self.app.log.append(f"{self.app.name} around model")
        return await proceed(request)

    async def tool(self, ctx: Any, call: Any, proceed: Any) -> Any:
        self.app.log.append(f"{self.app.name} around tool {call.name}")
        return await proceed(call)


# -- calling


def test_a_script_runs_a_workflow_and_an_agent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERDURE_PLUGINS__BLOCK", "otel")
    assert perdure.run(hall, greet, "you", greeting="Bye", times=2) == ["BYE YOU"] * 2
    assert perdure.run(hall, greet, "me", key="k") == perdure.run(hall, greet, "you", key="k") == ["HELLO ME"]
    reply = perdure.run(hall, porter, "Who is there?")
    assert reply.text
    assert (tmp_path / ".perdure").is_dir()


async def test_apps_call_each_other_by_qualified_name():
    async with harness(hall, App("street", workflows=[across]), model=Script(lambda _: "the Duke")) as h:
        assert await h.call(across, "him") == ["HELLO THE DUKE"] * 2
        assert await h.call(workflow_ref("street.across", list[str]), name="him") == ["HELLO THE DUKE"] * 2


@pytest.mark.parametrize(
    ("callee", "args", "options", "error", "says"),
    [
        (greet, (), {}, InvalidInput, "workflow 'greet' does not fit: name: field required"),
        (greet, ("a",), {"times": "x"}, InvalidInput, "times: input should be a valid integer"),
        (greet, ("a",), {"tmies": 1}, InvalidInput, "tmies: extra inputs are not permitted"),
        (greet, ("a", "b"), {}, InvalidInput, r"takes 1 positional arguments \(name\)"),
        (
            greet,
            ("a",),
            {"session": "s"},
            InvalidInput,
            r"workflow 'hall\.greet' has no sessions: leave out session='s'",
        ),
        (workflow_ref("hall.greet", list), (), {"nmae": "a"}, InvalidInput, "'hall.greet' does not fit: name"),
        (workflow_ref("hall.gone", list), (), {}, UnknownName, r"unknown workflow 'hall\.gone'; known: hall\.app"),
        (porter, ("",), {}, InvalidInput, "message to agent 'porter': expected a text, got an empty one"),
        (porter, (3,), {}, InvalidInput, "expected a text, got a value of type int"),
        (agent_ref("gone"), ("x",), {}, UnknownName, r"unknown agent 'gone'; known: hall\.porter"),
        (
            greet.fn,
            ("x",),
            {},
            UsageError,
            r"<function greet at .*> cannot be called: expected an agent, what @workflow",
        ),
        (Agent("stray"), ("x",), {}, UnknownName, "unknown agent 'stray'; it belongs to no app that is open here"),
    ],
    ids=[
        "missing",
        "type",
        "unknown",
        "many",
        "session",
        "reference",
        "gone",
        "empty",
        "number",
        "ref",
        "plain",
        "stray",
    ],
)
async def test_a_wrong_call_is_refused_before_anything_is_accepted(callee, args, options, error, says):
    async with harness(hall) as h:
        with pytest.raises(error, match=says):
            await h.start(callee, *args, **options)
        assert await h.runtime.query.runs() == []


async def test_adapters_start_by_name_with_json():
    async with harness(hall, model=Script("Welcome.")) as h:
        run = await h.runtime.submit("greet", b'{"name":"you"}')
        assert await run.result(PATIENCE) == ["HELLO YOU"]
        reply = await (await h.runtime.submit("hall.porter", b'"Hello"', session="s")).result(PATIENCE)
        assert (reply["text"], reply["session"]) == ("Welcome.", "s")
        for payload, says in ((b'""', "got an empty one"), (b"{}", "type dict"), (b"{", "is no JSON")):
            with pytest.raises(InvalidInput, match=says):
                await h.runtime.submit("porter", payload)


# -- opening and closing


async def test_single_settings_beside_settings_are_refused():
    with pytest.raises(UsageError, match=r"settings=… and single settings \(data\) are both given"):
        async with hall.open(settings=SETTINGS, data="x"):
            pass


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (
            {"store": "redis"},
            PluginMissing,
            r"store 'redis' is not installed: install it \(pip install perdure-store-redis\)",
        ),
        ({"engine": "warp"}, PluginMissing, "engine 'warp' is not installed"),
    ],
)
async def test_what_is_not_installed_is_named_at_opening(tmp_path, settings, error, says):
    with pytest.raises(error, match=says):
        async with hall.open(settings=SETTINGS.model_copy(update={**settings, "data": tmp_path})):
            pass


class Watched:
    """A plugin with a lifespan that can fail."""

    name = "watched"

    def __init__(self, log: list[str], fails: str = "") -> None:
        self.log = log
        self.fails = fails

    @hookimpl
    def perdure_lifespan(self, services: Any) -> Any:
        return self.lifespan()

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        self.log.append("entered")
        try:
            yield
        finally:
            self.log.append("left")
            if self.fails:
                raise LookupError(self.fails)


class Store(MemoryStore):
    """A memory store that knows whether it was left, and may not let an engine start."""

    def __init__(self, log: list[str], *, starts: bool = True) -> None:
        super().__init__(ManualClock())
        self.log = log
        self.starts = starts

    async def runs(self, *which: Any, **options: Any) -> Any:
        if not self.starts:
            msg = "no reads today"
            raise StoreUnavailable(msg)
        return await super().runs(*which, **options)

    async def leave(self, worker: str) -> None:
        self.log.append("engine stopped")
        await super().leave(worker)


async def test_an_engine_that_does_not_start_is_stopped_and_lifespans_are_left():
    log: list[str] = []
    idle = asyncio.all_tasks()
    with pytest.raises(StoreUnavailable, match="no reads today"):
        async with Runtime.open(hall, Watched(log), settings=SETTINGS, store=Store(log, starts=False)):
            log.append("opened")
    assert log == ["entered", "engine stopped", "left"]
    assert asyncio.all_tasks() == idle


async def test_everything_is_closed_whatever_becomes_of_one():
    log: list[str] = []

    class Closing(Script):
        async def close(self) -> None:
            log.append("model closed")
            msg = "line is dead"
            raise ConnectionError(msg)

    with pytest.raises(ConnectionError, match="line is dead"):
        async with Runtime.open(hall, Watched(log, fails="late"), settings=SETTINGS, store=Store(log)) as runtime:
            runtime._models.update(a=Closing(), b=Closing())  # noqa: SLF001 - as made by two plugins
    assert log == ["entered", "engine stopped", "left", "model closed", "model closed"]


async def test_two_runtimes_in_one_process_do_not_know_each_other():
    mine, theirs = App("mine", workflows=[greet]), App("theirs", workflows=[approved])
    async with harness(mine) as first, harness(theirs) as second:
        assert await first.call(greet, "a") == ["HELLO A"]
        with pytest.raises(UnknownName, match=r"belongs to no app that is open here: .*theirs\.approved"):
            await second.start(greet, "a")


async def test_a_plugin_whose_hook_fails_is_named_at_opening():
    class Sour(App):
        @hookimpl
        def perdure_runtime_middleware(self) -> Any:
            return 1 / 0

    with pytest.raises(PluginBroken, match=r"plugin 'sour' fails in 'perdure_runtime_middleware': ZeroDivisionError"):
        async with harness(Sour("sour")):
            pass


# -- middleware


async def test_middleware_runs_in_order_outermost_first():
    log: list[str] = []
    keep = Agent("porter", tools=[secret])
    model = Script(calls(("secret", {"text": "x"})), "Done.")
    async with harness(Recorder("outer", log), Recorder("inner", log), App("hall", agents=[keep]), model=model) as h:
        await h.call(keep, "Go")
        run = (await h.runtime.query.runs())[0]
        assert run.headers == {"outer": "was here", "inner": "was here"}
    pairs = list(zip(log[::2], log[1::2], strict=True))
    assert [(a.partition(" ")[0], b.partition(" ")[0]) for a, b in pairs] == [("outer", "inner")] * 7
    assert [a.partition(" ")[2] for a, _ in pairs] == [
        "start hall.porter",
        "around model",
        "model scripted:model 1",
        "around tool secret",
        "tool secret 1",
        "around model",
        "model scripted:model 1",
    ]


async def test_step_middleware_wraps_the_value_from_the_inside_out():
    async with harness(Recorder("outer", []), Recorder("inner", []), hall) as h:
        assert await h.call(greet, "you") == ["outer(inner(HELLO YOU))"]


async def test_runtime_middleware_may_refuse():
    class Closed(Recorder):
        async def around_operation(self, operation: Operation, proceed: Any) -> Any:
            msg = f"{operation.kind} of {operation.target} is not allowed"
            raise UsageError(msg)

    async with harness(Closed("closed", []), hall, model=Script("never")) as h:
        with pytest.raises(UsageError, match=r"start of hall\.greet is not allowed"):
            await h.start(greet, "you")
        with pytest.raises(UsageError, match=r"send of hall\.porter/s is not allowed"):
            await h.runtime.send("Hello", AgentId("porter", "s"))
        assert await h.runtime.query.runs() == []


# -- messages


async def test_a_message_to_an_llm_agent_has_its_reply_and_a_memory():
    script = Script("First.", "Second.")
    async with harness(hall, model=script) as h:
        assert (await h.runtime.send("One", AgentId("porter", "s"))).text == "First."
        assert (await h.runtime.send("Two", AgentId("hall.porter", "s"))).text == "Second."
    assert [message.text for message in script.requests[1].messages][1:] == ["One", "First.", "Two"]


@pytest.mark.parametrize("message", ["", 3], ids=["empty", "number"])
async def test_a_message_that_is_no_text_is_refused(message):
    async with harness(hall, model=Script("never")) as h:
        with pytest.raises(InvalidInput, match="message to agent 'porter': expected a text"):
            await h.runtime.send(message, AgentId("porter", "s"))


@pytest.mark.parametrize(
    ("raised", "error", "says"),
    [
        (ModelUnavailable("busy", retry_after=0.0), CallFailed, "ModelUnavailable: busy"),
        (LookupError("lost"), CallFailed, "'hall.porter/s' failed when called: .*LookupError: lost"),
    ],
    ids=["perdure", "other"],
)
async def test_an_error_travels_back_with_its_type(raised, error, says):
    async with harness(hall, model=Script(lambda _: raised)) as h:
        sent = asyncio.ensure_future(h.runtime.send("Hello", AgentId("porter", "s")))
        async with asyncio.timeout(PATIENCE):
            while not sent.done():
                if h.clock.next_wake is not None:
                    h.clock.set(h.clock.next_wake)
                await asyncio.wait({sent}, timeout=0.001)
        with pytest.raises(error, match=says):
            sent.result()


async def test_a_message_for_nobody_says_so_and_an_ambiguous_one_too():
    async with harness(hall, App("attic", agents=[Agent("porter")]), model=Script("never")) as h:
        with pytest.raises(Undeliverable, match=r"unknown agent 'nobody'; known: attic\.porter, hall\.porter"):
            await h.runtime.send("Hello", AgentId("nobody", "s"))
        with pytest.raises(AmbiguousName, match=r"attic\.porter, hall\.porter"):
            await h.runtime.send("Hello", AgentId("porter", "s"))


async def test_a_message_has_a_deadline_that_cancels_its_handler():
    asked, ended = asyncio.Event(), asyncio.Event()

    async def hang(_: Any) -> str:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "never"

    async with harness(hall, model=Script(hang)) as h:
        sent = asyncio.ensure_future(h.runtime.send("Hello", AgentId("porter", "s"), deadline=5.0))
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
            h.clock.advance(5)
            with pytest.raises(DeadlineExceeded, match=r"message 'str' to 'hall\.porter/s' had no reply"):
                await sent
            await ended.wait()


# -- codecs


class Packed:
    """Compresses, and adds a mark that says in which order codecs were used."""

    def __init__(self, mark: bytes) -> None:
        self.mark = mark

    def encode(self, payload: bytes) -> bytes:
        return self.mark + zlib.compress(payload)

    def decode(self, payload: bytes) -> bytes:
        assert payload[:1] == self.mark
        return zlib.decompress(payload[1:])


class Coded(App):
    @hookimpl
    def perdure_codecs(self) -> list[Any]:
        return [Packed(b"a"), Packed(b"b")]


async def test_what_lies_in_the_store_is_coded_and_views_are_not():
    clock = ManualClock()
    store = MemoryStore(clock)
    async with harness(hall, Coded("coded"), store=store, clock=clock, model=Script("Sesame.")) as h:
        run = await h.start(approved, "sesame", key="k")
        [request] = await h.until_waiting(run)
        await h.answer(request, Approval(approved=True))
        assert await h.result(run) == "SESAME"
        turn = await h.start(porter, "sesame", session="s")
        assert (await h.result(turn)).text == "Sesame."
        view = await h.view(run)
        assert (view.input, view.result) == ({"name": "sesame"}, "SESAME")
        assert [entry.value for entry in await h.runtime.query.journal(run.id)] == [b'"SESAME"', b'{"approved":true}']
        raw = [await store.run(run.id), *await store.journal(run.id), *await store.log(AgentId("hall.porter", "s"))]
        raw += [await store.run(turn.id), await store.load(turn.id)]
        assert "$coded" in repr(raw)
        assert "sesame" not in repr(raw).lower().replace("greet sesame?", "")
        assert len(await h.runtime.query.log(AgentId("hall.porter", "s"))) == 2


async def test_what_was_written_before_a_codec_was_there_is_still_read():
    clock = ManualClock()
    store = MemoryStore(clock)
    async with harness(hall, store=store, clock=clock) as h:
        run = await h.start(approved, "you")
        [request] = await h.until_waiting(run)
    async with harness(hall, Coded("coded"), store=store, clock=clock) as h:
        await h.answer(request, Approval(approved=True))
        assert await h.result(run) == "YOU"
        assert (await h.view(run)).input == {"name": "you"}


# -- observers


class Witness(App):
    """An observer that notes what it is told, and can be out of order."""

    def __init__(self) -> None:
        super().__init__("witness")
        self.told: list[str] = []
        self.works = True
        self.flushed = asyncio.Event()

    @hookimpl
    def perdure_observers(self) -> list[Any]:
        return [self]

    def recorded(self, run: Start, entries: list[Entry]) -> None:
        self.told += [f"{run.target} {entry.kind} {entry.path}" for entry in entries]

    def finished(self, run: Start, view: RunView) -> None:
        self.told.append(f"{run.target} {view.status}")
        if not self.works:
            msg = "an observer's own trouble"
            raise LookupError(msg)

    async def flush(self) -> None:
        if not self.works:
            msg = "collector is down"
            raise ConnectionError(msg)
        self.flushed.set()


FACTS = ["hall.approved step secret#1", "hall.approved answer ask#1", "hall.approved completed"]


async def finished(h: Any, *, key: str | None = None) -> Any:
    run = await h.start(approved, "you", key=key)
    [request] = await h.until_waiting(run)
    await h.answer(request, Approval(approved=True))
    assert await h.result(run) == "YOU"
    return run


async def test_observers_are_told_what_was_committed_and_the_run_is_marked():
    witness = Witness()
    async with harness(hall, witness) as h:
        await finished(h)
        async with asyncio.timeout(PATIENCE):
            await witness.flushed.wait()
    assert witness.told == FACTS
    assert await h._store.unreported() == []  # noqa: SLF001 - what is left in the store


async def test_what_could_not_be_reported_is_told_again_after_a_crash():
    clock = ManualClock()
    store = MemoryStore(clock)
    broken, mended = Witness(), Witness()
    broken.works = False
    async with harness(hall, broken, store=store, clock=clock) as h:
        await finished(h)
    assert len(await store.unreported()) == 1
    async with harness(hall, mended, store=store, clock=clock):
        async with asyncio.timeout(PATIENCE):
            await mended.flushed.wait()
    assert mended.told == broken.told
    assert await store.unreported() == []


async def test_a_process_begins_although_others_finish_runs_all_the_time():
    class Busy(MemoryStore):
        kept: Any = ()

        async def unreported(self, *, limit: int = 100) -> Any:
            self.kept = await super().unreported(limit=limit) or self.kept
            return self.kept

    clock = ManualClock()
    store = Busy(clock)
    broken, mended = Witness(), Witness()
    broken.works = False
    async with harness(hall, broken, store=store, clock=clock) as h:
        await finished(h)
    async with asyncio.timeout(PATIENCE), harness(hall, mended, store=store, clock=clock):
        assert mended.told == broken.told


async def test_a_run_that_is_taken_over_is_told_from_its_beginning():
    witness = Witness()
    async with harness(hall, witness) as h:
        run = await h.start(approved, "you")
        [request] = await h.until_waiting(run)
        before = list(witness.told)
        await h.crash()
        await h.answer(request, Approval(approved=True))
        assert await h.result(run) == "YOU"
    assert before
    assert witness.told[: len(before)] == witness.told[len(before) : 2 * len(before)] == before


async def test_a_failed_run_names_what_failed():
    @workflow
    async def sour(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.step(int, "x"))

    async with harness(App("lab", workflows=[sour])) as h:
        with pytest.raises(RunFailed) as caught:
            await h.call(sour)
    info: ErrorInfo = caught.value.error
    assert [each.type.rpartition(".")[2] for each in info.chain()] == ["ExceptionGroup", "StepFailed", "ValueError"]
