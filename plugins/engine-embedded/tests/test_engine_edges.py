"""What only this engine's inside can bring about."""

from __future__ import annotations

import asyncio

from perdure.testing import ManualClock, MemoryStore, Script, harness, programs
from perdure.testing.programs import Bench
from perdure_engine_embedded import EmbeddedEngine


async def test_a_run_that_is_claimed_for_nothing_is_given_back_and_its_timer_fires_later() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    async with harness(programs.app(Bench()), model=Script(programs.think), store=store, clock=clock) as h:
        engine = h.runtime.engine
        assert isinstance(engine, EmbeddedEngine)
        run = await h.start(programs.sleeper, 3600.0)
        seen = -1
        while (await h.view(run)).status != "waiting":
            seen = await store.changed(seen)
        due = clock.now() + 3600
        (worker,) = h.process.workers
        claims, _ = await store.claim(worker, due)  # by a clock that is put back before the engine looks at it
        assert [claim.start.run for claim in claims] == [run.id]
        engine._take(claims)  # noqa: SLF001 - what its own claim does
        async with asyncio.timeout(30):
            while run.id in engine._live:  # noqa: SLF001 - held, until it is given back
                seen = await store.changed(seen)
        clock.set(due)
        assert await h.result(run) >= due
