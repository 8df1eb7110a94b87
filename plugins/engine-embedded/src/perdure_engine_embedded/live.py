"""One run or turn while it moves: what has arrived for it, what its code wants, what is yet to be committed.

Sans-I/O as far as it goes: ``collect`` feeds the machine and says what to write; ``engine`` writes it.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final, cast

from pydantic_core import from_json

from perdure.errors import NonDeterminism, PayloadTooLarge
from perdure.execution import RECORDED, Activation, Outcome, cancelled_reason
from perdure.messages import TERMINAL, Claim, Commit, Delivery, Entry, ErrorInfo, Start
from perdure_engine_embedded.reporting import view_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Sequence

    from perdure.execution import Command, Execution
    from perdure.messages import EntryKind, Progress, RunView, Status

_STIRRING: Final = frozenset({"resume", "cancel", "terminate"})
"""What sets a run going that was set aside."""


_KEPT: Final = re.compile(r"(?<=^event:)(\d+:event:)+")
"""In the path of an event that was kept before: the mark of that."""

_CALLING: Final = frozenset({"call", "send"})

_ARRIVING: Final = frozenset({"event", "update"})
"""What the journal knows by the delivery's key."""


class Batch:
    """What one or more activations brought, to be committed together.

    Args:
        release: It is a batch of nothing: the run was claimed for something that is no longer there to do (a clock
            that was put back, a repeated delivery) and is given back.

    Attributes:
        entries, consumed, opened, closed, outcome, progress: What is to be written.
        firm: It holds more than the outcomes of local steps, which may wait for the next one that does.
        plain: Nothing but steps was ever wanted.
        local: These were local ones.
        calls: Other runs were.
    """

    __slots__ = (
        "calls",
        "closed",
        "consumed",
        "entries",
        "firm",
        "local",
        "opened",
        "outcome",
        "plain",
        "progress",
        "release",
    )

    def __init__(self, *, release: bool = False) -> None:
        self.entries: list[Entry] = []
        self.consumed: list[tuple[str, int]] = []
        self.opened: dict[str, Command] = {}
        self.closed: list[Command] = []
        self.outcome: Outcome | None = None
        self.progress: bytes | None = None
        self.release = release
        self.firm = False
        self.plain = self.local = True
        self.calls = False

    def add(self, activation: Activation, now: float) -> None:
        """Add what an activation brought."""
        for command in activation.opened:
            self.opened[command.path] = command
            if command.kind != "step":
                self.plain = self.local = False
                self.calls = self.calls or command.kind in _CALLING
                if command.kind in RECORDED:
                    self.entries.append(_record(command, now))
            elif self.local:
                self.local = command.body.local
        for command in activation.closed:
            if self.opened.pop(command.path, None) is None:
                self.closed.append(command)
        self.outcome = activation.outcome or self.outcome

    def wants(self, *kinds: str) -> list[Command]:
        """The new commands of some kinds."""
        return [command for command in self.opened.values() if command.kind in kinds]

    @property
    def weight(self) -> int:
        """Grows with whatever is added."""
        own = (self.outcome is not None) + (self.progress is not None)
        return own + len(self.entries) + len(self.consumed) + len(self.opened) + len(self.closed)

    @property
    def must_be_written(self) -> bool:
        """Whether it holds anything but steps to be attempted, which a replay asks for again by itself."""
        written = self.entries or self.consumed or self.outcome or self.release or self.progress is not None
        return bool(written) or not self.plain or any(command.kind != "step" for command in self.closed)

    @property
    def moves_only(self) -> bool:
        """Whether it holds entries and new steps, and nothing else: nearly every commit of nearly every run."""
        return self.plain and not (self.outcome or self.consumed or self.closed or self.progress is not None)

    @property
    def may_wait(self) -> bool:
        """Whether nothing is lost if it is written together with what comes next."""
        return self.local and not (
            self.firm or self.consumed or self.outcome or self.release or self.closed or self.progress is not None
        )


