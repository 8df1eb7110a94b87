"""Notices that the event loop does not turn, and names the author's line that holds it up.

A thread asks the loop for a sign of life, sleeps for ``stall`` seconds, and looks whether it came. So what it reports
has lasted that long for certain, what lasts twice as long is noticed for certain, and an idle engine is woken once in
that time. Knows nothing of runs but a name that it asks for.

What never lets other Python code run (a regular expression without end) is noticed only if it comes to an end.
"""

from __future__ import annotations

import linecache
import logging
import os
import sys
import threading
from pathlib import Path
from time import monotonic, process_time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

_log = logging.getLogger("perdure.engine")
_STANDARD: Final = str(Path(os.__file__).parent)
_INSTALLED: Final = ("site-packages", "dist-packages")
_LATE: Final = 1.25  # a sleep that took so much longer than it should: the process was stopped, or had no CPU
_BUSY: Final = 0.25  # of that time, and for no less than a stall, the process computed: it was not stopped
_WAY_OUT: Final = (
    "meanwhile no run of this process goes on; wrap it in ctx.step: a sync function runs in a thread, CPU work with"
    " @step(process=True) in a process"
)
_NOBODY: Final = "in no author's code"
_OVERLOAD: Final = (
    "this process has more to do than it gets CPU for: let fewer runs move at once ([engine-embedded] active), or give"
    " the machine less else to do"
)


class Place(NamedTuple):
    """A line of code that is being executed."""

    file: str
    line: int
    function: str
    module: str = ""

    def __str__(self) -> str:
        source = linecache.getline(self.file, self.line).strip()
        return f"{self.file}:{self.line} in {self.function}" + (f": `{source}`" if source else "")

    @property
    def kind(self) -> str:
        """Whose it is: ``perdure``, ``installed`` (a library, perhaps the author's), ``standard`` or ``author``."""
        if self.module.partition(".")[0].partition("_")[0] == "perdure":
            return "perdure"
        if any(part in _INSTALLED for part in Path(self.file).parts):
            return "installed"
        return "standard" if self.file.startswith((_STANDARD, "<frozen")) else "author"


class Watchdog:
    """See the module. ``start`` belongs into the loop's thread.

    Args:
        call_soon: The loop's ``call_soon_threadsafe``.
        stall: Seconds without a turn of the loop that are worth a warning.
        driving: Says in words what the loop is busy with right now; called from the watchdog's thread.
        clock: Seconds that pass, and seconds that this process computes.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        stall: float = 1.0,
        *,
        driving: Callable[[], str | None] = lambda: None,
        clock: tuple[Callable[[], float], Callable[[], float]] = (monotonic, process_time),
    ) -> None:
        self._call_soon = call_soon
        self._stall = stall
        self._driving = driving
        self._now, self._computed = clock
        self._watched = 0
        self._turned = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the loop of this thread. Idempotent."""
        if self._thread is None:
            self._watched = threading.get_ident()
            self._stopping.clear()
            self._thread = threading.Thread(target=self._watch, name="perdure-watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Watch no more; the thread has ended afterwards. Idempotent."""
        if self._thread is not None:
            self._stopping.set()
            self._turned.set()
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._turned.clear()
            try:
                self._call_soon(self._turned.set)
            except RuntimeError:  # the loop is closed
                return
            since = self._now()
            while self._was_kept_from_looking() and not self._turned.is_set():
                since = self._now()
            if not self._turned.is_set() and not self._stopping.is_set():
                self._report(since)

    def _was_kept_from_looking(self) -> bool:
        """Sleep. Whether it took too long: what did not let this thread run may not have let the loop run, either.

        Unless the process was computing: then it was code that lets no other thread run that held up both.
        """
        began, computed = self._now(), self._computed()
        self._stopping.wait(self._stall)
        took, busy = self._now() - began, self._computed() - computed
        return took > self._stall * _LATE and (busy < self._stall or busy < took * _BUSY)

    def _report(self, since: float) -> None:
        """Say what holds up the loop; wait until it turns again, and say so."""
        frames = sys._current_frames()  # noqa: SLF001 - documented  # pyright: ignore[reportPrivateUsage]
        places = _places(frames.pop(self._watched, None))
        culprit = _culprit(places)
        where, way_out = (_NOBODY, _OVERLOAD) if culprit is None else (f"at {culprit}", _WAY_OUT)
        if culprit is not None and culprit != places[0]:
            where += f", now at {places[0]}"
        driving = None if culprit is None else self._driving()
        what = f", driving {driving}" if driving else ""
        _log.warning("the event loop has not turned for %.1f s%s, %s; %s", self._now() - since, what, where, way_out)
        self._turned.wait()
        if not self._stopping.is_set():
            name = "load" if culprit is None else f"{culprit.file}:{culprit.line} in {culprit.function}"
            _log.warning("the event loop turns again after %.1f s%s: %s held it up", self._now() - since, what, name)


def _places(frame: FrameType | None) -> list[Place]:
    """What a loop's thread executes inside of the callback that it runs, innermost first."""
    places: list[Place] = []
    inside: int | None = None
    while frame is not None:
        code, module = frame.f_code, frame.f_globals.get("__name__", "")
        if module == "asyncio.events" and code.co_name == "_run":
            inside = len(places)  # of nested loops the outermost counts: the machine's runs inside of the real one
        elif module == "asyncio.base_events" and code.co_name == "_run_once" and inside is None:
            return []
        places.append(Place(code.co_filename, frame.f_lineno, code.co_qualname, module))
        frame = frame.f_back
    return places[:inside]


def _culprit(places: Sequence[Place]) -> Place | None:
    """The innermost line of the author's.

    An author's code may be installed like a library: then it is the outermost that is neither Perdure nor standard,
    for that is what Perdure called. Where there is none of both, nobody's line is to blame.
    """
    for place in places:
        if place.kind == "author":
            return place
    installed = [place for place in places if place.kind == "installed"]
    return installed[-1] if installed else None
