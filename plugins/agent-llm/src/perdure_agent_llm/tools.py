"""Tool calls of one answer: executed in parallel branches, answered in the order of the calls.

Whatever goes wrong with a tool is told to the model as a result, and the turn goes on. The exceptions are what
only the author can mend: code that breaks the rules of durable code fails the turn.
"""

from __future__ import annotations

import asyncio
import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from perdure import encoding
from perdure.errors import DeadlineExceeded, ForbiddenInWorkflow, InvalidInput, NonDeterminism, NotDurable, StepFailed
from perdure.messages import ErrorInfo, ToolResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perdure import Context, Tool
    from perdure.messages import ToolCall, ToolSpec
    from perdure_agent_llm.layers import Layers
    from perdure_agent_llm.settings import Settings

_FOR_THE_AUTHOR: Final = (ForbiddenInWorkflow, NonDeterminism, NotDurable)


class Toolbox:
    """The tools of one agent, as its turns use them.

    Args:
        tools: The agent's.
        settings: Bounds.
        layers: Middleware around each call.
    """

    def __init__(self, tools: Iterable[Tool[..., Any]], settings: Settings, layers: Layers) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._settings = settings
        self._layers = layers

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is told about them."""
        return tuple(tool.spec for tool in self._tools.values())

    async def answer(self, ctx: Context, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """Execute the calls of one response; one result each, in their order.

        Each call is a task, made in the order of the recorded response: that order is its identity in the journal,
        because providers' ids may be empty or repeat.
        """
        most = self._settings.max_parallel_calls
        failure: Exception | None = None
        branches: list[asyncio.Task[ToolResult]] = []
        try:
            async with asyncio.TaskGroup() as group:
                branches += [group.create_task(self._branch(ctx, call)) for call in calls[:most]]
        except ExceptionGroup as failures:
            # Raised below, outside of this block, so that it keeps its own cause.
            failure = failures.exceptions[0]
        if failure is not None:
            raise failure
        refusal = f"This call was not executed: at most {most} calls at once. Call again with fewer."
        return [*(branch.result() for branch in branches), *(_failed(call, refusal) for call in calls[most:])]

    async def _branch(self, ctx: Context, call: ToolCall) -> ToolResult:
        result = await self._layers.tool(ctx, call, partial(self._invoke, ctx))
        # Middleware may have changed the call, or answered in its place: the result is still this call's.
        return ToolResult(id=call.id, name=call.name, content=self._bounded(result.content), error=result.error)

    async def _invoke(self, ctx: Context, call: ToolCall) -> ToolResult:
        tool = self._tools.get(call.name)
        if tool is None:
            return _failed(call, f"There is no tool {call.name!r}. {self._known()}")
        try:
            text = call.arguments.strip() or "{}"  # what some providers send for a tool without parameters
            arguments = tool.parameters.decode(text.encode(), f"The input of tool {tool.name!r}")
        except InvalidInput as error:
            return _failed(call, f"{error}. Correct the arguments and call it again.")
        try:
            execute = _durably if tool.durable else _as_a_step
            return ToolResult(id=call.id, name=call.name, content=await execute(ctx, tool, call, arguments))
        except _FOR_THE_AUTHOR:
            raise
        except Exception as error:  # noqa: BLE001 - a tool may raise anything, and the model is told
            return _failed(call, _complaint(tool, error))

    def _known(self) -> str:
        return f"The tools are: {', '.join(sorted(self._tools))}." if self._tools else "There are no tools; answer."

    def _bounded(self, content: str) -> str:
        """The text as the model is told it: valid UTF-8 (an error may quote a broken file name), and not too long."""
        most = self._settings.max_tool_result
        data = content.encode(errors="backslashreplace")
        if len(data) <= most:
            return data.decode()
        kept = data[:most].decode(errors="ignore")
        return f"{kept}\n[Cut: these are the first {most} of {len(data)} bytes. Ask for a smaller part.]"


async def _as_a_step(ctx: Context, tool: Tool[..., Any], call: ToolCall, arguments: dict[str, Any]) -> str:
    options = tool.options
    # Fingerprinted as the model wrote them: a tool that has since got another default does not park the turn.
    fingerprint = encoding.fingerprint((call.arguments,), {}, tool.name)
    step = ctx.options(
        retry=options.retry,
        timeout=options.timeout,
        name=tool.name,
        role="tool",
        fingerprint=fingerprint,
        returns=tool.returns,
    )
    return _text(tool, await step.step(tool.fn, **arguments))


async def _durably(ctx: Context, tool: Tool[..., Any], _call: ToolCall, arguments: dict[str, Any]) -> str:
    scope = asyncio.timeout(tool.options.timeout)
    try:
        async with scope:
            value = tool.fn(ctx, **arguments)
            return _text(tool, await value if inspect.isawaitable(value) else value)
    except TimeoutError as error:
        if not scope.expired():
            raise
        msg = f"tool {tool.name!r} took longer than its timeout of {tool.options.timeout:g} s"
        raise DeadlineExceeded(msg) from error


def _text(tool: Tool[..., Any], value: Any) -> str:
    # Also of a text: one that JSON cannot carry must fail here, and not when the turn is committed.
    data = encoding.encode(value, tool.returns, f"the result of tool {tool.name!r}")
    return value if type(value) is str else data.decode()


def _complaint(tool: Tool[..., Any], error: Exception) -> str:
    info = error.error if isinstance(error, StepFailed) else ErrorInfo.of(error)
    kind = info.type.rpartition(".")[2]
    return f"The tool {tool.name!r} failed: {kind}{f': {info.message}' if info.message else ''}"


def _failed(call: ToolCall, content: str) -> ToolResult:
    return ToolResult(id=call.id, name=call.name, content=content, error=True)