class Live:
    """A run that this engine holds, or has in its cache.

    Attributes:
        start: What it was started with.
        run: Its id.
        execution: Its code, once it is loaded.
        seq: Length of its journal, as committed.
        running: The tasks that attempt its steps, by path.
        refusals: How many commits in a row the store refused.
        busy: Somebody feeds and commits it right now; what arrives meanwhile is taken up by them.
        gone: Given up: lost, finished or evicted. Whoever still holds it must let go.
        suspending: Asked to stop: steps that run may finish, nothing new begins.
        alone: It is known to have called no other run.
    """

    def __init__(self, claim: Claim, *, refusals: int = 0) -> None:
        self.refusals = refusals
        self.start = claim.start
        self.run = claim.start.run
        self.epoch = claim.epoch
        self.seq = claim.seq
        self.rewound = claim.rewound
        self.execution: Execution | None = None
        self.running: dict[str, asyncio.Task[None] | None] = {}
        self.busy = False
        self.gone = False
        self.suspending: bytes | None = None
        self.alone = claim.seq == claim.start.generation == 0 and not claim.rewound
        self._held: Batch | None = None
        self._put_off: list[Delivery] = []
        self._arrived: deque[Entry | Delivery] = deque()
        self._inbox: dict[str, Delivery] = {}
        self._consumed: dict[str, None] = {}  # and no set: to the collector, a dictionary of strings is nothing
        self._begun: Activation | None = None
        self._began_at = claim.start.at

    @property
    def has_arrivals(self) -> bool:
        """Whether something waits to be fed."""
        return bool(self._arrived)

    @property
    def rests(self) -> bool:
        """Whether there is surely nothing to collect, whatever the time is."""
        return not self._stirs and self.execution is not None and self.execution.wake_at() is None

    @property
    def _stirs(self) -> bool:
        """Whether anything but a timer may have set its code going."""
        return bool(self._arrived) or self._begun is not None or self._held is not None

    def stands_at(self, seq: int, generation: int) -> bool:
        """Whether its machine is where a journal of that length is, in that life of the run."""
        return (self.seq, self.start.generation) == (seq, generation)

    def begin(self, execution: Execution, entries: Sequence[Entry], now: float) -> None:
        """Start its code and feed it its journal. Raises ``NonDeterminism``."""
        self.execution = execution  # first, so that giving the run up unwinds the code, whatever happens now
        # What was to begin later, or begins anew, does not count its timers from when it was asked for first.
        later = not entries and (self.start.generation > 0 or self.start.due is not None)
        self._began_at = max(self.start.at, now) if later else self.start.at
        self._begun = execution.begin(entries, now=self._began_at)
        if self.rewound:
            opened = {command.path: command for command in self._begun.opened}
            opened.update((command.path, _again(command)) for command in execution.pending.values())
            self._begun = self._begun._replace(opened=tuple(opened.values()))
        # A claim may be older than the journal: what that holds has been consumed.
        recorded = {entry.path for entry in entries if entry.kind in _ARRIVING}
        for delivery in [item for item in self._inbox.values() if f"{item.kind}:{item.key}" in recorded]:
            del self._inbox[delivery.key]
            self._arrived.remove(delivery)
            self._consumed[delivery.key] = None

    def note(self, claim: Claim) -> None:
        """Something was delivered, or is due."""
        if claim.epoch > self.epoch:  # otherwise a reply was overtaken by another
            self.epoch = claim.epoch
            self._forget_all_but({delivery.key for delivery in claim.inbox})
        # What a run kept as it began anew comes first, whatever was delivered meanwhile.
        kept = f"{self.start.generation}:event:"
        for delivery in sorted(claim.inbox, key=lambda delivery: not delivery.key.startswith(kept)):
            if delivery.key not in self._inbox and delivery.key not in self._consumed:
                self._inbox[delivery.key] = delivery
                self._arrived.append(delivery)

    def _forget_all_but(self, unconsumed: set[str]) -> None:
        """A new claim says what is in the inbox: whatever else an older one had told of was consumed meanwhile."""
        for key in self._inbox.keys() - unconsumed:
            delivery = self._inbox.pop(key)
            if delivery in self._arrived:
                self._arrived.remove(delivery)

    def complete(self, entry: Entry) -> None:
        """A step has an outcome, or one more failed attempt."""
        self._arrived.append(entry)

    def forget(self) -> Claim:
        """What to start again from, after a commit that failed: the claim with everything unconsumed."""
        return Claim(self.start, self.epoch, self.seq, tuple(self._inbox.values()), rewound=self.rewound)

    def hold(self, batch: Batch) -> None:
        """Keep a batch that may wait; its steps have been taken."""
        batch.opened.clear()
        self._held = batch

    def collect(self, now: float) -> Batch | None:
        """Feed what has arrived and is due; return what that brought, or ``None`` if nothing.

        Raises:
            NonDeterminism: The code no longer fits its journal.
        """
        execution = self.execution
        due = None if execution is None else execution.due(now)
        if execution is None or self.gone or not (self._stirs or due is not None):
            return None
        batch = self._held or Batch()
        before = batch.weight if self._held is not None else 0
        if self._begun is not None:
            self._take_up(batch, self._begun, execution, now)
        while self._arrived and execution.outcome is None and batch.outcome is None:
            arrived = self._arrived.popleft()
            if isinstance(arrived, Delivery):
                self._receive(batch, arrived, execution, now)
            elif (command := execution.pending.get(arrived.path)) is not None:
                batch.firm = batch.firm or arrived.kind != "step" or not command.body.local
                batch.entries.append(arrived)
                batch.add(execution.feed(arrived), now)
        if due is not None and self.suspending is None:
            _fire(batch, execution, now)
        if (progress := execution.progress()) is not None:
            batch.progress = _encoded(progress)
        if (self._held is not None or not batch.entries) and batch.weight == before:
            return None
        self._held = None
        return batch

    def _take_up(self, batch: Batch, begun: Activation, execution: Execution, now: float) -> None:
        """Add what the code has done since it began."""
        if (progress := execution.progress()) is not None:
            batch.progress = _encoded(progress)
        told = batch.progress is not None or self._began_at != self.start.at
        if self.seq == 0 and (told or not _is_repeatable(begun)):
            batch.firm = True
            batch.entries.append(Entry("begin", "begin", now, started=self._began_at))
        batch.add(begun, now)
        self._begun = None

    def _receive(self, batch: Batch, delivery: Delivery, execution: Execution, now: float) -> None:
        """Take something from the inbox."""
        kind = delivery.kind
        if self.suspending is not None and kind not in _STIRRING:
            self._put_off.append(delivery)
            return
        entry: Entry | None = None
        if kind == "suspend":
            self.suspending = delivery.value or b'""'
        elif kind == "terminate":
            reason = from_json(delivery.value or b'""')
            batch.outcome = Outcome("terminated", error=RuntimeError(reason))
        else:
            if self.suspending is not None:
                self.suspending = None
                self._arrived.extendleft(reversed(self._put_off))
                self._put_off.clear()
            entry = _entry_of(delivery, execution, now)
        batch.consumed.append((delivery.key, -1 if entry is None else self.seq + len(batch.entries)))
        if entry is not None:
            batch.entries.append(entry)
            batch.add(execution.feed(entry), now)

    def commit(self, batch: Batch, now: float, *, unreported: bool, limit: int) -> Commit:
        """What to write for a batch; anything of more than ``limit`` bytes is a failure that says so."""
        execution = self.execution
        if execution is not None and batch.moves_only and self.suspending is None:
            active = bool(self.running or batch.opened)
            return Commit(
                self.run,
                self.epoch,
                self.seq,
                now,
                tuple(batch.entries),
                status="running" if active else "waiting",
                active=active,
                wake_at=execution.wake_at(),
            )
        outcome = _within(batch, limit)
        if execution is None:  # pragma: no cover - a batch comes from an execution
            raise AssertionError
        if outcome is not None and outcome.status == "again":
            return self._renewal(batch, now, execution, outcome)
        ended = outcome is not None
        halts = not ended and self.suspending is not None and not self.running
        active = not (ended or halts) and (
            bool(self.running) or any(command.kind == "step" for command in batch.opened.values())
        )
        status = outcome.status if outcome is not None else "running" if active else "waiting"
        value, error = _result(outcome) if not halts else (None, self._suspended())
        completed = status == "completed"
        sent = [command.body for command in batch.opened.values() if command.kind == "send"]
        return Commit(
            run=self.run,
            epoch=self.epoch,
            seq=self.seq,
            at=now,
            entries=tuple(batch.entries),
            consumed=tuple(batch.consumed),
            starts=tuple(
                body
                for body in (*sent, *(() if ended else (command.body for command in batch.wants("call"))))
                if isinstance(body, Start)
            ),
            deliveries=(
                *(body for body in sent if isinstance(body, Delivery)),
                *self._deliveries(batch, now, value, error),
            ),
            asks=() if ended else tuple(command.body for command in batch.wants("answer", "ask")),
            closes=self._closes(batch),
            log=execution.log() if completed else (),
            state=execution.state() if completed else None,
            status="suspended" if halts else cast("Status", status),
            active=active,
            wake_at=None if ended or halts else execution.wake_at(),
            value=value,
            error=error,
            unreported=unreported and ended,
            progress=batch.progress,
        )

    def _renewal(self, batch: Batch, now: float, execution: Execution, outcome: Outcome) -> Commit:
        """What to write for code that wants to begin anew: nothing of its journal, all that it has not looked at."""
        waiting = [item for item in self._arrived if isinstance(item, Delivery) and item.kind == "event"]
        untaken = [(entry.path, entry.name, entry.value) for entry in execution.untaken()]
        untaken += [(f"event:{item.key}", item.name, item.value) for item in waiting]
        again = self.start._replace(
            input=outcome.value,
            version=execution.newest_version,
            generation=self.start.generation + 1,
            at=now,
            due=None,
        )
        kept = [
            Delivery(self.run, "event", f"{again.generation}:{_KEPT.sub('', path)}", now, value, name=name)
            for path, name, value in untaken
        ]
        return Commit(
            run=self.run,
            epoch=self.epoch,
            seq=self.seq,
            at=now,
            consumed=(*((key, -1) for key, _ in batch.consumed), *((item.key, -1) for item in waiting)),
            starts=tuple(c.body for c in batch.wants("send") if isinstance(c.body, Start)),
            deliveries=(
                *(c.body for c in batch.wants("send") if isinstance(c.body, Delivery)),
                *self._withdrawals(batch, now),
                *kept,
            ),
            closes=self._closes(batch),
            status="pending",
            active=False,
            progress=batch.progress,
            again=again,
        )

    def parking(self, error: ErrorInfo, now: float, *, unreported: bool) -> Commit:
        """What to write when its code cannot be run; if it is to end, that needs none."""
        kinds = {delivery.kind for delivery in self._inbox.values()}
        ends = "terminated" if "terminate" in kinds else "cancelled" if "cancel" in kinds else None
        info = error.model_dump_json().encode()
        return Commit(
            self.run,
            self.epoch,
            self.seq,
            now,
            consumed=tuple((key, -1) for key, delivery in self._inbox.items() if delivery.kind in _STIRRING),
            deliveries=self._reply(now, None, info) if ends else (),
            status=ends or "parked",
            active=False,
            error=info,
            unreported=unreported and ends is not None,
        )

    def _suspended(self) -> bytes:
        reason = from_json(self.suspending or b'""')
        return ErrorInfo(type="perdure.Suspended", message=reason or "somebody asked for it").model_dump_json().encode()

    def committed(self, batch: Batch) -> None:
        """A batch is written."""
        self.seq += len(batch.entries)
        self.rewound = False
        self.alone = self.alone and not batch.calls
        for key, _ in batch.consumed:
            self._inbox.pop(key, None)
            self._consumed[key] = None

    def end(self, commit: Commit) -> RunView | None:
        """The run as its last commit left it, if that is the last and nothing else is to be known of it."""
        if commit.status not in TERMINAL or not self.alone or self.execution is None:
            return None
        return view_of(self.start, commit, self.execution.told)

    def give_up(self) -> None:
        """Stop its steps and unwind its code. Idempotent."""
        self.gone = True
        for task in self.running.values():
            if task is not None:
                task.cancel()
        self.running.clear()
        if self.execution is not None:
            self.execution.close()

    def _deliveries(self, batch: Batch, now: float, value: bytes | None, error: bytes | None) -> tuple[Delivery, ...]:
        reply = self._reply(now, value, error) if batch.outcome is not None else ()
        return (*self._withdrawals(batch, now), *reply)

    def _closes(self, batch: Batch) -> tuple[str, ...]:
        """The requests that code gave up. One whose answer is in the inbox is answered: to close it is a conflict."""
        gone = (command.body.id for command in batch.closed if command.kind == "answer")
        return tuple(request for request in gone if request not in self._inbox)

    @staticmethod
    def _withdrawals(batch: Batch, now: float) -> Iterator[Delivery]:
        """For the called runs that the code gave up."""
        for command in batch.closed:
            if command.kind == "call":
                yield Delivery(command.body.run, "cancel", "cancel", now, b'"its caller gave it up"')

    def _reply(self, now: float, value: bytes | None, error: bytes | None) -> tuple[Delivery, ...]:
        """What the caller is told of the end, if there is a caller."""
        if self.start.parent is None or self.start.path is None:
            return ()
        return (Delivery(self.start.parent, "reply", self.start.path, now, value, error),)


