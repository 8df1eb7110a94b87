"""Let the system answer every call of a store's work with a kill or an error, and hold the file against the witness.

``uv run python -m tests.chaos.syscalls`` for all, ``--limit 8`` for a sample of each system call; needs ``strace``.

Undisturbed runs of ``syscalls_work.py`` are traced and the system calls on the store's files are counted. Then each one
in turn, in a run of its own, does not reach the system: the process is killed there (SIGKILL), or is told EIO or
ENOSPC, this once or from there on. (strace counts for each thread: the reader's calls are answered so beside the
writer's.) Afterwards the file is opened as after any crash. It must be whole; what was
acknowledged must be there; what was refused must not be, unless the refusal said that it might; each call must be there
wholly or not at all; and the rest of the work must go through.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import click

from perdure.errors import PerdureError

from . import syscalls_work as script
from .syscalls_nest import Orders

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .syscalls_work import Ending, Line, Synchronous

ROOT = Path(__file__).parents[2]
STRACE = shutil.which("strace")
MISSING = "strace is not installed, or may not trace here: install it ('apt-get install strace') and allow ptrace"
PATIENCE = script.LIFE + 30.0  # seconds for one run; it ends itself before
TOGETHER = 2
MAYBE = "not known"
"""What the message of a refusal says whose outcome is not known."""


class Fault(NamedTuple):
    """How the system answers.

    Attributes:
        name: In the table.
        answer: In strace's words.
        onwards: From the chosen call on, each, not this one alone.
        ending: What the program does when it is refused something.
    """

    name: str
    answer: str
    onwards: bool = False
    ending: Ending = "go on"

    def answers(self, syscall: str) -> bool:
        """Whether it is tried. Of locks that fail, which keep SQLite trying for ten seconds, one way is enough."""
        return syscall != "fcntl" or self.name in {"kill", "EIO"}


FAULTS = (
    Fault("kill", "signal=KILL"),
    Fault("EIO", "error=EIO"),
    Fault("ENOSPC", "error=ENOSPC"),
    Fault("EIO, then kill", "error=EIO", ending="die"),
    Fault("EIO from there on", "error=EIO", onwards=True),
    Fault("ENOSPC from there on", "error=ENOSPC", onwards=True),
)


class Case(NamedTuple):
    """One disturbed run: the fault, and which of its thread's calls of that name it answers."""

    life: int
    syscall: str
    fault: Fault
    number: int

    def __str__(self) -> str:
        return f"life {self.life + 1}, {self.syscall} {self.number}: {self.fault.name}"


@dataclass
class Row:
    """A line of the table: what became of the runs with one system call and one fault."""

    tried: int = 0
    refused: int = 0
    survived: int = 0


@dataclass
class Tally:
    """What all runs came to."""

    counts: list[Counter[str]]
    rows: dict[tuple[str, str], Row] = field(default_factory=dict[tuple[str, str], Row])
    missed: int = 0
    violations: list[str] = field(default_factory=list[str])

    @property
    def tried(self) -> int:
        return sum(row.tried for row in self.rows.values())

    @property
    def refused(self) -> int:
        return sum(row.refused for row in self.rows.values())


class Place(NamedTuple):
    """Where one run has its files."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "data" / "perdure.db"

    @property
    def witness(self) -> Path:
        return self.folder / "witness"

    @property
    def trace(self) -> Path:
        return self.folder / "trace"

    @property
    def said(self) -> Path:
        return self.folder / "witness.said"

    @property
    def go(self) -> Path:
        return self.folder / "go"

    @property
    def paths(self) -> list[Path]:
        """All that the store may touch."""
        beside = [self.file.with_name(f"{self.file.name}{end}") for end in BESIDE]
        return [self.file.parent, self.file, *beside]


BESIDE = ("-wal", "-shm", "-journal", "-driver", "-queue")


# -- running -----------------------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """How a run ended: the exit code (negative: the signal) and what it said on stderr."""

    code: int
    said: str


class Tracer:
    """Lets processes work and watches their calls on the store's files. To be opened with ``async with``."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._told: dict[str, asyncio.Future[int]] = {}

    async def __aenter__(self) -> Self:
        if STRACE is None:
            raise RuntimeError(MISSING)
        self._nest = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.syscalls_nest"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._nest.stdin.close()
        await self._listener
        await self._nest.wait()

    async def run(
        self, life: int, place: Place, *options: str, ending: Ending = "go on", synchronous: Synchronous = "full"
    ) -> Ended:
        """Do one life's work, with these options for strace.

        Raises ``RuntimeError`` if there is no tracing here, or the process does not end.
        """
        number = next(self._numbers)
        os.mkfifo(place.go)
        go = os.open(place.go, os.O_RDWR)
        try:
            async with asyncio.timeout(PATIENCE):
                orders = Orders(number, life, str(place.file), str(place.witness), str(place.go), ending, synchronous)
                self._nest.stdin.write(f"{json.dumps(orders)}\n".encode())
                pid = await self._hear("born", number)
                strace = await self._join(pid, place, options)
                os.write(go, b"!")
                code = await self._hear("died", number)
                await strace.communicate()
        finally:
            os.close(go)
            place.go.unlink()
        return Ended(code, place.said.read_text(errors="replace"))

    async def _join(self, pid: int, place: Place, options: Sequence[str]) -> asyncio.subprocess.Process:
        command = [STRACE, "-f", "-y", "-o", str(place.trace), "-p", str(pid), *options]
        command += [option for path in place.paths for option in ("-P", str(path))]
        strace = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        said = b""
        while not re.search(rb"Process \d+ attached", said):
            line = await strace.stderr.readline()
            said += line
            if not line:
                msg = f"strace said {said.decode(errors='replace')!r}; {MISSING}"
                raise RuntimeError(msg)
        return strace

    async def _hear(self, what: str, number: int) -> int:
        return await self._told.setdefault(f"{what} {number}", asyncio.get_running_loop().create_future())

    async def _listen(self) -> None:
        while line := await self._nest.stdout.readline():
            what, _, detail = line.decode().strip().rpartition(" ")
            told = self._told.setdefault(what, asyncio.get_running_loop().create_future())
            if not told.done():
                told.set_result(int(detail))


