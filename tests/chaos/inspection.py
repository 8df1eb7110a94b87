"""Holds what the store has in the end, and what the witness saw, against the promises."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from perdure.messages import AgentId, ChatMessage

from .mill import clerk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from perdure import Runtime

    from .load import Work
    from .testimony import Line

_ENTRIES = (
    "SELECT runs.run, journal.kind, journal.path, journal.at, journal.started, journal.value"
    " FROM journal JOIN runs ON runs.id = journal.run ORDER BY journal.id"
)
_RUNS = "SELECT run, parent, status FROM runs"


class Recorded(NamedTuple):
    """A journal's entry, in the order in which the entries of all journals were committed.

    Attributes:
        run: Whose journal.
        kind: Of entry.
        step: ``run:path``.
        at: When it was recorded.
        started: When it began.
        life: Of a step, the worker whose attempt won.
        value: What was recorded.
    """

    run: str
    kind: str
    step: str
    at: float
    started: float
    life: int
    value: object


class Stored(NamedTuple):
    """What the file holds.

    Attributes:
        entries: Of all journals.
        statuses: Of all runs.
        children: How many runs each run called.
    """

    entries: list[Recorded]
    statuses: dict[str, str]
    children: Counter[str]


@dataclass
class Findings:
    """What an inspection came to.

    Attributes:
        problems: What breaks a promise.
        runs: How many there are, called ones included.
        steps: How many were recorded.
        begun: How many bodies began.
        takeovers: How often another worker took over.
        resumed: Attempts that a worker had decided on when it was stopped, and made in vain when it went on.
        winners: By step, whose attempt was recorded.
    """

    problems: list[str] = field(default_factory=list)
    runs: int = 0
    steps: int = 0
    begun: int = 0
    takeovers: int = 0
    resumed: int = 0
    winners: dict[str, int] = field(default_factory=dict)


def read(file: Path) -> Stored:
    """Read the store's file itself: no view tells the order of commits across runs, by which a stale one shows."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        entries = [_recorded(*row) for row in connection.execute(_ENTRIES)]
        runs = connection.execute(_RUNS).fetchall()
    statuses = {run: status for run, _, status in runs}
    return Stored(entries, statuses, Counter(parent for _, parent, _ in runs if parent))


def _recorded(run: str, kind: str, path: str, at: float, started: float, data: bytes | None) -> Recorded:
    found = json.loads(data) if data is not None else None
    return Recorded(run, kind, f"{run}:{path}", at, started, found[1] if kind == "step" and found else 0, found)


async def inspect(
    runtime: Runtime, works: Mapping[str, Work], lines: Sequence[Line], file: Path, *, stopped: bool = False
) -> Findings:
    """Look at everything.

    Args:
        runtime: Over the store, with nobody at work any more.
        works: What was acknowledged.
        lines: The witness's.
        file: The store's.
        stopped: Whether workers were stopped, and not only killed: then an attempt counts from where the engine made
            it, for between that and its body the process may have stood still.
    """
    stored = read(file)
    steps = [entry for entry in stored.entries if entry.kind == "step"]
    found = Findings(
        runs=len(stored.statuses),
        steps=len(steps),
        begun=sum(line.event == "begin" for line in lines),
        winners={entry.step: entry.life for entry in steps},
    )
    found.problems += [f"run {run} is {status}" for run, status in stored.statuses.items() if status != "completed"]
    found.problems += await lost(runtime, works, stored)
    found.problems += doubled(works, stored)
    found.problems += unfenced(steps, drivers(lines))
    if stopped:
        ordered, found.resumed = resumed(lines, found.winners)
        found.problems += repeated(ordered, found.winners, "attempt")
    else:
        found.problems += repeated(lines, found.winners) + posthumous(lines)
    found.problems += premature(stored.entries, works)
    found.problems += misanswered(stored, works)
    found.problems += overtaken(lines, works)
    for session, turns in sessions(works).items():
        log = [ChatMessage.model_validate_json(entry) for entry in await runtime.query.log(session)]
        found.problems += misheard(session, turns, log)
    found.takeovers = len(drivers(lines))
    return found


