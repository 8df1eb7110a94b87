"""Settings, exporters, and what it costs to have the plugin installed."""

import json
import subprocess
import sys

import pytest
from opentelemetry import trace

from perdure import App, Context, config, workflow
from perdure.errors import InvalidSetting
from perdure.plugins import Plugins
from perdure.runtime import Runtime
from perdure.testing import ManualClock, MemoryStore, harness
from perdure_otel import Otel, Settings


@workflow
async def greet(ctx: Context, name: str) -> str:
    return await ctx.step(hello, name)


def hello(name: str) -> str:
    return f"hello {name}"


app = App("house", workflows=[greet])


def test_nothing_is_exported_unless_it_is_configured():
    assert Settings.read({}, {}) == Settings(exporter="none")


@pytest.mark.parametrize(
    ("section", "environment", "exporter"),
    [
        ({}, {"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({}, {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://there"}, "none"),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://there"}, "otlp"),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://there/v1/traces"}, "otlp"),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://there", "OTEL_SDK_DISABLED": "true"}, "none"),
        ({"exporter": "otlp"}, {"OTEL_TRACES_EXPORTER": "console"}, "otlp"),
    ],
)
def test_what_the_section_leaves_open_is_taken_from_the_environment(section, environment, exporter):
    assert Settings.read(section, environment).exporter == exporter


def test_contents_may_be_switched_on_by_the_conventions_variable():
    variable = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    assert Settings.read({}, {variable: "SPAN_ONLY"}).capture_content
    assert not Settings.read({}, {variable: "true"}).capture_content


@pytest.mark.parametrize(
    ("section", "environment", "says"),
    [
        ({"exporter": "jaeger"}, {}, "exporter"),
        ({"endpont": "http://there"}, {}, "endpont"),
        ({"exporter": "file"}, {}, "'path'"),
        ({}, {"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
    ],
)
def test_what_does_not_fit_is_named(section, environment, says):
    with pytest.raises(InvalidSetting, match=says):
        Settings.read(section, environment)


async def test_headers_are_sent_and_shown_nowhere(collector):
    settings = Settings(exporter="otlp", endpoint=collector.endpoint, headers={"Authorization": "Bearer sk-secret"})
    assert "sk-secret" not in f"{settings!r} {settings.model_dump_json()}"
    async with harness(app, Otel(settings)) as h:
        await h.call(greet, "you")
    assert collector.headers[0]["authorization"] == "Bearer sk-secret"
    assert not [span for span in collector.received if "sk-secret" in span.texts]


async def test_a_file_holds_otlp_as_lines_of_json(tmp_path):
    path = tmp_path / "deep" / "traces.jsonl"
    plugin = Otel(Settings(exporter="file", path=str(path), service_name="here"))
    async with harness(app, plugin) as h:
        await h.call(greet, "you")
    spans = {
        span["name"]: span
        for line in path.read_text().splitlines()
        for batch in json.loads(line)["resourceSpans"]
        for scope in batch["scopeSpans"]
        for span in scope["spans"]
    }
    step, root = spans["step hello"], spans["invoke_workflow house.greet"]
    assert step["parentSpanId"] == root["spanId"]
    assert step["traceId"] == root["traceId"]
    assert (len(root["spanId"]), len(root["traceId"]), root["kind"]) == (16, 32, 1)


async def test_a_line_that_a_killed_process_left_unfinished_spoils_no_other(tmp_path):
    path = tmp_path / "traces.jsonl"
    path.write_text('{"resourceSpans":[{"reso')
    async with harness(app, Otel(Settings(exporter="file", path=str(path)))) as h:
        await h.call(greet, "you")
    first, *others = path.read_text().splitlines()
    assert first == '{"resourceSpans":[{"reso'
    assert others
    assert all(json.loads(line) for line in others)


async def test_the_console_is_standard_error(capsys):
    async with harness(app, Otel(Settings(exporter="console"))) as h:
        await h.call(greet, "you")
    out, err = capsys.readouterr()
    assert not out
    assert '"name": "step hello"' in err


async def test_the_plugin_comes_through_the_door_and_reads_its_section(collector):
    section = {"exporter": "otlp", "endpoint": collector.endpoint}
    clock = ManualClock()
    async with Runtime.open(
        app, settings=config.Settings(sections={"otel": section}), store=MemoryStore(clock), clock=clock
    ) as runtime:
        await runtime.call(greet, "you")
    assert collector.one("step hello")


async def test_two_runtimes_in_one_process_have_traces_of_their_own(collector):
    async with harness(app, collector.plugin()) as one, harness(app) as other:
        await other.call(greet, "them")
        await one.call(greet, "us")
    assert len(collector.named("step hello")) == 1


def test_each_runtime_gets_an_object_of_its_own():
    def loaded() -> object:
        plugins = Plugins(config.PluginSettings())
        plugins.start()
        return next(plugin for name, plugin, _ in plugins.each("perdure_observers") if name == "otel")

    assert isinstance(loaded(), Otel)
    assert loaded() is not loaded()


async def test_a_provider_that_was_there_before_stays(collector):
    async with harness(app, collector.plugin()):
        before = trace.get_tracer_provider()
    async with harness(app, collector.plugin()):
        assert trace.get_tracer_provider() is before


OFF = """
import asyncio, sys
from perdure import App, Context, workflow
from perdure.testing import harness
from perdure_otel import Otel, Settings
@workflow
async def flow(ctx: Context) -> int:
    return 1
async def main():
    async with harness(App("house", workflows=[flow]), Otel(Settings())) as h:
        assert await h.call(flow) == 1
asyncio.run(main())
print([name for name in sys.modules if name.split(".")[0] in {"opentelemetry", "google", "requests"}])
"""


def test_nothing_of_opentelemetry_is_imported_where_it_is_off():
    ran = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


async def test_a_runtime_that_exports_nothing_has_nothing_around_its_operations() -> None:
    async with harness(app, Otel(Settings(exporter="none"))) as h:
        assert [*h.runtime.middleware, *h.runtime.agent_middleware] == []
