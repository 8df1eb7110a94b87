"""What is kept until it has been exported."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from perdure.messages import Entry, Start
from perdure_otel import Settings
from perdure_otel.exporters import make_exporter
from perdure_otel.outbox import BATCH, NotExported, Outbox
from perdure_otel.spans import Draughtsman

RUN = Start("run_1", "workflow", "app.flow", b"{}", 1.0)


class Sink(SpanExporter):
    """Keeps what it is given; ``obstacle`` may refuse it or raise."""

    def __init__(self, obstacle: Callable[[], SpanExportResult | None] = lambda: None) -> None:
        self.batches: list[Sequence[ReadableSpan]] = []
        self.obstacle = obstacle
        self.arrived = threading.Event()
        self.closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        refused = self.obstacle()
        if refused is not None:
            return refused
        self.batches.append(spans)
        self.arrived.set()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.closed = True


def span(number: int = 0) -> ReadableSpan:
    drawn = Draughtsman(Resource({"service.name": "test"}), capture=False).entry(
        RUN, Entry("step", f"s#{number}", 2.0, "s", started=1.5)
    )
    assert drawn is not None
    return drawn


async def test_a_flush_returns_when_all_has_arrived():
    sink = Sink()
    outbox = Outbox(sink, delay=3600)
    for number in range(BATCH * 2 + 1):
        outbox.put(span(number))
    await asyncio.gather(outbox.flush(), outbox.flush())
    assert sum(map(len, sink.batches)) == BATCH * 2 + 1
    await outbox.close()
    assert sink.closed


async def test_what_is_put_in_twice_goes_out_once():
    sink = Sink()
    outbox = Outbox(sink, delay=3600)
    for _ in range(3):
        outbox.put(span())
    await outbox.flush()
    await outbox.close()
    assert [len(batch) for batch in sink.batches] == [1]


async def test_without_a_flush_it_goes_out_after_the_delay():
    sink = Sink()
    outbox = Outbox(sink, delay=0.01)
    outbox.put(span())
    assert await asyncio.to_thread(sink.arrived.wait, 20)
    await outbox.close()


async def test_a_full_batch_does_not_wait_for_the_delay():
    sink = Sink()
    outbox = Outbox(sink, delay=3600)
    for number in range(BATCH):
        outbox.put(span(number))
    assert await asyncio.to_thread(sink.arrived.wait, 20)
    await outbox.close()


def raise_an_error() -> SpanExportResult | None:
    raise OSError("disk full of sk-secret")


@pytest.mark.parametrize("obstacle", [lambda: SpanExportResult.FAILURE, raise_an_error])
async def test_what_the_exporter_does_not_take_is_kept(obstacle, caplog):
    sink = Sink(obstacle)
    outbox = Outbox(sink, delay=3600)
    outbox.put(span())
    for _ in range(2):
        with pytest.raises(NotExported, match="kept"):
            await outbox.flush()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "sk-secret" not in caplog.text
    sink.obstacle = lambda: None
    await outbox.flush()
    assert [len(batch) for batch in sink.batches] == [1]
    await outbox.close()


async def test_beyond_its_limit_it_drops_the_oldest_and_confirms_nothing_any_more():
    sink = Sink(lambda: SpanExportResult.FAILURE)
    outbox = Outbox(sink, delay=3600, limit=BATCH)
    for number in range(BATCH + 10):
        outbox.put(span(number))
    sink.obstacle = lambda: None
    with pytest.raises(NotExported, match="max_pending"):
        await outbox.flush()
    assert sum(map(len, sink.batches)) == BATCH
    with pytest.raises(NotExported, match="max_pending"):
        await outbox.flush()
    await outbox.close()


async def test_a_collector_is_asked_once_and_the_outbox_does_the_rest(collector):
    outbox = Outbox(make_exporter(Settings(exporter="otlp", endpoint=collector.endpoint)), delay=3600)
    collector.refuse = True
    outbox.put(span())
    with pytest.raises(NotExported):
        await outbox.flush()
    assert collector.refused == 1
    collector.refuse = False
    await outbox.flush()
    assert collector.one("step s")
    await outbox.close()


async def test_who_ends_does_not_wait_for_an_exporter_that_has_just_failed(caplog):
    tries: list[int] = []

    def refuse() -> SpanExportResult | None:
        tries.append(1)
        return SpanExportResult.FAILURE

    outbox = Outbox(Sink(refuse), delay=3600)
    outbox.put(span())
    with pytest.raises(NotExported):
        await outbox.flush()
    await outbox.close()
    assert len(tries) == 1
    assert "not exported: 1;" in caplog.text


async def test_a_closed_outbox_refuses_to_flush():
    outbox = Outbox(Sink())
    await outbox.close()
    outbox.put(span())
    with pytest.raises(NotExported, match="closed"):
        await outbox.flush()
    await outbox.close()
