"""``App``: a named set of agents, workflows and tools. It is itself a plugin.

Another package joins with one line in its ``pyproject.toml``:

.. code-block:: toml

    [project.entry-points.perdure]
    newsroom = "newsroom:app"
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, TypeVarTuple, overload

from perdure.catalog import checked_name
from perdure.hookspecs import hookimpl
from perdure.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

    from perdure.agent import Agent, AgentRef, Tool
    from perdure.context import Callee, Context, Reply
    from perdure.workflow import Workflow

P = ParamSpec("P")
T = TypeVar("T")
O = TypeVar("O")  # noqa: E741 - output
Ts = TypeVarTuple("Ts")


class App:
    """Declares what belongs together; names are qualified by the app's (``newsroom.reader``).

    Args:
        name: Letters, digits, ``_`` and ``-``.
        agents: LLM agents and other agent declarations.
        workflows: What ``@workflow`` made.
        tools: Tools for others to use by name (``newsroom.read_document``); an agent's own need not be listed.
        description: What others are told about it.
    """

    def __init__(
        self,
        name: str,
        *,
        agents: Sequence[Callee] = (),
        workflows: Sequence[Workflow[..., Any]] = (),
        tools: Sequence[Tool[..., Any] | Callable[..., Any]] = (),
        description: str = "",
    ) -> None:
        self.name: str = checked_name("app", name)
        self.agents: tuple[Callee, ...] = tuple(agents)
        self.workflows: tuple[Workflow[..., Any], ...] = tuple(workflows)
        self.tools: tuple[Tool[..., Any] | Callable[..., Any], ...] = tuple(tools)
        self.description = description

    def __repr__(self) -> str:
        return f"<app {self.name!r}>"

    def open(self, **options: Any) -> AbstractAsyncContextManager[Runtime]:
        """Open this app; see ``Runtime.open`` for the options."""
        return Runtime.open(self, **options)

    @hookimpl
    def perdure_agents(self) -> Sequence[Any]:
        """Its agents."""
        return self.agents

    @hookimpl
    def perdure_workflows(self) -> Sequence[Any]:
        """Its workflows."""
        return self.workflows

    @hookimpl
    def perdure_tools(self) -> Sequence[Any]:
        """Its tools."""
        return self.tools


@overload
def run(app: App, callee: Workflow[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
@overload
def run(app: App, callee: Callable[[Context, *Ts], Coroutine[Any, Any, T]], /, *args: *Ts, key: str | None) -> T: ...
@overload
def run(app: App, callee: Agent[O] | AgentRef[O], message: str, /, *, key: str | None = None) -> Reply[O]: ...
def run(app: App, callee: Any, /, *args: Any, key: str | None = None, **kwargs: Any) -> Any:
    """Open an app, call one workflow or agent, and return its result: for scripts.

    Raises:
        RunFailed: It failed.
        UsageError: The arguments do not fit.
    """

    async def main() -> Any:
        async with app.open() as runtime:
            started = await runtime.start(callee, *args, key=key, **kwargs)
            return await started.result()

    return asyncio.run(main())
