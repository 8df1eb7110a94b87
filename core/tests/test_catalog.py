"""What a name stands for, what executes it, and what is said when it stands for nothing or too much."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from perdure import Agent, App, Context, agent_ref, hookimpl, tool, workflow, workflow_ref
from perdure.catalog import Catalog
from perdure.config import PluginSettings, Settings
from perdure.errors import AmbiguousName, InvalidInput, NotEncodable, PluginMissing, UnknownName, UsageError
from perdure.plugins import Plugins
from perdure.runtime import Runtime
from perdure.testing import ManualClock

reader = Agent("reader")
editor = Agent("editor")


@workflow
async def briefing(ctx: Context, folder: str, *, limit: int = 3) -> list[str]:
    """Briefs."""
    return [folder] * limit


@tool
def look(path: str) -> str:
    return path


def catalog(*apps: Any) -> Catalog:
    plugins = Plugins(PluginSettings(), ())
    plugins.start(apps)
    return Catalog(plugins)


def test_names_are_qualified_by_their_app():
    found = catalog(App("news", agents=[reader], workflows=[briefing], tools=[look, len]))
    assert found.names("agent") == ["news.reader"]
    assert found.declared("workflow") == {"news.briefing": briefing}
    assert found.names("tool") == ["news.len", "news.look"]
    assert found.find("tool", "look") == ("news.look", look)


def test_a_short_name_is_enough_where_it_is_unambiguous():
    found = catalog(App("a", agents=[Agent("reader")]), App("b", agents=[Agent("reader"), editor]))
    assert found.find("agent", "editor") == ("b.editor", editor)
    with pytest.raises(AmbiguousName, match=r"agent 'reader' is ambiguous; say one of: a\.reader, b\.reader"):
        found.find("agent", "reader")
    assert found.find("agent", "a.reader")[0] == "a.reader"


def test_an_app_s_own_names_come_first():
    mine, other = Agent("reader"), Agent("reader")
    found = catalog(App("a", agents=[mine], workflows=[briefing]), App("b", agents=[other]))
    assert found.find("agent", "reader", within="b")[1] is other
    assert found.target(agent_ref("reader"), "a.briefing") == "a.reader"
    assert found.target(agent_ref("b.reader"), "a.briefing") == "b.reader"
    assert found.target(workflow_ref("briefing", list[str])) == "a.briefing"


def test_an_agent_of_two_apps_is_that_of_the_calling_app():
    found = catalog(App("a", agents=[reader]), App("b", agents=[reader]), App("c", agents=[editor]))
    assert found.target(reader, "a.briefing") == "a.reader"
    assert found.target(reader, "b.briefing") == "b.reader"
    with pytest.raises(AmbiguousName, match=r"a\.reader, b\.reader"):
        found.target(reader, "c.editor")


def test_an_agent_that_an_installed_app_lists_too_is_that_of_the_app_given_in_code(monkeypatch, tmp_path):
    (tmp_path / "mod_installed.py").write_text("from perdure import App\napp = App('installed')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins = Plugins(PluginSettings(), [EntryPoint("installed", "mod_installed:app", "perdure")])
    mine = App("zz", agents=[reader])
    plugins.start([mine])
    module = next(plugin for _, plugin, _ in plugins.each("perdure_agents") if plugin is not mine)
    module.agents = (reader,)
    assert Catalog(plugins).names("agent") == ["installed.reader", "zz.reader"]
    assert Catalog(plugins).target(reader) == "zz.reader"


def test_a_declaration_of_no_open_app_says_where_to_list_it():
    with pytest.raises(
        UnknownName, match=r"unknown agent 'reader'; it belongs to no app .*agents=\[…\]\); known: a\.ed"
    ):
        catalog(App("a", agents=[editor])).target(reader)


def test_an_unknown_name_lists_the_known_ones():
    found = catalog(App("a", agents=[editor]))
    with pytest.raises(UnknownName, match=r"unknown agent 'reader'; known: a\.editor"):
        found.find("agent", "reader")
    with pytest.raises(UnknownName, match="unknown workflow 'x'; there is no workflow at all here"):
        found.find("workflow", "x")
    with pytest.raises(UnknownName, match=r"unknown agent or workflow 'x'; known: a\.editor"):
        found.find_any("x")
    with pytest.raises(UnknownName, match=r"unknown agent or workflow 'a\.gone'"):
        found.program("a.gone", 1)


def test_an_unknown_name_mentions_the_plugins_that_failed_to_load(caplog):
    plugins = Plugins(PluginSettings(), [EntryPoint("newsroom", "no_such_module_anywhere:app", "perdure")])
    with caplog.at_level(logging.ERROR):
        plugins.start([App("a", agents=[editor])])
    found = Catalog(plugins)
    for look_up in (lambda: found.find("agent", "newsroom.reader"), lambda: found.find_any("newsroom.reader")):
        with pytest.raises(UnknownName, match=r"known: a\.editor; and plugin 'newsroom' .*fails to import"):
            look_up()


def test_a_short_name_of_an_agent_and_a_workflow_is_ambiguous():
    found = catalog(App("a", agents=[Agent("briefing")]), App("b", workflows=[briefing]))
    with pytest.raises(AmbiguousName, match=r"agent or workflow 'briefing' .*a\.briefing, b\.briefing"):
        found.find_any("briefing")
    assert found.find_any("b.briefing")[1] is briefing


def test_names_are_not_declared_twice():
    with pytest.raises(UsageError, match=r"app 'a' declares 'reader' twice"):
        catalog(App("a", agents=[reader, Agent("reader")]))
    with pytest.raises(UsageError, match=r"app 'a' declares 'briefing' twice"):
        catalog(App("a", agents=[Agent("briefing")], workflows=[briefing]))
    assert catalog(App("a", agents=[reader, reader])).names("agent") == ["a.reader"]


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        ({"workflows": [briefing.fn]}, r"app 'a' lists <function briefing .*> as workflow: expected what @workflow"),
        ({"agents": [briefing]}, "app 'a' lists <workflow 'briefing'> as agent: expected an Agent"),
        ({"agents": [agent_ref("b.reader")]}, "as agent: expected an Agent"),
        ({"tools": ["look"]}, "app 'a' lists 'look' as tool: expected a function"),
    ],
    ids=["function", "kind", "reference", "text"],
)
def test_what_is_no_declaration_is_named(kinds, says):
    with pytest.raises(UsageError, match=says):
        catalog(App("a", **kinds))


@pytest.mark.parametrize("name", ["", "a b", "1st", "a.b", "a/b", "ä!"])
def test_a_name_that_may_not_be_one_is_refused(name):
    with pytest.raises(UsageError, match="expected a letter or '_'"):
        App(name)
    with pytest.raises(UsageError, match="agent name"):
        catalog(App("a", agents=[Agent(name)]))


# -- what executes agents


class Turns:
    def __init__(self, *kinds: type) -> None:
        self.name = "_".join(["turns", *(kind.__name__ for kind in kinds), str(id(self))])
        self.kinds = kinds

    @hookimpl
    def perdure_agent_kinds(self, services):
        return dict.fromkeys(self.kinds, self)


class Special(Agent[str]):
    """A kind of agent of its own."""


def bound(*apps: Any) -> Runtime:
    plugins = Plugins(PluginSettings(), ())
    plugins.start(apps)
    runtime = Runtime(Settings(), plugins, ManualClock(), None)
    runtime.catalog.bind(runtime)
    return runtime


def test_the_nearest_class_chooses_what_executes_an_agent():
    general, special = Turns(Agent), Turns(Special)
    one = Special("one")
    runtime = bound(App("a", agents=[one, reader]), general, special)
    assert runtime.catalog.handler("one") == (one, special)
    assert runtime.catalog.handler("a.reader") == (reader, general)
    assert bound(App("a", agents=[one]), general).catalog.handler("one") == (one, general)


def test_two_handlers_for_one_kind_are_an_error():
    with pytest.raises(UsageError, match=r"two plugins execute Agent agents, one is 'turns_Agent_\d+': block one"):
        bound(Turns(Agent), Turns(Agent))


def test_an_agent_that_nothing_executes_says_what_to_install():
    with pytest.raises(
        PluginMissing, match=r"executes Agent agents such as 'a\.reader': pip install perdure-agent-llm"
    ):
        bound(App("a", agents=[reader])).catalog.handler("a.reader")


# -- declarations


@pytest.mark.parametrize(
    ("message", "got"),
    [
        ("", "an empty one"),
        (" \n", "an empty one"),
        (3, "type int"),
        (None, "type NoneType"),
        ({"text": "x"}, "type dict"),
    ],
    ids=["empty", "blank", "number", "none", "mapping"],
)
@pytest.mark.parametrize("callee", [reader, agent_ref("a.reader")], ids=["agent", "reference"])
def test_a_message_that_is_no_text_is_refused_at_once(callee, message, got):
    with pytest.raises(InvalidInput, match=f"message to agent '.*reader': expected a text, got .*{got}"):
        callee.encode_input((message,), {})


@pytest.mark.parametrize("payload", [b'""', b"3", b"null", b'{"text":"x"}'])
def test_a_message_that_arrives_as_no_text_is_refused(payload):
    with pytest.raises(InvalidInput, match="expected a text"):
        reader.decode_input(payload)


def test_an_agent_takes_one_message():
    with pytest.raises(InvalidInput, match=r"takes one message, got 2 arguments and \['loud'\]"):
        reader.encode_input(("a", "b"), {"loud": True})


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(UsageError, match=r"agent 'x' has two tools named \['look'\]"):
        Agent("x", tools=[look, look.fn])


def test_a_tool_is_still_the_function():
    assert (look("x"), look.name, look.durable, look.returns) == ("x", "look", False, str)


def test_a_workflow_is_an_async_function_with_a_context():
    with pytest.raises(UsageError, match="@workflow needs an 'async def' function"):
        workflow(look.fn)  # type: ignore[arg-type]

    async def lost(folder: str) -> None: ...

    with pytest.raises(UsageError, match="workflow 'lost': its first parameter must be annotated as Context"):
        _ = workflow(lost).parameters  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["key", "session"])
def test_a_workflow_has_no_parameter_that_is_an_option_of_the_call(name):
    namespace: dict[str, Any] = {"Context": Context}
    exec(f"async def taken(ctx: Context, {name}: str) -> None: ...", namespace)  # noqa: S102 - a name to be chosen
    with pytest.raises(UsageError, match=f"workflow 'taken' has the parameter '{name}'.*rename it"):
        workflow(namespace["taken"])


def test_a_workflow_s_arguments_are_an_object_by_name():
    assert briefing.encode_input(("docs",), {}) == b'{"folder":"docs","limit":3}'
    assert briefing.encode_input((), {"folder": "docs", "limit": 1}) == b'{"folder":"docs","limit":1}'
    with pytest.raises(InvalidInput, match=r"workflow 'briefing' takes 1 positional arguments \(folder\), got 2"):
        briefing.encode_input(("docs", 3), {})
    with pytest.raises(InvalidInput, match=r"limit: input should be a valid integer, .*\(got 'many'\)"):
        briefing.encode_input(("docs",), {"limit": "many"})


def test_a_reference_passes_arguments_by_name():
    with pytest.raises(UsageError, match=r"workflow 'a\.briefing' is called by reference: pass its arguments by name"):
        workflow_ref("a.briefing", list[str]).encode_input(("docs",), {})


async def test_a_workflow_s_result_is_what_it_declares():
    @workflow
    async def wrong(ctx: Context) -> int:
        return "three"  # type: ignore[return-value]

    with pytest.raises(NotEncodable, match=r"the result of workflow 'wrong' .*expected int, got str"):
        await wrong.run(None, b"{}")  # type: ignore[arg-type]
