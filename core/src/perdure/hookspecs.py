"""Every hook of Perdure, on one screen per family: agent, runtime, workflow.

Hooks are synchronous, are called once while an app starts, do no I/O and return declarations, factories or
middleware; nothing hot goes through them. A plugin implements those it wants::

    from perdure import hookimpl


    @hookimpl
    def perdure_tools():
        return [my_tool]

A plugin is whatever an entry point names: a module, an object, or a class, which is made anew (without arguments)
for each runtime, so that its hooks can share what is the runtime's own.

Hooks marked *by name* stand in a module that an entry point of the group names; it is imported when its
name is first used. The others are found through the group ``perdure``, loaded at start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from perdure.ports import (
        AgentMiddleware,
        Clock,
        Codec,
        DurableStore,
        Engine,
        EngineParts,
        Messenger,
        Model,
        Observer,
        RuntimeMiddleware,
        Services,
        StepMiddleware,
        Transport,
        TurnHandler,
    )
    from perdure.runtime import Runtime

HOOK_API: Final = 1
"""Raised when a hook changes incompatibly. A plugin may state ``perdure_hook_api = 1``; another one is refused."""

hookspec: Final = pluggy.HookspecMarker("perdure")
hookimpl: Final = pluggy.HookimplMarker("perdure")
"""Marks a function or method as a hook's implementation."""


class AgentHooks:
    """What agents there are, what executes them, what they think and act with."""

    @hookspec
    def perdure_agents(self) -> Iterable[Any]:  # pyright: ignore[reportReturnType]
        """Agent declarations, as an ``App`` lists them."""

    @hookspec
    def perdure_agent_kinds(self, services: Services) -> Mapping[type, TurnHandler]:  # pyright: ignore[reportReturnType]
        """What executes which class of declaration. Two handlers for one class are an error."""

    @hookspec
    def perdure_model(self, model: str, settings: Mapping[str, Any]) -> Model:  # pyright: ignore[reportReturnType]
        """*By name* (``perdure.models``): the client for a model, named as after the colon in ``provider:model``."""

    @hookspec
    def perdure_tools(self) -> Iterable[Any]:  # pyright: ignore[reportReturnType]
        """Tools that agents may name as ``app.tool`` instead of importing them."""

    @hookspec
    def perdure_agent_middleware(self) -> Iterable[AgentMiddleware]:  # pyright: ignore[reportReturnType]
        """Around each model and tool call of a turn; replayed."""


class RuntimeHooks:
    """What a runtime stands on."""

    @hookspec
    def perdure_transport(self, settings: Mapping[str, Any], clock: Clock) -> Transport:  # pyright: ignore[reportReturnType]
        """*By name* (``perdure.transports``): what carries messages; envelopes' deadlines are of ``clock``."""

    @hookspec
    def perdure_store(self, settings: Mapping[str, Any], data: str) -> DurableStore:  # pyright: ignore[reportReturnType]
        """*By name* (``perdure.stores``): where everything durable lies; ``data`` is the folder for local files."""

    @hookspec
    def perdure_engine(self, settings: Mapping[str, Any], parts: EngineParts) -> Engine:  # pyright: ignore[reportReturnType]
        """*By name* (``perdure.engines``): what drives runs and turns."""

    @hookspec
    def perdure_messenger(self, runtime: Runtime) -> Messenger:  # pyright: ignore[reportReturnType]
        """What sends and publishes messages, and delivers them to agents. Two are an error."""

    @hookspec
    def perdure_interventions(self) -> Iterable[Any]:  # pyright: ignore[reportReturnType]
        """What sees and may change each message, as the messenger's plugin defines it."""

    @hookspec
    def perdure_lifespan(self, services: Services) -> AbstractAsyncContextManager[None]:  # pyright: ignore[reportReturnType]
        """Entered before the engine starts, left after it has stopped."""

    @hookspec
    def perdure_runtime_middleware(self) -> Iterable[RuntimeMiddleware]:  # pyright: ignore[reportReturnType]
        """Around each start, send, publication and delivery."""

    @hookspec
    def perdure_command(self) -> Any:
        """*By name* (``perdure.commands``): a ``click.Command`` for the command line."""


class WorkflowHooks:
    """What workflows there are, and what happens around their steps."""

    @hookspec
    def perdure_workflows(self) -> Iterable[Any]:  # pyright: ignore[reportReturnType]
        """Workflow declarations, as an ``App`` lists them."""

    @hookspec
    def perdure_step_middleware(self) -> Iterable[StepMiddleware]:  # pyright: ignore[reportReturnType]
        """Around the body of each attempt of each step; not replayed."""

    @hookspec
    def perdure_observers(self) -> Iterable[Observer]:  # pyright: ignore[reportReturnType]
        """Told what was committed, after each commit."""

    @hookspec
    def perdure_codecs(self) -> Iterable[Codec]:  # pyright: ignore[reportReturnType]
        """What payloads pass through on their way to the store."""


FAMILIES: Final = (AgentHooks, RuntimeHooks, WorkflowHooks)

BY_NAME: Final = {
    "store": ("perdure.stores", "perdure_store"),
    "engine": ("perdure.engines", "perdure_engine"),
    "transport": ("perdure.transports", "perdure_transport"),
    "model": ("perdure.models", "perdure_model"),
    "command": ("perdure.commands", "perdure_command"),
}
"""Replaceable kinds: the entry-point group that names them and the hook that makes one."""
