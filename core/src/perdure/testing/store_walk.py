"""The part of the store's conformance kit that walks at random, with the memory store beside it as the model.

Whatever valid calls several workers make, in whatever order, a store must say and show what the model does. The walk
follows from its seed; a failure names the seed and the calls that led to it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from perdure.messages import (
    HALTED,
    TERMINAL,
    AgentId,
    Claim,
    Commit,
    Delivery,
    Entry,
    Reported,
    Request,
    RunFilter,
    Start,
)
from perdure.testing.store_facts import ERROR, StoreBench, Stores
from perdure.testing.store_twins import ALL, Held, Twins
from perdure.testing.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perdure.testing.clock import ManualClock

SEEDS: Final = 12
"""How many walks the kit goes."""
STEPS: Final = 150
"""How many calls, more or less, are made on each."""
_LOOK: Final = 50
_SESSIONS: Final = ("s0", "s1", "s2")
_TARGETS: Final = (None, None, frozenset({"app.flow"}), frozenset({"app.agent"}), frozenset({"app.agent", "app.flow"}))
"""What a worker may ask for."""
_KINDS: Final = ("event", "event", "update", "reply", "cancel", "terminate", "suspend", "resume")
_STATUSES: Final = (
    *("running",) * 6,
    *("waiting",) * 6,
    *("completed", "failed", "cancelled", "terminated") * 2,
    *("parked", "suspended", "again"),
)


@dataclass(kw_only=True)
class _Walk(Twins):
    """One walk. What it knows, it knows from the answers to its calls; all that it does follows from ``rng``."""

    rng: random.Random
    count: int = 0
    lapsed: set[str] = field(default_factory=set[str])

    async def put(self, *items: Start | Delivery | Reported) -> None:
        """Something is accepted, on behalf of a worker or of nobody."""
        await self.accept(items, self.rng.choice([*self.workers, None]))

    async def look(self) -> None:
        """A worker asks for what there is to do, of all or of some targets."""
        await self.claim(self.rng.choice(self.workers), self.rng.choice(_TARGETS))

    async def check(self) -> None:
        """All that is shown is the same, and what some filter means."""
        which = RunFilter(
            target=self.rng.choice([None, "app.flow"]),
            status=self.rng.choice([(), ("waiting", "completed"), ("pending",)]),
            tags=self.rng.choice([{}, {"tier": "1"}]),
            since=self.rng.choice([None, self.clock.now() - 30]),
            idle_since=self.rng.choice([None, self.clock.now() - 10]),
        )
        await self.compare(which, [AgentId("app.agent", session) for session in _SESSIONS])

    # -- what may happen ----------------------------------------------------------------------------------------

    def name(self, prefix: str) -> str:
        """A name that nothing has yet."""
        self.count += 1
        return f"{prefix}{self.count}"

    def some_run(self) -> str:
        """A run's id, of one that may have finished or be gone."""
        return self.rng.choice([*self.runs, "nobody"]) if self.rng.random() < 0.98 else "nobody"

    def new_start(self, **fields: Any) -> Start:
        """A start of a new run or turn. Turns of session ``s0`` may be due later."""
        rng, now = self.rng, self.clock.now()
        turn = rng.random() < 0.4
        session = rng.choice(_SESSIONS) if turn else None
        later = rng.random() < 0.3 and session in {None, "s0"}
        start = Start(
            run=self.name("r"),
            kind="turn" if turn else "workflow",
            target="app.agent" if turn else "app.flow",
            input=b"%d" % rng.randrange(9),
            at=now,
            session=session,
            key=rng.choice([None, None, "k1", "k2", "k3"]),
            tags={"tier": rng.choice("12")} if rng.random() < 0.5 else {},
            due=now + rng.randrange(-2, 9) if later else None,
            on_close=rng.choice(["cancel", "terminate", "abandon"]),
            version=rng.randrange(1, 3),
        )
        return start._replace(**fields)

    async def start(self) -> None:
        """A start, perhaps a repeated one, or of a run that is to begin anew."""
        known = [start for start in self.runs.values() if start.session in {None, "s0"}]
        if known and self.rng.random() < 0.3:
            old = self.rng.choice(known)
            reuse = self.rng.choice(["join", "restart", "restart_failed"])
            if await self.model.run(old.run) is not None:
                fields = {"run": old.run, "kind": old.kind, "target": old.target, "session": old.session}
                await self.put(self.new_start(**fields, reuse=reuse, parent=old.parent))
            return
        starts = [self.new_start() for _ in range(self.rng.randrange(1, 4))]
        first = [self.delivery(starts[0].run)] if self.rng.random() < 0.2 else []
        await self.put(*starts, *first)

    def delivery(self, run: str) -> Delivery:
        """Something for a run's inbox, perhaps a repeated delivery."""
        kind: Any = self.rng.choice(_KINDS)
        key = self.rng.choice([kind, f"{kind}1", f"{kind}2", f"{kind}3"])
        error = ERROR if kind == "reply" and self.rng.random() < 0.4 else None
        return Delivery(run, kind, key, self.clock.now(), None if error else b"1", error, "n")

    async def deliver(self) -> None:
        """Deliveries to a run or two."""
        await self.put(*(self.delivery(self.some_run()) for _ in range(self.rng.choice([1, 1, 2]))))

    async def answer(self) -> None:
        """An answer to a question, perhaps to one that takes none."""
        if self.asked:
            request = self.rng.choice(list(self.asked))
            value = self.rng.choice([b"1", b"2"])
            await self.put(Delivery(self.asked[request], "answer", request, self.clock.now(), value))

    async def report(self) -> None:
        """An observer has reported a run."""
        await self.put(Reported(self.some_run()))

    # -- commits ------------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """A worker writes what became of a run that it holds."""
        if not self.held:
            return
        run = self.rng.choice(list(self.held))
        held = self.held[run]
        commit = await self.written(held)
        if self.rng.random() < 0.1:
            await self.misplaced(held, commit)
            return
        answers = await self.committed(held.worker, commit, held)
        if answers is None:
            return
        for start in commit.starts:
            self.runs.setdefault(start.run, start)
        if commit.active and commit.status not in TERMINAL:
            gone = {key for key, _ in commit.consumed}
            left = tuple(item for item in held.model.inbox if item.key not in gone)
            for side in ("model", "store"):
                claim: Claim = getattr(held, side)
                setattr(held, side, claim._replace(seq=commit.seq + len(commit.entries), inbox=left))
        else:
            self.stale.append((run, self.held.pop(run)))
        self.take(held.worker, *answers)

    async def misplaced(self, held: Held, commit: Commit) -> None:
        """A commit that must be refused: of a wrong epoch, journal, worker, or of what is held no more."""
        wrong = [
            (held.worker, commit._replace(epoch=commit.epoch - 1)),
            (held.worker, commit._replace(seq=commit.seq + 1)),
            ("nobody", commit),
        ]
        worker, misplaced = self.rng.choice(wrong)
        assert await self.committed(worker, misplaced, held) is None
        # Of one whose lease is over, and whose run nobody has asked for since, a commit may be taken.
        refused = [(run, old) for run, old in self.stale if old.worker not in self.lapsed or self.over(run, old)]
        if refused:
            run, old = self.rng.choice(refused)
            late = Commit(run, old.model.epoch, old.model.seq, self.clock.now())
            assert await self.committed(old.worker, late, old) is None

    def over(self, run: str, old: Held) -> bool:
        """Whether the run was given to somebody since."""
        return self.epochs[run] > old.store.epoch

    async def written(self, held: Held) -> Commit:
        """A commit with parts of every sort."""
        rng, claim, now = self.rng, held.model, self.clock.now()
        run, seq = claim.start.run, claim.seq
        status: Any = rng.choice(_STATUSES)
        if status == "again":
            status = "pending" if claim.start.kind == "workflow" else "waiting"
        entries = tuple(self.entry(seq + n) for n in range(rng.randrange(status == "running", 3)))
        places = [-1, *range(seq, seq + len(entries))]
        turn = claim.start.kind == "turn" and rng.random() < 0.4
        again = self.new_start(generation=claim.start.generation + 1) if status == "pending" else None
        commit = Commit(
            run=run,
            epoch=claim.epoch,
            seq=seq,
            at=now,
            entries=entries,
            consumed=tuple((item.key, rng.choice(places)) for item in claim.inbox if rng.random() < 0.7),
            log=tuple(b"%d" % rng.randrange(99) for _ in range(rng.randrange(3))) if turn else (),
            state=b"%d" % rng.randrange(99) if turn else None,
            status=status,
            active=status == "running",
            wake_at=now + rng.randrange(1, 9) if status in {"running", "waiting"} and rng.random() < 0.5 else None,
            value=b"1" if status == "completed" else None,
            error=ERROR if status in {"failed", *HALTED} else None,
            unreported=status in TERMINAL and rng.random() < 0.3,
            progress=b'{"text":"on"}' if rng.random() < 0.1 else None,
            again=again,
        )
        return commit._replace(**await self.sent(claim.start))

    async def sent(self, start: Start) -> dict[str, Any]:
        """What a commit of this run changes elsewhere: children, deliveries, requests."""
        rng, now, run = self.rng, self.clock.now(), start.run
        parts: dict[str, Any] = {}
        if rng.random() < 0.2:
            mine = [child for child in self.runs.values() if child.parent == run and child.session is None]
            old = rng.choice(mine) if mine and rng.random() < 0.5 else None
            if old is not None and await self.model.run(old.run) is None:
                old = None  # it was purged: one that begins under its name has epochs of its own
            repeated = {"run": old.run, "kind": "workflow", "target": "app.flow", "session": None} if old else {}
            child = self.new_start(**repeated, parent=run, reuse="restart_failed" if old else "join", key=None)
            parts["starts"] = (child,)
        if rng.random() < 0.2 and (other := self.some_run()) != run:
            parts["deliveries"] = (self.delivery(other),)
        own = [request for request, asker in self.asked.items() if asker == run]
        if rng.random() < 0.3:
            asked = rng.choice(own) if own and rng.random() < 0.5 else self.name("q")
            self.asked.setdefault(asked, run)
            parts["asks"] = (Request(asked, run, "0/q#1", "?", {}, now, to=rng.choice(["", "boss"])),)
        if own and rng.random() < 0.2:
            parts["closes"] = (rng.choice(own),)
        return parts

    def entry(self, place: int) -> Entry:
        """A line of a journal."""
        return Entry("step", f"0/s#{place}", self.clock.now(), "s", value=b"%d" % self.rng.randrange(99))

    # -- upkeep, and what goes wrong ------------------------------------------------------------------------------

    async def rewind(self) -> None:
        """A finished run is to go on; those that have not finished are not."""
        views = await self.model.runs(limit=ALL)
        finished = [view.id for view in views if view.finished and view.session != "s0"]
        run = self.rng.choice(finished) if finished and self.rng.random() < 0.8 else self.some_run()
        seq, now = self.rng.randrange(4), self.clock.now()
        if run not in self.runs or self.runs[run].session != "s0":
            await self.both(f"rewind({run!r}, {seq})", lambda store: store.rewind(run, seq, at=now))

    async def fork(self) -> None:
        """A new run out of another."""
        source, seq, start = self.some_run(), self.rng.randrange(4), self.new_start(due=None)
        answers = await self.both(f"fork({source!r}, {seq}, {start!r})", lambda store: store.fork(source, seq, start))
        if answers is not None:
            assert answers[0] == answers[1]
            self.runs.setdefault(answers[0].run, start)

    async def purge(self) -> None:
        """Some that have finished are forgotten; of turns, none."""
        idle = self.clock.now() - self.rng.randrange(20)
        which = RunFilter(target="app.flow", idle_since=idle)
        answers = await self.both(f"purge({which!r})", lambda store: store.purge(which, limit=ALL))
        assert answers is not None
        assert answers[0] == answers[1]

    async def lapse(self) -> None:
        """A worker is stopped beyond its lease, and another one takes over."""
        gone = self.workers.pop(self.rng.randrange(len(self.workers)))
        self.told.append(f"the lease of {gone!r} is over")
        self.lapsed.add(gone)
        for _ in range(2):  # its last sign of life, which may go far, leaves before the second and arrives before it
            await self.store.requests(limit=1)
        self.clock.advance(self.lease * 0.6)
        self.tick()
        self.clock.advance(self.lease * 0.6)
        self.tick()
        await self.replaced([gone])

    async def die(self) -> None:
        """The process dies with all its workers, and another one is there."""
        self.told.append("the process dies")
        gone, self.workers = self.workers, []
        for worker in gone:
            self.model.kill(worker)
            await self.stores.kill(self.store, worker)
        self.store = self.stores.open()
        await self.replaced(gone)

    async def leave(self) -> None:
        """A worker goes in good order."""
        gone = self.workers.pop(self.rng.randrange(len(self.workers)))
        await self.both(f"leave({gone!r})", lambda store: store.leave(gone))
        await self.replaced([gone])

    async def replaced(self, gone: Iterable[str]) -> None:
        """Others take over from these."""
        lost = [(run, held) for run, held in self.held.items() if held.worker in set(gone)]
        self.stale += lost
        for run, _ in lost:
            del self.held[run]
        await self.hire()

    async def hire(self) -> None:
        """There are two workers, and the store knows them by their first claims."""
        while len(self.workers) < 2:
            self.workers.append(self.name("w"))
            await self.claim(self.workers[-1], self.rng.choice(_TARGETS))

    async def go_on(self) -> None:
        """Some time passes; what comes due in it is claimed."""
        before = self.clock.now()
        self.clock.advance(self.rng.choice([0, 0, 1, 2]))
        self.tick()
        late = await self.model.runs(RunFilter(status=("pending",)), limit=ALL)
        if any(view.due is not None and before < view.due <= self.clock.now() for view in late):
            await self.look()


