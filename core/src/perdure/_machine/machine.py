"""The machine: one run's or turn's code, fed with what happened, telling what it wants.

One completion is fed, then code runs to rest; feeding two at once would change what ``asyncio.wait``
returns. Replay is nothing else than feeding the journal from its beginning, so there is no second path for
resuming. What code wants is a *command* with a structural path; what is fed is an ``Entry`` with the same path.
"""

from __future__ import annotations

import asyncio
import contextvars
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from perdure._machine.loop import DurableTimer, Evicted, MachineLoop
from perdure.errors import NewerJournal, NonDeterminism

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from perdure.messages import Entry

__all__ = ["TRANSITIONS", "Activation", "Command", "Evicted", "Machine", "Outcome", "State"]

State = Literal["new", "running", "waiting", "completed", "failed", "cancelled", "broken", "evicted"]

TRANSITIONS: Final[dict[tuple[State, str], State]] = {
    ("new", "begin"): "running",
    ("waiting", "feed"): "running",
    ("running", "rest"): "waiting",
    ("running", "return"): "completed",
    ("running", "raise"): "failed",
    ("running", "cancelled"): "cancelled",
    ("running", "never rests"): "broken",
    ("running", "interrupt"): "broken",
    ("waiting", "mismatch"): "broken",
    ("completed", "mismatch"): "broken",
    ("failed", "mismatch"): "broken",
    ("cancelled", "mismatch"): "broken",
    ("waiting", "evict"): "evicted",
    ("broken", "evict"): "evicted",
    ("completed", "evict"): "evicted",
    ("failed", "evict"): "evicted",
    ("cancelled", "evict"): "evicted",
    ("new", "evict"): "evicted",
}
"""State and event to the next state. The diagram in docs/durability.md is drawn from it."""

CommandKind = Literal["step", "call", "answer", "timer", "send", "patch", "updated", "ask"]

_SHOWN: Final = 5
_AWAITED: Final = frozenset({"step", "call", "answer", "timer"})
_ARRIVING: Final = frozenset({"event", "update"})
RECORDED: Final = frozenset({"send", "patch", "updated"})
"""What code does without waiting, and what the journal keeps a line of: a replay must do the same."""

_ENDED: Final[dict[State, str]] = {"completed": "completed", "failed": "failed", "cancelled": "been cancelled"}


class Timer(NamedTuple):
    """What a timer's command is about: when it is ``due``, and ``since`` when it has been set (UTC seconds)."""

    due: float
    since: float


class Command(NamedTuple):
    """Something that code wants, and waits for or not.

    Attributes:
        kind: ``step``, ``call``, ``answer`` (a request is to be opened) or ``timer`` are waited for; ``send`` (a
            ``Start`` or ``Delivery`` goes out), ``patch``, ``updated`` and ``ask`` (a request is handed on) are not.
        path: Structural identity; the entry that completes or records it carries the same.
        name: For people and for the check on replay.
        fingerprint: Of the input; the entry's must be equal.
        body: What the driver needs: a ``StepCall``, ``Start``, ``Delivery``, ``Request`` or ``Timer``.
        source: The author's line, as ``orders.py:42``.
    """

    kind: CommandKind
    path: str
    name: str
    fingerprint: str
    body: Any
    source: str = ""


class Outcome(NamedTuple):
    """How the code ended: ``value`` if completed, ``error`` otherwise.

    ``again`` is code that wants to begin anew, with ``value`` as its input; ``terminated`` was not asked.
    """

    status: Literal["completed", "failed", "cancelled", "terminated", "again"]
    value: Any = None
    error: BaseException | None = None


class Activation(NamedTuple):
    """What one run to rest brought: new wants, wants given up, and the end, if it ended."""

    opened: tuple[Command, ...] = ()
    closed: tuple[Command, ...] = ()
    outcome: Outcome | None = None


