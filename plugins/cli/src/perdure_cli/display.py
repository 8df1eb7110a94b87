"""What people see: consoles, times, values, statuses. Machines get ``emit_json`` instead."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import click
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_jsonable_python
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perdure.messages import Entry, ErrorInfo, RequestView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.messages import EntryKind, Progress, Status

PIPE_WIDTH: Final = 160
"""Columns where there is no terminal: wide enough that no id is broken."""

STYLES: Final[dict[Status, str]] = {
    "pending": "dim",
    "running": "cyan",
    "waiting": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
    "terminated": "magenta",
    "parked": "bold red",
    "suspended": "bold yellow",
}

MARKS: Final[dict[EntryKind, str]] = {
    "begin": "▸",
    "step": "·",
    "call": "→",
    "send": "↗",
    "answer": "✓",
    "timer": "◷",
    "event": "↘",
    "update": "⇄",
    "updated": "⇄",
    "rejected": "⇄",
    "cancel": "✗",
    "patch": "±",
    "attempt": "↻",
    "heartbeat": "♥",
}
"""What stands before a line of a journal."""


def console(*, stderr: bool = False) -> Console:
    """A console that colours nothing and wraps late where there is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def emit_json(document: object) -> None:
    """One JSON document on stdout. Models, entries and times are turned into plain values."""
    click.echo(json.dumps(_plain(document), indent=2, ensure_ascii=False))


def emit_line(document: object) -> None:
    """One JSON document on one line of stdout, at once: for commands that tell as things happen."""
    click.echo(json.dumps(_plain(document), ensure_ascii=False))
    sys.stdout.flush()


def print_value(value: object) -> None:
    """A value on stdout: a text as it is, all else as JSON."""
    text = value if isinstance(value, str) else json.dumps(_plain(value), indent=2, ensure_ascii=False)
    console().print(Text(text), soft_wrap=True)


def entry_document(number: int, entry: Entry) -> dict[str, Any]:
    """A journal entry as JSON: its place (1 is the first), value and error decoded, the seconds that it took."""
    document = {"number": number, **entry._asdict()}
    document |= {"value": decoded(entry.value), "error": decoded(entry.error), "seconds": seconds_of(entry)}
    return document


def decoded(data: bytes | None) -> Any:
    """Stored JSON as a value; what is none (a codec was applied) as text."""
    if data is None:
        return None
    try:
        return from_json(data)
    except ValueError:
        return data.decode("utf-8", "replace")


def seconds_of(entry: Entry) -> float | None:
    """How long the last attempt took, where the journal says."""
    return round(max(entry.at - entry.started, 0.0), 6) if entry.started else None


def duration(seconds: float | None) -> str:
    """``12 ms``, ``3.4 s``, ``5 min``, ``2 h``, ``3 d``."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def moment(at: float) -> str:
    """A time (UTC seconds) in the local zone, to the second."""
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(sep=" ", timespec="seconds")


def progress_text(progress: Progress | None) -> str:
    """How far a run has come, on one line: ``3/10 the third chapter``."""
    if progress is None:
        return ""
    count = "" if progress.done is None else f"{progress.done:g}"
    of = "" if progress.total is None else f"/{progress.total:g}"
    return " ".join(part for part in (f"{count}{of}", " ".join(progress.text.split())) if part)


def preview(value: object, limit: int = 100) -> str:
    """A value on one line."""
    text = value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def gist(entry: Entry, limit: int) -> str:
    """What came of an entry, on one line: an error, an agent's words, the tools that a model called, or a value."""
    value: Any = decoded(entry.value)
    if entry.error is not None:
        return preview(_told(decoded(entry.error)), limit)
    if not isinstance(value, dict):
        return preview(value, limit)
    fields = cast("dict[str, Any]", value)
    message = fields.get("message", fields) if entry.role == "model" else fields
    calls = ", ".join(f"{call['name']}({call['arguments']})" for call in message.get("calls", ()))
    text = message.get("text") if entry.role == "model" or entry.kind == "call" else None
    return preview(calls or text or fields, limit)


def _told(error: Any) -> object:
    """An error's type, without where it was defined, and its message; what is no ``ErrorInfo`` as it is."""
    try:
        info = ErrorInfo.model_validate(error)
    except ValidationError:  # a codec was applied
        return error
    kind = info.type.rpartition(".")[2]
    return f"{kind}: {info.message}" if info.message else kind


def status_text(status: Status) -> Text:
    """A status in its colour."""
    return Text(status, style=STYLES[status])


def table(*columns: str, unbroken: Sequence[str] = ()) -> Table:
    """A table without frames; columns in ``unbroken`` are never wrapped."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, no_wrap=column in unbroken, overflow="fold")
    return made


def show_request(out: Console, request: RequestView) -> None:
    """An open request and how to answer it."""
    out.print(Text.assemble((f"request {request.id}", "yellow"), _until(request)))
    out.print(Text("\n".join(f"  {line}" for line in request.prompt.splitlines())))
    out.print(f"  answer it: perdure answer {request.id} {_example_of(request.answer_schema)}", soft_wrap=True)


def _until(request: RequestView) -> str:
    return "" if request.deadline is None else f"  (until {moment(request.deadline)})"


def _example_of(schema: dict[str, Any]) -> str:
    """What an answer may look like on the command line."""
    fields: dict[str, Any] = schema.get("properties", {})
    if not fields:
        return "'JSON'"
    needed = [name for name in fields if name in schema.get("required", fields)] or list(fields)
    return " ".join(f"{name}={_EXAMPLES.get(fields[name].get('type', ''), 'JSON')}" for name in needed)


_EXAMPLES: Final = {"boolean": "true", "integer": "1", "number": "1.5", "string": "'text'"}


def _plain(value: object) -> Any:
    return to_jsonable_python(value, fallback=_fallback)


def _fallback(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return repr(value)
