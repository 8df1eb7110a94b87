"""Finds plugins by entry point, allows and blocks them by name, loads them, and explains each.

pluggy composes; nothing hot goes through it. Group ``perdure`` is loaded at start. The replaceable kinds
(``hookspecs.BY_NAME``) are imported when their name is first used. There is no global plugin manager.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import pluggy

from perdure.errors import PerdureError, PluginBroken, PluginMissing
from perdure.hookspecs import BY_NAME, FAMILIES, HOOK_API

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from perdure.config import PluginSettings

GROUP: Final = "perdure"
_log = logging.getLogger("perdure.plugins")


@dataclass
class PluginInfo:
    """One plugin, as ``perdure plugins`` shows it.

    Attributes:
        name: ``otel`` or, of a replaceable kind, ``store-sqlite``.
        group: Its entry-point group; empty for what was given in code.
        origin: What the entry point names.
        distribution: Which distribution installed it, with its version.
        state: ``loaded``, ``available`` (imported when its name is used), ``blocked`` or ``broken``.
        hooks: The hooks it implements, once it is loaded.
        error: Why it is broken.
    """

    name: str
    group: str
    origin: str
    distribution: str
    state: Literal["loaded", "available", "blocked", "broken"]
    hooks: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class _Found:
    point: EntryPoint
    info: PluginInfo = field(compare=False)


def plugin_name(group: str, name: str) -> str:
    """``sqlite`` in group ``perdure.stores`` is the plugin ``store-sqlite``."""
    for kind, (by_name, _) in BY_NAME.items():
        if group == by_name:
            return f"{kind}-{name}"
    return name


class Plugins:
    """The plugins of one runtime.

    Args:
        settings: What may be loaded.
        points: The entry points; by default those of the running interpreter.

    Attributes:
        given: Those given in code.
    """

    def __init__(self, settings: PluginSettings, points: Iterable[EntryPoint] | None = None) -> None:
        self._settings = settings
        self._manager = pluggy.PluginManager("perdure")
        for family in FAMILIES:
            self._manager.add_hookspecs(family)
        self._found: dict[tuple[str, str], _Found] = {}
        self.given: tuple[object, ...] = ()
        self._others: list[PluginInfo] = []  # given in code, or second to a name
        self._objects: dict[str, Any] = {}
        distribution = cache(_distribution)  # each answer parses the whole description again: ask each once
        for point in sorted(self._discover() if points is None else points, key=lambda p: (p.group, p.name)):
            self._note(point, distribution(point.dist))

    def start(self, given: Sequence[object] = ()) -> None:
        """Load what is given in code (whatever is blocked), then the group ``perdure``. Broken ones are skipped.

        Raises:
            PluginBroken: One of those given in code.
        """
        self.given = tuple(given)
        taken: set[str] = set()
        for plugin in given:
            name = getattr(plugin, "name", None) or getattr(plugin, "__name__", repr(plugin))
            info = PluginInfo(name, "", "given in code", "", "loaded")
            self._register(plugin, info)
            self._others.append(info)
            taken.add(name)
        for (group, _), found in self._found.items():
            if group != GROUP or found.info.state != "available":
                continue
            if found.info.name in taken:
                found.info.state, found.info.error = "blocked", "an app of this name was given in code"
                continue
            try:
                self._load(found)
            except PluginBroken as error:
                _log.warning("%s", error)

    def each(self, hook: str) -> list[tuple[str, Any, Callable[..., Any]]]:
        """Every loaded implementation of a hook: plugin name, plugin, and a function, called by keyword.

        They stand in the order of loading, which ``tryfirst`` and ``trylast`` change. Whatever the plugin raises that
        is no ``PerdureError`` comes out as ``PluginBroken``.
        """
        return [(impl.plugin_name, impl.plugin, partial(_called, impl, hook)) for impl in self._impls(hook)]

    def collect(self, hook: str) -> list[tuple[str, Any, list[Any]]]:
        """What every implementation of a hook without parameters lists: plugin name, plugin, and the items."""
        return [(impl.plugin_name, impl.plugin, _called(impl, hook, list)) for impl in self._impls(hook)]

    def named(self, kind: str, name: str) -> Callable[..., Any]:
        """The hook that makes a thing of a replaceable kind; its module is imported now.

        Raises:
            PluginMissing: Nothing installed has that name; says what to install.
            PluginBroken: It fails to import, or lacks the hook.
        """
        group, hook = BY_NAME[kind]
        found = self._found.get((group, name))
        full = plugin_name(group, name)
        if found is None or found.info.state == "blocked":
            others = ", ".join(sorted(self.names(kind)))
            why = "is blocked by the configuration" if found else "is not installed"
            way = "allow it under [plugins]" if found else f"install it (pip install perdure-{full})"
            msg = f"{kind} {name!r} {why}: {way}{f', or choose one of: {others}' if others else ''}"
            raise PluginMissing(msg)
        if found.info.state != "loaded":
            self._load(found)
        for impl in self._impls(hook):
            if impl.plugin is self._objects[full]:
                return partial(_called, impl, hook)
        msg = f"plugin {full!r} ({_where(found.info)}) does not implement {hook!r}"
        found.info.state, found.info.error = "broken", msg
        raise PluginBroken(msg)

    def names(self, kind: str) -> list[str]:
        """What is installed and allowed of a replaceable kind, without importing it."""
        group = BY_NAME[kind][0]
        return [name for (g, name), found in self._found.items() if g == group and found.info.state != "blocked"]

    def describe(self) -> list[PluginInfo]:
        """Each plugin with its state."""
        return [*self._others, *(found.info for found in self._found.values())]

    def broken(self) -> list[PluginInfo]:
        """Those that failed to load."""
        return [info for info in self.describe() if info.state == "broken"]

    # -- inside

    @staticmethod
    def _discover() -> list[EntryPoint]:
        # One scan for all groups. It knows distributions by their folders' names: to ask each for its name would read
        # and parse the description of everything that is installed, which is half of what it takes to open a runtime.
        found = entry_points()
        return [
            point for group in {GROUP, *(group for group, _ in BY_NAME.values())} for point in found.select(group=group)
        ]

    def _note(self, point: EntryPoint, distribution: str) -> None:
        name = plugin_name(point.group, point.name)
        blocked = name in self._settings.block or not (self._settings.allow is None or name in self._settings.allow)
        info = PluginInfo(name, point.group, point.value, distribution, "blocked" if blocked else "available")
        first = self._found.setdefault((point.group, point.name), _Found(point, info))
        if first.info is not info and not blocked:
            info.state = "broken"
            info.error = f"plugin {name!r} ({_where(info)}) has the name of {_where(first.info)}: uninstall one of them"
            self._others.append(info)
            _log.warning("%s", info.error)

    def _load(self, found: _Found) -> None:
        info = found.info
        try:
            plugin = found.point.load()
            if isinstance(plugin, type):  # one for each runtime: what its hooks share is not shared with another's
                plugin = cast("Any", plugin)()
        except (Exception, SystemExit) as error:
            info.state = "broken"
            info.error = (
                f"plugin {info.name!r} ({_where(info)}) fails to import:"
                f" {type(error).__name__}: {error}; reinstall or remove it, or block it under [plugins]"
            )
            raise PluginBroken(info.error) from error
        self._register(plugin, info)

    def _register(self, plugin: Any, info: PluginInfo) -> None:
        try:
            if not self._manager.is_registered(plugin):  # one module may fill several kinds
                _check_api(plugin)
                self._manager.register(plugin, name=info.name)
                self._manager.check_pending()
                self._check_hooks(plugin)
        except Exception as error:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            info.state = "broken"
            info.error = f"plugin {info.name!r} ({_where(info)}) cannot be used: {error}"
            raise PluginBroken(info.error) from error
        self._objects[info.name] = plugin
        info.state = "loaded"
        info.hooks = tuple(sorted(caller.name for caller in self._manager.get_hookcallers(plugin) or ()))

    def _impls(self, hook: str) -> list[pluggy.HookImpl]:
        impls: list[pluggy.HookImpl] = getattr(self._manager.hook, hook).get_hookimpls()
        return sorted(impls, key=lambda impl: impl.trylast - impl.tryfirst)

    def _check_hooks(self, plugin: Any) -> None:
        callers = self._manager.get_hookcallers(plugin) or ()
        if not callers:
            msg = "it implements no hook: name an App, or what has functions marked with @hookimpl"
            raise PluginBroken(msg)
        for impl in (impl for caller in callers for impl in caller.get_hookimpls() if impl.plugin is plugin):
            if impl.wrapper or impl.hookwrapper or inspect.iscoroutinefunction(impl.function):
                msg = f"hook {impl.function.__name__!r} is async or a wrapper: hooks are plain functions that declare"
                raise PluginBroken(msg)


def _distribution(dist: Distribution | None) -> str:
    return f"{(metadata := dist.metadata)['Name']} {metadata['Version']}" if dist else ""


def _check_api(plugin: Any) -> None:
    api = getattr(plugin, "perdure_hook_api", HOOK_API)
    if api != HOOK_API:
        msg = f"it is written for hooks of version {api}, this kernel has version {HOOK_API}"
        raise PluginBroken(msg)


def _where(info: PluginInfo) -> str:
    return f"{info.distribution}, {info.origin}" if info.distribution else info.origin


def _called(impl: pluggy.HookImpl, hook: str, into: Callable[[Any], Any] | None = None, /, **given: Any) -> Any:
    """A hook's result; as pluggy does, the function gets those of the arguments that it names."""
    try:
        result = impl.function(*(given[name] for name in impl.argnames))
        return into(result) if into else result
    except PerdureError:
        raise
    except Exception as error:
        msg = f"plugin {impl.plugin_name!r} fails in {hook!r}: {type(error).__name__}: {error}; mend it or block it"
        raise PluginBroken(msg) from error