def _again(command: Command) -> Command:
    """What is asked for once more after a rewind: the end of the run had closed requests and called off children."""
    if command.kind != "call":
        return command
    return command._replace(body=command.body._replace(reuse="restart_failed"))


def _is_repeatable(first: Activation) -> bool:
    """Whether a first activation brought nothing but steps, or the end: a replay does the same without a record."""
    return first.outcome is not None or (bool(first.opened) and all(c.kind == "step" for c in first.opened))


def newer(claim: Claim, other: Claim | None) -> Claim:
    """The one of two claims on a run that tells more: replies of the store may overtake each other."""
    if other is None:
        return claim
    return max(other, claim, key=lambda each: (each.epoch, each.seq, len(each.inbox)))


def _encoded(progress: Progress) -> bytes:
    return progress.model_dump_json().encode()


def _record(command: Command, now: float) -> Entry:
    """The journal's line of something that code did without waiting."""
    value, error = command.body if command.kind == "updated" else (None, None)
    kind = cast("EntryKind", command.kind)
    return Entry(kind, command.path, now, command.name, command.fingerprint, value, error, source=command.source)


def _fire(batch: Batch, execution: Execution, now: float) -> None:
    """Feed the timers that are due."""
    while batch.outcome is None and (timer := execution.due(now)) is not None:
        batch.firm = True
        entry = Entry("timer", timer.path, now, timer.name, started=timer.body.since)
        batch.entries.append(entry)
        batch.add(execution.feed(entry), now)


