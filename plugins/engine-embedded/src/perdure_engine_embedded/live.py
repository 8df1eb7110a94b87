"""One run or turn while it moves: what has arrived for it, what its code wants, what is yet to be committed.

Sans-I/O as far as it goes: ``collect`` feeds the machine and says what to write; ``engine`` writes it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic_core import from_json

from perdure.errors import NonDeterminism, PayloadTooLarge
from perdure.execution import Activation, Outcome, cancelled_reason
from perdure.messages import Claim, Commit, Delivery, Entry, ErrorInfo

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from perdure.execution import Command, Execution


@dataclass
class Batch:
    """What one or more activations brought, to be committed together.

    ``release`` is a batch of nothing: the run was claimed for something that is no longer there to do (a clock
    that was put back, a repeated delivery) and is given back.
    """

    entries: list[Entry] = field(default_factory=list[Entry])
    consumed: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    opened: dict[str, Command] = field(default_factory=dict[str, "Command"])
    closed: list[Command] = field(default_factory=list["Command"])
    outcome: Outcome | None = None
    release: bool = False

    def add(self, activation: Activation) -> None:
        """Add what an activation brought."""
        for command in activation.opened:
            self.opened[command.path] = command
        for command in activation.closed:
            if self.opened.pop(command.path, None) is None:
                self.closed.append(command)
        self.outcome = activation.outcome or self.outcome

    def wants(self, kind: str) -> list[Command]:
        """The new commands of one kind."""
        return [command for command in self.opened.values() if command.kind == kind]

    @property
    def must_be_written(self) -> bool:
        """Whether it holds anything but steps to be attempted, which a replay asks for again by itself."""
        return bool(self.entries or self.consumed or self.outcome or self.release) or any(
            command.kind != "step" for command in (*self.opened.values(), *self.closed)
        )


class Live:
    """A run that this engine holds, or has in its cache.

    Attributes:
        execution: Its code, once it is loaded.
        seq: Length of its journal, as committed.
        running: The tasks that attempt its steps, by path.
        refusals: How many commits in a row the store refused.
        busy: Somebody feeds and commits it right now; what arrives meanwhile is taken up by them.
        gone: Given up: lost, finished or evicted. Whoever still holds it must let go.
    """

    def __init__(self, claim: Claim, *, refusals: int = 0) -> None:
        self.refusals = refusals
        self.start = claim.start
        self.epoch = claim.epoch
        self.seq = claim.seq
        self.execution: Execution | None = None
        self.running: dict[str, asyncio.Task[None] | None] = {}
        self.busy = False
        self.gone = False
        self._arrived: deque[Entry | Delivery] = deque()
        self._inbox: dict[str, Delivery] = {}
        self._begun: Activation | None = None

    @property
    def run(self) -> str:
        """Its id."""
        return self.start.run

    @property
    def has_arrivals(self) -> bool:
        """Whether something waits to be fed."""
        return bool(self._arrived)

    def begin(self, execution: Execution, entries: Sequence[Entry]) -> None:
        """Start its code and feed it its journal. Raises ``NonDeterminism``."""
        self.execution = execution  # first, so that giving the run up unwinds the code, whatever happens now
        self._begun = execution.begin(entries)

    def note(self, claim: Claim) -> None:
        """Something was delivered, or is due."""
        self.epoch = claim.epoch
        for delivery in claim.inbox:
            if delivery.key not in self._inbox:
                self._inbox[delivery.key] = delivery
                self._arrived.append(delivery)

    def complete(self, entry: Entry) -> None:
        """A step has an outcome, or one more failed attempt."""
        self._arrived.append(entry)

    def forget(self) -> Claim:
        """What to start again from, after a commit that failed: the claim with everything unconsumed."""
        return Claim(self.start, self.epoch, self.seq, tuple(self._inbox.values()))

    def collect(self, now: float) -> Batch | None:
        """Feed what has arrived and is due; return what that brought, or ``None`` if nothing.

        Raises:
            NonDeterminism: The code no longer fits its journal.
        """
        execution = self.execution
        if execution is None or self.gone:
            return None
        batch = Batch()
        if self._begun is not None:
            batch.add(self._begun)
            self._begun = None
        while self._arrived and execution.outcome is None:
            arrived = self._arrived.popleft()
            if isinstance(arrived, Delivery):
                entry = _entry_of(arrived, execution, now)
                batch.consumed.append((arrived.key, -1 if entry is None else self.seq + len(batch.entries)))
            else:
                entry = arrived if arrived.path in execution.pending else None
            if entry is not None:
                batch.entries.append(entry)
                batch.add(execution.feed(entry))
        while execution.outcome is None and (timer := execution.due(now)) is not None:
            entry = Entry("timer", timer.path, now, timer.name, started=timer.body.since)
            batch.entries.append(entry)
            batch.add(execution.feed(entry))
        if not (batch.must_be_written or batch.opened or batch.closed):
            return None
        return batch

    def commit(self, batch: Batch, now: float, *, unreported: bool, limit: int) -> Commit:
        """What to write for a batch; a result of more than ``limit`` bytes is a failure that says so."""
        execution = self.execution
        outcome = _within(batch.outcome, limit)
        ended = outcome is not None
        if execution is None:  # pragma: no cover - a batch comes from an execution
            raise AssertionError
        active = not ended and (bool(self.running) or any(c.kind == "step" for c in batch.opened.values()))
        status = outcome.status if outcome is not None else "running" if active else "waiting"
        value, error = _result(outcome)
        completed = status == "completed"
        return Commit(
            run=self.run,
            epoch=self.epoch,
            seq=self.seq,
            at=now,
            entries=tuple(batch.entries),
            consumed=tuple(batch.consumed),
            starts=() if ended else tuple(command.body for command in batch.wants("call")),
            deliveries=self._deliveries(batch, now, value, error),
            asks=() if ended else tuple(command.body for command in batch.wants("answer")),
            closes=tuple(command.body.id for command in batch.closed if command.kind == "answer"),
            log=execution.log() if completed else (),
            state=execution.state() if completed else None,
            status=status,
            active=active,
            wake_at=None if ended else execution.wake_at(),
            value=value,
            error=error,
            unreported=unreported and ended,
        )

    def parking(self, error: ErrorInfo, now: float, *, unreported: bool) -> Commit:
        """What to write when its code cannot be run."""
        cancelled = any(delivery.kind == "cancel" for delivery in self._inbox.values())
        info = error.model_dump_json().encode()
        return Commit(
            self.run,
            self.epoch,
            self.seq,
            now,
            consumed=tuple((key, -1) for key, delivery in self._inbox.items() if delivery.kind in {"resume", "cancel"}),
            deliveries=self._reply(now, None, info) if cancelled else (),
            status="cancelled" if cancelled else "parked",
            active=False,
            error=info,
            unreported=unreported and cancelled,
        )

    def committed(self, batch: Batch) -> None:
        """A batch is written."""
        self.seq += len(batch.entries)
        for key, _ in batch.consumed:
            self._inbox.pop(key, None)

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
        withdrawn = [command.body.run for command in batch.closed if command.kind == "call"]
        deliveries = [Delivery(child, "cancel", "cancel", now, b'"its caller gave it up"') for child in withdrawn]
        return (*deliveries, *(self._reply(now, value, error) if batch.outcome is not None else ()))

    def _reply(self, now: float, value: bytes | None, error: bytes | None) -> tuple[Delivery, ...]:
        """What the caller is told of the end, if there is a caller."""
        if self.start.parent is None or self.start.path is None:
            return ()
        return (Delivery(self.start.parent, "reply", self.start.path, now, value, error),)


def _entry_of(delivery: Delivery, execution: Execution, now: float) -> Entry | None:
    """The journal's entry for a delivery, or ``None`` if the code no longer waits for it."""
    if delivery.kind == "cancel":
        return Entry("cancel", "cancel", now, from_json(delivery.value or b'""'), started=delivery.at)
    if delivery.kind == "resume":
        return None
    if delivery.kind == "reply":
        command = execution.pending.get(delivery.key)
    else:
        asked = (command for command in execution.pending.values() if command.kind == "answer")
        command = next((command for command in asked if command.body.id == delivery.key), None)
    if command is None:
        return None
    return Entry(
        command.kind,
        command.path,
        now,
        command.name,
        command.fingerprint,
        delivery.value,
        delivery.error,
        started=command.body.at,
    )


def _result(outcome: Outcome | None) -> tuple[bytes | None, bytes | None]:
    """JSON of the result and of the error of code that ended."""
    if outcome is None:
        return None, None
    if outcome.status == "completed":
        return outcome.value, None
    if outcome.status == "cancelled":
        info = ErrorInfo(type="perdure.errors.RunCancelled", message=cancelled_reason(outcome))
    else:
        info = ErrorInfo.of(outcome.error or NonDeterminism("no error"))
    return None, info.model_dump_json().encode()


def _within(outcome: Outcome | None, limit: int) -> Outcome | None:
    """The outcome, or that its result is too large."""
    if outcome is None or outcome.status != "completed" or len(outcome.value) <= limit:
        return outcome
    msg = (
        f"the result has {len(outcome.value):,} bytes, the limit is {limit:,} (setting max_payload): write it somewhere"
        " and return where it lies"
    )
    return Outcome("failed", error=PayloadTooLarge(msg))
