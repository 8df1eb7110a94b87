"""A store in memory: the contract of ``perdure.ports`` to the letter, without the file.

It is what the harness runs on. Several workers may share one; a worker's death is said (``kill``) or happens
when it does not tick for a lease's length. What is durable elsewhere is here as long as the object lives.

``ledger`` is what is written, ``records`` what that consists of, ``agenda`` who is to be told of it.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING

from perdure.errors import CommitConflict, DataCorrupted, LeaseLost, RunActive
from perdure.messages import Accepted, AgentId, Claim, Commit, Delivery, Entry, Loaded, Reported, RunFilter, Start
from perdure.testing.agenda import Agenda, Desk, take
from perdure.testing.ledger import Ledger, Touched
from perdure.testing.records import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from perdure.messages import RequestView, RunView
    from perdure.ports import Clock
    from perdure.testing.records import Run


class MemoryStore:
    """``DurableStore`` in memory.

    Args:
        clock: By which leases run out.
        lease: Seconds without a tick after which a worker counts as dead.
    """

    def __init__(self, clock: Clock, *, lease: float = 10.0) -> None:
        self._clock = clock
        self._lease = lease
        self._ledger = Ledger()
        self._agenda = Agenda()
        self._ticks: dict[str, float] = {}
        self._killed: set[str] = set()
        self._targets: dict[str, frozenset[str] | None] = {}
        self._counter = 0
        self._waiters: list[asyncio.Future[None]] = []

    # -- the store ------------------------------------------------------------------------------------------

    async def accept(
        self, items: Sequence[Start | Delivery | Reported], *, worker: str | None = None
    ) -> tuple[Sequence[Accepted], Sequence[Claim]]:
        """See ``ports.Store.accept``."""
        self._ledger.check(items)
        touched: Touched = {}
        accepted = [self._ledger.take(item, touched) for item in items]
        claims = self._woken(touched.values(), worker, self._clock.now())
        if any(item.new for item in accepted):
            self._notify()
        return accepted, claims

    async def claim(
        self, worker: str, now: float, *, limit: int = 256, targets: frozenset[str] | None = None
    ) -> tuple[Sequence[Claim], float | None]:
        """See ``ports.Store.claim``."""
        if worker in self._killed:
            return (), None
        self._ticks[worker] = max(now, self._clock.now())
        self._targets[worker] = targets
        orphaned = [desk for name, desk in self._agenda.others(worker) if not self._alive(name)]
        free, own = self._agenda.free(targets), self._agenda.desk(worker)
        claims = [self._hold(run, worker, now) for run in self._news(own, now)]
        claims += [self._hold(run, worker, now) for run in islice(self._work(worker, free, orphaned, now), limit)]
        looks = [desk.next_due() for desk in (*free, own)] + self._leases(worker, now)
        return claims, min((when for when in looks if when is not None), default=None)

    async def load(self, run: str) -> Loaded:
        """See ``ports.Store.load``."""
        found = self._ledger.known(run)
        if found.damaged:
            msg = f"the journal of run {run!r} does not match its checksum: restore it from a backup, or terminate it"
            raise DataCorrupted(msg)
        if found.session is None:
            return Loaded(tuple(found.entries))
        session = self._ledger.sessions[found.session]
        before = tuple(data for life, data in session.log if life != found.life)
        return Loaded(tuple(found.entries), before, session.state)

    async def commit(self, commit: Commit, *, worker: str) -> Sequence[Claim]:
        """See ``ports.Store.commit``."""
        run = self._ledger.runs.get(commit.run)
        if run is None or run.holder != worker or run.epoch != commit.epoch or worker in self._killed:
            msg = (
                f"worker {worker!r} does not hold run {commit.run!r} under epoch {commit.epoch}: drop it, another does"
            )
            raise LeaseLost(msg)
        self._check(run, commit)
        touched: Touched = {}
        self._ledger.record(run, commit)
        self._ledger.send(run, commit, touched)
        self._ledger.settle(run, commit, touched)
        if run.finished:
            self._agenda.drop(run)
        elif run.active:
            self._agenda.arm(run)
        else:
            self._agenda.hand(run, None)
            touched[run.id] = run
        claims = self._woken(touched.values(), worker, commit.at)
        self._notify()
        return claims

    async def changed(self, seen: int) -> int:
        """See ``ports.Store.changed``."""
        while self._counter == seen:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self._counter

    def tick(self, worker: str, now: float, *, run: str = "", epoch: int = 0) -> bool:
        """See ``ports.Store.tick``."""
        self._ticks[worker] = max(now, self._clock.now())
        found = self._ledger.runs.get(run)
        return found is not None and (found.holder, found.epoch) == (worker, epoch) and worker not in self._killed

    async def leave(self, worker: str) -> None:
        """See ``ports.Store.leave``."""
        self._targets.pop(worker, None)
        for run in tuple(self._agenda.desk(worker).held.values()):
            self._agenda.hand(run, None)
            self._agenda.put(run)
        self._notify()

    async def close(self) -> None:
        """Nothing to let go of: the data stay, so that a test may go on with the same object."""

    # -- what only a test does ----------------------------------------------------------------------------------

    def kill(self, worker: str) -> None:
        """The worker's process is gone, without a word: what it holds is free to be taken over."""
        self._killed.add(worker)
        self._notify()

    def damage(self, run: str) -> None:
        """A byte of what is kept of the run is another one now. Raises ``UnknownName``."""
        self._ledger.known(run).damaged = True

    # -- what the calls are made of ---------------------------------------------------------------------------

    def _check(self, run: Run, commit: Commit) -> None:
        """Refuse a commit that does not follow upon what is there."""
        if len(run.entries) != commit.seq:
            has = len(run.entries)
            msg = f"the journal of run {run.id!r} has {has} entries, the commit expected {commit.seq}: reload it"
            raise CommitConflict(msg)
        for request in commit.closes:
            question = self._ledger.questions.get(request)
            if question is not None and question.status == "answered":
                msg = f"request {request!r}, which run {run.id!r} withdraws, was answered meanwhile: reload the run"
                raise CommitConflict(msg)

    def _alive(self, worker: str) -> bool:
        ticked = self._ticks.get(worker)
        return worker not in self._killed and ticked is not None and self._clock.now() - ticked < self._lease

    def _leases(self, worker: str, now: float) -> list[float]:
        """When what others hold has to go on, and their leases have run out: nobody tells of that.

        Their timers are among it: whoever was told of one may have died before the clock was put back.
        """
        looks: list[float] = []
        for name, desk in self._agenda.others(worker):
            alive = self._alive(name)
            ends = self._ticks[name] + self._lease if alive else now
            for run in desk.held.values():
                if not self._wanted(run, worker):
                    continue
                if not run.has_work(now):
                    looks += [] if run.wake_at is None else [max(ends, run.wake_at)]
                elif alive:
                    looks.append(ends)
        return looks

    def _first(self, run: Run, now: float) -> bool:
        """Whether it is this turn's turn."""
        return run.session is None or run in self._ledger.sessions[run.session].front(now)

    def _wanted(self, run: Run, worker: str) -> bool:
        """Whether the worker takes such a run; one that has asked for nothing, or has left, takes none."""
        targets = self._targets.get(worker, frozenset())
        return targets is None or run.start.target in targets

    def _claimable(self, run: Run, now: float) -> bool:
        free = run.holder is None or not self._alive(run.holder)
        return free and run.has_work(now) and self._first(run, now)

    def _may_have(self, run: Run, worker: str, now: float) -> bool:
        return self._wanted(run, worker) and self._claimable(run, now)

    @staticmethod
    def _news(own: Desk, now: float) -> Iterator[Run]:
        """What a worker is to be told of the runs that it holds; each must be handed out."""
        while (run := own.take(now)) is not None:
            if run.untold(now):
                yield run
            elif run.told_due != run.wake_at:
                own.arm(run)

    def _work(self, worker: str, free: Sequence[Desk], orphaned: Sequence[Desk], now: float) -> Iterator[Run]:
        """What a worker may take besides; each run must be held, or nothing more be asked for."""
        while (run := take(free, now)) is not None:
            # A turn that others hold up is put on the desk again when they end.
            if self._claimable(run, now):
                yield run
            elif not run.due(now):
                self._agenda.arm(run)
        for desk in orphaned:
            for run in tuple(desk.held.values()):
                if self._may_have(run, worker, now):
                    yield run

    def _hold(self, run: Run, worker: str, now: float) -> Claim:
        if run.holder != worker:
            run.takeovers += run.holder is not None
            run.epoch += 1
            self._agenda.hand(run, worker)
            if run.session is not None:
                self._ledger.sessions[run.session].begin(run)
        self._agenda.desk(worker).ready.pop(run.id, None)
        run.fresh = False
        run.told_due = run.wake_at if run.due(now) else None
        if run.told_due is None:
            self._agenda.arm(run)
        return Claim(run.start, run.epoch, len(run.entries), tuple(run.inbox.values()), run.takeovers, run.rewound)

    def _woken(self, touched: Iterable[Run], worker: str | None, now: float) -> Sequence[Claim]:
        """Hold what the worker may have of what was touched; leave the rest on the desks."""
        claims: list[Claim] = []
        if worker in self._killed:
            worker = None
        for run in touched:
            if run.finished:
                continue
            if worker is not None and (run.holder == worker or self._may_have(run, worker, now)):
                claims.append(self._hold(run, worker, now))
            else:
                self._agenda.put(run)
        return claims

    def _notify(self) -> None:
        self._counter += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- the views --------------------------------------------------------------------------------------------

    async def run(self, run: str) -> RunView | None:
        """See ``ports.Query.run``."""
        found = self._ledger.runs.get(run)
        return None if found is None else found.view()

    async def runs(
        self, which: RunFilter | None = None, *, before: str | None = None, limit: int = 50
    ) -> Sequence[RunView]:
        """See ``ports.Query.runs``."""
        wanted = which or RunFilter()
        last = None if before is None else self._ledger.known(before).order
        newest = reversed(self._ledger.runs.values())
        found = (run for run in newest if (last is None or run.order < last) and run.fits(wanted))
        return [run.view(whole=False) for run in islice(found, limit)]

    async def journal(self, run: str, *, after: int = 0, limit: int = 1000) -> Sequence[Entry]:
        """See ``ports.Query.journal``."""
        return self._ledger.known(run).entries[after : after + limit]

    async def requests(self, *, run: str | None = None, limit: int = 50) -> Sequence[RequestView]:
        """See ``ports.Query.requests``."""
        found = self._ledger if run is None else self._ledger.runs.get(run)
        return [] if found is None else shown(found.asking.values())[:limit]

    async def request(self, request: str) -> RequestView | None:
        """See ``ports.Query.request``."""
        found = self._ledger.questions.get(request)
        return None if found is None else found.view()

    async def log(self, session: AgentId) -> Sequence[bytes]:
        """See ``ports.Query.log``."""
        found = self._ledger.sessions.get(session)
        return [data for _, data in found.log] if found else []

    async def unreported(self, *, limit: int = 100) -> Sequence[RunView]:
        """See ``ports.Query.unreported``."""
        return [run.view() for run in islice((run for run in self._ledger.runs.values() if run.unreported), limit)]

    # -- upkeep -----------------------------------------------------------------------------------------------

    async def rewind(self, run: str, seq: int, *, at: float) -> None:
        """See ``ports.Upkeep.rewind``."""
        found = self._ledger.known(run)
        if not found.finished:
            msg = f"run {run!r} is {found.status}: only a finished run is rewound; cancel or terminate it first"
            raise RunActive(msg)
        session = None if found.session is None else self._ledger.sessions[found.session]
        if session is not None and (session.highest > found.order or session.latest is not found):
            msg = f"a later turn of session {found.session} than {run!r} has begun: rewind that one, or send it anew"
            raise RunActive(msg)
        self._ledger.rewind(found, seq, at)
        self._agenda.put(found)
        self._notify()

    async def fork(self, run: str, seq: int, start: Start) -> Accepted:
        """See ``ports.Upkeep.fork``."""
        entries = self._ledger.known(run).entries[:seq]
        touched: Touched = {}
        accepted = self._ledger.start(start, touched)
        for forked in touched.values():
            forked.entries = entries
            self._agenda.put(forked)
        self._notify()
        return accepted

    async def purge(self, which: RunFilter, *, limit: int = 1000) -> int:
        """See ``ports.Upkeep.purge``."""
        removable = (run for run in self._ledger.runs.values() if self._ledger.removable(run, which))
        found = list(islice(removable, limit))
        for run in found:
            self._ledger.forget(run)
        self._notify()
        return len(found)
