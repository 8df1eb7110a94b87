"""One turn of an LLM agent: model, tool calls in parallel, model again, until an answer.

Durable code against ``Context``: each model call and each tool call is a step. Time limits are asyncio's own,
which a durable context makes durable timers. The log takes what was said, in whole exchanges: an answer that calls
tools is appended together with their results, so that a turn that ends in between leaves no call unanswered.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING, Any

from perdure import Reply, config
from perdure.errors import InvalidInput, LimitExceeded, OutputInvalid
from perdure.messages import ChatMessage, ModelRequest, ModelResponse, ToolCall
from perdure_agent_llm.budget import Budget
from perdure_agent_llm.layers import Layers
from perdure_agent_llm.output import Output
from perdure_agent_llm.settings import SECTION, Settings
from perdure_agent_llm.tools import Toolbox

if TYPE_CHECKING:
    from perdure import Agent, Context
    from perdure.ports import Model, Services


class LlmTurn:
    """Executes ``Agent`` declarations: the ``TurnHandler`` of this plugin. One serves all sessions of a runtime.

    Raises:
        InvalidSetting: The section ``agent-llm`` of the configuration does not fit.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = config.section(services.settings(SECTION), Settings, SECTION)

    @cached_property
    def _layers(self) -> Layers:
        # Not in __init__: while the hooks are called, not all middleware need be known.
        return Layers(self._services.agent_middleware)

    async def turn(self, ctx: Context, agent: Agent[Any], message: object) -> Reply[Any]:
        """Handle one message of ``ctx.session``.

        Raises:
            InvalidInput: The message is no text, or empty.
            StepFailed: The model failed; ``error`` says with what (``ModelRefused`` and the like).
            OutputInvalid: The answer did not fit the output type, also after the repair round.
            LimitExceeded: One of ``agent.limits`` was reached.
            UnknownName: There is no such model or tool.
        """
        if not isinstance(message, str) or not message.strip():
            given = "an empty one" if isinstance(message, str) else f"a {type(message).__name__}"
            msg = f"agent {agent.name!r} takes a text as its message, got {given}: pass a str that says something"
            raise InvalidInput(msg)
        tools = Toolbox(
            [self._services.tool(tool) if isinstance(tool, str) else tool for tool in agent.tools],
            self._settings,
            self._layers,
        )
        turn = _Turn(ctx, agent, self._services.model(agent.model), tools, self._layers)
        scope = asyncio.timeout(agent.limits.seconds)
        try:
            async with scope:
                return await turn.run(message)
        except TimeoutError as error:
            if not scope.expired():
                raise
            msg = (
                f"agent {agent.name!r} came to no answer within its limit of {agent.limits.seconds:g} s a turn; raise"
                " it with Agent(limits=Limits(seconds=…)), or ask for less at once"
            )
            raise LimitExceeded(msg) from error


class _Turn:
    """One turn under way."""

    def __init__(self, ctx: Context, agent: Agent[Any], model: Model, tools: Toolbox, layers: Layers) -> None:
        self._ctx = ctx
        self._session = ctx.session
        self._agent = agent
        self._model = model
        self._layers = layers
        self._tools = tools
        self._output = Output(agent)
        self._budget = Budget(agent)

    async def run(self, message: str) -> Reply[Any]:
        """From the user's message to the reply."""
        self._session.append(ChatMessage(role="user", text=message))
        repaired = False
        while True:
            answer, cut_off = await self._next()
            if answer.calls:
                await self._use_tools(answer)
                continue
            self._session.append(answer)
            try:
                output = self._output.read(answer.text)
            except InvalidInput as error:
                if repaired:
                    raise self._invalid(error) from error
                repaired = True
                self._budget.require_round()
                self._session.append(_complaint(error, cut_off=cut_off))
            else:
                return Reply(answer.text, output, session=self._session.id.key, usage=self._budget.usage)

    async def _next(self) -> tuple[ChatMessage, bool]:
        """What the model says next, and whether that was cut off."""
        self._budget.begin_round()
        instructions = self._agent.instructions
        request = ModelRequest(
            messages=(
                # Never stored: a session goes on under the instructions of today.
                *((ChatMessage(role="system", text=instructions),) if instructions else ()),
                *self._session.log,
            ),
            tools=self._tools.specs,
            output_schema=self._output.schema,
            settings=self._agent.settings,
        )
        response = await self._layers.model(self._ctx, request, self._ask)
        calls = _identified(response.message.calls, len(self._session.log))
        return ChatMessage(role="assistant", text=response.message.text, calls=calls), response.finish == "length"

    async def _ask(self, request: ModelRequest) -> ModelResponse:
        self._budget.begin_call()
        step = self._ctx.options(
            name=self._model.name,
            role="model",
            # The position in the log, not the request: an edited prompt must not park turns that are under way.
            fingerprint=str(len(self._session.log)),
            returns=ModelResponse,
        )
        response = await step.step(self._model.complete, request)
        self._budget.spend(response.usage)
        return response

    async def _use_tools(self, answer: ChatMessage) -> None:
        # Before the tools: their side effects would be for nothing if the model may not be told.
        self._budget.require_round()
        results = await self._tools.answer(self._ctx, answer.calls)
        self._session.append(answer, *(ChatMessage(role="tool", result=result) for result in results))

    def _invalid(self, error: InvalidInput) -> OutputInvalid:
        return OutputInvalid(
            f"{error}; model {self._model.name!r} was told and did not repair it. Say in the instructions what is"
            " expected, simplify the output type, or take another model"
        )


def _complaint(error: InvalidInput, *, cut_off: bool) -> ChatMessage:
    why = " It was cut off: be shorter." if cut_off else ""
    text = f"{error}.{why} Answer again, with JSON that fits the schema and nothing else."
    return ChatMessage(role="user", text=text)


def _identified(calls: tuple[ToolCall, ...], position: int) -> tuple[ToolCall, ...]:
    """The calls with ids that are not empty and differ, as services demand when the log goes back to them."""
    taken = set[str]()
    identified: list[ToolCall] = []
    for ordinal, call in enumerate(calls):
        own = call.id if call.id and call.id not in taken else f"call_{position}_{ordinal}"
        while own in taken:  # a model may have written what we would
            own += "_"
        taken.add(own)
        identified.append(call if own == call.id else call.model_copy(update={"id": own}))
    return tuple(identified)
