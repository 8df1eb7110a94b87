"""The embedded engine as the simulation makes it; and engines and stores that each break a promise."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from perdure.errors import RequestClosed
from perdure.messages import Accepted, Claim, Commit, Delivery, Loaded, Start
from perdure.ports import Clock, DurableStore, EngineParts
from perdure.testing import MemoryStore
from perdure_engine_embedded import EmbeddedEngine, EngineSettings


def embedded(parts: EngineParts, dice: random.Random) -> EmbeddedEngine:
    """The engine, with settings that make it evict and queue much, or not at all."""
    cache, active = dice.choice((0, 1, 1024)), dice.choice((1, 2, 2048))
    return EmbeddedEngine(parts, EngineSettings(tick=2.0, pause=0.5, stall=0.0, cache=cache, active=active))


# -- stores


class Unfenced(MemoryStore):
    """Takes a commit under any epoch, from anybody."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._holders: dict[str, tuple[str, int]] = {}

    async def accept(self, items, *, worker=None):
        accepted, claims = await super().accept(items, worker=worker)
        return accepted, self._seen(worker, claims)

    async def claim(self, worker, now, *, limit=256, targets=None):
        claims, wake = await super().claim(worker, now, limit=limit, targets=targets)
        return self._seen(worker, claims), wake

    async def commit(self, commit: Commit, *, worker):
        holder, epoch = self._holders[commit.run]
        return self._seen(holder, await super().commit(commit._replace(epoch=epoch), worker=holder))

    def _seen(self, worker, claims):
        self._holders.update((claim.start.run, (worker, claim.epoch)) for claim in claims)
        return claims


class Forgetful(MemoryStore):
    """Says of each tenth commit that it is written, and it is not."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._commits = 0

    async def commit(self, commit: Commit, *, worker):
        self._commits += 1
        return () if self._commits % 10 == 0 else await super().commit(commit, worker=worker)


class Keyless(MemoryStore):
    """Forgets idempotency keys."""

    async def accept(self, items, *, worker=None):
        without = [item._replace(key=None) if isinstance(item, Start) else item for item in items]
        return await super().accept(without, worker=worker)


class Jumbled(MemoryStore):
    """Hands out each turn at once, whether or not the one before it has ended."""

    async def accept(self, items, *, worker=None):
        accepted, claims = await super().accept(items, worker=worker)
        known = {claim.start.run for claim in claims}
        turns = [item for item in items if isinstance(item, Start) and item.session is not None]
        return accepted, [*claims, *(Claim(turn, 1) for turn in turns if turn.run not in known)]


class Timeless(MemoryStore):
    """Tells nobody when a timer is due."""

    async def claim(self, worker, now, *, limit=256, targets=None):
        claims, _ = await super().claim(worker, now, limit=limit, targets=targets)
        return claims, None


class Gullible(MemoryStore):
    """Thanks everybody for an answer, whoever was first."""

    async def accept(self, items, *, worker=None):
        try:
            return await super().accept(items, worker=worker)
        except RequestClosed:
            return [Accepted(item.run, new=True) for item in items], ()

    async def request(self, request):
        view = await super().request(request)
        return view and view.model_copy(update={"status": "open"})


class Lossy(MemoryStore):
    """Loses every second answer that it has accepted."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._answers = 0

    async def accept(self, items, *, worker=None):
        if isinstance(items[0], Delivery) and items[0].kind == "answer":
            self._answers += 1
            if self._answers % 2 == 0:
                return [Accepted(items[0].run, new=True)], ()
        return await super().accept(items, worker=worker)


class Repetitive(MemoryStore):
    """Writes twice what a turn says."""

    async def commit(self, commit: Commit, *, worker):
        return await super().commit(commit._replace(log=commit.log * 2), worker=worker)


# -- engines


class _Amnesia:
    """A store that leaves out what was recorded last when a journal is loaded."""

    def __init__(self, store: DurableStore) -> None:
        self._store = store

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    async def load(self, run: str) -> Loaded:
        loaded = await self._store.load(run)
        ends_in_step = bool(loaded.entries) and loaded.entries[-1].kind == "step"
        return loaded._replace(entries=loaded.entries[:-1]) if ends_in_step else loaded


def forgets_the_last_step(parts: EngineParts, dice: random.Random) -> EmbeddedEngine:
    """Runs it again when it takes a run over."""
    return embedded(replace(parts, store=_Amnesia(parts.store)), dice)


class _Fast:
    """A clock that goes two seconds fast."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.now() + 2.0

    async def sleep_until(self, when: float) -> None:
        await self._clock.sleep_until(when - 2.0)


def fires_early(parts: EngineParts, dice: random.Random) -> EmbeddedEngine:
    """Fires timers before their time."""
    return embedded(replace(parts, clock=_Fast(parts.clock)), dice)


def changes_keys(parts: EngineParts, dice: random.Random) -> EmbeddedEngine:
    """Gives each attempt a key of its own."""
    (witness,) = parts.step_middleware

    async def renamed(step, proceed):
        return await witness(step._replace(key=f"{step.key} {step.attempt}"), proceed)

    return embedded(replace(parts, step_middleware=(renamed,)), dice)


class _Heedless(EmbeddedEngine):
    async def submit(self, start: Start):
        self.failed = asyncio.get_running_loop().create_task(_fails(), name="heedless")
        return await super().submit(start)


async def _fails() -> None:
    msg = "nobody looks at this"
    raise RuntimeError(msg)


def leaves_a_failure_unheard(parts: EngineParts, _: random.Random) -> EmbeddedEngine:
    """Makes tasks that fail, and looks at none of them."""
    return _Heedless(parts, EngineSettings(tick=2.0, stall=0.0))


Maker = Callable[[EngineParts, random.Random], EmbeddedEngine]

BROKEN: dict[str, tuple[Maker, Callable[[Clock], DurableStore], set[str]]] = {
    "takes commits under any epoch": (embedded, Unfenced, {"P6"}),
    "says that a commit is written which is not": (embedded, Forgetful, {"P1"}),
    "forgets idempotency keys": (embedded, Keyless, {"P7"}),
    "hands out turns too soon": (embedded, Jumbled, {"P4"}),
    "never says when a timer is due": (embedded, Timeless, {"P10"}),
    "thanks for a second answer": (embedded, Gullible, {"P13"}),
    "loses answers": (embedded, Lossy, {"P10"}),
    "writes twice what a turn says": (embedded, Repetitive, {"P5"}),
    "gives each attempt a key of its own": (changes_keys, MemoryStore, {"P3"}),
    "runs a recorded step again": (forgets_the_last_step, MemoryStore, {"P2"}),
    "fires timers early": (fires_early, MemoryStore, {"P8"}),
    "leaves a failure unheard": (leaves_a_failure_unheard, MemoryStore, {"-"}),
}
"""What is wrong with it, the engine, the store, and the promises that must be found broken."""