async def count(tracer: Tracer, place: Path) -> list[Counter[str]]:
    """The system calls of undisturbed lives, by name: how many the busiest thread of each made.

    What each life finds is left in ``place`` under its number. Raises ``RuntimeError`` if there is no tracing here.
    """
    counts: list[Counter[str]] = []
    here = Place(place / "0")
    here.folder.mkdir(parents=True)
    for life in range(len(script.LIVES)):
        following = Place(place / f"{life + 1}")
        shutil.copytree(here.folder, following.folder)
        ended = await tracer.run(life, following)
        if ended.code or script.witnessed(following.witness)[-1:] != [script.Line("end", "")]:
            msg = f"the undisturbed run failed ({ended.code}); {MISSING}\n{ended.said}"
            raise RuntimeError(msg)
        counts.append(_busiest(following.trace.read_text(errors="replace")))
        here = following
    return counts


def _busiest(trace: str) -> Counter[str]:
    """How many calls of each name the thread made that made most of them."""
    busiest = Counter[str]()
    for (_, name), number in Counter(re.findall(r"^(\d+) +(\w+)\(", trace, re.MULTILINE)).items():
        busiest[name] = max(number, busiest[name])
    return busiest


def cases(counts: Iterable[Counter[str]], faults: Iterable[Fault], limit: int | None) -> list[Case]:
    """Every call with every fault, or a sample of each: the first, the last, some between."""
    return [
        Case(life, name, fault, number)
        for life, counted in enumerate(counts)
        for name, total in sorted(counted.items())
        for fault in faults
        if fault.answers(name)
        for number in sample(total, limit)
    ]


