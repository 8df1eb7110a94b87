"""One run of the demo, whose server is killed with ``kill -9``, is one trace, and no span of it is lost.

The spans are read back from the OTLP output, the facts that they must be of from the store.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from perdure import Runtime, config
from perdure.messages import Entry, RunView
from perdure_otel.contexts import span_id

PATIENCE = 90.0


class Span(NamedTuple):
    """A span as it was exported, by the process that exported it."""

    id: str
    parent: str
    trace: str
    name: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    pid: int


class Demo(NamedTuple):
    """What one demo left: its own account, all that was exported, and what is in the store."""

    outcome: dict[str, Any]
    exported: list[Span]
    runs: dict[str, RunView]
    journals: dict[str, list[Entry]]

    @property
    def spans(self) -> dict[str, Span]:
        """By id: told twice is one span."""
        return {span.id: span for span in self.exported}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return asyncio.run(play(tmp_path_factory.mktemp("demo")))


async def play(folder: Path) -> Demo:
    traces, data = folder / "traces.jsonl", folder / "data"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "OTEL_"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure_cli", "demo", "--yes", "--json", "--data", str(data)),
        cwd=folder,
        env={
            **kept,
            "PERDURE_OTEL__EXPORTER": "file",
            "PERDURE_OTEL__PATH": str(traces),
            "PERDURE_OTEL__DELAY": "0.05",  # so that the server that is killed has exported something before
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0, err.decode()
    settings = config.load(folder, {}, {"data": str(data)})
    async with Runtime.open(settings=settings, drive=False) as runtime:
        runs = {run.id: run async for run in stored(runtime)}
        journals = {run: await whole_journal(runtime, run) for run in runs}
    return Demo(json.loads(out), list(exported(traces)), runs, journals)


async def stored(runtime: Runtime) -> AsyncIterator[RunView]:
    page = await runtime.query.runs()
    while page:
        for run in page:
            yield run
        page = await runtime.query.runs(before=page[-1].id)


async def whole_journal(runtime: Runtime, run: str) -> list[Entry]:
    entries: list[Entry] = []
    while part := await runtime.query.journal(run, after=len(entries)):
        entries += part
    return entries


def exported(path: Path) -> Iterator[Span]:
    for line in path.read_text().splitlines():
        try:
            request = json.loads(line)
        except ValueError:  # the server was killed while it wrote this line; its spans are told again
            continue
        for batch in request["resourceSpans"]:
            pid = int(values(batch["resource"])["process.pid"])
            for scope in batch["scopeSpans"]:
                yield from (read(span, pid) for span in scope["spans"])


def read(span: dict[str, Any], pid: int) -> Span:
    links = tuple(link["spanId"] for link in span.get("links", ()))
    return Span(span["spanId"], span.get("parentSpanId", ""), span["traceId"], span["name"], values(span), links, pid)


def values(holder: dict[str, Any]) -> dict[str, Any]:
    return {item["key"]: next(iter(item["value"].values()), None) for item in holder.get("attributes", ())}


def test_the_demo_was_killed_in_the_middle(demo: Demo) -> None:
    assert 0 < demo.outcome["recorded_at_kill"] < demo.outcome["steps"]
    assert demo.outcome["ran_again"] == 0


def test_it_is_one_trace(demo: Demo) -> None:
    assert len({span.trace for span in demo.exported}) == 1


def test_three_processes_exported_it(demo: Demo) -> None:
    assert len({span.pid for span in demo.exported}) == 3


def test_it_has_one_root_and_every_parent_is_there(demo: Demo) -> None:
    assert [span.name for span in demo.spans.values() if not span.parent] == ["perdure demo"]
    assert [span for span in demo.spans.values() if span.parent and span.parent not in demo.spans] == []


def test_every_run_has_its_span_in_that_of_its_caller(demo: Demo) -> None:
    assert demo.outcome["run"] in demo.runs
    for run in demo.runs.values():
        span = demo.spans[f"{span_id(run.id):016x}"]
        operation = "invoke_workflow" if run.kind == "workflow" else "invoke_agent"
        assert span.name == f"{operation} {run.target}"
        if run.parent is not None:
            assert span.parent == f"{span_id(run.parent):016x}"
        else:
            assert demo.spans[span.parent].name == "MCP send tools/call briefing"


def test_every_entry_of_every_journal_has_its_span(demo: Demo) -> None:
    entries = [(run, entry) for run, journal in demo.journals.items() for entry in journal]
    assert len(entries) > demo.outcome["steps"]
    children = {(run.parent, run.path): run.id for run in demo.runs.values()}
    for run, entry in entries:
        if entry.kind == "call":
            assert f"{span_id(children[run, entry.path]):016x}" in demo.spans
        else:
            span = demo.spans[f"{span_id(run, entry.path, entry.attempt):016x}"]
            assert span.parent == f"{span_id(run):016x}"
            assert span.attributes["perdure.path"] == entry.path


def test_no_span_of_durable_work_is_of_nothing(demo: Demo) -> None:
    facts = {f"{span_id(run):016x}" for run in demo.runs} | {
        f"{span_id(run, entry.path, entry.attempt):016x}" for run, journal in demo.journals.items() for entry in journal
    }
    assert [span for span in demo.spans.values() if "perdure.path" in span.attributes and span.id not in facts] == []


def test_the_text_of_the_documents_is_not_in_the_trace(demo: Demo) -> None:
    words = Path(demo.outcome["briefing"]).read_text().split("> ", 1)[1].split("\n")[0].split(" (")[0]
    assert len(words) > 20
    assert not [span for span in demo.exported if words in str(span)]