_ACTIONS: Final = {
    _Walk.start: 5,
    _Walk.deliver: 6,
    _Walk.answer: 3,
    _Walk.look: 5,
    _Walk.commit: 14,
    _Walk.rewind: 3,
    _Walk.fork: 1,
    _Walk.purge: 0.5,
    _Walk.report: 0.5,
    _Walk.lapse: 0.4,
    _Walk.die: 0.4,
    _Walk.leave: 0.4,
}


async def walk(seed: int, stores: Stores, clock: ManualClock, *, lease: float, steps: int = STEPS) -> None:
    """Go as the seed says, through the stores under test and a model of them.

    Raises ``AssertionError`` where they part; its notes are the calls that led there.
    """
    rng = random.Random(seed)  # noqa: S311 - a walk, no secret
    way = _Walk(rng=rng, clock=clock, model=MemoryStore(clock, lease=lease), stores=stores, lease=lease)
    try:
        await way.hire()
        for step in range(1, steps + 1):
            await way.go_on()
            (action,) = rng.choices(list(_ACTIONS), list(_ACTIONS.values()))
            await action(way)
            if step % _LOOK == 0:
                await way.check()
    except AssertionError as error:
        error.add_note("\n".join([f"seed {seed}, the last calls:", *way.told[-40:]]))
        raise


class StoreWalk(StoreBench):
    """Random walks."""

    @pytest.mark.parametrize("seed", range(SEEDS))
    async def test_whatever_workers_do_a_store_says_and_shows_what_the_model_does(
        self, stores: Stores, clock: ManualClock, seed: int
    ) -> None:
        await walk(seed, stores, clock, lease=self.lease)
