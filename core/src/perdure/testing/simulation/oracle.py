"""What may happen in a simulated world: a model of the runs, told of every effect at the moment it is applied.

It stands between the workers and the store, believes neither, and writes down each breach of a promise under the
promise's id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from pydantic_core import from_json

from perdure.errors import PerdureError
from perdure.execution import Activation, Execution
from perdure.messages import (
    HALTED,
    TERMINAL,
    Accepted,
    AgentId,
    ChatMessage,
    Claim,
    Commit,
    Delivery,
    Entry,
    ErrorInfo,
    Loaded,
    Reported,
    Request,
    RunView,
    Start,
)
from perdure.testing.simulation.jobs import complaint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.ports import DurableStore, Programs, StepInfo

_REPEATED: Final = frozenset({"attempt", "heartbeat", "cancel"})
"""Entries whose path may stand in a journal more than once."""

_STIRRING: Final = frozenset({"resume", "cancel", "terminate"})
"""What sets a run going that was set aside."""

_POISON: Final = "perdure.Poison"


class Violation(NamedTuple):
    """A promise that was broken.

    Attributes:
        promise: Its id (``P2``); ``P10`` also stands for whatever got stuck, ``-`` for errors of the engine itself.
        text: What happened.
    """

    promise: str
    text: str


@dataclass(eq=False)
class Question:
    """A request, and the answer that was accepted."""

    request: Request
    answer: bytes | None = None


@dataclass(eq=False)
class Record:
    """A run or turn, as its commits tell it.

    Attributes:
        start: What it was started with; of a run that began anew, the last time.
        origin: What it was started with at first.
        holder: The worker of the last claim.
        epoch: Of the last claim.
        journal: What was committed, since it began anew.
        recorded: The paths of what has an outcome there.
        cancelled: Somebody asked for its end, with clean-up.
        terminated: And without.
        questions: Its requests, by id.
        letters: The payloads of the events that it was sent, in the order of acceptance.
        children: What it has started.
        begun: When it was first claimed, in the order of all first claims; 0 if it never was.
    """

    start: Start
    origin: Start
    status: str = "pending"
    holder: str = ""
    epoch: int = 0
    value: bytes | None = None
    error: bytes | None = None
    cancelled: bool = False
    terminated: bool = False
    journal: list[Entry] = field(default_factory=list[Entry])
    recorded: set[str] = field(default_factory=set[str])
    questions: dict[str, Question] = field(default_factory=dict[str, Question])
    letters: list[Any] = field(default_factory=list[Any])
    children: list[str] = field(default_factory=list[str])
    begun: int = 0

    @property
    def failure(self) -> ErrorInfo | None:
        """Its error."""
        return None if self.error is None else ErrorInfo.model_validate_json(self.error)

    @property
    def finished(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in TERMINAL


class Beholder(Protocol):
    """Who the oracle tells of what it sees."""

    put_back: float
    """By how many seconds the clock was put back, all in all."""

    def has_seen(self, worker: str, when: float) -> bool:
        """Whether a worker has read that time from its clock."""
        ...

    def has_been(self, when: float) -> bool:
        """Whether any clock has shown that time, or a later one."""
        ...

    def asked(self, request: Request) -> None:
        """A run asks something."""
        ...

    def parked(self, run: str) -> None:
        """A run was set aside."""
        ...

    def all_ended(self) -> None:
        """There is no run that has not finished."""
        ...


class Oracle:
    """See the module.

    Args:
        beholder: Told of what it sees.

    Attributes:
        runs: Every run that was accepted, in that order.
        open: How many of them have not finished.
        violations: What went wrong.
    """

    def __init__(self, beholder: Beholder) -> None:
        self.runs: dict[str, Record] = {}
        self.open: int = 0
        self.violations: list[Violation] = []
        self._beholder = beholder
        self._order = count(1)
        self._keys: dict[tuple[str, str], str] = {}
        self._sessions: dict[AgentId, list[str]] = {}
        self._held: dict[tuple[str, str], int] = {}
        self._step_keys: dict[tuple[str, int, str], str] = {}

    def blame(self, promise: str, text: str) -> None:
        """Write a violation down."""
        self.violations.append(Violation(promise, text))

    # -- effects, as they are applied

    def accepted(self, worker: str, items: Sequence[Start | Delivery | Reported], accepted: Sequence[Accepted]) -> None:
        """The store took these."""
        for item, word in zip(items, accepted, strict=True):
            if isinstance(item, Start):
                self._started(item, word)
            elif isinstance(item, Delivery) and word.new:
                self._delivered(item, worker)

    def claimed(self, worker: str, claims: Sequence[Claim]) -> None:
        """The store gave these to a worker."""
        for claim in claims:
            run = claim.start.run
            record = self.runs.get(run)
            if record is None:
                self.blame("P1", f"{run} was claimed by {worker} and never accepted")
                continue
            if record.finished:
                self.blame("P6", f"{run} is {record.status} and was claimed by {worker}")
            if worker != record.holder and claim.epoch <= record.epoch:
                self.blame("P6", f"{run} went from {record.holder} to {worker} under epoch {claim.epoch} again")
            if claim.seq != len(record.journal):
                self.blame(
                    "P1", f"{run} was given to {worker} with {claim.seq} entries; {len(record.journal)} were committed"
                )
            self._in_turn(record, f"was claimed by {worker}")
            self._in_time(record, worker)
            record.holder, record.epoch = worker, claim.epoch
            record.begun = record.begun or next(self._order)
            self._held[worker, run] = claim.epoch

    def committed(self, worker: str, commit: Commit) -> None:
        """The store wrote this."""
        record = self.runs.get(commit.run)
        if record is None:
            self.blame("P1", f"{worker} committed {commit.run}, which was never accepted")
            return
        if (worker, commit.epoch) != (record.holder, record.epoch):
            self.blame(
                "P6",
                f"{worker} committed {commit.run} under epoch {commit.epoch}; {record.holder} holds it under"
                f" {record.epoch}",
            )
        if record.finished:
            self.blame("P6", f"{worker} committed {commit.run}, which is {record.status}")
        if commit.seq != len(record.journal):
            self.blame("P1", f"{worker} committed {commit.run} after entry {commit.seq} of {len(record.journal)}")
        self._in_turn(record, f"was committed by {worker}")
        for entry in commit.entries:
            self._recorded(record, entry, worker)
        self._sent(record, commit, worker)
        self._moved(record, commit)

    def rewound(self, run: str, seq: int) -> None:
        """An operator made a finished run go on from an earlier place."""
        record = self.runs[run]
        if not record.finished:
            self.blame("P1", f"{run} is {record.status}, and was rewound")
        self.open += record.finished
        record.journal = record.journal[:seq]
        record.recorded = {_line(entry) for entry in record.journal if entry.kind not in _REPEATED}
        record.status, record.value, record.error = "pending", None, None

    def forked(self, run: str, seq: int, start: Start) -> None:
        """An operator made a new run out of the beginning of another."""
        self._register(start)
        fork, record = self.runs[start.run], self.runs[run]
        fork.journal = record.journal[:seq]
        fork.recorded = {_line(entry) for entry in fork.journal if entry.kind not in _REPEATED}

    def began(self, worker: str, info: StepInfo) -> None:
        """A worker begins an attempt at a step."""
        run, path = info.run.run, info.path
        record = self.runs[run]
        if self._step_keys.setdefault((run, info.run.generation, path), info.key) != info.key:
            self.blame("P3", f"{path} of {run} was given another key at attempt {info.attempt}")
        if self._held.get((worker, run)) != record.epoch:
            return  # it went to another worker, of which this one has yet to hear
        if path in record.recorded:
            self.blame("P2", f"{path} of {run} is recorded, and {worker} began it again")
        self._in_turn(record, f"began {path} in {worker}")

    # -- what they mean

    def _started(self, start: Start, word: Accepted) -> None:
        key = (start.target, start.key) if start.key is not None else None
        if key is not None:
            first = self._keys.setdefault(key, word.run)
            if first != word.run:
                self.blame("P7", f"key {start.key!r} of {start.target} is {first} and {word.run}")
        before = self.runs.get(word.run)
        if word.new and before is not None and not (start.reuse != "join" and before.finished):
            self.blame("P7", f"{word.run} was accepted twice")
        elif word.new:
            self._register(start)
        elif word.run not in self.runs:
            self.blame("P7", f"{word.run} is called a repeated start and was never accepted")

    def _register(self, start: Start) -> None:
        before = self.runs.get(start.run)
        record = self.runs[start.run] = Record(start, start)
        if before is not None:
            self._keys.pop((start.target, before.origin.key or ""), None)  # what was there before never was
            record.start = start._replace(generation=before.start.generation + 1)
            record.epoch, record.holder = before.epoch, before.holder
        self.open += 1
        if start.parent is not None:
            self.runs[start.parent].children.append(start.run)
        if start.session is not None:
            self._sessions.setdefault(AgentId(start.target, start.session), []).append(start.run)

    def _delivered(self, delivery: Delivery, worker: str) -> None:
        record = self.runs[delivery.run]
        if delivery.kind == "cancel":
            record.cancelled = True
        elif delivery.kind == "terminate":
            record.terminated = True
        elif delivery.kind == "event":
            record.letters.append(from_json(delivery.value or b"null"))
        elif delivery.kind == "answer":
            question = record.questions[delivery.key]
            if question.answer is not None:
                self.blame("P13", f"{delivery.key} was answered twice, the second time through {worker}")
            question.answer = delivery.value
        if record.status in HALTED and delivery.kind in _STIRRING:
            record.status, record.error = "pending", None

    def _in_turn(self, record: Record, what: str) -> None:
        """A turn moves only when those before it have ended, but for those that are to begin later."""
        start = record.start
        if start.session is None:
            return
        for other in self._sessions[AgentId(start.target, start.session)]:
            if other == start.run:
                return
            before = self.runs[other]
            if not before.finished and (before.begun or before.start.due is None):
                self.blame("P4", f"{start.run} {what} before {other}, of the same session, has ended")
                return

    def _in_time(self, record: Record, worker: str) -> None:
        """A run that is to begin later is not begun before."""
        due = record.start.due
        if due is not None and not (record.cancelled or record.terminated or self._beholder.has_been(due)):
            self.blame("P8", f"{record.start.run} was claimed by {worker}, and was due at {due}")

    def _recorded(self, record: Record, entry: Entry, worker: str) -> None:
        run = record.start.run
        record.journal.append(entry)
        if entry.kind in _REPEATED:
            return
        line = _line(entry)
        if line in record.recorded:
            self.blame("P8" if entry.kind == "timer" else "P2", f"{line} of {run} is recorded twice")
        record.recorded.add(line)
        if entry.kind == "timer" and not self._beholder.has_seen(worker, entry.at):
            self.blame("P8", f"{entry.path} of {run} fired at {entry.at}, a time that {worker} never saw")

    def _sent(self, record: Record, commit: Commit, worker: str) -> None:
        for start in commit.starts:
            if start.run not in self.runs:
                self._register(start)
        for request in commit.asks:
            if request.id not in record.questions:
                record.questions[request.id] = Question(request)
                self._beholder.asked(request)
        for delivery in commit.deliveries:
            # What a run sends to itself as it begins anew, it had been sent before.
            if delivery.run != commit.run and delivery.run in self.runs and not self.runs[delivery.run].finished:
                self._delivered(delivery, worker)

    def _moved(self, record: Record, commit: Commit) -> None:
        if not record.finished and commit.status in TERMINAL:
            self.open -= 1
            for child in map(self.runs.__getitem__, record.children):
                child.cancelled = child.cancelled or child.start.on_close == "cancel"
                child.terminated = child.terminated or child.start.on_close == "terminate"
        if commit.again is not None:
            record.start = record.start._replace(
                input=commit.again.input, version=commit.again.version, generation=commit.again.generation
            )
            record.journal, record.recorded, record.questions = [], set(), {}
        record.status, record.value, record.error = commit.status, commit.value, commit.error
        if not self.open:
            self._beholder.all_ended()
        if commit.status == "parked":
            failure = record.failure
            if failure is None or failure.type != _POISON:
                self.blame("P12", f"{commit.run} was parked: {failure}")
            self._beholder.parked(commit.run)

    # -- the end

    async def judge(self, store: DurableStore, programs: Programs) -> None:
        """Hold what the store shows against the model, and the model against what should have become of it."""
        for run, record in self.runs.items():
            view = await store.run(run)
            if not record.finished:
                self.blame("P10", f"{run} ({record.start.target}) is {record.status} for ever")
                continue
            self._judge_view(record, view)
            if list(await store.journal(run)) != record.journal:
                self.blame("P1", f"the journal of {run} is not what was committed")
            wrong = complaint(record, put_back=self._beholder.put_back > 0)
            if wrong:
                self.blame("P1", f"{run} ({record.start.target}): {wrong}")
            self._replay(record, programs)
        for session, turns in self._sessions.items():
            self._judge_session(session, turns, await store.log(session))

    def _judge_view(self, record: Record, view: RunView | None) -> None:
        run = record.start.run
        if view is None:
            self.blame("P1", f"{run} was accepted, and is not there")
            return
        result = None if record.value is None else from_json(record.value)
        if (view.status, view.result, view.error) != (record.status, result, record.failure):
            self.blame("P1", f"{run} is shown as {view.status}, and was committed as {record.status}")
        if view.requests:
            self.blame("P13", f"{run} has ended, and {view.requests[0].id} is still open")

    def _judge_session(self, session: AgentId, turns: list[str], log: Sequence[bytes]) -> None:
        said = [ChatMessage.model_validate_json(line).text for line in log]
        expected: list[str] = []
        for record in sorted((self.runs[run] for run in turns), key=lambda each: each.begun):
            if record.status == "completed":
                reply = from_json(record.value or b"null")
                expected += [from_json(record.start.input), reply]
                place = len(expected) // 2
                if reply.partition(":")[0] != str(place):
                    self.blame("P4", f"{record.start.run} counts itself as {reply!r}, and is turn {place} of {session}")
        if said != expected:
            self.blame("P5", f"the log of {session} is {said}, and its turns said {expected}")

    def _replay(self, record: Record, programs: Programs) -> None:
        """The journal, fed to fresh code, leads to the same end."""
        if record.start.session is not None or record.status == "terminated" or _is_poison(record):
            return
        execution = _Replay(programs, record.start, Loaded(tuple(record.journal)))
        try:
            execution.begin(record.journal)
        except PerdureError as error:
            self.blame("P12", f"the journal of {record.start.run} does not replay: {error}")
            return
        finally:
            outcome = execution.outcome
            execution.close()
        for entry, due in execution.early:
            self.blame("P8", f"{entry.path} of {record.start.run} fired at {entry.at}, and was due at {due}")
        came_to = "nothing" if outcome is None else outcome.status
        if came_to != record.status or (outcome is not None and outcome.value != record.value):
            self.blame("P2", f"{record.start.run} is {record.status}, and its journal replays to {came_to}")


def _line(entry: Entry) -> str:
    """What an entry is known by: an update and its outcome stand under one path."""
    return f"{entry.kind} {entry.path}" if entry.kind in {"updated", "rejected"} else entry.path


class _Replay(Execution):
    """Code that is fed a whole journal; ``early`` are the timers in it that had fired too early."""

    def __init__(self, programs: Programs, start: Start, loaded: Loaded) -> None:
        super().__init__(programs, start, loaded)
        self.early: list[tuple[Entry, float]] = []

    def feed(self, entry: Entry) -> Activation:
        timer = self.pending.get(entry.path)
        if entry.kind == "timer" and timer is not None and entry.at < timer.body.due:
            self.early.append((entry, timer.body.due))
        return super().feed(entry)


def _is_poison(record: Record) -> bool:
    """Whether it killed so many workers that its code is asked no more: called off, it ends where it stands."""
    return record.failure is not None and record.failure.type == "perdure.Poison"