def sample(total: int, limit: int | None) -> Sequence[int]:
    """All numbers from 1 to the total, or so many of them: the first, the last, some between (one alone: that)."""
    if limit is None or total <= limit:
        return range(1, total + 1)
    if limit == 1:
        return [(total + 1) // 2]
    return sorted({1 + round(place * (total - 1) / (limit - 1)) for place in range(limit)})


async def disturb(tracer: Tracer, case: Case, undisturbed: Path, place: Place, tally: Tally) -> None:
    """One disturbed run, and what became of it."""
    shutil.copytree(undisturbed / f"{case.life}", place.folder)
    which = f"{case.number}+" if case.fault.onwards else str(case.number)
    inject = f"inject={case.syscall}:{case.fault.answer}:when={which}"
    ended = await tracer.run(case.life, place, f"--trace={case.syscall}", "-e", inject, ending=case.fault.ending)
    lines = script.witnessed(place.witness)
    violations = _odd_ending(ended, lines) + await verdict(place, lines)
    if ended.code != -9 and "INJECTED" not in place.trace.read_text(errors="replace"):
        tally.missed += 1  # this time there were not as many
    else:
        row = tally.rows.setdefault((case.syscall, case.fault.name), Row())
        row.tried += 1
        refused = any(line.word == "refused" for line in lines)
        row.refused += refused
        row.survived += not refused and not ended.code
    tally.violations += [f"{case}: {violation} ({place.folder})" for violation in violations]
    if not violations:
        shutil.rmtree(place.folder)


def _odd_ending(ended: Ended, lines: list[Line]) -> list[str]:
    if ended.code in {-9, script.GAVE_UP}:
        return []
    if ended.code or not lines or lines[-1].word != "end":
        return [f"the process ended by itself ({ended.code}) after {lines[-1:]}: {ended.said.strip()[-3000:]}"]
    return []


# -- judging -----------------------------------------------------------------------------------------------------


async def verdict(place: Place, lines: list[Line]) -> list[str]:
    """What is wrong with a file, given its witness; the work is finished on the way."""
    place.file.parent.mkdir(exist_ok=True)
    try:
        with closing(sqlite3.connect(place.file)) as connection:
            said = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    except sqlite3.Error as error:
        return [f"the file cannot be checked: {error}"]
    if said != ["ok"]:
        return [f"the file is damaged: {said}"]
    worker = script.Worker(place.file)
    try:
        return await _held_against(worker, lines) or await _finished(worker)
    except (PerdureError, AssertionError) as error:
        return [f"the work does not go on: {error!r}"]
    finally:
        await worker.close()


async def _held_against(worker: script.Worker, lines: list[Line]) -> list[str]:
    begun = {line.call for line in lines if line.word == "begin"}
    done = {line.call for line in lines if line.word == "done"}
    refused = {line.call: line.text for line in lines if line.word == "refused"}
    found: list[str] = []
    for name, call in script.CALLS.items():
        facts = await script.present(call, worker.store)
        if any(facts) and not all(facts):
            found.append(f"torn: {name!r} is there in part: {facts}")
        if name in done and not all(facts):
            found.append(f"lost: {name!r} was acknowledged and is not there")
        if any(facts) and name not in begun:
            found.append(f"too much: {name!r} is there and was not asked for")
        if any(facts) and name in refused and name not in done and not _open_question(name, lines):
            found.append(f"too much: {name!r} is there and was refused: {refused[name]}")
    return found


def _open_question(call: str, lines: list[Line]) -> bool:
    """Whether a refusal of this call said that its outcome was not known, or it was being tried again at the end."""
    refused: list[str] = []
    for line in [line for line in lines if line.call == call]:
        refused = [*refused, line.text] if line.word == "refused" else []
    tried_again = len(refused) < script.TRIES and not any(script.STUCK in text for text in refused)
    return tried_again or any(MAYBE in text for text in refused)


async def _finished(worker: script.Worker) -> list[str]:
    """Do what is left of the script, and hold the whole against what it should come to."""
    await script.finish(worker)
    store = worker.store
    found = [
        f"{call.name!r} was done and is not there"
        for call in script.CALLS.values()
        if not all(await script.present(call, store))
    ]
    lengths = {view.id: view.seq for view in await store.runs(limit=1000)}
    if lengths != script.LENGTHS:
        found.append(f"the journals should have {script.LENGTHS}, and have {lengths}")
    log = list(await store.log(script.SESSION))
    if log != script.LOG:
        found.append(f"the conversation should be {script.LOG}, and is {log}")
    return found


def a_folder() -> Path:
    """A new folder: in memory where there is one that is a file system, as nothing here wants a disk's time."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder in it is new and ours
    return Path(tempfile.mkdtemp(prefix="perdure-syscalls-", dir=memory if os.access(memory, os.W_OK) else None))


# -- all of them -------------------------------------------------------------------------------------------------


async def disturb_all(faults: Sequence[Fault], limit: int | None, place: Path, *, names: Sequence[str] = ()) -> Tally:
    """Count, then disturb call after call; what went wrong is kept in its folder, the rest is removed."""
    undisturbed = place / "undisturbed"
    async with Tracer() as tracer:
        tally = Tally(await count(tracer, undisturbed))
        chosen = [case for case in cases(tally.counts, faults, limit) if not names or case.syscall in names]
        waiting = list(enumerate(chosen))[::-1]
        total = len(waiting)

        async def take() -> None:
            while waiting:
                number, case = waiting.pop()
                await disturb(tracer, case, undisturbed, Place(place / f"{number:05}"), tally)
                if number % 100 == 0:
                    click.echo(f"{number:6}/{total}  {case}", err=True)

        async with asyncio.TaskGroup() as group:
            for _ in range(TOGETHER):
                group.create_task(take())
    return tally


def show(tally: Tally, seconds: float) -> None:
    """Print what all came to."""
    click.echo(f"{'system call':14} {'fault':22} {'tried':>6} {'refused':>8} {'survived':>9}")
    for (syscall, fault), row in sorted(tally.rows.items()):
        click.echo(f"{syscall:14} {fault:22} {row.tried:6} {row.refused:8} {row.survived:9}")
    click.echo(f"\ntried: {tally.tried}, not reached: {tally.missed}, refused visibly: {tally.refused}")
    click.echo(f"violations: {len(tally.violations)} in {seconds:.0f} s")
    for violation in tally.violations:
        click.echo(f"  {violation}")


@click.command()
@click.option("--limit", type=click.IntRange(1), help="At most so many of each system call and fault; all by default.")
@click.option("--fault", "chosen", multiple=True, type=click.Choice([fault.name for fault in FAULTS]))
@click.option("--call", "names", multiple=True, help="Only this system call, as strace names it.")
def main(limit: int | None, chosen: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Answer every system call of a store's work with a kill or an error."""
    faults = [fault for fault in FAULTS if not chosen or fault.name in chosen]
    place, began = a_folder(), time.monotonic()
    tally = asyncio.run(disturb_all(faults, limit, place, names=names))
    show(tally, time.monotonic() - began)
    if tally.violations:
        sys.exit(1)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
