"""Cut the power after every write of a store's work, and hold what the disk then has against the witness.

``uv run python -m tests.chaos.syscalls_power`` for all, ``--limit 20`` for a sample; needs ``strace``.

A kill leaves what was written in the system's memory; a power cut does not. So the work of ``syscalls_work.py`` is
traced with its data, and the disk is drawn after each call: with nothing that no fsync covers, with all of it, and with
some of it, torn at sectors. The same is done with runs in which fsyncs fail, and with what a next process does then.
The disk is the worst that is allowed: what a failed fsync covered never arrives, though it is read back, until it is
written again.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import click

from . import syscalls as chaos, syscalls_work as script

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .syscalls import Place, Tracer
    from .syscalls_work import Synchronous

SECTOR = 512
TRACED = "pwrite64,write,fdatasync,fsync,ftruncate,openat,unlink,unlinkat"
WHOLE = 1 << 24  # bytes of a call's data that the trace shows: all
FAILING = (1, 2, 3, 1000)
"""How many fsyncs fail in a row. Two are those of a commit and of what is tried next; a thousand are all."""

Left = Literal["what is safe", "all", "some"]
"""What the power cut leaves of that which no fsync covers."""


# -- what was done ---------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """A call as traced: its name, what it was about, its data and its numbers, and whether it succeeded."""

    name: str
    path: Path
    data: bytes
    numbers: tuple[int, ...]
    succeeded: bool


def done(trace: str) -> Iterator[Done]:
    """The calls of a trace in the order in which they returned."""
    halves: dict[str, str] = {}
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        call = call.lstrip()
        if call.endswith("<unfinished ...>"):
            halves[thread] = call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<... "):
            call = halves.pop(thread) + call.partition("resumed>")[2]
        if match := re.fullmatch(r"(\w+)\((.*)\) += (-?\d+|\?).*", call):
            yield _done(*match.groups())


def _done(name: str, arguments: str, returned: str) -> Done:
    given = [_bytes(text) for text in re.findall(r'"([^"]*)"', arguments)]
    open_files = [_bytes(text) for text in re.findall(r"<([^>]*)>", arguments)]
    path = given[0] if name in {"openat", "unlink", "unlinkat"} else open_files[0]
    rest = re.sub(r'"[^"]*"|<[^>]*>', "", arguments)
    numbers = tuple(int(number) for number in re.findall(r"\b\d+\b", rest))[1:]
    made = name != "openat" or "O_CREAT" in arguments
    return Done(name, Path(path.decode()), given[-1] if given else b"", numbers, made and returned.isdigit())


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


# -- the disk ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class File:
    """What a file holds as its processes see it, what of it is safe, and what was done since."""

    seen: bytearray = field(default_factory=bytearray)
    safe: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list[tuple[int, bytes | None]])

    def change(self, place: int, data: bytes | None) -> None:
        """Write at a place, or cut there."""
        _change(self.seen, place, data)
        self.since.append((place, data))

    def sync(self, *, succeeded: bool) -> None:
        """Make safe what was done since; or it never will be."""
        if succeeded:
            for place, data in self.since:
                _change(self.safe, place, data)
        self.since.clear()

    def left(self, how: Left, dice: random.Random) -> bytes:
        """What a power cut leaves."""
        if how == "all":
            return bytes(self.seen)
        kept = bytearray(self.safe)
        for place, data in self.since if how == "some" else []:
            if data is None:
                if dice.random() < 0.5:
                    _change(kept, place, None)
                continue
            for sector in range(0, len(data), SECTOR):
                if dice.random() < 0.5:
                    _change(kept, place + sector, data[sector : sector + SECTOR])
        return bytes(kept)


def _change(content: bytearray, place: int, data: bytes | None) -> None:
    end = place if data is None else place + len(data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if data is None:
        del content[place:]
    else:
        content[place:end] = data


class Disk:
    """The folder of a store, and the names in it.

    Args:
        place: Where the work is done.
        start: What it found there.
    """

    def __init__(self, place: Place, start: Place) -> None:
        self._folder = place.file.parent
        self._names: dict[str, File] = {}
        before = start.file.parent
        for path in before.iterdir() if before.exists() else ():
            if path.is_file() and not path.name.endswith("-shm"):  # memory, not data: rebuilt from the log
                content = path.read_bytes()
                self._names[path.name] = File(bytearray(content), bytearray(content))
        self._safe_names = dict(self._names)

    def apply(self, call: Done) -> None:
        """A call was made."""
        name = call.path.name
        if call.path == self._folder:
            # SQLite does not look whether the fsync of a folder failed: there the file system's journal is relied upon.
            if call.name in {"fsync", "fdatasync"}:
                self._safe_names = dict(self._names)
        elif call.path.parent == self._folder and not name.endswith("-shm"):
            if call.name in {"fsync", "fdatasync"}:
                self._names[name].sync(succeeded=call.succeeded)
            elif call.succeeded:
                self._change(call, name)

    def _change(self, call: Done, name: str) -> None:
        if call.name == "openat":
            self._names.setdefault(name, File())
        elif call.name in {"unlink", "unlinkat"}:
            self._names.pop(name, None)
        elif call.name == "ftruncate":
            self._names[name].change(call.numbers[-1], None)
        else:
            self._names[name].change(call.numbers[-1], call.data)

    def left(self, how: Left, dice: random.Random) -> dict[str, bytes]:
        """The files that a power cut leaves, by name."""
        known = how == "all" or (how == "some" and dice.random() < 0.5)
        names = self._names if known else self._safe_names
        return {name: file.left(how, dice) for name, file in names.items()}


# -- cutting -----------------------------------------------------------------------------------------------------


@dataclass
class Cuts:
    """What all cuts came to: how many, with how many failed fsyncs behind them, and what was wrong."""

    tried: int = 0
    failed: int = 0
    violations: list[str] = field(default_factory=list[str])


class Drawing:
    """Lives in one place, one after the other, and the disk under them.

    Args:
        tracer: Lets them live.
        start: What the first one finds; all of it is safe.
        place: Where they are lived.
        limit: In how many places of each the power is cut at most.
        cuts: Added to.
    """

    def __init__(self, tracer: Tracer, start: Place, place: Place, limit: int | None, cuts: Cuts) -> None:
        shutil.copytree(start.folder, place.folder)
        place.witness.touch()  # strace shows calls on what is there when it begins
        self._tracer, self._place, self._limit, self._cuts = tracer, place, limit, cuts
        self._disk, self._lines = Disk(place, start), script.witnessed(place.witness)
        self._dice = random.Random(str(place.folder.name))  # noqa: S311 - cuts, no keys
        self._known: set[int] = set()

    async def live(self, life: int, *options: str, synchronous: Synchronous = "full") -> bool:
        """Do one life's work, with more options for strace; cut the power in it. Returns whether it got through."""
        data = ["-P", str(self._place.witness), "-xx", "-s", str(WHOLE), f"--trace={TRACED}"]
        ended = await self._tracer.run(life, self._place, *data, *options, synchronous=synchronous)
        if ended.code not in {0, script.GAVE_UP}:
            self._cuts.violations.append(f"the process ended by itself ({ended.code}): {ended.said[-3000:]}")
        calls = list(done(self._place.trace.read_text()))
        wanted = set(chaos.sample(len(calls), self._limit))
        for number, call in enumerate(calls, 1):
            if call.path == self._place.witness and call.name == "write":
                self._lines.append(script.Line(*json.loads(call.data)))
            self._disk.apply(call)
            if number in wanted:
                await self._cut(f"{self._place.folder}, life {life + 1}, after call {number}")
        return not ended.code

    async def _cut(self, where: str) -> None:
        for how in get_args(Left):
            left = self._disk.left(how, self._dice)
            fingerprint = hash((len(self._lines), *left.items()))
            if fingerprint not in self._known:
                self._known.add(fingerprint)
                self._cuts.tried += 1
                found = await self._judge(left)
                self._cuts.violations += [f"{where}, {how} left: {each}" for each in found]

    async def _judge(self, left: dict[str, bytes]) -> list[str]:
        after = chaos.Place(self._place.folder.with_name(f"{self._place.folder.name}-cut"))
        after.file.parent.mkdir(parents=True)
        for name, content in left.items():
            (after.file.parent / name).write_bytes(content)
        try:
            return await chaos.verdict(after, self._lines)
        finally:
            shutil.rmtree(after.folder)