# -- runs -------------------------------------------------------------------------------------------------------


async def lost(runtime: Runtime, works: Mapping[str, Work], stored: Stored) -> list[str]:
    """Acknowledged starts that did not come to what they must come to."""
    problems = [
        f"{work.key} ({run}) was acknowledged and is lost" for run, work in works.items() if run not in stored.statuses
    ]
    for run, work in works.items():
        if stored.statuses.get(run) == "completed" and (result := (await runtime.view(run)).result) != work.expected:
            problems.append(f"{work.key} ({run}) returned {result!r}, expected {work.expected!r}")
    return problems


def doubled(works: Mapping[str, Work], stored: Stored) -> list[str]:
    """Effects that happened twice: runs that nobody asked for, entries of one place."""
    asked = len(works) + sum(work.size for work in works.values() if work.kind == "family")
    problems = (
        [f"there are {len(stored.statuses)} runs, {asked} were asked for"] if asked != len(stored.statuses) else []
    )
    places = Counter((entry.kind, entry.step) for entry in stored.entries)
    return [*problems, *(f"{kind} {step} was recorded {n} times" for (kind, step), n in places.items() if n > 1)]


def premature(entries: Iterable[Recorded], works: Mapping[str, Work]) -> list[str]:
    """Timers that fired before they were due."""
    return [
        f"timer {entry.step} fired {entry.at - entry.started:.3f} s after it was set"
        for entry in entries
        if entry.kind == "timer" and entry.at < entry.started + works[entry.run].size / 100
    ]


def misanswered(stored: Stored, works: Mapping[str, Work]) -> list[str]:
    """Callers that were told anything but what their children came to, once each."""
    heard: dict[str, list[object]] = defaultdict(list)
    for entry in stored.entries:
        if entry.kind == "call":
            heard[entry.run].append(entry.value)
    return [
        f"{work.key} ({run}) called {stored.children[run]} and heard {heard[run]!r}"
        for run, work in works.items()
        if work.kind == "family"
        and (stored.children[run] != work.size or sorted(map(str, heard[run])) != sorted(map(str, work.expected)))
    ]


# -- steps ------------------------------------------------------------------------------------------------------


def drivers(lines: Iterable[Line]) -> list[int]:
    """Who drove, one after the other. Of two who wrote the same epoch, the first did not live to commit it."""
    by_epoch = {int(line.detail): line.life for line in lines if line.event == "drives"}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def unfenced(steps: Iterable[Recorded], driving: Sequence[int]) -> list[str]:
    """Entries that were committed by a worker after another one had taken over from it."""
    place, problems = 0, []
    for entry in steps:
        later = next((n for n in range(place, len(driving)) if driving[n] == entry.life), None)
        if later is None:
            problems.append(f"step {entry.step} was committed by worker {entry.life}, whose time was over")
        else:
            place = later
    return problems


def repeated(lines: Iterable[Line], winners: Mapping[str, int], event: str = "begin") -> list[str]:
    """Bodies that ran although another worker's attempt had been recorded, or beside it, or without being recorded."""
    reign, begun = 0, defaultdict[str, list[tuple[int, int]]](list)
    for line in lines:
        reign += line.event == "drives"
        if line.event == event:
            begun[line.step].append((line.life, reign))
    problems: list[str] = []
    for step, attempts in begun.items():
        lives = [life for life, _ in attempts]
        if step not in winners:
            problems.append(f"step {step} began in {lives} and was never recorded")
        elif lives[-1] != winners[step]:
            problems.append(f"step {step} began in {lives}, of which {winners[step]} was recorded, not the last")
        if len(set(attempts)) < len(attempts):
            problems.append(f"step {step} began in {lives}: again, and nobody had taken over")
    return problems + [f"step {step} was recorded and never began" for step in winners.keys() - begun.keys()]


