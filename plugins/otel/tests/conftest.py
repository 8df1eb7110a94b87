"""A collector: what receives OTLP over HTTP, for real, and can be told to refuse."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from perdure_otel import Otel, Settings

PATIENCE = 20.0


@dataclass(frozen=True)
class Received:
    """A span as it came over the wire."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    start: int
    end: int
    failed: bool
    says: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    service: str
    texts: str = field(repr=False)


@dataclass
class Collector:
    """What has been received; while it is to ``refuse``, each request is answered with 503."""

    received: list[Received] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    endpoint: str = ""
    refuse: bool = False
    refused: int = 0

    @property
    def spans(self) -> dict[str, Received]:
        """By id: told twice is one span."""
        return {span.id: span for span in self.received}

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans.values() if span.name == name]

    def one(self, name: str) -> Received:
        [span] = self.named(name)
        return span

    def plugin(self, **settings: Any) -> Otel:
        return Otel(Settings(exporter="otlp", endpoint=self.endpoint, **settings))

    def take(self, body: bytes, headers: dict[str, str]) -> int:
        if self.refuse:
            self.refused += 1
            return 503
        self.headers.append(headers)
        for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(batch.resource.attributes)
            for scope in batch.scope_spans:
                self.received += [_received(span, resource) for span in scope.spans]
        return 200


def _values(attributes: Any) -> dict[str, Any]:
    def value(item: Any) -> Any:
        which = item.WhichOneof("value")
        found = getattr(item, which)
        return [value(each) for each in found.values] if which == "array_value" else found

    return {item.key: value(item.value) for item in attributes}


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == 2,
        span.status.message,
        _values(span.attributes),
        tuple(link.span_id.hex() for link in span.links),
        resource["service.name"],
        str(span),
    )


@pytest.fixture
def collector() -> Iterator[Collector]:
    collected = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(collected.take(body, {name.lower(): value for name, value in self.headers.items()}))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name for it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collected.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield collected
        server.shutdown()
        thread.join()


@pytest.fixture
def flushed() -> Callable[[Otel], Any]:
    """Waits until all that the plugin was told has been exported."""

    async def flush(plugin: Otel) -> None:
        async with asyncio.timeout(PATIENCE):
            for observer in plugin.perdure_observers():
                await observer.flush()

    return flush
