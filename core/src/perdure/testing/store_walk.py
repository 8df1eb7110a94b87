"""The part of the store's conformance kit that walks at random, with the memory store beside it as the model.

Whatever valid calls several workers make, in whatever order, a store must say and show what the model does. The walk
follows from its seed; a failure names the seed and the calls that led to it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import pytest

from perdure.errors import PerdureError
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
from perdure.testing.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from perdure.messages import RunView
    from perdure.ports import DurableStore
    from perdure.testing.clock import ManualClock

T = TypeVar("T")

SEEDS: Final = 12
"""How many walks the kit goes."""
STEPS: Final = 150
"""How many calls, more or less, are made on each."""
_LOOK: Final = 50
_SESSIONS: Final = ("s0", "s1", "s2")
_KINDS: Final = ("event", "event", "update", "reply", "cancel", "terminate", "suspend", "resume")
_STATUSES: Final = (
    *("running",) * 6,
    *("waiting",) * 6,
    *("completed", "failed", "cancelled", "terminated") * 2,
    *("parked", "suspended", "again"),
)


@dataclass
class _Held:
    """A run that a worker holds: the claim that the model gave and the one that the store gave."""

    worker: str
    model: Claim
    store: Claim


@dataclass
class _Walk:
    """One walk. What it knows, it knows from the answers to its calls.

    Attributes:
        rng: All that happens follows from it.
        clock: The time, of both stores.
        model: The one that is right.
        stores: Opens the other one.
        lease: Seconds.
    """

    rng: random.Random
    clock: ManualClock
    model: MemoryStore
    stores: Stores
    lease: float
    workers: list[str] = field(default_factory=list[str])
    held: dict[str, _Held] = field(default_factory=dict[str, _Held])
    stale: list[tuple[str, _Held]] = field(default_factory=list[tuple[str, "_Held"]])
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    runs: dict[str, Start] = field(default_factory=dict[str, Start])
    asked: dict[str, str] = field(default_factory=dict[str, str])
    told: list[str] = field(default_factory=list[str])
    count: int = 0

    def __post_init__(self) -> None:
        self.store: DurableStore = self.stores.open()

    # -- both at once -------------------------------------------------------------------------------------------

    async def both(self, what: str, call: Callable[[DurableStore], Awaitable[T]]) -> tuple[T, T] | None:
        """Make the same call to both; both must refuse it for the same reason, or neither."""
        return await self.each(what, lambda: call(self.model), lambda: call(self.store))

    async def each(
        self, what: str, model: Callable[[], Awaitable[T]], store: Callable[[], Awaitable[T]]
    ) -> tuple[T, T] | None:
        """``both``, for calls that differ."""
        self.told.append(what)
        right, refusal = await _outcome(model)
        found, other = await _outcome(store)
        assert type(other) is type(refusal), f"{refusal!r} was expected, not {other!r}"
        return None if refusal is not None or right is None or found is None else (right[0], found[0])

    def take(self, worker: str, claims: Sequence[Claim], found: Sequence[Claim]) -> None:
        """Both gave claims to a worker."""
        wrong, right = _apart(_shown(found), _shown(claims))
        assert not wrong, f"{wrong!r} was given"
        assert not right, f"{right!r} was not given"
        mine = {claim.start.run: claim for claim in found}
        for claim in claims:
            run, given = claim.start.run, mine[claim.start.run]
            again = run in self.held and self.held[run].worker == worker
            assert given.epoch == self.epochs[run] if again else given.epoch > self.epochs.get(run, 0)
            self.epochs[run] = given.epoch
            self.held[run] = _Held(worker, claim, given)
            self.runs[run] = claim.start

    async def accept(self, *items: Start | Delivery | Reported) -> None:
        """Have both take something, on behalf of a worker or of nobody."""
        worker = self.rng.choice([*self.workers, None])
        what = f"accept({list(items)!r}, worker={worker!r})"
        answers = await self.both(what, lambda store: store.accept(items, worker=worker))
        if answers is None:
            return
        (accepted, claims), (found, given) = answers
        assert list(found) == list(accepted)
        for item in items:
            if isinstance(item, Start):
                self.runs.setdefault(item.run, item)
        self.take(worker or "", claims, given)

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
                await self.accept(self.new_start(**fields, reuse=reuse, parent=old.parent))
            return
        starts = [self.new_start() for _ in range(self.rng.randrange(1, 4))]
        first = [self.delivery(starts[0].run)] if self.rng.random() < 0.2 else []
        await self.accept(*starts, *first)

    def delivery(self, run: str) -> Delivery:
        """Something for a run's inbox, perhaps a repeated delivery."""
        kind: Any = self.rng.choice(_KINDS)
        key = self.rng.choice([kind, f"{kind}1", f"{kind}2", f"{kind}3"])
        error = ERROR if kind == "reply" and self.rng.random() < 0.4 else None
        return Delivery(run, kind, key, self.clock.now(), None if error else b"1", error, "n")

    async def deliver(self) -> None:
        """Deliveries to a run or two."""
        await self.accept(*(self.delivery(self.some_run()) for _ in range(self.rng.choice([1, 1, 2]))))

    async def answer(self) -> None:
        """An answer to a question, perhaps to one that takes none."""
        if self.asked:
            request = self.rng.choice(list(self.asked))
            value = self.rng.choice([b"1", b"2"])
            await self.accept(Delivery(self.asked[request], "answer", request, self.clock.now(), value))

    async def report(self) -> None:
        """An observer has reported a run."""
        await self.accept(Reported(self.some_run()))

    async def claim(self, worker: str | None = None) -> None:
        """A worker asks for what there is to do."""
        worker, now = worker or self.rng.choice(self.workers), self.clock.now()
        answers = await self.both(f"claim({worker!r})", lambda store: store.claim(worker, now, limit=10_000))
        assert answers is not None
        (claims, _), (given, due) = answers
        self.take(worker, claims, given)
        waiting = await self.model.runs(RunFilter(status=("waiting",)), limit=10_000)
        later = [view.wake_at for view in waiting if view.id not in self.held]
        timers = [when for when in later if when is not None and when > now]
        assert not timers or (due is not None and due <= min(timers)), f"woken at {due!r}, after {min(timers)!r}"

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

    async def committed(
        self, worker: str, commit: Commit, held: _Held
    ) -> tuple[Sequence[Claim], Sequence[Claim]] | None:
        """Have both write it, each under its own epoch."""
        other = commit._replace(epoch=held.store.epoch - held.model.epoch + commit.epoch)
        return await self.each(
            f"commit({commit!r}, worker={worker!r})",
            lambda: self.model.commit(commit, worker=worker),
            lambda: self.store.commit(other, worker=worker),
        )

    async def misplaced(self, held: _Held, commit: Commit) -> None:
        """A commit that must be refused: of a wrong epoch, journal, worker, or of what is held no more."""
        wrong = [
            (held.worker, commit._replace(epoch=commit.epoch - 1)),
            (held.worker, commit._replace(seq=commit.seq + 1)),
            ("nobody", commit),
        ]
        worker, refused = self.rng.choice(wrong)
        assert await self.committed(worker, refused, held) is None
        if self.stale:
            run, old = self.rng.choice(self.stale)
            late = Commit(run, old.model.epoch, old.model.seq, self.clock.now())
            assert await self.committed(old.worker, late, old) is None

    async def written(self, held: _Held) -> Commit:
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
        views = await self.model.runs(limit=10_000)
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
        answers = await self.both(f"purge({which!r})", lambda store: store.purge(which, limit=10_000))
        assert answers is not None
        assert answers[0] == answers[1]

    async def lapse(self) -> None:
        """A worker is stopped beyond its lease, and another one takes over."""
        gone = self.workers.pop(self.rng.randrange(len(self.workers)))
        self.told.append(f"the lease of {gone!r} is over")
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
            await self.claim(self.workers[-1])

    async def go_on(self) -> None:
        """Some time passes; what comes due in it is claimed."""
        before = self.clock.now()
        self.clock.advance(self.rng.choice([0, 0, 1, 2]))
        self.tick()
        late = await self.model.runs(RunFilter(status=("pending",)), limit=10_000)
        if any(view.due is not None and before < view.due <= self.clock.now() for view in late):
            await self.claim()

    def tick(self) -> None:
        """All workers are alive."""
        for worker in self.workers:
            self.model.tick(worker, self.clock.now())
            self.store.tick(worker, self.clock.now())

    # -- what is shown --------------------------------------------------------------------------------------------

    async def compare(self) -> None:
        """Everything that the stores show is the same."""
        await self.same("runs", lambda store: store.runs(limit=10_000), _listed)
        which = RunFilter(
            target=self.rng.choice([None, "app.flow"]),
            status=self.rng.choice([(), ("waiting", "completed"), ("pending",)]),
            tags=self.rng.choice([{}, {"tier": "1"}]),
            since=self.rng.choice([None, self.clock.now() - 30]),
            idle_since=self.rng.choice([None, self.clock.now() - 10]),
        )
        await self.same(f"runs({which!r})", lambda store: store.runs(which, limit=10_000), _listed)
        await self.same("requests", lambda store: store.requests(limit=10_000))
        await self.same("unreported", lambda store: store.unreported(limit=10_000), _listed)
        for session in _SESSIONS:
            await self.same(f"log of {session}", lambda store, key=session: store.log(AgentId("app.agent", key)), list)
        for request in self.asked:
            await self.same(f"request({request!r})", lambda store, id=request: store.request(id))
        for view in await self.model.runs(limit=10_000):
            await self.same(f"run({view.id!r})", lambda store, id=view.id: store.run(id), _steady)
            await self.same(f"load({view.id!r})", lambda store, id=view.id: store.load(id))

    async def same(
        self, what: str, look: Callable[[DurableStore], Awaitable[T]], as_: Callable[[Any], Any] = lambda seen: seen
    ) -> None:
        """Both show the same."""
        right, found = as_(await look(self.model)), as_(await look(self.store))
        if isinstance(right, list) and found != right:
            found, right = _apart(cast("list[Any]", found), cast("list[Any]", right))
        assert found == right, f"{what} shows {found!r}, not {right!r}"


