"""How plugins are found, chosen by name, loaded, refused and explained: over real distributions in a folder."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any

import pytest

from perdure import App, hookimpl
from perdure.config import PluginSettings
from perdure.errors import InvalidSetting, PluginBroken, PluginMissing
from perdure.hookspecs import BY_NAME, FAMILIES
from perdure.plugins import GROUP, Plugins, plugin_name

HOOKS = "from perdure import hookimpl, tool\n"
TOOLS = f"{HOOKS}@hookimpl\ndef perdure_tools():\n    return []\n"
STORE = f"{HOOKS}@hookimpl\ndef perdure_store(settings, data):\n    return (__name__, dict(settings), data)\n"


class House:
    """A folder of installed distributions, each with one module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def install(self, module: str, source: str, **entry_points: tuple[str, str]) -> None:
        """``name=(group, value)``; the value's module is the one that is written."""
        (self.folder / f"{module}.py").write_text(source)
        self.modules.append(module)
        info = self.folder / f"{module}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.5\n")
        lines = [f"[{group}]\n{name.replace('_', '-')} = {value}" for name, (group, value) in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))

    def points(self) -> list[EntryPoint]:
        return [point for each in distributions(path=[str(self.folder)]) for point in each.entry_points]

    def open(self, *given: object, **settings: Any) -> Plugins:
        plugins = Plugins(PluginSettings(**settings), self.points())
        plugins.start(given)
        return plugins


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    house = House(tmp_path)
    yield house
    for module in house.modules:
        sys.modules.pop(module, None)


def states(plugins: Plugins) -> dict[str, str]:
    return {info.name: info.state for info in plugins.describe()}


class Plain:
    """A plugin whose hooks share what is the runtime's own."""

    def __init__(self, name: str = "plain", tools: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.tools = tools

    @hookimpl
    def perdure_tools(self):
        return self.tools


def test_the_group_is_loaded_at_start_and_explained(house):
    house.install("mod_tools", TOOLS, tools=(GROUP, "mod_tools"))
    [info] = house.open().describe()
    assert (info.name, info.state, info.distribution, info.origin) == ("tools", "loaded", "mod_tools 1.5", "mod_tools")
    assert info.hooks == ("perdure_tools",)


def test_a_replaceable_kind_is_imported_when_its_name_is_used(house):
    house.install("mod_store", STORE, files=("perdure.stores", "mod_store"))
    plugins = house.open()
    assert states(plugins) == {"store-files": "available"}
    assert "mod_store" not in sys.modules
    make = plugins.named("store", "files")
    assert make(settings={"a": 1}, data="d") == ("mod_store", {"a": 1}, "d")
    assert states(plugins) == {"store-files": "loaded"}
    assert plugins.names("store") == ["files"]


@pytest.mark.parametrize("settings", [{"block": {"bomb", "store-bomb"}}, {"allow": set()}], ids=["block", "allow"])
def test_what_is_not_wanted_is_not_imported(house, settings):
    house.install("mod_bomb", "raise SystemExit('imported')", bomb=(GROUP, "mod_bomb"))
    house.install("mod_bombs", "raise SystemExit('imported')", bomb=("perdure.stores", "mod_bombs"))
    plugins = house.open(**settings)
    assert set(states(plugins).values()) == {"blocked"}
    with pytest.raises(
        PluginMissing, match=r"store 'bomb' is blocked by the configuration: allow it under \[plugins\]"
    ):
        plugins.named("store", "bomb")
    assert not {"mod_bomb", "mod_bombs"} & sys.modules.keys()
    assert plugins.names("store") == []


def test_an_allowed_plugin_is_loaded_and_the_others_are_not(house):
    house.install("mod_a", TOOLS, a=(GROUP, "mod_a"))
    house.install("mod_b", TOOLS, b=(GROUP, "mod_b"))
    assert states(house.open(allow={"b"})) == {"a": "blocked", "b": "loaded"}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class app:\n    def __init__(self, needed): ...", "fails to import: TypeError"),
        (f"{HOOKS}@hookimpl\ndef perdure_tolls(): return []\napp = 1", "implements no hook"),
        (f"{HOOKS}class app:\n    @hookimpl\n    def perdure_tolls(self): return []", "perdure_tolls"),
        (f"{HOOKS}class app:\n    @hookimpl\n    def perdure_tools(self, colour): return []", "colour"),
        (f"{HOOKS}class app:\n    @hookimpl\n    async def perdure_tools(self): return []", "'perdure_tools' is async"),
        (f"{HOOKS}class app:\n    @hookimpl(wrapper=True)\n    def perdure_tools(self): return (yield)", "a wrapper"),
        (
            f"{HOOKS}class app:\n    perdure_hook_api = 7\n    @hookimpl\n    def perdure_tools(self): return []",
            "written for hooks of version 7, this kernel has version 1",
        ),
    ],
    ids=["import", "exit", "made", "none", "misspelt", "argument", "async", "wrapper", "version"],
)
def test_a_broken_plugin_is_reported_and_skipped(house, caplog, source, says):
    house.install("mod_broken", source, broken=(GROUP, "mod_broken:app"))
    house.install("mod_good", TOOLS, good=(GROUP, "mod_good"))
    if "app" not in source:
        house.install("mod_other", TOOLS)
    with caplog.at_level(logging.WARNING, logger="perdure.plugins"):
        plugins = house.open()
    assert states(plugins) == {"broken": "broken", "good": "loaded"}
    [info] = plugins.broken()
    assert "plugin 'broken' (mod_broken 1.5, mod_broken:app)" in info.error
    assert says in info.error
    assert says in caplog.text
    assert [name for name, _, _ in plugins.each("perdure_tools")] == ["good"]


