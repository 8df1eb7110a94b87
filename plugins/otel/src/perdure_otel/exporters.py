"""Where spans go: standard error, a collector, a file."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import requests
from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from perdure_otel.outbox import NotExported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from perdure_otel.settings import Settings

_TRACES: Final = "/v1/traces"
_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})


class FileExporter(SpanExporter):
    """Appends OTLP as JSON lines: one export request a line, as the collector's file exporter writes it.

    Several processes may append to one file. A line that a killed process left unfinished ends where the next one
    begins; its spans are told again.

    Args:
        path: The file; it and its folder are made if they are not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans. Raises ``OSError``."""
        request = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
        line = json.dumps(_with_hex_ids(request), separators=(",", ":")).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab+", buffering=0) as file:
            if file.seek(0, 2) and not _ends_a_line(file):
                line = b"\n" + line
            written = file.write(line)
        return SpanExportResult.SUCCESS if written == len(line) else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing is open."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Nothing is buffered."""
        return True


class OneTry(requests.Session):
    """Asks a collector once. The exporter's own repetitions would keep a process that wants to end waiting.

    What goes wrong becomes ``NotExported``, which the exporter does not repeat: the outbox keeps the spans and does.
    """

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Raises ``NotExported`` for whatever is no success."""
        try:
            try:
                response = super().request(*args, **kwargs)
            except requests.ConnectionError:  # the collector may have closed a connection that was kept open
                response = super().request(*args, **kwargs)
        except requests.RequestException as error:
            raise NotExported(type(error).__name__) from None  # the message has the URL in it
        if not response.ok:
            msg = f"HTTP {response.status_code}"
            raise NotExported(msg)
        return response


def make_exporter(settings: Settings) -> SpanExporter:
    """The exporter that is configured, which is not ``none``."""
    return _MAKERS[settings.exporter](settings)


def _console(_settings: Settings) -> SpanExporter:
    return ConsoleSpanExporter(out=sys.stderr)  # standard output may be a protocol's: `perdure mcp`


def _otlp(settings: Settings) -> SpanExporter:
    endpoint = settings.endpoint
    if endpoint is not None and not endpoint.endswith(_TRACES):
        endpoint = endpoint.rstrip("/") + _TRACES
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    return OTLPSpanExporter(endpoint, headers=headers or None, timeout=settings.timeout, session=OneTry())


def _file(settings: Settings) -> SpanExporter:
    return FileExporter(Path(settings.path or ""))


_MAKERS: Final[dict[str, Callable[[Settings], SpanExporter]]] = {"console": _console, "otlp": _otlp, "file": _file}


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b"\n"


def _with_hex_ids(value: Any) -> Any:
    """Ids as OTLP's JSON has them: hexadecimal, where protobuf's own JSON has base64."""
    if isinstance(value, list):
        return [_with_hex_ids(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: base64.b64decode(item).hex() if key in _IDS else _with_hex_ids(item) for key, item in items}
    return value