def _entry_of(delivery: Delivery, execution: Execution, now: float) -> Entry | None:
    """The journal's entry for a delivery, or ``None`` if the code no longer waits for it."""
    kind = delivery.kind
    if kind == "cancel":
        return Entry("cancel", "cancel", now, from_json(delivery.value or b'""'), started=delivery.at)
    if kind == "event":
        return Entry("event", f"event:{delivery.key}", now, delivery.name, value=delivery.value, started=delivery.at)
    if kind == "update":
        return _update(delivery, execution, now)
    if kind == "reply":
        command = execution.called(delivery.key)
    else:
        command = execution.asked(delivery.key) if kind == "answer" else None
    if command is None:
        return None
    return Entry(
        cast("EntryKind", command.kind),
        command.path,
        now,
        command.name,
        command.fingerprint,
        delivery.value,
        delivery.error,
        started=command.body.at,
        source=command.source,
    )


def _update(delivery: Delivery, execution: Execution, now: float) -> Entry:
    refusal, path = execution.refusal(delivery), f"update:{delivery.key}"
    if refusal is None:
        return Entry("update", path, now, delivery.name, value=delivery.value, started=delivery.at)
    error = refusal.model_dump_json().encode()
    return Entry("rejected", path, now, delivery.name, error=error, started=delivery.at)