_ACTIONS: Final = {
    _Walk.start: 5,
    _Walk.deliver: 6,
    _Walk.answer: 3,
    _Walk.claim: 5,
    _Walk.commit: 14,
    _Walk.rewind: 3,
    _Walk.fork: 1,
    _Walk.purge: 0.5,
    _Walk.report: 0.5,
    _Walk.lapse: 0.4,
    _Walk.die: 0.4,
    _Walk.leave: 0.4,
}


async def _outcome(call: Callable[[], Awaitable[T]]) -> tuple[tuple[T] | None, PerdureError | None]:
    try:
        return (await call(),), None
    except PerdureError as error:
        return None, error


def _shown(claims: Sequence[Claim]) -> list[Any]:
    """What a worker sees of claims, but for what is a store's own: epochs, and in which words it calls off children."""
    shown = [
        (claim.start.run, claim.start, claim.seq, [_plain(item) for item in claim.inbox], claim.takeovers)
        for claim in claims
    ]
    return sorted(shown, key=lambda item: item[0])


def _apart(found: list[T], right: list[T]) -> tuple[list[T], list[T]]:
    """What is in one list and not in the other."""
    return [item for item in found if item not in right], [item for item in right if item not in found]


def _plain(delivery: Delivery) -> Delivery:
    return delivery._replace(value=None) if delivery.key in {"cancel", "terminate"} else delivery


def _steady(view: RunView) -> RunView:
    """A view without what is a store's own: by what a run that is pending waits until it is due."""
    return view.model_copy(update={"wake_at": None}) if view.status == "pending" else view


def _listed(views: Sequence[RunView]) -> list[RunView]:
    return sorted((_steady(view) for view in views), key=lambda view: view.id)


async def walk(seed: int, stores: Stores, clock: ManualClock, *, lease: float, steps: int = STEPS) -> None:
    """Go as the seed says, through the stores under test and a model of them.

    Raises ``AssertionError`` where they part; its notes are the calls that led there.
    """
    rng = random.Random(seed)  # noqa: S311 - a walk, no secret
    way = _Walk(rng, clock, MemoryStore(clock, lease=lease), stores, lease)
    try:
        await way.hire()
        for step in range(1, steps + 1):
            await way.go_on()
            (action,) = rng.choices(list(_ACTIONS), list(_ACTIONS.values()))
            await action(way)
            if step % _LOOK == 0:
                await way.compare()
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
