"""Finished spans on their way out: kept until the exporter has taken them.

The SDK's batch processor forgets a batch that its exporter refused, and says nothing. Durable work is told again
until it has arrived, so here a refused batch stays, and whoever waits in ``flush`` is told. A span that is told twice
is one span.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage] - every exporter needs it, and it has no other name
    attach,
    detach,
    set_value,
)
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from perdure.errors import RetryableError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

BATCH: Final = 512
"""Spans in one export."""

_LONGEST_PAUSE: Final = 60.0

_log = logging.getLogger("perdure.otel")


class NotExported(RetryableError):
    """Spans could not be exported; they are kept, or will be told again."""


class Outbox:
    """Spans that were finished and not yet exported; one thread exports them.

    All methods may be called from any thread.

    Args:
        exporter: Where to.
        delay: Seconds that a span waits for others to be exported with. After a failure, twice as long each time, up
            to a minute, unless somebody flushes.
        limit: Spans kept at most. Beyond, the oldest are dropped, and from then on ``flush`` fails: what was
            dropped is told again when the runtime is opened the next time.
    """

    def __init__(self, exporter: SpanExporter, *, delay: float = 1.0, limit: int = 65_536) -> None:
        self._exporter = exporter
        self._delay = self._pause = delay
        self._limit = limit
        self._pending: dict[tuple[int, int], ReadableSpan] = {}
        self._waiting: list[Future[None]] = []
        self._changed = threading.Condition()
        self._failing = self._overflowed = self._closing = False
        self._thread = threading.Thread(target=self._work, name="perdure-otel", daemon=True)
        self._thread.start()

    def put(self, span: ReadableSpan) -> None:
        """Take a finished span."""
        context = span.get_span_context()
        if context is None:
            return
        with self._changed:
            if self._closing:
                return
            self._pending[context.trace_id, context.span_id] = span
            if len(self._pending) > self._limit:
                self._drop_oldest()
            if len(self._pending) == BATCH:
                self._changed.notify()

    async def flush(self) -> None:
        """Return when all that was put in before has been exported. Raises ``NotExported``."""
        with self._changed:
            if self._closing:
                msg = "the exporter is closed: spans cannot be exported any more"
                raise NotExported(msg)
            arrived: Future[None] = Future()
            self._waiting.append(arrived)
            self._changed.notify()
        await asyncio.wrap_future(arrived)

    async def close(self) -> None:
        """Export what is left, unless the last export failed, and let go of the exporter. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    # -- in the thread

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work, self._pause)
                waiting, self._waiting = self._waiting, []
                closing = self._closing
                spans = list(self._pending.items())
            # Who ends is not kept waiting for a collector that did not answer a moment ago.
            gives_up = closing and self._failing and not waiting
            error = None if gives_up else self._export(spans)
            for each in waiting:
                if each.set_running_or_notify_cancel():
                    each.set_exception(error) if error is not None else each.set_result(None)
            if closing:
                if self._pending:
                    _log.warning(
                        "spans that were not exported: %d; those of durable work are told again", len(self._pending)
                    )
                self._exporter.shutdown()
                return

    def _has_work(self) -> bool:
        return self._closing or bool(self._waiting) or (len(self._pending) >= BATCH and not self._failing)

    def _export(self, spans: list[tuple[tuple[int, int], ReadableSpan]]) -> NotExported | None:
        problem = ""
        for start in range(0, len(spans), BATCH):
            batch = spans[start : start + BATCH]
            problem = self._exported([span for _, span in batch])
            if problem:
                break
            with self._changed:
                for key, span in batch:
                    if self._pending.get(key) is span:
                        del self._pending[key]
        self._note(problem)
        if problem:
            return NotExported(f"spans could not be exported ({problem}); they are kept, see [otel] endpoint")
        if self._overflowed:
            msg = f"more than {self._limit:,} spans were pending and some were dropped; see [otel] max_pending"
            return NotExported(msg)
        return None

    def _exported(self, batch: list[ReadableSpan]) -> str:
        """What went wrong, if anything."""
        # Else an instrumented HTTP client would make a span of each export, to be exported, and so on.
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, value=True))
        try:
            taken = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - whatever the exporter raises, its spans are kept
            return type(error).__name__ if not isinstance(error, NotExported) else str(error)
        finally:
            detach(token)
        return "" if taken else f"{type(self._exporter).__name__} refused them"

    def _note(self, problem: str) -> None:
        if problem and not self._failing:
            _log.warning("spans cannot be exported (%s); they are kept and tried again", problem)
        self._failing = bool(problem)
        self._pause = max(self._delay, min(self._pause * 2, _LONGEST_PAUSE)) if problem else self._delay

    def _drop_oldest(self) -> None:
        if not self._overflowed:
            _log.error("more than %d spans wait to be exported; the oldest are dropped", self._limit)
        self._overflowed = True
        del self._pending[next(iter(self._pending))]
