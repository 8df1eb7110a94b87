"""The replay tester: takes the journal of a run that was, and says whether the code that is now still fits it.

Export the journals of a few real runs (``perdure export RUN``), keep them beside the tests, and replay them there::

    async def test_new_code_fits_old_runs():
        await replay(app, journal=Path("journals/order-7.json").read_bytes())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from perdure.errors import InvalidInput, UsageError
from perdure.execution import Execution
from perdure.messages import Entry, Start
from perdure.runtime import Runtime
from perdure.testing.clock import ManualClock
from perdure.testing.stores import MemoryStore

if TYPE_CHECKING:
    from perdure.ports import Programs

_FORMAT: Final = 1
_PAYLOADS: Final = ("value", "error")


class Replayed(NamedTuple):
    """What a replay found.

    Attributes:
        target: Which workflow.
        version: Which version of it.
        entries: How many lines were replayed.
        outcome: How the code ended with the journal, or ``None`` if it goes on.
        waits_for: What it waits for at the journal's end, by path.
    """

    target: str
    version: int
    entries: int
    outcome: str | None
    waits_for: tuple[str, ...]


async def export(runtime: Runtime, run: str) -> bytes:
    """A workflow's run as JSON: what it was started with, and its journal. Raises ``UnknownName``, ``UsageError``."""
    view = await runtime.view(run)
    if view.kind != "workflow":
        msg = (
            f"{run!r} is a turn of {view.target}/{view.session}, which depends on its conversation: export a workflow's"
        )
        raise UsageError(msg)
    entries = await runtime.handle(run).journal()
    start = {"run": view.id, "target": view.target, "input": view.input, "at": view.created}
    start |= {"parent": view.parent, "path": view.path, "ancestry": view.ancestry, "headers": view.headers}
    start |= {"tags": view.tags, "version": view.version, "generation": view.generation}
    return to_json({"perdure_journal": _FORMAT, "start": start, "entries": [_written(e) for e in entries]}, indent=1)


async def replay(*apps: object, journal: bytes) -> Replayed:
    """Replay an exported journal with the code of these apps.

    Raises:
        NonDeterminism: The code no longer fits; the message names both sides.
        UnknownName: The workflow, or the version that the run began with, is not there.
        InvalidInput: That is no exported journal.
    """
    clock = ManualClock()
    async with Runtime.open(*apps, store=MemoryStore(clock), clock=clock, drive=False) as runtime:
        return replay_with(runtime.catalog, journal)


def replay_with(programs: Programs, journal: bytes) -> Replayed:
    """``replay`` for code that is open already."""
    start, entries = _read(journal)
    execution = Execution(programs, start)
    try:
        execution.begin(entries)
        outcome = execution.outcome
        waits_for = tuple(execution.pending)
    finally:
        execution.close()
    return Replayed(start.target, start.version, len(entries), outcome and outcome.status, waits_for)


def _written(entry: Entry) -> dict[str, Any]:
    line = {name: value for name, value in entry._asdict().items() if value != Entry._field_defaults.get(name)}
    return {name: from_json(value) if name in _PAYLOADS else value for name, value in line.items()}


def _read(journal: bytes) -> tuple[Start, tuple[Entry, ...]]:
    try:
        data: Any = from_json(journal)
        if data["perdure_journal"] != _FORMAT:
            raise ValueError(data["perdure_journal"])  # noqa: TRY301 - one of many ways to be no journal
        given = {**data["start"], "input": to_json(data["start"]["input"]), "kind": "workflow"}
        lines = [{n: to_json(v) if n in _PAYLOADS else v for n, v in line.items()} for line in data["entries"]]
        return _START.validate_python(given), tuple(_ENTRY.validate_python(line) for line in lines)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"that is no journal which this release can replay ({error}): expected what 'perdure export RUN' writes"
        raise InvalidInput(msg) from error


_START: Final = TypeAdapter(Start)
_ENTRY: Final = TypeAdapter(Entry)
