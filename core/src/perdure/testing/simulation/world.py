"""A simulated world, from its beginning to its end: processes that die, stop and come back, and what befalls them."""

from __future__ import annotations

import asyncio
import random as random_
from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from perdure.errors import StoreUnavailable
from perdure.testing.simulation.clients import Clients
from perdure.testing.simulation.clocks import WallClock
from perdure.testing.simulation.loop import SimulatedLoop
from perdure.testing.simulation.oracle import Oracle
from perdure.testing.simulation.plan import Plan
from perdure.testing.simulation.processes import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from perdure.messages import Request
    from perdure.ports import Clock, DurableStore, Engine, EngineParts, Programs
    from perdure.testing.simulation.processes import Fate

_PATIENCE: Final = 600.0
"""Seconds after the last mishap by which everything must have ended; whatever the clock was put back comes on top."""

_MOST: Final = 400_000
"""Callbacks of a world; some thousands are usual."""

_TO_STOP: Final = 20_000
"""Callbacks that engines may take to stop."""

_TO_UNWIND: Final = 10.0
"""Seconds after which the code of a dead process is left as it is."""


class World:
    """See the module. Fills ``processes.Surroundings``.

    Args:
        seed: Everything that happens follows from it.
        engine: Makes an engine; may draw its settings.
        store: Makes the store that they share, on the world's clock.
        plan: How rough it is; by default drawn, too.
    """

    def __init__(
        self,
        seed: int,
        engine: Callable[[EngineParts, random_.Random], Engine],
        store: Callable[[Clock], DurableStore],
        programs: Programs,
        plan: Plan | None,
    ) -> None:
        self.random: random_.Random = random_.Random(seed)  # noqa: S311 - replayable by purpose
        self.plan: Plan = plan or Plan.draw(self.random)
        self.loop: SimulatedLoop = SimulatedLoop(self.random)
        self.wall: WallClock = WallClock(self.loop)
        self.oracle: Oracle = Oracle(self)
        self.store: DurableStore = store(self.wall)
        self.programs: Programs = programs
        self.counts: Counter[str] = Counter()
        self.trace: list[str] = []
        self.over: bool = False
        self._make_engine = engine
        self._processes: dict[str, Process] = {}
        self._dead: list[Process] = []
        self._started: asyncio.Event = asyncio.Event()
        self._calm = False
        self._no_store_until = 0.0
        self.put_back: float = 0.0
        self._clients = Clients(self)
        self._busy = 0
        self._closing = False

    # -- from beginning to end

    def run(self) -> None:
        """Let it happen, and judge it."""
        for slot in range(self.plan.workers):
            self._spawn(self._keep_up(slot))
        for ordinal in range(self.plan.jobs):
            self.begin(self._clients.start(ordinal))
        self._spawn(self._chaos())
        if not self.loop.run(_MOST):
            self.oracle.blame("P10", f"nothing moves, or nothing rests, after {self.loop.handled} callbacks")
        self._shut_down()
        judgement = self._spawn(self._judge())
        judgement.add_done_callback(lambda _: self.loop.halt())
        self.loop.run(_MOST)
        self.over = True
        self._bury()
        self.loop.close()

    def digest(self) -> str:
        """Of everything that happened."""
        return blake2b("\n".join(self.trace).encode(), digest_size=16).hexdigest()

    def note(self, process: str, what: str) -> None:
        """Write it down in the trace."""
        if not self.over:
            self.trace.append(f"{self.loop.handled} {self.loop.time():.6f} {process} {what}")

    def logged(self, message: str, error: BaseException | None) -> None:
        """An engine logs an exception; one that stops may say so of a store that refuses."""
        lane = self.loop.current
        process = self._processes.get(lane.name)
        if self.over or (process is not None and process.stopping and isinstance(error, StoreUnavailable)):
            return
        self.oracle.blame("-", f"{lane.name} logs: {message}: {error!r}")

    def _shut_down(self) -> None:
        """Stop the engines that are left, in good order."""
        self._closing = True
        live = list(self._processes.values())
        for process in live:
            process.lane.stopped = False
            for call in process.calls:
                call.cancel()
        stops = [process.shut_down() for process in live]
        done = self._spawn(_all_done(stops))
        done.add_done_callback(lambda _: self.loop.halt())
        if not self.loop.run(_TO_STOP):
            self.oracle.blame("P10", f"the engines did not stop within {_TO_STOP} callbacks")
        lanes = {process.lane.name: process.lane for process in live}
        for lane in (*lanes.values(), self.loop.outside):
            for task in self.loop.unheard(lane):
                self.oracle.blame("-", f"{task.get_name()} in {lane.name} failed unheard: {task.exception()!r}")
        for lane, problem in self.loop.problems:
            if lane.name in lanes or lane is self.loop.outside:
                self.oracle.blame("-", f"in {lane.name}: {problem}")
        for task in self.loop.tasks:
            if task.lane.name in lanes and not task.done():
                self.oracle.blame("-", f"{task.get_name()} in {task.lane.name} was left behind by stop()")

    async def _judge(self) -> None:
        for key, run in self._clients.acknowledged.items():
            if run not in self.oracle.runs:
                self.oracle.blame("P1", f"{key} was acknowledged as {run}, which was never accepted")
        await self.oracle.judge(self.store, self.programs)

    def _bury(self) -> None:
        """Unwind the code of the dead, which reaches nobody any more; else the garbage collector would."""
        for process in self._dead:
            process.buried, process.lane.stopped = True, False
            self.loop.enter(process.lane)
            left = [task for task in self.loop.tasks if task.lane is process.lane and not task.done()]
            unwinding = self.loop.spawn(_unwind(process, left), process.lane)
            unwinding.add_done_callback(lambda _: self.loop.halt())
            self.loop.run(_TO_STOP)

    # -- what processes know of it

    def fate(self) -> Fate:
        """What becomes of an effect."""
        if self.loop.time() < self._no_store_until:
            return "refused"
        plan = self.plan
        drawn = self.random.random()
        if self._calm or drawn >= plan.refused + plan.fatal + plan.paused:
            return "applied"
        if drawn < plan.refused:
            return "refused"
        before = self.random.random() < 0.5
        if drawn < plan.refused + plan.fatal:
            return "dies before" if before else "dies after"
        return "stops before" if before else "stops after"

    def kill(self, process: Process) -> None:
        """It never runs again; the store learns of it at once, later, or never."""
        if process.gone.done():
            return
        self.counts["kills"] += 1
        self.note(process.name, "is killed")
        self._take_off(process)
        self.loop.leave(process.lane)
        self._dead.append(process)
        see_death = getattr(self.store, "kill", None)
        delay = self.random.choice((0.0, 3.0, None))
        if see_death is not None and delay is not None:
            self.loop.call_later(delay, see_death, process.name, context=self.loop.outside.context)

    def stop(self, process: Process) -> None:
        """It does not run for a while."""
        if process.lane.stopped:
            return
        self.counts["stops"] += 1
        seconds = self.random.expovariate(1 / 10.0)
        self.note(process.name, f"is stopped for {seconds:.3f} s")
        process.lane.stopped = True
        self.loop.call_later(seconds, self._continue, process, context=self.loop.outside.context)

    def _continue(self, process: Process) -> None:
        self.note(process.name, "goes on")
        process.lane.stopped = False

    # -- what the oracle tells of

    def has_seen(self, worker: str, when: float) -> bool:
        """Whether a worker has read that time from its clock."""
        return when in self._processes[worker].clock.shown

    def has_been(self, when: float) -> bool:
        """Whether any clock has shown that time, or a later one."""
        return self.wall.has_been(when)

    def asked(self, request: Request) -> None:
        """Somebody answers, or two do, or nobody, where there is a deadline."""
        if request.prompt == "sure" or self.random.random() < 0.6:
            self.begin(self._clients.answer(request, "one"))
            if self.random.random() < 0.3:
                self.begin(self._clients.answer(request, "two"))

    def parked(self, run: str) -> None:
        """An operator gives it another try."""
        self.counts["parked"] += 1
        self.begin(self._clients.resume(run))

    def all_ended(self) -> None:
        """If nothing else is to come, this is the end."""
        if self._calm and not self._busy and not self.oracle.open:
            self.loop.halt()

    # -- processes

    async def _keep_up(self, slot: int) -> None:
        """One process after the other."""
        generation = 0
        while not self._closing:
            process = Process(self, f"worker {slot}.{generation}", self._make_engine)
            self._processes[process.name] = process
            self.note(process.name, "starts")
            start = process.call(lambda engine: engine.start())
            await asyncio.wait({start, process.gone}, return_when=asyncio.FIRST_COMPLETED)
            if self._closing:
                return
            if process.gone.done():
                pass
            elif isinstance(start.exception(), StoreUnavailable):
                await self._drain(process)
            else:
                start.result()
                process.up = True
                self._started.set()
                await process.gone
            generation += 1
            await self.pause(self.random.choice((0.0, 0.5, 5.0)))

    async def _drain(self, process: Process) -> None:
        """Shut it down in good order."""
        self.note(process.name, "is shut down")
        stop = process.shut_down(self.random.choice((0.0, 1.0)))
        await asyncio.wait({stop, process.gone}, return_when=asyncio.FIRST_COMPLETED)
        if not process.gone.done():
            stop.result()
            self._take_off(process)

    def _take_off(self, process: Process) -> None:
        process.up = False
        process.gone.set_result(None)
        del self._processes[process.name]

    async def any_process(self) -> Process:
        """One that takes calls, as soon as there is one."""
        while True:
            up = [process for process in self._processes.values() if process.up]
            if up:
                return self.random.choice(up)
            self._started.clear()
            await self._started.wait()

    # -- chaos

    async def _chaos(self) -> None:
        while self.plan.mishaps:
            await self.pause(self.random.expovariate(1 / self.plan.pause))
            if self.loop.time() >= self.plan.seconds:
                break
            mishap = self.random.choice(self.plan.mishaps)
            self.counts[mishap] += 1
            getattr(self, f"_do_{mishap}")()
        await self.pause(max(0.0, self.plan.seconds - self.loop.time()))
        self.note("chaos", "ends")
        self._calm = True
        self._no_store_until = 0.0
        self.loop.call_later(_PATIENCE + self.put_back, self._give_up)
        self.all_ended()

    def _do_kill(self) -> None:
        if self._processes:
            self.kill(self.random.choice(list(self._processes.values())))

    def _do_stop(self) -> None:
        if self._processes:
            self.stop(self.random.choice(list(self._processes.values())))

    def _do_deaf(self) -> None:
        if self._processes:
            process = self.random.choice(list(self._processes.values()))
            process.deaf_until = self.loop.time() + self.random.uniform(5.0, 30.0)
            self.note(process.name, "is not heard of")

    def _do_outage(self) -> None:
        self._no_store_until = self.loop.time() + self.random.uniform(0.1, 5.0)
        self.note("store", f"refuses all until {self._no_store_until:.3f}")

    def _do_jump(self) -> None:
        seconds = self.random.uniform(-self.plan.jump, self.plan.jump)
        self.put_back += max(0.0, -seconds)
        self.note("clock", f"jumps by {seconds:.3f}")
        self.wall.jump(seconds)

    def _do_drain(self) -> None:
        up = [process for process in self._processes.values() if process.up]
        if up:
            self._spawn(self._drain(self.random.choice(up)))

    # -- odds and ends

    def _spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.loop.spawn(coro, self.loop.outside)

    def begin(self, coro: Coroutine[Any, Any, Any]) -> None:
        """Something that has to come to its end."""
        self._busy += 1
        self._spawn(coro).add_done_callback(self._ended, context=self.loop.outside.context)

    def _ended(self, _: object) -> None:
        self._busy -= 1
        self.all_ended()

    def _give_up(self) -> None:
        if not self._closing:
            stuck = [run for run, record in self.oracle.runs.items() if not record.finished]
            self.oracle.blame("P10", f"{self._busy} clients still wait; not finished: {stuck}")
            self.loop.halt()

    async def pause(self, seconds: float) -> None:
        """Wait."""
        await asyncio.wait([self.loop.create_future()], timeout=seconds)


async def _all_done(tasks: list[Any]) -> None:
    if tasks:
        await asyncio.wait(tasks)


async def _unwind(process: Process, left: list[Any]) -> None:
    await asyncio.wait({process.shut_down()}, timeout=_TO_UNWIND)  # it may have died while it was shut down
    for task in left:
        task.cancel()
    await _all_done(left)