def test_a_broken_plugin_that_is_needed_is_an_error_each_time(house):
    house.install("mod_sick", "1 / 0", sick=("perdure.stores", "mod_sick"))
    plugins = house.open()
    for _ in range(2):
        with pytest.raises(
            PluginBroken, match=r"plugin 'store-sick' \(mod_sick 1.5, mod_sick\) fails .*ZeroDivisionError"
        ):
            plugins.named("store", "sick")
    assert states(plugins) == {"store-sick": "broken"}


def test_a_plugin_that_lacks_its_kind_s_hook_is_named(house):
    house.install("mod_tools", TOOLS, tools=("perdure.stores", "mod_tools"))
    plugins = house.open()
    for _ in range(2):
        with pytest.raises(
            PluginBroken, match=r"plugin 'store-tools' \(mod_tools 1.5, .* does not implement 'perdure_store'"
        ):
            plugins.named("store", "tools")


def test_a_missing_plugin_says_what_to_install_and_what_there_is(house):
    house.install("mod_store", STORE, files=("perdure.stores", "mod_store"))
    with pytest.raises(
        PluginMissing, match=r"'redis' is not installed: install it \(pip install perdure-store-redis\).*files"
    ):
        house.open().named("store", "redis")
    with pytest.raises(PluginMissing, match=r"install it \(pip install perdure-engine-redis\)$"):
        house.open().named("engine", "redis")


def test_one_module_may_fill_several_kinds(house):
    both = f"{STORE}@hookimpl\ndef perdure_engine(settings, parts):\n    return 'engine'\n"
    house.install("mod_both", both, files=("perdure.stores", "mod_both"), fast=("perdure.engines", "mod_both"))
    plugins = house.open()
    assert plugins.named("store", "files")(settings={}, data="")[0] == "mod_both"
    assert plugins.named("engine", "fast")(settings={}, parts=None) == "engine"
    assert states(plugins) == {"store-files": "loaded", "engine-fast": "loaded"}


def test_two_distributions_with_one_name_are_told_apart(house, caplog):
    house.install("mod_one", STORE, files=("perdure.stores", "mod_one"))
    house.install("mod_two", STORE, files=("perdure.stores", "mod_two"))
    plugins = house.open()
    [info] = plugins.broken()
    assert "plugin 'store-files'" in info.error
    assert "uninstall one of them" in info.error
    assert plugins.named("store", "files")(settings={}, data="")[0] in {"mod_one", "mod_two"}
    assert "uninstall one" in caplog.text


def test_two_plugins_of_one_name_and_different_groups_leave_the_first_alone(house):
    house.install("mod_first", STORE, store_files=(GROUP, "mod_first"))
    house.install("mod_second", STORE, files=("perdure.stores", "mod_second"))
    plugins = house.open()
    with pytest.raises(PluginBroken, match="store-files"):
        plugins.named("store", "files")
    assert [name for name, _, _ in plugins.each("perdure_store")] == ["store-files"]


