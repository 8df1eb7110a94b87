"""A process of a simulated world: an engine, its clock, and the store as it sees it, on the far side of a wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from perdure.errors import CommitConflict, LeaseLost, StoreUnavailable
from perdure.ports import EngineParts
from perdure.testing.faults import Crash
from perdure.testing.simulation.clocks import ProcessClock

if TYPE_CHECKING:
    import asyncio
    import random
    from collections import Counter
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from perdure.messages import Accepted, Claim, Commit, Delivery, Loaded, Reported, Start
    from perdure.ports import DurableStore, Engine, Programs, StepInfo
    from perdure.testing.simulation.clocks import WallClock
    from perdure.testing.simulation.loop import Lane, SimulatedLoop
    from perdure.testing.simulation.oracle import Oracle
    from perdure.testing.simulation.plan import Plan

T = TypeVar("T")

Fate = Literal["applied", "refused", "dies before", "dies after", "stops before", "stops after"]


class Surroundings(Protocol):
    """What a process knows of its world."""

    loop: SimulatedLoop
    wall: WallClock
    random: random.Random
    plan: Plan
    oracle: Oracle
    store: DurableStore
    programs: Programs

    counts: Counter[str]

    def fate(self) -> Fate:
        """What becomes of an effect."""
        ...

    def note(self, process: str, what: str) -> None:
        """Write it down in the trace."""
        ...

    def kill(self, process: Process) -> None:
        """It never runs again."""
        ...

    def stop(self, process: Process) -> None:
        """It does not run for a while."""
        ...


class Process:
    """See the module.

    Attributes:
        name: Of the process, and of the worker in it.
        lane: Where its code runs.
        gone: Done when it has died or was shut down.
        up: Its engine has started, and takes calls.
        buried: It is dead, and its code is being unwound: it reaches nobody any more.
        deaf_until: Until when its signs of life are lost (the loop's time).
        calls: What clients want of it and have not got yet.
        stopping: It is being shut down.
    """

    def __init__(self, world: Surroundings, name: str, make: Callable[[EngineParts, random.Random], Engine]) -> None:
        self.name = name
        self.lane: Lane = world.loop.lane(name)
        self.gone: asyncio.Future[Any] = world.loop.create_future()
        self.up: bool = False
        self.buried = False
        self.deaf_until: float = 0.0
        self.calls: list[asyncio.Task[Any]] = []
        self.stopping: asyncio.Task[None] | None = None
        self.clock: ProcessClock = ProcessClock(world.wall)
        self._world = world
        parts = EngineParts(
            store=cast("DurableStore", Wire(world, self)),
            programs=world.programs,
            clock=self.clock,
            step_middleware=(self._witness,),
            worker=name,
        )
        self.engine: Engine = make(parts, world.random)

    def call(self, call: Callable[[Engine], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """A client calls; it may hang up, and the call go on."""
        task: asyncio.Task[T] = self._world.loop.spawn(call(self.engine), self.lane, "call")
        self.calls.append(task)
        task.add_done_callback(self._heard)
        return task

    def _heard(self, call: asyncio.Task[Any]) -> None:
        self.calls.remove(call)
        if not call.cancelled():
            call.exception()

    def shut_down(self, grace: float = 0.0) -> asyncio.Task[None]:
        """Stop the engine in good order; once."""
        self.up = False
        if self.stopping is None:
            self.stopping = self._world.loop.spawn(self.engine.stop(grace=grace), self.lane, "stop")
        return self.stopping

    async def _witness(self, step: StepInfo, proceed: Callable[[], Awaitable[Any]]) -> Any:
        """Around the body of each attempt: what takes its time."""
        world = self._world
        if self.buried:
            raise Crash
        world.note(self.name, f"begins {step.path} of {step.run.run}, attempt {step.attempt}")
        world.oracle.began(self.name, step)
        if world.plan.work:
            await _after(world, world.random.expovariate(1 / world.plan.work))
        value = await proceed()
        world.note(self.name, f"ends {step.path} of {step.run.run}")
        return value


class Wire:
    """A ``DurableStore`` that takes its time, and fails as the world has it. What it does not name, it only delays."""

    def __init__(self, world: Surroundings, process: Process) -> None:
        self._world = world
        self._process = process
        self._last = 0.0

    def __getattr__(self, name: str) -> Any:
        """Whatever else a store has: views, upkeep."""
        method = getattr(self._world.store, name)

        async def delayed(*args: Any, **kwargs: Any) -> Any:
            await self._travel()
            result = await method(*args, **kwargs)
            await self._return()
            return result

        return delayed

    async def accept(
        self, items: Sequence[Start | Delivery | Reported], *, worker: str | None = None
    ) -> tuple[Sequence[Accepted], Sequence[Claim]]:
        """An effect."""

        async def apply() -> tuple[Sequence[Accepted], Sequence[Claim]]:
            accepted, claims = await self._world.store.accept(items, worker=worker)
            self._world.oracle.accepted(self._process.name, items, accepted)
            self._world.oracle.claimed(self._process.name, claims)
            return accepted, claims

        return await self._effect(f"accept {', '.join(map(_said, items))}", apply)

    async def claim(
        self, worker: str, now: float, *, limit: int = 256, targets: frozenset[str] | None = None
    ) -> tuple[Sequence[Claim], float | None]:
        """An effect."""

        async def apply() -> tuple[Sequence[Claim], float | None]:
            claims, wake = await self._world.store.claim(worker, now, limit=limit, targets=targets)
            self._world.oracle.claimed(self._process.name, claims)
            if claims:
                got = ", ".join(f"{claim.start.run}@{claim.epoch}" for claim in claims)
                self._world.note(self._process.name, f"claimed {got}")
            return claims, wake

        return await self._effect("", apply)

    async def commit(self, commit: Commit, *, worker: str) -> Sequence[Claim]:
        """An effect."""

        async def apply() -> Sequence[Claim]:
            self._process.deaf_until = 0.0  # whoever writes is heard
            try:
                claims = await self._world.store.commit(commit, worker=worker)
            except (LeaseLost, CommitConflict) as error:
                self._world.counts[type(error).__name__] += 1
                self._world.note(self._process.name, f"{type(error).__name__} for {commit.run}")
                raise
            self._world.oracle.committed(self._process.name, commit)
            self._world.oracle.claimed(self._process.name, claims)
            return claims

        paths = " ".join(entry.path for entry in commit.entries)
        return await self._effect(f"commit {commit.run}@{commit.epoch}+{commit.seq} {commit.status} {paths}", apply)

    async def rewind(self, run: str, seq: int, *, at: float) -> None:
        """An effect."""

        async def apply() -> None:
            await self._world.store.rewind(run, seq, at=at)
            self._world.oracle.rewound(run, seq)

        await self._effect(f"rewind {run} to {seq}", apply)

    async def fork(self, run: str, seq: int, start: Start) -> Accepted:
        """An effect."""

        async def apply() -> Accepted:
            accepted = await self._world.store.fork(run, seq, start)
            if accepted.new:
                self._world.oracle.forked(run, seq, start)
            return accepted

        return await self._effect(f"fork {run} at {seq} as {start.run}", apply)

    async def load(self, run: str) -> Loaded:
        """No effect, but the store may be out of reach."""
        return await self._effect(f"load {run}", lambda: self._world.store.load(run))

    async def changed(self, seen: int) -> int:
        """News, as soon as they are there."""
        self._check()
        return await self._world.store.changed(seen)

    def tick(self, worker: str, now: float, *, run: str = "", epoch: int = 0) -> bool:
        """A sign of life, unless it is lost."""
        if self._process.buried or self._world.loop.time() < self._process.deaf_until:
            return False
        return self._world.store.tick(worker, now, run=run, epoch=epoch)

    async def _effect(self, what: str, apply: Callable[[], Awaitable[T]]) -> T:
        world, process = self._world, self._process
        await self._travel()
        fate = world.fate()
        if what:
            world.note(process.name, what if fate == "applied" else f"{what}: {fate}")
        if fate == "refused":
            await self._return()
            msg = "the store of this world refuses it; try again"
            raise StoreUnavailable(msg)
        if fate == "stops before":
            world.stop(process)
            await _after(world, 0.0)
        if fate == "dies before":
            world.kill(process)
            await world.loop.create_future()
        result = await apply()
        if fate == "dies after":
            world.kill(process)
            await world.loop.create_future()
        if fate == "stops after":
            world.stop(process)
        await self._return()
        return result

    async def _travel(self) -> None:
        """To the store."""
        self._check()
        if self._world.plan.latency:
            await _after(self._world, self._latency())
            self._check()

    async def _return(self) -> None:
        """And back, in the order in which it was applied, unless the world has it otherwise."""
        loop = self._world.loop
        arrival = loop.time() + (self._latency() if self._world.plan.latency else 0.0)
        if not self._world.plan.reordered:
            arrival = self._last = max(arrival, self._last)
        if arrival > loop.time() or self._process.lane.stopped:
            await _after(self._world, arrival - loop.time())
        self._check()

    def _latency(self) -> float:
        random = self._world.random
        mean = self._world.plan.latency
        return random.expovariate(1 / mean) * (20.0 if random.random() < 0.02 else 1.0)

    def _check(self) -> None:
        if self._process.buried:
            raise Crash


async def _after(world: Surroundings, seconds: float) -> None:
    future = world.loop.create_future()
    timer = world.loop.call_later(seconds, _wake, future)
    try:
        await future
    finally:
        timer.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _said(item: Any) -> str:
    kind = getattr(item, "kind", "reported")
    return f"{kind} {item.run}"
