"""All agents, workflows and tools of a runtime, by qualified name; and what executes them.

A short name is enough where it is unambiguous; within an app, the app's own names come first. A declaration that
several apps list stands, outside them, for that of the app given in code.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from perdure.agent import AgentRef, Tool
from perdure.errors import AmbiguousName, PluginMissing, UnknownName, UsageError
from perdure.workflow import Workflow, WorkflowRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from perdure.context import Callee, Context
    from perdure.plugins import Plugins
    from perdure.ports import Program, Services, TurnHandler

Kind = Literal["agent", "workflow", "tool"]

_NAME: Final = re.compile(r"[A-Za-z_][\w\-]*")
_HOOKS: Final[tuple[tuple[Kind, str], ...]] = (
    ("agent", "perdure_agents"),
    ("workflow", "perdure_workflows"),
    ("tool", "perdure_tools"),
)
_DECLARED: Final[dict[Kind, Callable[[Any], bool]]] = {
    "agent": lambda item: getattr(item, "kind", "") == "agent" and not isinstance(item, AgentRef),
    "workflow": lambda item: isinstance(item, Workflow),
    "tool": callable,
}


def checked_name(kind: str, name: str) -> str:
    """The name, if it may be one. Raises ``UsageError``."""
    if not _NAME.fullmatch(name):
        msg = f"{kind} name {name!r}: expected a letter or '_', then letters, digits, '_' and '-'"
        raise UsageError(msg)
    return name


class Catalog:
    """What there is, collected once from the plugins' hooks; fills ``perdure.ports.Programs``."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._given = {getattr(plugin, "name", "") for plugin in plugins.given}
        self._declared: dict[Kind, dict[str, Any]] = {"agent": {}, "workflow": {}, "tool": {}}
        self._versions: dict[str, dict[int, Workflow[..., Any]]] = {}
        self._handlers: dict[type, TurnHandler] = {}
        for kind, hook in _HOOKS:
            for plugin_name, plugin, items in plugins.collect(hook):
                self._add(kind, getattr(plugin, "name", plugin_name), items)

    def bind(self, services: Services) -> None:
        """Collect what executes agents. Raises ``UsageError`` if two plugins want the same kind."""
        for plugin_name, _, function in self._plugins.each("perdure_agent_kinds"):
            for declaration, handler in function(services=services).items():
                if declaration in self._handlers:
                    msg = f"two plugins execute {declaration.__qualname__} agents, one is {plugin_name!r}: block one"
                    raise UsageError(msg)
                self._handlers[declaration] = handler

    # -- looking up

    def names(self, kind: Kind) -> list[str]:
        """Qualified names, sorted."""
        return sorted(self._declared[kind])

    def declared(self, kind: Kind) -> Mapping[str, Any]:
        """Declarations by qualified name, in the order of the apps."""
        return self._declared[kind]

    def find(self, kind: Kind, name: str, within: str = "") -> tuple[str, Any]:
        """The declaration that a name stands for; ``within`` is the app whose names come first.

        Raises:
            UnknownName: There is none; names the apps that failed to load, if any did.
            AmbiguousName: Several apps have it.
        """
        return self._find(kind, self._declared[kind], name, within)

    def targets(self) -> frozenset[str]:
        """The qualified names of all workflows and agents."""
        return frozenset([*self._declared["workflow"], *self._declared["agent"]])

    def target(self, callee: Callee, caller: str = "") -> str:
        """The qualified name of a declaration or reference, as code of ``caller`` means it."""
        own = caller.rpartition(".")[0]
        kind: Kind = "agent" if callee.kind == "agent" else "workflow"
        if isinstance(callee, AgentRef | WorkflowRef):
            return self.find(kind, callee.name, own)[0]
        names = [name for name, declared in self._declared[kind].items() if declared is callee]
        if f"{own}.{callee.name}" in names:
            return f"{own}.{callee.name}"
        given = [name for name in names if name.rpartition(".")[0] in self._given]
        if len(found := given or names) == 1:
            return found[0]
        if found:
            raise AmbiguousName(kind, callee.name, found)
        known = f"; known: {', '.join(self.names(kind))}" if self._declared[kind] else ""
        hint = f"it belongs to no app that is open here: list it in App(…, {kind}s=[…]){known}"
        raise UnknownName(kind, callee.name, hint=hint)

    def find_any(self, name: str) -> tuple[str, Any]:
        """An agent or a workflow, whichever the name stands for. Raises as ``find``."""
        return self._find("agent or workflow", {**self._declared["agent"], **self._declared["workflow"]}, name)

    # -- executing

    def handler(self, name: str) -> tuple[Any, TurnHandler]:
        """An agent's declaration and what executes it. Raises ``UnknownName``, ``PluginMissing``."""
        declared = self.find("agent", name)[1]
        for kind in type(declared).__mro__:
            if kind in self._handlers:
                return declared, self._handlers[kind]
        msg = (
            f"no installed plugin executes {type(declared).__qualname__} agents such as {name!r}:"
            " pip install perdure-agent-llm for LLM agents, perdure-messaging for message handlers"
        )
        raise PluginMissing(msg)

    def version(self, target: str) -> int:
        """The version that new runs of a qualified name begin with; 1 for what has none."""
        return max(self._versions.get(target, ()), default=1)

    def program(self, target: str, version: int) -> Program:
        """The durable code under a qualified name. Raises ``UnknownName``."""
        if target in self._versions:
            versions = self._versions[target]
            if version not in versions:
                here = ", ".join(map(str, sorted(versions)))
                hint = f"versions that are here: {here}; deploy the one that the run began with, and it goes on"
                raise UnknownName("workflow", f"{target} version {version}", hint=hint)
            return versions[version].run
        self.find_any(target)
        agent, handler = self.handler(target)

        async def turn(ctx: Context, payload: bytes, /) -> bytes:
            return agent.encode_result(await handler.turn(ctx, agent, agent.decode_input(payload)))

        return turn

    def _find(self, kind: str, declared: dict[str, Any], name: str, within: str = "") -> tuple[str, Any]:
        for candidate in (name, f"{within}.{name}"):
            if candidate in declared:
                return candidate, declared[candidate]
        matches = [full for full in declared if full.rpartition(".")[2] == name]
        if len(matches) == 1:
            return matches[0], declared[matches[0]]
        if matches:
            raise AmbiguousName(kind, name, matches)
        broken = "; ".join(info.error for info in self._plugins.broken())
        known = ", ".join(sorted(declared)) or "none"
        raise UnknownName(kind, name, declared, hint=f"known: {known}; and {broken}" if broken else "")

    def _add(self, kind: Kind, app: str, items: Iterable[Any]) -> None:
        checked_name("app", app)
        for item in items:
            if not _DECLARED[kind](item):
                made = {"agent": "an Agent or the like", "workflow": "what @workflow makes", "tool": "a function"}
                msg = f"app {app!r} lists {item!r} as {kind}: expected {made[kind]}"
                raise UsageError(msg)
            declared = cast("Any", Tool(item) if kind == "tool" and not isinstance(item, Tool) else item)
            full = f"{app}.{checked_name(kind, declared.name)}"
            if kind == "workflow" and not self._add_version(full, declared):
                continue
            others = [other for other in self._declared.values() if full in other]
            if others and others[0][full] is not declared:
                msg = (
                    f"app {app!r} declares {declared.name!r} twice: agents, workflows and tools need names of their own"
                )
                raise UsageError(msg)
            self._declared[kind][full] = declared

    def _add_version(self, full: str, declared: Workflow[..., Any]) -> bool:
        """Note a version; whether it is the one that the name stands for now."""
        versions = self._versions.setdefault(full, {})
        first = versions.setdefault(declared.version, declared)
        if first is not declared or len(versions) == 1:
            return True
        if declared.version == max(versions):
            self._declared["workflow"][full] = declared
        return False