async def cut_all(place: Path, limit: int | None, failing: Iterable[int] = FAILING) -> Cuts:
    """Cut the power in each life, and in each with its fsyncs failing; one that gives up is followed by another.

    Args:
        place: An empty folder.
        limit: How many cuts in a life, and how many fsyncs of it.
        failing: How many fsyncs in a row fail.
    """
    cuts = Cuts()
    async with chaos.Tracer() as tracer:
        for life, counted in enumerate(await chaos.count(tracer, place / "undisturbed")):
            start = chaos.Place(place / "undisturbed" / f"{life}")
            await Drawing(tracer, start, chaos.Place(place / f"{life}"), limit, cuts).live(life)
            for length, number in product(failing, chaos.sample(counted["fdatasync"], limit)):
                cuts.failed += 1
                inject = f"inject=fdatasync:error=EIO:when={number}..{number + length - 1}"
                drawing = Drawing(tracer, start, chaos.Place(place / f"{life}-{number}-{length}"), limit, cuts)
                if not await drawing.live(life, "-e", inject):
                    await drawing.live(len(script.LIVES))
    return cuts


@click.command()
@click.option(
    "--limit", type=click.IntRange(1), help="So many cuts in a life, and fsyncs of it, at most; by default all."
)
def main(limit: int | None) -> None:
    """Cut the power after every write of a store's work."""
    place, began = chaos.a_folder(), time.monotonic()
    cuts = asyncio.run(cut_all(place, limit))
    click.echo(f"lives with failing fsyncs: {cuts.failed}, power cuts: {cuts.tried}")
    click.echo(f"violations: {len(cuts.violations)} in {time.monotonic() - began:.0f} s")
    for violation in cuts.violations:
        click.echo(f"  {violation}")
    if cuts.violations:
        sys.exit(1)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
