"""A store in memory: the contract of ``perdure.ports`` to the letter, without the file.

It is what the harness runs on. Several workers may share one; a worker's death is said (``kill``) or happens
when it does not tick for a lease's length. What is durable elsewhere is here as long as the object lives.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from perdure.errors import CommitConflict, LeaseLost, RequestClosed, UnknownName
from perdure.messages import (
    Accepted,
    AgentId,
    Claim,
    Commit,
    Delivery,
    Entry,
    Loaded,
    Reported,
    RequestView,
    RunFilter,
    RunView,
    Start,
)
from perdure.testing.records import Question, Run, Session, decoded, error_of, request_view

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perdure.ports import Clock

_UNPARKS: Final = frozenset({"resume", "cancel"})
"""A parked run is woken by these alone: anything else would only make it fail, and park, again."""


class MemoryStore:
    """``DurableStore`` in memory.

    Args:
        clock: By which leases run out.
        lease: Seconds without a tick after which a worker counts as dead.
    """

    def __init__(self, clock: Clock, *, lease: float = 10.0) -> None:
        self._clock = clock
        self._lease = lease
        self._runs: dict[str, Run] = {}
        self._live: dict[str, Run] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._sessions: dict[AgentId, Session] = {}
        self._requests: dict[str, Question] = {}
        self._ticks: dict[str, float] = {}
        self._killed: set[str] = set()
        self._counter = 0
        self._waiters: list[asyncio.Future[None]] = []

    # -- the store ------------------------------------------------------------------------------------------

    async def accept(
        self, items: Sequence[Start | Delivery | Reported], *, worker: str | None = None
    ) -> tuple[Sequence[Accepted], Sequence[Claim]]:
        """See ``ports.Store.accept``."""
        self._check(items)
        touched: dict[str, Run] = {}
        accepted = [self._take(item, touched) for item in items]
        if any(item.new for item in accepted):
            self._notify()
        return accepted, self._woken(touched.values(), worker, self._clock.now())

    async def claim(self, worker: str, now: float, *, limit: int = 256) -> tuple[Sequence[Claim], float | None]:
        """See ``ports.Store.claim``."""
        if worker in self._killed:
            return (), None
        self._ticks[worker] = max(now, self._clock.now())
        claims: list[Claim] = []
        for run in self._live.values():
            if len(claims) == limit:
                break
            if self._untold(run, now) if run.holder == worker else self._claimable(run, now):
                claims.append(self._hold(run, worker, now))
        looks = [look for run in self._live.values() if (look := self._look_at(run, worker, now)) is not None]
        return claims, min(looks, default=None)

    async def load(self, run: str) -> Loaded:
        """See ``ports.Store.load``."""
        found = self._known(run)
        if found.session is None:
            return Loaded(tuple(found.entries))
        session = self._sessions[found.session]
        return Loaded(tuple(found.entries), tuple(data for turn, data in session.log if turn != run), session.state)

    async def commit(self, commit: Commit, *, worker: str) -> Sequence[Claim]:
        """See ``ports.Store.commit``."""
        run = self._runs.get(commit.run)
        if run is None or run.holder != worker or run.epoch != commit.epoch or worker in self._killed:
            msg = (
                f"worker {worker!r} does not hold run {commit.run!r} under epoch {commit.epoch}: drop it, another does"
            )
            raise LeaseLost(msg)
        if len(run.entries) != commit.seq:
            has = len(run.entries)
            msg = f"the journal of run {commit.run!r} has {has} entries, the commit expected {commit.seq}: reload it"
            raise CommitConflict(msg)
        for request in commit.closes:
            if request in self._requests and self._requests[request].status == "answered":
                msg = f"request {request!r}, which run {commit.run!r} withdraws, was answered meanwhile: reload the run"
                raise CommitConflict(msg)
        touched: dict[str, Run] = {}
        self._record(run, commit)
        self._send(commit, touched)
        self._settle(run, commit, touched)
        self._notify()
        return self._woken(touched.values(), worker, commit.at)

    async def changed(self, seen: int) -> int:
        """See ``ports.Store.changed``."""
        while self._counter == seen:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self._counter

    def tick(self, worker: str, now: float) -> None:
        """See ``ports.Store.tick``."""
        self._ticks[worker] = max(now, self._clock.now())

    async def leave(self, worker: str) -> None:
        """See ``ports.Store.leave``."""
        for run in self._live.values():
            if run.holder == worker:
                run.holder = None
        self._notify()

    async def close(self) -> None:
        """Nothing to let go of: the data stay, so that a test may go on with the same object."""

    def kill(self, worker: str) -> None:
        """The worker's process is gone, without a word: what it holds is free to be taken over."""
        self._killed.add(worker)
        self._notify()

    # -- what the calls are made of ---------------------------------------------------------------------------

    def _check(self, items: Iterable[Start | Delivery | Reported]) -> None:
        """Refuse before anything is written, so that it is all or none."""
        started: set[str] = set()
        answers: dict[str, Delivery] = {}
        for item in items:
            if isinstance(item, Start):
                started.add(item.run)
            elif isinstance(item, Delivery) and item.kind == "answer":
                self._check_answer(item, answers)
            elif item.run not in started:
                self._known(item.run)

    def _check_answer(self, answer: Delivery, before: dict[str, Delivery]) -> None:
        question = self._requests.get(answer.key)
        if question is None or question.request.run != answer.run:
            raise UnknownName("request", answer.key, hint=f"run {answer.run!r} asked no such question")
        first = before.get(answer.key) or self._runs[answer.run].delivered.get(answer.key)
        repeated = first is not None and first.value == answer.value
        if not repeated and (first is not None or question.status != "open"):
            msg = f"request {answer.key!r} is {question.status} already: it takes one answer, while it is open"
            raise RequestClosed(msg)
        before[answer.key] = answer

    def _known(self, run: str) -> Run:
        if run not in self._runs:
            raise UnknownName("run", run, hint="it was never accepted here")
        return self._runs[run]

    def _take(self, item: Start | Delivery | Reported, touched: dict[str, Run]) -> Accepted:
        if isinstance(item, Start):
            return self._take_start(item, touched)
        if isinstance(item, Delivery):
            return Accepted(item.run, self._take_delivery(item, touched))
        run = self._runs[item.run]
        was, run.unreported = run.unreported, False
        return Accepted(item.run, was)

    def _take_start(self, start: Start, touched: dict[str, Run]) -> Accepted:
        first = self._keys.get((start.target, start.key)) if start.key is not None else None
        if first is not None or start.run in self._runs:
            return Accepted(first or start.run, new=False)
        run = Run(start, start.at, start.at)
        self._runs[start.run] = self._live[start.run] = touched[start.run] = run
        if start.key is not None:
            self._keys[start.target, start.key] = start.run
        if run.session is not None:
            self._sessions.setdefault(run.session, Session()).queue.append(start.run)
        return Accepted(start.run, new=True)

    def _take_delivery(self, delivery: Delivery, touched: dict[str, Run]) -> bool:
        run = self._runs.get(delivery.run)
        if run is None or run.finished or delivery.key in run.delivered:
            return False
        if delivery.kind == "answer":
            question = self._requests.get(delivery.key)
            if question is None or question.status != "open":
                return False
            question.status = "answered"
        if delivery.kind == "resume" and run.status != "parked":
            return False
        if run.status == "parked" and delivery.kind in _UNPARKS:
            run.status, run.error = "pending", None
        run.delivered[delivery.key] = delivery
        run.updated = max(run.updated, delivery.at)
        touched[delivery.run] = run
        return True

    def _record(self, run: Run, commit: Commit) -> None:
        run.entries.extend(commit.entries)
        run.consumed.update(key for key, _ in commit.consumed)
        if commit.entries:
            run.takeovers = 0
        if run.session is not None:
            session = self._sessions[run.session]
            session.log.extend((commit.run, data) for data in commit.log)
            session.state = commit.state if commit.state is not None else session.state
        run.status, run.active, run.wake_at = commit.status, commit.active, commit.wake_at
        run.value, run.error, run.unreported = commit.value, commit.error, commit.unreported
        run.updated, run.told_due = commit.at, None

    def _send(self, commit: Commit, touched: dict[str, Run]) -> None:
        for request in commit.closes:
            self._close(self._requests.get(request))
        for asked in commit.asks:
            self._requests.setdefault(asked.id, Question(asked))
        for start in commit.starts:
            self._take_start(start, touched)
        for delivery in commit.deliveries:
            self._take_delivery(delivery, touched)

    def _settle(self, run: Run, commit: Commit, touched: dict[str, Run]) -> None:
        """Finish, release or keep the run, as its new status says."""
        if run.finished:
            run.active, run.wake_at, run.holder = False, None, None
            del self._live[commit.run]
            for question in self._requests.values():
                if question.request.run == commit.run:
                    self._close(question)
            if run.session is not None:
                queue = self._sessions[run.session].queue
                queue.remove(commit.run)
                touched.update((turn, self._runs[turn]) for turn in list(queue)[:1])
        elif not commit.active:
            run.holder = None
            run.wake_at = None if run.status == "parked" else run.wake_at
            touched[commit.run] = run

    @staticmethod
    def _close(question: Question | None) -> None:
        if question is not None and question.status == "open":
            question.status = "closed"

    def _alive(self, worker: str) -> bool:
        ticked = self._ticks.get(worker)
        return worker not in self._killed and ticked is not None and self._clock.now() - ticked < self._lease

    def _first(self, run: Run) -> bool:
        """Whether it is this turn's turn."""
        return run.session is None or self._sessions[run.session].queue[0] == run.start.run

    def _claimable(self, run: Run, now: float) -> bool:
        free = run.holder is None or not self._alive(run.holder)
        return free and self._first(run) and run.has_work(now)

    @staticmethod
    def _untold(run: Run, now: float) -> bool:
        return len(run.delivered) > run.told or (run.due(now) and run.told_due != run.wake_at)

    def _waits(self, run: Run, worker: str) -> bool:
        """Whether this worker is the one to see to the run's timer, and has not been told that it is due."""
        if run.holder == worker:
            return run.told_due != run.wake_at
        return run.holder is None or not self._alive(run.holder)

    def _look_at(self, run: Run, worker: str, now: float) -> float | None:
        """When this worker should look at the run again: at its timer, or when its holder's lease runs out."""
        if self._waits(run, worker):
            return run.wake_at
        if run.holder is not None and run.holder != worker and run.has_work(now):
            return self._ticks[run.holder] + self._lease
        return None

    def _hold(self, run: Run, worker: str, now: float) -> Claim:
        if run.holder != worker:
            run.takeovers += run.holder is not None
            run.holder = worker
            run.epoch += 1
        run.told = len(run.delivered)
        run.told_due = run.wake_at if run.due(now) else None
        return Claim(run.start, run.epoch, len(run.entries), run.inbox(), run.takeovers)

    def _woken(self, touched: Iterable[Run], worker: str | None, now: float) -> Sequence[Claim]:
        if worker is None or worker in self._killed:
            return ()
        self._ticks.setdefault(worker, self._clock.now())
        return [
            self._hold(run, worker, now)
            for run in touched
            if not run.finished and (run.holder == worker or self._claimable(run, now))
        ]

    def _notify(self) -> None:
        self._counter += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- the views --------------------------------------------------------------------------------------------

    async def run(self, run: str) -> RunView | None:
        """See ``ports.Query.run``."""
        return self._view(self._runs[run]) if run in self._runs else None

    async def runs(
        self, which: RunFilter | None = None, *, before: str | None = None, limit: int = 50
    ) -> Sequence[RunView]:
        """See ``ports.Query.runs``."""
        newest = list(reversed(self._runs.values()))
        if before is not None:
            newest = newest[newest.index(self._known(before)) + 1 :]
        found = (run for run in newest if run.fits(which or RunFilter()))
        return [self._view(run, whole=False) for run, _ in zip(found, range(limit), strict=False)]

    async def journal(self, run: str, *, after: int = 0, limit: int = 1000) -> Sequence[Entry]:
        """See ``ports.Query.journal``."""
        return self._known(run).entries[after : after + limit]

    async def requests(self, *, run: str | None = None, limit: int = 50) -> Sequence[RequestView]:
        """See ``ports.Query.requests``."""
        return self._open_requests(run)[:limit]

    async def request(self, request: str) -> RequestView | None:
        """See ``ports.Query.request``."""
        return request_view(self._requests[request]) if request in self._requests else None

    async def log(self, session: AgentId) -> Sequence[bytes]:
        """See ``ports.Query.log``."""
        found = self._sessions.get(session)
        return [data for _, data in found.log] if found else []

    async def unreported(self, *, limit: int = 100) -> Sequence[RunView]:
        """See ``ports.Query.unreported``."""
        return [self._view(run) for run in self._runs.values() if run.unreported][:limit]

    def _open_requests(self, run: str | None) -> list[RequestView]:
        return [
            request_view(question)
            for question in self._requests.values()
            if question.status == "open" and (run is None or self._called_by(question.request.run, run))
        ]

    def _called_by(self, run: str | None, caller: str) -> bool:
        """Whether a run is ``caller`` or was called by it, directly or not."""
        while run is not None and run != caller:
            run = self._runs[run].start.parent
        return run == caller

    def _view(self, run: Run, *, whole: bool = True) -> RunView:
        start = run.start
        return RunView(
            id=start.run,
            kind=start.kind,
            target=start.target,
            status=run.status,
            created=run.created,
            updated=run.updated,
            input=decoded(start.input) if whole else None,
            session=start.session,
            key=start.key,
            parent=start.parent,
            path=start.path,
            seq=len(run.entries),
            result=decoded(run.value) if whole else None,
            error=error_of(run.error),
            wake_at=run.wake_at,
            headers=dict(start.headers),
            requests=tuple(self._open_requests(start.run)) if whole else (),
        )
