"""What the memory store writes: starts, deliveries, requests, conversations, and how they hang together.

Who works and who is told of it is not known here; what a call gave something to do is put into ``touched``.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Literal

from perdure.errors import RequestClosed, UnknownName
from perdure.messages import Accepted, AgentId, Commit, Delivery, Reported, Start
from perdure.testing.records import Question, Run, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from perdure.messages import RunFilter

Touched = dict[str, Run]


class Ledger:
    """The records of one memory store.

    Attributes:
        runs: By id, oldest first.
        sessions: By address.
        questions: By id.
        asking: The open ones.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.sessions: dict[AgentId, Session] = {}
        self.questions: dict[str, Question] = {}
        self.asking: dict[str, Question] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._order = count()

    def known(self, run: str) -> Run:
        """The run. Raises ``UnknownName``."""
        if run not in self.runs:
            raise UnknownName("run", run, hint="it was never accepted here")
        return self.runs[run]

    # -- what is taken ----------------------------------------------------------------------------------------

    def check(self, items: Iterable[Start | Delivery | Reported]) -> None:
        """Refuse before anything is written, so that it is all or none."""
        started: set[str] = set()
        answers: dict[str, Delivery] = {}
        for item in items:
            if isinstance(item, Start):
                started.add(item.run)
            elif isinstance(item, Delivery) and item.kind == "answer":
                self._check_answer(item, answers)
            elif item.run not in started:
                self.known(item.run)

    def _check_answer(self, answer: Delivery, before: dict[str, Delivery]) -> None:
        question = self.questions.get(answer.key)
        if question is None or question.request.run != answer.run:
            raise UnknownName("request", answer.key, hint=f"run {answer.run!r} asked no such question")
        first = before.get(answer.key) or self.runs[answer.run].delivered.get(answer.key)
        repeated = first is not None and first.value == answer.value
        if not repeated and (first is not None or question.status != "open"):
            msg = f"request {answer.key!r} is {question.status} already: it takes one answer, while it is open"
            raise RequestClosed(msg)
        before[answer.key] = answer

    def take(self, item: Start | Delivery | Reported, touched: Touched) -> Accepted:
        """Write what was checked."""
        if isinstance(item, Start):
            return self.start(item, touched)
        if isinstance(item, Delivery):
            return Accepted(item.run, self.deliver(item, touched))
        run = self.runs.get(item.run)
        if run is None or not run.unreported:
            return Accepted(item.run, new=False)
        run.unreported = False
        return Accepted(item.run, new=True)

    def start(self, start: Start, touched: Touched) -> Accepted:
        """Begin a run, or begin a finished one anew, unless it is a repeated start."""
        first = self._keys.get((start.target, start.key)) if start.key is not None else None
        if first is not None:
            return Accepted(first, new=False)
        before = self.runs.get(start.run)
        if before is not None:
            if not _replaces(start, before):
                self._reply_again(start, before, touched)
                return Accepted(start.run, new=False)
            self.forget(before)
        run = self._new(start, before)
        self.runs[run.id] = touched[run.id] = run
        if start.key is not None:
            self._keys[start.target, start.key] = run.id
        if run.session is not None:
            self.sessions.setdefault(run.session, Session()).join(run)
        self._revive(run)
        return Accepted(run.id, new=True)

    def _reply_again(self, start: Start, before: Run, touched: Touched) -> None:
        """Whoever called a run that has finished, and calls it again, is told again what became of it."""
        parent, path = start.parent, start.path
        same = (parent, path) == (before.start.parent, before.start.path)
        if before.finished and parent is not None and path is not None and same:
            self.deliver(Delivery(parent, "reply", path, start.at, before.value, before.error), touched)

    def _new(self, start: Start, before: Run | None) -> Run:
        order = next(self._order)
        run = Run(start._replace(reuse="join"), order, order, start.at, start.at)
        run.delayed, run.wake_at = start.due is not None, start.due
        if before is not None:
            run.start = run.start._replace(generation=before.start.generation + 1)
            run.epoch, run.children, run.asking = before.epoch, before.children, before.asking
        return run

    def deliver(self, delivery: Delivery, touched: Touched) -> bool:
        """Put it into the run's inbox; ``False`` if that changes nothing."""
        run = self.runs.get(delivery.run)
        if run is None or run.finished or delivery.key in run.delivered:
            return False
        if delivery.kind == "resume" and not run.halted:
            return False
        if delivery.kind == "answer" and not self._answered(delivery):
            return False
        run.hear(delivery)
        touched[run.id] = run
        return True

    def _answered(self, answer: Delivery) -> bool:
        question = self.questions.get(answer.key)
        if question is None or question.status != "open":
            return False
        self._close(question, "answered")
        return True

    # -- what is committed --------------------------------------------------------------------------------------

    def record(self, run: Run, commit: Commit) -> None:
        """Write what a commit changes of its own run."""
        run.rewound = False
        run.entries.extend(commit.entries)
        run.consume(commit.consumed)
        if commit.entries:
            run.takeovers = 0
        if run.session is not None:
            self.sessions[run.session].say(run, commit.log, commit.state)
        run.status, run.wake_at, run.delayed = commit.status, commit.wake_at, False
        run.active = commit.active and not run.finished and not run.halted
        run.value, run.error, run.unreported = commit.value, commit.error, commit.unreported
        run.progress = commit.progress if commit.progress is not None else run.progress
        run.updated, run.told_due = commit.at, None

    def send(self, run: Run, commit: Commit, touched: Touched) -> None:
        """Write what a commit changes elsewhere."""
        for request in commit.asks:
            self._ask(run, Question(request, next(self._order)))
        for request in commit.closes:
            if request in self.questions:
                self._close(self.questions[request], "closed")
        for start in commit.starts:
            self.start(start, touched)
        for delivery in commit.deliveries:
            self.deliver(delivery, touched)

    def settle(self, run: Run, commit: Commit, touched: Touched) -> None:
        """Do what the run's new status brings with it."""
        if commit.again is not None:
            run.begin_anew(commit.again, next(self._order))
            run.takeovers = 0
        if commit.again is not None or run.finished:
            for question in run.questions.values():
                self._close(question, "closed")
        if commit.again is not None or run.finished or run.halted:
            run.wake_at = None
        if run.finished:
            self._finish(run, touched)

    def _finish(self, run: Run, touched: Touched) -> None:
        for child in tuple(run.children.values()):
            kind = child.start.on_close
            if kind != "abandon":
                self.deliver(Delivery(child.id, kind, kind, run.updated), touched)
        if (parent := self._parent(run)) is not None:
            parent.children.pop(run.id, None)
        for caller in self._callers(run, living=False):
            for question in run.asking:
                caller.asking.pop(question, None)
        if run.session is not None:
            session = self.sessions[run.session]
            session.end(run)
            touched.update((turn.id, turn) for turn in session.front(run.updated))

    # -- upkeep -------------------------------------------------------------------------------------------------

    def rewind(self, run: Run, seq: int, at: float) -> None:
        """Make a finished run pending again, its journal cut."""
        run.entries = run.entries[:seq]
        run.give_back(seq)
        run.status, run.value, run.error, run.unreported = "pending", None, None, False
        run.takeovers, run.updated, run.rewound = 0, max(run.updated, at), True
        if run.session is not None:
            session = self.sessions[run.session]
            session.unsay(run)
            session.join(run)
        self._revive(run)

    def removable(self, run: Run, which: RunFilter) -> bool:
        """Whether the run may be purged."""
        parent = self._parent(run)
        return run.finished and (parent is None or parent.finished) and run.fits(which)

    def forget(self, run: Run) -> None:
        """The finished run was never there, but for what it said in its session."""
        del self.runs[run.id]
        if run.start.key is not None:
            del self._keys[run.start.target, run.start.key]
        for question in run.questions:
            del self.questions[question]

    # -- requests -----------------------------------------------------------------------------------------------

    def _ask(self, run: Run, asked: Question) -> None:
        """Open a request; of one that is open, change only who is asked; leave one that is answered."""
        question = self.questions.setdefault(asked.request.id, asked)
        if question.status == "answered" or question.request.run != run.id:
            return
        if question.status == "closed":
            question.status = "open"
        question.request = question.request._replace(to=asked.request.to)
        run.questions[question.request.id] = question
        for each in (self, run, *self._callers(run)):
            each.asking[question.request.id] = question

    def _close(self, question: Question, status: Literal["answered", "closed"]) -> None:
        if question.status != "open":
            return
        question.status = status
        run = self.runs[question.request.run]
        for each in (self, run, *self._callers(run, living=False)):
            each.asking.pop(question.request.id, None)

    # -- who called whom ------------------------------------------------------------------------------------------

    def _parent(self, run: Run) -> Run | None:
        return None if run.start.parent is None else self.runs.get(run.start.parent)

    def _callers(self, run: Run, *, living: bool = True) -> Iterator[Run]:
        """The run's caller, its caller's caller and so on; up to the first that has finished, where ``living``."""
        while (parent := self._parent(run)) is not None:
            yield parent
            if living and parent.finished:
                return
            run = parent

    def _revive(self, run: Run) -> None:
        """The run has not finished, and its caller, if it is there, is to know."""
        if (parent := self._parent(run)) is not None:
            parent.children[run.id] = run
        for caller in self._callers(run):
            caller.asking.update(run.asking)


def _replaces(start: Start, before: Run) -> bool:
    """Whether the start begins a run anew that is there already."""
    if start.reuse == "restart_failed":
        return before.finished and before.status != "completed"
    return start.reuse == "restart" and before.finished
