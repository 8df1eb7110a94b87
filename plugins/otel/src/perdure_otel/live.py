"""Spans that end in the process they begin in: messages, and whatever instrumented libraries make.

OpenTelemetry has one tracer provider in a process, which cannot be replaced, and runtimes come and go. So one provider
stays, ours or one that was there before, and relays live spans to the outboxes of the runtimes that are open.

A live span dies with its process, a run does not. Who starts a run inside of a live span gets the nearest span as its
parent that outlives this process (a client's elsewhere, a journalled step), and a link to the live one; otherwise a
kill would leave the run an orphan.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import Status

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Span
    from opentelemetry.trace import SpanContext

    from perdure_otel.outbox import Outbox

_log = logging.getLogger("perdure.otel")
_TEXTS: Final = frozenset({"exception.message", "exception.stacktrace"})


class Relay(SpanProcessor):
    """Hands ended live spans to the open outboxes; knows which of them are under way. For any thread."""

    def __init__(self) -> None:
        self._outboxes: dict[Outbox, bool] = {}
        self._lasting: dict[int, SpanContext | None] = {}

    def add(self, outbox: Outbox, *, capture: bool) -> None:
        """From now on the outbox gets what ends; without ``capture``, without the texts of errors."""
        self._outboxes = {**self._outboxes, outbox: capture}

    def remove(self, outbox: Outbox) -> None:
        """Not any more."""
        self._outboxes = {each: capture for each, capture in self._outboxes.items() if each is not outbox}

    def lasting(self, context: SpanContext) -> SpanContext:
        """The span that something durable should stand in, if it is begun in this one."""
        return self._lasting.get(context.span_id) or context

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the SDK's signature
        """A live span begins."""
        context, parent = span.get_span_context(), span.parent
        if self._outboxes:
            # A parent that is not under way here is another process's span, or the derived one of a step.
            self._lasting[context.span_id] = None if parent is None else self._lasting.get(parent.span_id, parent)

    def on_end(self, span: ReadableSpan) -> None:
        """A live span ends."""
        context = span.get_span_context()
        if context is None:
            return
        self._lasting.pop(context.span_id, None)
        if context.trace_flags.sampled:
            for outbox, capture in self._outboxes.items():
                outbox.put(span if capture else _without_texts(span))


def _without_texts(span: ReadableSpan) -> ReadableSpan:
    """The span without what errors say, which may quote contents or secrets; their types stay."""
    events = [event for event in span.events if not _TEXTS & (event.attributes or {}).keys()]
    if len(events) == len(span.events) and span.status.description is None:
        return span
    return ReadableSpan(
        span.name,
        span.get_span_context(),
        span.parent,
        span.resource,
        span.attributes,
        events=events,
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


class _Installation:
    """The relay of this process, and the provider it stands in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._relay: Relay | None = None

    def relay(self, resource: Resource) -> Relay:
        with self._lock:
            if self._relay is None:
                self._relay = Relay()
                self._provider(resource).add_span_processor(self._relay)
            return self._relay

    @staticmethod
    def _provider(resource: Resource) -> TracerProvider:
        there = trace.get_tracer_provider()
        if isinstance(there, TracerProvider):
            return there
        made = TracerProvider(resource=resource, shutdown_on_exit=False)
        if isinstance(there, trace.ProxyTracerProvider):
            trace.set_tracer_provider(made)
        else:
            _log.warning("spans of other libraries go to %r, which is no provider of OpenTelemetry's SDK", there)
        return made


_installation = _Installation()


def relay_for(resource: Resource) -> Relay:
    """This process's relay; the first caller's resource is that of the provider, if there was none before."""
    return _installation.relay(resource)