def test_an_app_given_in_code_stands_for_the_entry_point_of_its_name(house):
    house.install("mod_shop", "from perdure import App\napp = App('shop')", shop=(GROUP, "mod_shop:app"))
    mine = App("shop")
    plugins = house.open(mine)
    assert [plugin for _, plugin, _ in plugins.each("perdure_agents")] == [mine]
    assert [(info.state, info.origin) for info in plugins.describe()] == [
        ("loaded", "given in code"),
        ("blocked", "mod_shop:app"),
    ]
    assert "mod_shop" not in sys.modules


def test_what_is_given_in_code_is_not_blocked_and_is_an_error_if_broken():
    plugins = Plugins(PluginSettings(block=frozenset({"plain"})), ())
    plugins.start([Plain()])
    assert states(plugins) == {"plain": "loaded"}
    with pytest.raises(PluginBroken, match="implements no hook"):
        Plugins(PluginSettings(), ()).start([3])
    with pytest.raises(PluginBroken, match=r"plugin 'plain' .*already registered"):
        Plugins(PluginSettings(), ()).start([Plain(), Plain()])


def test_two_runtimes_in_one_process_have_plugins_of_their_own(house):
    source = f"{HOOKS}class Own:\n    @hookimpl\n    def perdure_tools(self):\n        return [self]\n"
    house.install("mod_own", source, own=(GROUP, "mod_own:Own"))
    first, second, third = house.open(), house.open(Plain()), house.open(block={"own"})
    assert first.collect("perdure_tools")[0][2] != second.collect("perdure_tools")[1][2]
    assert [name for name, _, _ in second.collect("perdure_tools")] == ["plain", "own"]
    assert third.collect("perdure_tools") == []


def test_implementations_stand_in_the_order_of_loading_unless_they_ask_for_another():
    class Last(Plain):
        @hookimpl(trylast=True)
        def perdure_tools(self):
            return ["last"]

    class First(Plain):
        @hookimpl(tryfirst=True)
        def perdure_tools(self):
            return ["first"]

    plugins = Plugins(PluginSettings(), ())
    plugins.start([Last("l"), Plain("b", ("b",)), Plain("a", ("a",)), First("f")])
    assert [item for _, _, items in plugins.collect("perdure_tools") for item in items] == ["first", "b", "a", "last"]


@pytest.mark.parametrize("answer", [None, 3, ValueError("sour")], ids=["none", "number", "raises"])
def test_a_hook_that_goes_wrong_names_its_plugin(answer):
    class Sour(Plain):
        @hookimpl
        def perdure_tools(self):
            if isinstance(answer, Exception):
                raise answer
            return answer

    plugins = Plugins(PluginSettings(), ())
    plugins.start([Sour()])
    with pytest.raises(
        PluginBroken, match=r"plugin 'plain' fails in 'perdure_tools': \w+Error: .*; mend it or block it"
    ):
        plugins.collect("perdure_tools")


def test_a_hook_s_own_perdure_error_is_its_own_and_it_takes_the_arguments_that_it_names():
    class Kinds:
        @hookimpl
        def perdure_agent_kinds(self):
            msg = "section [kinds]"
            raise InvalidSetting(msg)

    plugins = Plugins(PluginSettings(), ())
    plugins.start([Kinds])
    [(_, _, function)] = plugins.each("perdure_agent_kinds")
    with pytest.raises(PluginBroken, match="missing 1 required positional argument"):
        function(services=None)
    plugins = Plugins(PluginSettings(), ())
    plugins.start([Kinds()])
    [(_, _, function)] = plugins.each("perdure_agent_kinds")
    with pytest.raises(InvalidSetting):
        function(services=None)


def test_names_of_replaceable_kinds_carry_their_kind():
    assert plugin_name("perdure.models", "openai") == "model-openai"
    assert plugin_name(GROUP, "otel") == "otel"


def test_every_replaceable_kind_has_its_hook():
    hooks = {name for family in FAMILIES for name in vars(family) if name.startswith("perdure_")}
    assert {hook for _, hook in BY_NAME.values()} <= hooks