class Machine:
    """One live execution.

    Args:
        main: Makes the code's coroutine; called once, by ``begin``.
        now: The time (UTC seconds) at which the code begins.
        arrive: Called, in the machine, with each event and update that is fed.
        debug: asyncio's debug mode for that code.

    Attributes:
        replaying: What is fed has been fed before, and what code does has been done before.
        attempts: How often each step has been attempted.
        heartbeats: JSON of what its attempts reported last, by path.
        seen: Results of steps as they were read when they were written, beside their JSON: for the code that waits.
    """

    def __init__(
        self,
        main: Callable[[], Coroutine[Any, Any, Any]],
        *,
        now: float,
        arrive: Callable[[Entry], None] | None = None,
        debug: bool = False,
    ) -> None:
        self.state: State = "new"
        self.pending: dict[str, Command] = {}
        self.attempts: dict[str, int] = {}
        self.heartbeats: dict[str, bytes] = {}
        self.seen: dict[str, tuple[bytes, Any]] = {}
        self.replaying: bool = False
        self._main: Callable[[], Coroutine[Any, Any, Any]] | None = main
        self._arrive = arrive
        self._unproven: dict[str, Command] = {}
        self._futures: dict[str, asyncio.Future[Entry] | DurableTimer] = {}
        self._opened: dict[str, Command] = {}
        self._closed: list[Command] = []
        self._task: asyncio.Task[Any] | None = None
        self._cancelled: str | None = None
        self._ending = False
        self.loop: MachineLoop = MachineLoop(self, now=now, debug=debug)

    @property
    def now(self) -> float:
        """The time of the current activation (UTC seconds); never goes back."""
        return self.loop.now

    # -- for the driver

    def begin(self) -> Activation:
        """Start the code and run it to rest."""
        self._move("begin")
        # A context of its own: whatever happens to be set around this call is not part of the record.
        if self._main is None:  # pragma: no cover - an evicted machine does not begin
            raise AssertionError
        self._task = self.loop.start(self._main(), contextvars.Context())
        return self._run()

    def feed(self, entry: Entry) -> Activation:
        """Feed one completion and run to rest.

        Raises:
            NonDeterminism: The code does not wait for this; the message names both sides.
            NewerJournal: Only a newer release knows what this is.
            RuntimeError: The machine has not begun, is running, broken or evicted: an error of its driver.
        """
        if entry.kind not in _AWAITED and (activation := self._feed_other(entry)) is not None:
            return activation
        if self.state in _ENDED:
            raise self._mismatch(entry, f"the code has already {_ENDED[self.state]}")
        if entry.kind == "cancel":
            self._move("feed")
            self.loop.now = max(self.now, entry.at)
            self._cancelled = entry.name
            if self._task is not None:
                self._task.cancel(entry.name or None)
            return self._run()
        if entry.kind in _ARRIVING:
            self._move("feed")
            self.loop.now = max(self.now, entry.at)
            if self._arrive is not None:
                self.loop.call_soon(self._arrive, entry, context=contextvars.Context())
            return self._run()
        command = self.pending.get(entry.path)
        fits = command is not None and command.kind == entry.kind and command.fingerprint == entry.fingerprint
        if not fits and self.state == "waiting":
            raise self._misfit(entry, command)
        self._move("feed")
        self.loop.now = max(self.loop.now, entry.at)
        del self.pending[entry.path]
        waiter = self._futures.pop(entry.path)
        if isinstance(waiter, DurableTimer):
            self.loop.fire(waiter)
        elif not waiter.done():
            waiter.set_result(entry)
        return self._run()

    def prove(self) -> None:
        """The journal is at its end. Raises ``NonDeterminism`` if code did something that it has no line of."""
        self.replaying = False
        for command in self._unproven.values():
            self._move("mismatch")
            msg = (
                f"the code no longer fits its journal. Recorded: nothing there. Now: {_said(command)}. Deploy code"
                " that fits (or guard what is new with ctx.patched), and the run goes on; nothing of it is lost"
            )
            raise NonDeterminism(msg)

    def evict(self) -> None:
        """Give the machine up: code unwinds, and nothing durable can be done while it does. Idempotent."""
        if self.state != "evicted":
            self._move("evict")
            self.loop.evict()
            self.pending.clear()
            self._futures.clear()
            # A finished run must go with its last reference: thousands of circles a second keep the collector busy.
            self._main = self._arrive = self._task = None
            self.loop.forget()

    # -- for contexts, from within the code

    def identity(self, name: str) -> str:
        """A fresh structural identity in the branch of the calling code."""
        return self.loop.branch().identity(name)

    async def perform(self, command: Command) -> Entry:
        """Want something; return the entry that completes it. Cancelling the wait gives the want up."""
        if self.loop.refusing:
            raise Evicted
        future = self.loop.create_future()
        self._open(command, future)
        try:
            return await future
        finally:
            if command.path in self.pending:
                self._close(command.path)

    def emit(self, command: Command) -> None:
        """Do something without waiting; it goes out with the commit of this activation."""
        if self.loop.refusing:
            raise Evicted
        self._opened[command.path] = command
        if self.replaying and command.kind in RECORDED:
            self._unproven[command.path] = command

    def set_timer(self, handle: DurableTimer) -> None:
        """A timer was set by the code (``asyncio.sleep``, ``timeout``, ``call_later``)."""
        self._open(Command("timer", handle.path, "timer", "", Timer(handle.when(), self.now)), handle)

    def drop_timer(self, handle: DurableTimer) -> None:
        """A timer was cancelled by the code."""
        if handle.path in self.pending and not self.loop.refusing:
            self._close(handle.path)

    # -- inside

    def _feed_other(self, entry: Entry) -> Activation | None:
        """Take note of an entry that sets nothing going; ``None`` for one that does."""
        kind = entry.kind
        if kind in RECORDED:
            self._prove(entry)
        elif kind == "attempt":
            self.attempts[entry.path] = entry.attempt
        elif kind == "heartbeat":
            self.heartbeats[entry.path] = entry.value or b"null"
        elif kind not in {"begin", "rejected"}:
            if kind == "cancel" or kind in _ARRIVING:
                return None
            msg = (
                f"the journal has a line of kind {kind!r} at {entry.path!r}, which this release does not know: it was"
                " written by a newer one. Upgrade perdure, and the run goes on; nothing of it is lost"
            )
            raise NewerJournal(msg)
        return Activation()

    def _prove(self, entry: Entry) -> None:
        """What the journal says that code did, it must have done in the activation before."""
        command = self._unproven.pop(entry.path, None)
        if command is None:
            raise self._mismatch(entry, "the code does not do that there")
        if (command.kind, command.fingerprint) != (entry.kind, entry.fingerprint):
            raise self._mismatch(entry, f"the code does something else there: {_said(command)}")

    def _open(self, command: Command, waiter: asyncio.Future[Entry] | DurableTimer) -> None:
        self.pending[command.path] = command
        self._futures[command.path] = waiter
        self._opened[command.path] = command

    def _close(self, path: str) -> None:
        command = self.pending.pop(path)
        self._futures.pop(path, None)
        if self._opened.pop(path, None) is None:  # otherwise nobody has heard of it
            self._closed.append(command)

    def _run(self) -> Activation:
        try:
            self.loop.drain()
            if self._task is not None and self._task.done() and self.loop.tasks and not self._ending:
                # As asyncio.run does: what the main code left behind is cancelled and waited for.
                self._ending = True
                for task in list(self.loop.tasks.values()):
                    task.cancel()
                self.loop.drain()
        except NonDeterminism:
            self._move("never rests")
            raise
        except BaseException:
            # KeyboardInterrupt and SystemExit, which asyncio lets through: whose they are cannot be known. The
            # process is asked to end, and the run goes on in another one.
            self._move("interrupt")
            raise
        brought = Activation(tuple(self._opened.values()), tuple(self._closed), self._outcome())
        self._opened.clear()
        self._closed.clear()
        return brought

    def _outcome(self) -> Outcome | None:
        task = self._task
        if task is None or not task.done() or self.loop.tasks:
            self._move("rest")
            return None
        if task.cancelled():
            self._move("cancelled")
            return Outcome("cancelled", error=asyncio.CancelledError(self._cancelled or ""))
        error = task.exception()
        if error is not None:
            self._move("raise")
            return Outcome("failed", error=error)
        self._move("return")
        return Outcome("completed", task.result())

    def _move(self, event: str) -> None:
        try:
            self.state = TRANSITIONS[self.state, event]
        except KeyError:
            msg = f"a machine that is {self.state} cannot {event}"
            raise RuntimeError(msg) from None

    def _misfit(self, entry: Entry, command: Command | None) -> NonDeterminism:
        """What to raise for a completion that the code does not wait for like that."""
        if command is None:
            first = list(islice(self.pending.values(), _SHOWN))
            more = f" and {len(self.pending) - len(first)} more" if len(self.pending) > len(first) else ""
            waits = ", ".join(map(_said, first)) or "nothing"
            return self._mismatch(entry, f"the code does not ask for that; it waits for {waits}{more}")
        if command.kind != entry.kind:
            return self._mismatch(entry, f"the code asks for a {command.kind} there: {_said(command)}")
        return self._mismatch(entry, f"the code passes other arguments there: {_said(command)}")

    def _mismatch(self, entry: Entry, found: str) -> NonDeterminism:
        self._move("mismatch")
        recorded = _said(entry)
        return NonDeterminism(
            f"the code no longer fits its journal. Recorded: {recorded}. Now: {found}. Deploy code that fits, and"
            " the run goes on; nothing of it is lost"
        )


def _said(thing: Command | Entry) -> str:
    """A command or an entry, for people: what, where in the journal, from which line, with what."""
    said = f"{thing.kind} {thing.name or thing.path!r} at {thing.path!r}"
    details = [thing.source, f"fingerprint {thing.fingerprint}" if thing.fingerprint else ""]
    inside = ", ".join(filter(None, details))
    return f"{said} ({inside})" if inside else said
