"""What happens when a client calls a tool.

A run is submitted and from there on belongs to the engine. The handler of a call only waits for it: a client that
times out, cancels or leaves ends the waiting, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolRequestParams, CallToolResult, ListToolsResult

from perdure.errors import PerdureError, RetryableError, UnknownName
from perdure_mcp.envelopes import Envelope, answered, envelope, refused
from perdure_mcp.tools import CONTROLS, AnswerArguments, CancelArguments, GetRunArguments, parsed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from mcp.server import ServerRequestContext
    from mcp.types import PaginatedRequestParams

    from perdure import Runtime
    from perdure.messages import RunView
    from perdure_mcp.tools import Exposed

_log = logging.getLogger("perdure.mcp")
_LOOK: Final = 1.0  # seconds between two progress notifications


class Calls:
    """The handlers of ``tools/list`` and ``tools/call``.

    Args:
        runtime: Where the work is done.
        tools: What may be called; of other runs nothing can be seen.
        wait_budget: Seconds that a call waits at most.
    """

    def __init__(self, runtime: Runtime, tools: Sequence[Exposed], wait_budget: float) -> None:
        self._runtime = runtime
        self._budget = wait_budget
        self._targets = frozenset(each.target for each in tools)
        self._listed = ListToolsResult(tools=[*(each.tool() for each in tools), *CONTROLS])
        self._tools = {each.tool_name: each for each in tools}
        self._controls: dict[
            str, Callable[[ServerRequestContext[Any, Any], Mapping[str, Any]], Awaitable[Envelope]]
        ] = {
            "get_run": self._get_run,
            "answer_request": self._answer_request,
            "cancel_run": self._cancel_run,
        }

    async def list(self, ctx: ServerRequestContext[Any, Any], params: PaginatedRequestParams | None) -> ListToolsResult:
        """All tools, on one page."""
        del ctx, params
        return self._listed

    async def call(self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams) -> CallToolResult:
        """Call one. What the caller can mend comes back as a result that says so.

        Raises:
            MCPError: There is no such tool.
        """
        arguments = params.arguments or {}
        try:
            if params.name in self._tools:
                return answered(await self._start(ctx, self._tools[params.name], arguments))
            if params.name in self._controls:
                return answered(await self._controls[params.name](ctx, arguments))
        except RetryableError as error:
            return refused(f"{error}; nothing was lost, try again")
        except PerdureError as error:
            return refused(str(error))
        except Exception as error:  # noqa: BLE001 - the connection must survive
            # Messages of errors may hold contents: they are for those who ask for debugging.
            _log.error("tool %r failed: %s", params.name, type(error).__qualname__)
            _log.debug("tool %r failed", params.name, exc_info=error)
            return refused(
                f"internal error in tool {params.name!r}: {type(error).__qualname__}; the server's log has it"
            )
        known = ", ".join([*self._tools, *self._controls])
        raise MCPError(INVALID_PARAMS, f"unknown tool {params.name!r}; known: {known}")

    # -- one function for each kind of tool

    async def _start(self, ctx: ServerRequestContext[Any, Any], tool: Exposed, given: Mapping[str, Any]) -> Envelope:
        call = tool.call(given)
        # In the handler's own task, whose trace context the runtime's middleware reads.
        run = await self._runtime.submit(tool.target, call.payload, key=call.key, session=call.session)
        _log.info("%s %s is %s", tool.target, run.id, "accepted" if run.new else "called again")
        return await self._wait(ctx, run.id, self._budget)

    async def _get_run(self, ctx: ServerRequestContext[Any, Any], given: Mapping[str, Any]) -> Envelope:
        arguments = parsed(GetRunArguments, given, "get_run")
        await self._family(arguments.run_id)
        return await self._wait(ctx, arguments.run_id, min(arguments.wait, self._budget))

    async def _answer_request(self, ctx: ServerRequestContext[Any, Any], given: Mapping[str, Any]) -> Envelope:
        arguments = parsed(AnswerArguments, given, "answer_request")
        request = await self._runtime.query.request(arguments.request_id)
        hint = "take the request_id from the 'requests' of a result; get_run shows those that are open"
        if request is None:
            raise UnknownName("request", arguments.request_id, hint=hint)
        try:
            family = await self._family(request.run)
        except UnknownName:
            raise UnknownName("request", arguments.request_id, hint=hint) from None
        await self._runtime.answer(request.id, arguments.answer)
        # Of the run that the client has called: the one that asked may have been called by it.
        return await self._wait(ctx, [view.id for view in family if view.target in self._targets][-1], self._budget)

    async def _cancel_run(self, ctx: ServerRequestContext[Any, Any], given: Mapping[str, Any]) -> Envelope:
        arguments = parsed(CancelArguments, given, "cancel_run")
        await self._family(arguments.run_id)
        await self._runtime.cancel(arguments.run_id, arguments.reason)
        return await self._wait(ctx, arguments.run_id, self._budget, until_asked=False)

    # -- inside

    async def _family(self, run: str) -> list[RunView]:
        """A run, the one that called it, and so on. Raises ``UnknownName`` where none of them is served here."""
        found: list[RunView] = []
        next_: str | None = run
        while next_ is not None:
            view = await self._runtime.query.run(next_)
            if view is None:
                break
            found.append(view)
            next_ = view.parent
        if not any(view.target in self._targets for view in found):
            raise UnknownName("run", run, hint="take the run_id from an earlier result")
        return found

    async def _wait(
        self, ctx: ServerRequestContext[Any, Any], run: str, budget: float, *, until_asked: bool = True
    ) -> Envelope:
        """Wait until a run is finished or parked, asks for something (if wanted), or the budget is spent."""
        clock = asyncio.get_running_loop()
        handle = self._runtime.handle(run)
        began = clock.time()
        while True:
            # Said before the wait, so that a client that gives up early knows the run's id.
            await ctx.session.report_progress(clock.time() - began, message=f"{run} is under way")
            left = began + budget - clock.time()
            view = await handle.wait(max(0.0, min(_LOOK, left)), until_waiting=until_asked)
            asks = until_asked and bool(view.requests)
            if view.finished or view.status == "parked" or asks or left <= _LOOK:
                return envelope(self._runtime, view)
