"""Who a span is and who its parent is, derived from the run and the place in its journal.

Nothing here is remembered: the same fact, told by whichever process and however often, has the same ids.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from perdure_otel import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

    from perdure.messages import Start

_W3C: Final = TraceContextTextMapPropagator()  # and no other: baggage may hold what is nobody's business


def span_id(run: str, path: str = "", attempt: int = 0) -> int:
    """The span of a run, or of an entry of its journal: BLAKE2b, 8 bytes, never 0."""
    name = f"{run}\0{path}\0{attempt}" if path else run
    return int.from_bytes(blake2b(name.encode(), digest_size=8, person=b"perdure-span").digest()) or 1


def context_of(run: Start, path: str = "", attempt: int = 0) -> SpanContext:
    """The context of a run's span, or of the span of an entry of its journal."""
    trace = trace_of(run)
    return _inside(trace, span_id(run.run, path, attempt))


def parent_of(run: Start) -> SpanContext | None:
    """The span that a run's own stands in: its parent run's, or what the headers name, or none."""
    trace = trace_of(run)
    if run.parent is not None:
        return _inside(trace, span_id(run.parent))
    return trace if trace.span_id else None


def link_of(run: Start) -> SpanContext | None:
    """The live span in which a run was started, where it is not its parent."""
    if run.parent is not None or names.LINK not in run.headers:
        return None
    return _parsed(run.headers[names.LINK], "")


def trace_of(run: Start) -> SpanContext:
    """The trace that a run belongs to; its span id is that of the parent outside, or 0.

    A run without headers (accepted by a process that traces nothing) gets a trace derived from whoever is outermost
    in its ancestry, itself if it was called by nobody.
    """
    headers = run.headers
    if names.TRACEPARENT in headers:
        context = _parsed(headers[names.TRACEPARENT], headers.get(names.TRACESTATE, ""))
        if context is not None:
            return context
    if names.TRACE in headers:
        context = _rooted(headers[names.TRACE])
        if context is not None:
            return context
    own = f"{run.target}/{run.session}" if run.session is not None else run.run
    return _derived(run.ancestry[0] if run.ancestry else own)


def extracted(headers: Mapping[str, str]) -> Context | None:
    """The context that headers carry, for a live span, or ``None``."""
    context = _parsed(headers.get(names.TRACEPARENT, ""), headers.get(names.TRACESTATE, ""))
    return None if context is None else set_span_in_context(NonRecordingSpan(context))


def injected(context: SpanContext) -> dict[str, str]:
    """The headers that carry a context."""
    headers: dict[str, str] = {}
    _W3C.inject(headers, set_span_in_context(NonRecordingSpan(context)))
    return headers


def root_header(trace_id: int, *, sampled: bool) -> dict[str, str]:
    """The header of a run that begins a trace."""
    return {names.TRACE: f"{trace_id:032x}-{int(sampled):02x}"}


def standing_in(context: SpanContext) -> Span:
    """A span to make current that others are children of, and that nobody ends."""
    return NonRecordingSpan(context)


@lru_cache(maxsize=1024)
def _parsed(traceparent: str, tracestate: str) -> SpanContext | None:
    carrier = {names.TRACEPARENT: traceparent, names.TRACESTATE: tracestate}
    context = get_current_span(_W3C.extract(carrier)).get_span_context()
    return context if context.is_valid else None


@lru_cache(maxsize=1024)
def _rooted(header: str) -> SpanContext | None:
    trace, _, flags = header.partition("-")
    try:
        return SpanContext(int(trace, 16), 0, is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    except ValueError:
        return None


@lru_cache(maxsize=1024)
def _derived(root: str) -> SpanContext:
    digest = blake2b(root.encode(), digest_size=16, person=b"perdure-trace").digest()
    return SpanContext(int.from_bytes(digest) or 1, 0, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _inside(trace: SpanContext, own: int) -> SpanContext:
    return SpanContext(
        trace.trace_id, own, is_remote=False, trace_flags=trace.trace_flags, trace_state=trace.trace_state
    )