def resumed(lines: Iterable[Line], winners: Mapping[str, int]) -> tuple[list[Line], int]:
    """The lines, with attempts in vain put before a worker's stop that it had decided on by then; and their number.

    Between the engine's look at its lease and the body of a step there is an instant, in which a process may be stopped
    as well as anywhere. Its loop is in one place at a time, so that this can only be its first attempt when it goes on.
    """
    slots: list[list[Line]] = []
    stopped: dict[int, list[Line]] = {}
    woken: dict[int, list[Line]] = {}
    late = 0
    for line in lines:
        if line.event == "stops":
            slots.append([])
            stopped[line.life or int(line.detail)] = slots[-1]
        elif line.event == "wakes" and (life := int(line.detail)) in stopped:
            woken[life] = stopped.pop(life)
        slot = woken.pop(line.life, None) if line.event in {"attempt", "drives"} else None
        if slot is not None and line.event == "attempt" and winners.get(line.step) != line.life:
            slot.append(line)
            late += 1
        else:
            slots.append([line])
    return [line for slot in slots for line in slot], late


def posthumous(lines: Iterable[Line]) -> list[str]:
    """Bodies that began while the worker that had begun them before was alive: for where nobody is stopped."""
    last: dict[str, int] = {}
    succeeded: set[int] = set()
    problems = []
    for line in lines:
        if line.life in succeeded:
            problems.append(f"worker {line.life} wrote {line.event!r} of {line.step} after another one had its work")
        if line.event == "begin":
            before = last.setdefault(line.step, line.life)
            if before != line.life:
                succeeded.add(before)
                last[line.step] = line.life
    return problems


# -- sessions ---------------------------------------------------------------------------------------------------


def sessions(works: Mapping[str, Work]) -> dict[AgentId, list[Work]]:
    """Turns by session, in the order of acceptance."""
    found: dict[AgentId, list[Work]] = defaultdict(list)
    for work in works.values():
        if work.session:
            found[AgentId(f"mill.{clerk.name}", work.session)].append(work)
    return found


def misheard(session: AgentId, turns: Sequence[Work], log: Sequence[ChatMessage]) -> list[str]:
    """What is wrong with a session's conversation."""
    expected = [text for work in turns for text in (work.key, work.expected)]
    said = [message.text for message in log]
    return [] if said == expected else [f"session {session} holds {said!r}, expected {expected!r}"]


def overtaken(lines: Iterable[Line], works: Mapping[str, Work]) -> list[str]:
    """Turns of which a step began after a step of a later turn of the same session had begun."""
    latest: dict[str, int] = {}
    problems = []
    for line in lines:
        work = works.get(line.step.partition(":")[0]) if line.event == "begin" else None
        if work is None or not work.session:
            continue
        if work.size < latest.get(work.session, 0):
            problems.append(f"turn {work.size} of session {work.session} went on after turn {latest[work.session]}")
        latest[work.session] = max(work.size, latest.get(work.session, 0))
    return problems


# -- where workers died -------------------------------------------------------------------------------------------


_PLACES = {
    "after step": "before commit",
    "transaction": "in transaction",
    "commit": "at commit",
    "replay": "in replay",
    "takeover": "taking over",
}
"""What a moment that was aimed at is called, where its own name does not serve."""


def struck(life: Sequence[Line], winners: Mapping[str, int]) -> tuple[str, bool]:
    """Where a worker was that was killed, by what it wrote and what was recorded of it; and whether that was aimed."""
    if life and life[-1].event == "dies":
        return _PLACES.get(life[-1].detail, life[-1].detail), True
    began = [line for line in life if line.event == "begin"]
    ended = {line.step for line in life if line.event == "end"}
    events = {line.event for line in life}
    if not began:
        waits = "standing by" if "up" in events else "opening"
        return "in replay" if "replay" in events else "taking over" if "drives" in events else waits, False
    if any(line.step not in ended for line in began):
        return "mid-step", False
    if any(winners.get(step) != began[0].life for step in ended):
        return "before commit", False
    return "after commit", False
