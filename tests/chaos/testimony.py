"""What workers that may die at any moment leave behind: lines in a file, in the order in which they were written.

Bodies of steps sync their lines to the disk. The rest tells what else went on in a process, and ends with it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

Event = Literal[
    "up",  # a worker drives, or waits to
    "drives",  # it is about to commit that it has taken over; detail: the epoch
    "attempt",  # the engine attempts a step
    "begin",  # of a step's body
    "end",
    "replay",  # code goes on with what another worker recorded; once a run and worker
    "finished",  # a run has ended; detail: how
    "dies",  # by its own hand; detail: the moment
    "stops",  # detail: the moment
    "wakes",  # written by the commander, just before
]


_END = "."


class Line(NamedTuple):
    """One line of the file.

    Attributes:
        event: What happened.
        life: The worker's number; none is given twice, unlike a process id.
        step: Idempotency key of the step (``run:path``), or the run.
        detail: See ``Event``.
    """

    event: str
    life: int
    step: str = ""
    detail: str = ""


class Witness:
    """Appends to the file, and rings a bell that the commander hears.

    Args:
        file: Made if it is not there.
        life: Whose lines these are.
        bell: A descriptor of a pipe that does not block, or ``None``.
    """

    def __init__(self, file: Path, life: int, bell: int | None = None) -> None:
        self._handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._life, self._bell = life, bell

    def note(self, event: Event, step: str = "", detail: str = "", *, sync: bool = False) -> None:
        """Write one line; ``sync`` returns when it is on the disk."""
        # One write of one line in append mode: lines of several threads and processes do not mix. But a kill may strike
        # in the middle of a write, where that goes from one page to the next: hence the break before, and the end.
        os.write(self._handle, f"\n{event}\t{self._life}\t{step}\t{detail}\t{_END}\n".encode())
        if sync:
            os.fsync(self._handle)
        if self._bell is not None:
            with suppress(BlockingIOError, BrokenPipeError):  # it rings already, or nobody is there
                os.write(self._bell, b"!")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)


class Reader:
    """Reads what was written since it last looked."""

    def __init__(self, file: Path) -> None:
        self._handle = os.open(file, os.O_RDONLY | os.O_CREAT, 0o644)
        self._rest = b""

    def news(self) -> list[Line]:
        """The new lines; one that is not whole yet is left for the next time, one that never will be is left out."""
        chunks = [self._rest]
        while chunk := os.read(self._handle, 1 << 20):
            chunks.append(chunk)
        *whole, self._rest = b"".join(chunks).split(b"\n")
        return [_line(text) for text in whole if text.endswith(f"\t{_END}".encode())]

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)


def _line(text: bytes) -> Line:
    event, life, step, detail, _ = text.decode().split("\t")
    return Line(sys.intern(event), int(life), sys.intern(step), sys.intern(detail))  # there are millions of lines


def lines_of(file: Path) -> list[Line]:
    """All lines of the file."""
    reader = Reader(file)
    try:
        return reader.news()
    finally:
        reader.close()
