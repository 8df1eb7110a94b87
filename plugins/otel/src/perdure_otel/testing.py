"""A collector for tests: receives OTLP over HTTP, for real, and can be told to refuse."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from perdure_otel import Otel
from perdure_otel.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator

_PATH: Final = "/v1/traces"
_FAILED: Final = 2


@dataclass(frozen=True)
class Received:
    """A span as it came over the wire.

    Attributes:
        name: What it is called.
        trace: Its trace, in hexadecimal.
        id: Its own id, likewise.
        parent: That of its parent; empty: it has none.
        kind: Its kind, as OTLP numbers them.
        start: When it began (nanoseconds UTC).
        end: When it ended.
        failed: Whether its status is an error.
        says: What its status says.
        attributes: By name.
        links: The ids of linked spans.
        service: ``service.name`` of the process it came from.
        pid: Of that process.
        texts: Everything in it.
    """

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
    pid: int
    texts: str = field(repr=False)


@dataclass
class Collector:
    """What has been received.

    Attributes:
        received: In the order of arrival, told twice or not.
        headers: Of each request, by their names in lower case.
        endpoint: What the setting ``endpoint`` is to be.
        refuse: While it is set, each request is answered with 503.
        refused: How many were.
    """

    received: list[Received] = field(default_factory=list[Received])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    endpoint: str = ""
    refuse: bool = False
    refused: int = 0

    @property
    def spans(self) -> dict[str, Received]:
        """By id: told twice is one span."""
        return {span.id: span for span in self.received}

    def named(self, name: str) -> list[Received]:
        """All that have this name."""
        return [span for span in self.spans.values() if span.name == name]

    def one(self, name: str) -> Received:
        """The one that has this name. Raises ``ValueError`` if there is none, or another."""
        [span] = self.named(name)
        return span

    def plugin(self, **settings: Any) -> Otel:
        """The plugin for one runtime, which exports to here."""
        return Otel(Settings(exporter="otlp", endpoint=self.endpoint, **settings))

    def take(self, body: bytes, headers: dict[str, str]) -> int:
        """A request has arrived; return the status that answers it."""
        if self.refuse:
            self.refused += 1
            return 503
        self.headers.append(headers)
        for batch in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(batch.resource.attributes)
            for scope in batch.scope_spans:
                self.received += [_received(span, resource) for span in scope.spans]
        return 200


@contextmanager
def collecting() -> Generator[Collector]:
    """A collector that listens at a free port of the loopback, in a thread of its own."""
    collected = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(collected.take(body, headers) if self.path == _PATH else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name for it
            """Not on standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collected.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield collected
        finally:
            server.shutdown()
            thread.join()


def _values(attributes: Any) -> dict[str, Any]:
    def value(item: Any) -> Any:
        which = item.WhichOneof("value")
        found = getattr(item, which)
        return [value(each) for each in found.values] if which == "array_value" else found

    return {item.key: value(item.value) for item in attributes}


def _received(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == _FAILED,
        says=span.status.message,
        attributes=_values(span.attributes),
        links=tuple(link.span_id.hex() for link in span.links),
        service=resource["service.name"],
        pid=resource.get("process.pid", 0),
        texts=str(span),
    )
