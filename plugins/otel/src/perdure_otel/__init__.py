"""Spans of agents, models, tools, workflows, steps and messages.

Made of the kernel's seams only: an observer, middleware around steps and operations, and a lifespan. Nothing of
OpenTelemetry is imported before a configuration switches it on.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from perdure import hookimpl
from perdure.direct import DirectContext
from perdure.ports import AgentMiddleware
from perdure_otel.settings import SECTION, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from perdure import Context
    from perdure.messages import ModelRequest, ModelResponse, ToolCall, ToolResult
    from perdure.ports import Observer, RuntimeMiddleware, Services, StepMiddleware
    from perdure_otel.tracing import Tracing

__all__ = ["Otel", "Settings"]


class Otel:
    """The plugin; each runtime has one of its own.

    Args:
        settings: Instead of the section ``[otel]``, where the plugin is given in code: ``app.open()`` takes the
            configuration, ``Runtime.open(app, Otel(Settings(exporter="console")))`` these.
    """

    name = SECTION

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._tracing: Tracing | None = None

    @hookimpl
    def perdure_lifespan(self, services: Services) -> AbstractAsyncContextManager[None]:
        """Set up and let go of the exporter. Raises ``InvalidSetting``."""
        return self._opened(self._settings or Settings.read(services.settings(SECTION)))

    @hookimpl
    def perdure_runtime_middleware(self) -> Iterable[RuntimeMiddleware]:
        """Around each start, send and delivery."""
        return [] if self._tracing is None else [self._tracing.operation]

    @hookimpl
    def perdure_agent_middleware(self) -> Iterable[AgentMiddleware]:
        """Around model and tool calls of volatile turns, which no journal tells of."""
        return [] if self._tracing is None else [_VolatileTurns(self._tracing)]

    @hookimpl
    def perdure_step_middleware(self) -> Iterable[StepMiddleware]:
        """Around the body of each step."""
        return [] if self._tracing is None else [self._tracing.step]

    @hookimpl
    def perdure_observers(self) -> Iterable[Observer]:
        """Spans from the journal."""
        return [] if self._tracing is None else [self._tracing]

    @asynccontextmanager
    async def _opened(self, settings: Settings) -> AsyncGenerator[None]:
        if settings.exporter == "none":
            yield
            return
        from perdure_otel.tracing import Tracing  # noqa: PLC0415 - as long as the kernel takes: for those who switch it on

        self._tracing = tracing = Tracing(settings)
        try:
            yield
        finally:
            self._tracing = None
            await tracing.close()


class _VolatileTurns(AgentMiddleware):
    """Makes the spans of turns that are not recorded; passes durable ones on, whose spans come from the journal."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    async def model(
        self, ctx: Context, request: ModelRequest, proceed: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse:
        if not isinstance(ctx, DirectContext):
            return await proceed(request)
        return await self._tracing.volatile_chat(ctx.session.id, request, proceed)

    async def tool(
        self, ctx: Context, call: ToolCall, proceed: Callable[[ToolCall], Awaitable[ToolResult]]
    ) -> ToolResult:
        if not isinstance(ctx, DirectContext):
            return await proceed(call)
        return await self._tracing.volatile_tool(ctx.session.id, call, proceed)