def _result(outcome: Outcome | None) -> tuple[bytes | None, bytes | None]:
    """JSON of the result and of the error of code that ended."""
    if outcome is None:
        return None, None
    if outcome.status == "completed":
        return outcome.value, None
    if outcome.status == "cancelled":
        info = ErrorInfo(type="perdure.errors.RunCancelled", message=cancelled_reason(outcome))
    elif outcome.status == "terminated":
        info = ErrorInfo(type="perdure.errors.RunCancelled", message=str(outcome.error) or "it was terminated")
    else:
        info = ErrorInfo.of(outcome.error or NonDeterminism("no error"))
    return None, info.model_dump_json().encode()


def _within(batch: Batch, limit: int) -> Outcome | None:
    """The outcome, or that something is too large to be written."""
    outcome = batch.outcome
    if outcome is not None and outcome.status in {"completed", "again"} and len(outcome.value) > limit:
        what = "the result" if outcome.status == "completed" else "the new input"
        return _too_large(what, len(outcome.value), limit)
    for command in batch.opened.values():
        if command.kind in {"call", "send"}:
            body = command.body
            size = len(body.input if isinstance(body, Start) else body.value or b"")
            if size > limit:
                return _too_large(f"what {command.name!r} is sent ({command.source or command.path})", size, limit)
    return outcome


def _too_large(what: str, size: int, limit: int) -> Outcome:
    msg = (
        f"{what} has {size:,} bytes, the limit is {limit:,} (setting max_payload): write it somewhere, and pass or"
        " return where it lies"
    )
    return Outcome("failed", error=PayloadTooLarge(msg))
