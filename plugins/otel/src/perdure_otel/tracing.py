"""The traces of one runtime: what its hooks do when they are switched on."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.resources import PROCESS_PID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from perdure.messages import Accepted, Envelope, ErrorInfo
from perdure_otel import names
from perdure_otel.contexts import context_of, extracted, injected, root_header, standing_in
from perdure_otel.exporters import make_exporter
from perdure_otel.live import relay_for
from perdure_otel.outbox import Outbox
from perdure_otel.spans import SCOPE, Attributes, Draughtsman, of_agent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context

    from perdure.messages import AgentId, Entry, ModelRequest, ModelResponse, RunView, Start, ToolCall, ToolResult
    from perdure.ports import Operation, StepInfo
    from perdure_otel.settings import Settings


class Tracing:
    """Fills ``perdure.ports.Observer``; its other methods are middleware.

    Args:
        settings: Of which the exporter is not ``none``.
    """

    def __init__(self, settings: Settings) -> None:
        resource = _resource(settings)
        self._draughtsman = Draughtsman(resource, capture=settings.capture_content)
        self._outbox = Outbox(make_exporter(settings), delay=settings.delay, limit=settings.max_pending)
        self._relay = relay_for(resource)
        self._relay.add(self._outbox, capture=settings.capture_content)
        self._ids = RandomIdGenerator()
        self._operations = {
            "start": self._start,
            "send": self._send,
            "publish": self._send,
            "deliver": self._deliver,
        }

    async def close(self) -> None:
        """Export what is left and let go of the exporter."""
        self._relay.remove(self._outbox)
        await self._outbox.close()

    # -- the observer

    def recorded(self, run: Start, entries: Sequence[Entry]) -> None:
        """See ``ports.Observer.recorded``."""
        for entry in entries:
            span = self._draughtsman.entry(run, entry)
            if span is not None:
                self._outbox.put(span)

    def finished(self, run: Start, view: RunView) -> None:
        """See ``ports.Observer.finished``."""
        span = self._draughtsman.run(run, view)
        if span is not None:
            self._outbox.put(span)

    async def flush(self) -> None:
        """See ``ports.Observer.flush``. Raises ``NotExported``."""
        await self._outbox.flush()

    # -- middleware

    async def step(self, step: StepInfo, proceed: Callable[[], Awaitable[Any]]) -> Any:
        """What the body of a step does stands in the step's span, which is made when the step is recorded."""
        context = context_of(step.run, step.path, step.attempt)
        with trace.use_span(standing_in(context), record_exception=False, set_status_on_exception=False):
            return await proceed()

    async def operation(self, operation: Operation, proceed: Callable[[Operation], Awaitable[Any]]) -> Any:
        """Give a run its trace; make the spans of messages."""
        return await self._operations[operation.kind](operation, proceed)

    async def _start(self, operation: Operation, proceed: Callable[[Operation], Awaitable[Any]]) -> Any:
        live = trace.get_current_span()
        headers = dict(operation.headers)
        if names.TRACEPARENT not in headers:
            headers |= self._headers(live) or self._root(operation.target)
        accepted = await proceed(operation._replace(headers=headers))
        if isinstance(accepted, Accepted):  # a second call with the same key finds the first one's run by this
            live.set_attribute(names.RUN, accepted.run)
        return accepted

    def _headers(self, live: Span) -> dict[str, str]:
        """What a run is given that is started in a live span; nothing if there is none."""
        context = live.get_span_context()
        if not context.is_valid:
            return {}
        lasting = self._relay.lasting(context)
        link = {} if lasting is context else {names.LINK: injected(context)[names.TRACEPARENT]}
        return injected(lasting) | link

    def _root(self, target: str) -> dict[str, str]:
        trace_id = self._ids.generate_trace_id()
        provider = trace.get_tracer_provider()
        sampler = provider.sampler if isinstance(provider, TracerProvider) else DEFAULT_ON
        decision = sampler.should_sample(None, trace_id, target, SpanKind.INTERNAL).decision
        return root_header(trace_id, sampled=decision.is_sampled())

    async def _send(self, operation: Operation, proceed: Callable[[Operation], Awaitable[Any]]) -> Any:
        with _message(operation, names.SEND, SpanKind.PRODUCER) as span:
            headers = operation.headers | injected(span.get_span_context())
            answer = await proceed(operation._replace(headers=headers))
            if isinstance(answer, Envelope) and answer.kind == "error":
                _fail(span, answer.error.type)
            return answer

    async def _deliver(self, operation: Operation, proceed: Callable[[Operation], Awaitable[Any]]) -> Any:
        with _message(operation, names.PROCESS, SpanKind.CONSUMER, extracted(operation.headers)):
            return await proceed(operation)

    # -- volatile turns

    async def volatile_chat(
        self, agent: AgentId, request: ModelRequest, proceed: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse:
        """A model call that no journal tells of. Which model it was, the response says."""
        with _span(names.CHAT, SpanKind.CLIENT, attributes=of_agent(agent) | {names.OPERATION: names.CHAT}) as span:
            response = await proceed(request)
            span.update_name(f"{names.CHAT} {response.model}")
            span.set_attributes(self._draughtsman.answered(response.model_dump(), response.model))
            return response

    async def volatile_tool(
        self, agent: AgentId, call: ToolCall, proceed: Callable[[ToolCall], Awaitable[ToolResult]]
    ) -> ToolResult:
        """A tool call that no journal tells of."""
        attributes = of_agent(agent) | {
            names.OPERATION: names.EXECUTE_TOOL,
            names.TOOL: call.name,
            names.TOOL_TYPE: "function",
            names.TOOL_CALL: call.id,
        }
        with _span(f"{names.EXECUTE_TOOL} {call.name}", SpanKind.INTERNAL, attributes=attributes) as span:
            result = await proceed(call)
            span.set_attributes(self._draughtsman.contents({names.TOOL_RESULT: result.content}))
            if result.error:
                _fail(span, "tool_error")
            return result


@contextmanager
def _span(name: str, kind: SpanKind, *, attributes: Attributes, context: Context | None = None) -> Generator[Span]:
    """A live span; a failure is on it by its type, without its text."""
    tracer = trace.get_tracer(SCOPE.name, SCOPE.version)
    with tracer.start_as_current_span(
        name, context, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield span
        except BaseException as error:
            _fail(span, ErrorInfo.of(error).type)
            raise


def _message(
    operation: Operation, type_: str, kind: SpanKind, context: Context | None = None
) -> AbstractContextManager[Span]:
    name = names.PUBLISH if operation.kind == "publish" else type_
    destination, _, key = operation.target.partition("/")
    attributes: Attributes = {
        names.MESSAGING_SYSTEM: "perdure",
        names.MESSAGING_OPERATION: name,
        names.MESSAGING_OPERATION_TYPE: type_,
        names.MESSAGING_DESTINATION: destination,
        names.MESSAGING_CONVERSATION: key,
        names.MESSAGE_TYPE: operation.type,
    }
    return _span(f"{name} {destination}", kind, attributes=attributes, context=context)


def _fail(span: Span, type_: str) -> None:
    span.set_attribute(names.ERROR_TYPE, type_)
    span.set_status(Status(StatusCode.ERROR))


def _resource(settings: Settings) -> Resource:
    found = Resource.create({PROCESS_PID: os.getpid()})  # which of several processes on one store it was
    if settings.service_name is not None:
        return found.merge(Resource({SERVICE_NAME: settings.service_name}))
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):  # the SDK's word for unset
        return found.merge(Resource({SERVICE_NAME: "perdure"}))
    return found
