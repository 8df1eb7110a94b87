"""Those who use a simulated world: clients who insist, people who answer, operators who interfere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from perdure.errors import CallFailed, RequestClosed, RetryableError, RunActive, StoreUnavailable, UpdateRejected
from perdure.messages import Delivery, Inquiry, Start
from perdure.testing.simulation import jobs

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

    from perdure.messages import Accepted, Request, RunView
    from perdure.ports import Engine
    from perdure.testing.simulation.clocks import WallClock
    from perdure.testing.simulation.jobs import Job
    from perdure.testing.simulation.oracle import Oracle
    from perdure.testing.simulation.plan import Plan
    from perdure.testing.simulation.processes import Process

T = TypeVar("T")


class HungUp(RetryableError):
    """A client heard nothing: the process died, or took too long. What became of the call is unknown."""


class Place(Protocol):
    """What those who use a world know of it."""

    wall: WallClock
    random: random.Random
    plan: Plan
    oracle: Oracle

    def note(self, process: str, what: str) -> None:
        """Write it down in the trace."""
        ...

    def begin(self, coro: Coroutine[Any, Any, Any]) -> None:
        """Something that has to come to its end."""
        ...

    async def any_process(self) -> Process:
        """One that takes calls, as soon as there is one."""
        ...

    async def pause(self, seconds: float) -> None:
        """Wait."""
        ...


class Clients:
    """See the module.

    Attributes:
        acknowledged: The runs that starts were acknowledged with, by the starts' keys.
    """

    def __init__(self, place: Place) -> None:
        self.acknowledged: dict[str, str] = {}
        self._place = place
        self._random = place.random
        self._oracle = place.oracle
        self._words = 0

    # -- starting

    async def start(self, ordinal: int) -> None:
        """Insist on a start, give it the company that it needs, and then do something else with it, or nothing."""
        place, dice = self._place, self._random
        job = jobs.draw(dice, ordinal)
        # Turns come together, so that there is an order to be kept.
        await place.pause(place.plan.seconds * (0.3 if job.kind == "turn" else dice.uniform(0.0, 0.7)))
        key = f"key {ordinal}"
        due = place.wall.now() + dice.uniform(0.0, 20.0) if dice.random() < 0.15 else None
        run = (await self._submit(job, f"run {ordinal}", key, due=due)).run
        place.note("client", f"{ordinal}: {job.target} is {run}")
        self.acknowledged[key] = run
        if job.target == "world.count":
            place.begin(self._update(run, job.company))
        elif job.company:
            place.begin(self._write(run, job.company))
        whim = dice.choice(_WHIMS)
        if not (job.target in jobs.FRAGILE and whim in {"cancel", "terminate"}):
            await getattr(self, f"_{whim}")(run, key, job)

    async def _submit(self, job: Job, id_: str, key: str, *, due: float | None = None, reuse: Any = "join") -> Accepted:
        asked = 0

        async def submit(engine: Engine) -> Accepted:
            nonlocal asked
            asked += 1
            run = id_ if reuse != "join" else f"{id_}.{asked}"
            now = self._place.wall.now()
            start = Start(run, job.kind, job.target, job.payload, now, session=job.session, key=key)
            return await engine.submit(start._replace(due=due, reuse=reuse))

        return await self._insist(submit)

    # -- whims

    async def _nothing(self, run: str, key: str, job: Job) -> None:
        """Go away."""

    async def _repeat(self, run: str, key: str, job: Job) -> None:
        both = self._submit(job, f"{run} again", key), self._submit(job, f"{run} once more", key)
        for again in await asyncio.gather(*both):
            if again.run != run or again.new:
                self._oracle.blame("P7", f"{key!r} is {run}, then {again}")

    async def _cancel(self, run: str, _: str, __: Job) -> None:
        await self._some_time()
        await self._deliver(run, "cancel", "cancel", b'"a client calls it off"')

    async def _terminate(self, run: str, _: str, __: Job) -> None:
        await self._some_time()
        await self._deliver(run, "terminate", "terminate", b'"an operator has enough"')

    async def _suspend(self, run: str, _: str, __: Job) -> None:
        """Set it aside, and let it go on later, whether or not it has come to that before."""
        await self._some_time()
        await self._deliver(run, "suspend", "suspend", b'"an operator looks at it"')
        while not self._oracle.runs[run].finished:
            await self._some_time()
            if (await self._deliver(run, "resume", self._word("resume"), None)).new:
                return

    async def _await(self, run: str, _: str, __: Job) -> None:
        self._check_view(await self._insist(lambda engine: engine.wait(run), patience=30.0))

    async def _restart(self, run: str, key: str, job: Job) -> None:
        if job.target in jobs.STEADY:
            await self._ended(run)
            again = await self._submit(job, run, f"{key} again", reuse="restart")
            if again.run != run:
                self._oracle.blame("P7", f"{run} was begun anew as {again.run}")

    async def _rewind(self, run: str, _: str, job: Job) -> None:
        if job.target in jobs.ALONE:
            await self._ended(run)
            seq = self._random.randint(0, len(self._oracle.runs[run].journal))
            try:
                await self._insist(lambda engine: engine.upkeep.rewind(run, seq, at=self._place.wall.now()))
            except RunActive:
                self._place.note("operator", f"{run} was rewound already")  # by a call that nobody heard of

    async def _fork(self, run: str, key: str, job: Job) -> None:
        if job.target in jobs.ALONE:
            await self._some_time()
            start = self._oracle.runs[run].start
            if not start.generation:
                seq = self._random.randint(0, len(self._oracle.runs[run].journal))
                fork = start._replace(run=f"{run} fork", key=None, due=None)
                self.acknowledged[f"{key} fork"] = fork.run
                await self._insist(lambda engine: engine.upkeep.fork(run, seq, fork))

    async def _ended(self, run: str) -> None:
        while not (await self._insist(lambda engine: engine.wait(run), patience=30.0)).finished:
            await self._some_time()

    def _check_view(self, view: RunView) -> None:
        record = self._oracle.runs[view.id]
        if not view.finished and view.status not in {"parked", "suspended"}:
            self._oracle.blame("P10", f"wait() for {view.id} returned while it is {view.status}")
        if view.finished and view.status != record.status:
            self._oracle.blame("P1", f"wait() says that {view.id} is {view.status}; it is {record.status}")

    # -- company

    async def _write(self, run: str, letters: int) -> None:
        """Letters, one after the other."""
        for i in range(letters):
            await self._some_time()
            key = f"letter {i}"
            await self._deliver(run, "event", key, f'"letter {i}"'.encode(), name="letter")

    async def _update(self, run: str, updates: int) -> None:
        """Updates, one after the other, and looks in between."""
        for i in range(updates):
            await self._some_time()
            try:
                if self._random.random() < 0.3:
                    await self._refuse(run, i)
                told = await self._inquire(Inquiry(run, "update", "add", b'{"n":1}', f"update {i}"))
                if told != str(2 * i + 2).encode():
                    self._oracle.blame("P7", f"update {i} of {run} came to {told!r}, expected {2 * i + 2}")
                seen = await self._inquire(Inquiry(run, "query", "current", b"{}"))
                if int(seen) < 2 * i + 2:
                    self._oracle.blame("P1", f"{run} says that it has {seen!r}, after {i + 1} updates")
            except (RunActive, CallFailed):
                if not self._oracle.runs[run].finished:
                    raise
                self._place.note("client", f"{run} has ended before update {i}")
                return

    async def _refuse(self, run: str, ordinal: int) -> None:
        try:
            told = await self._inquire(Inquiry(run, "update", "add", b'{"n":-1}', f"no update {ordinal}"))
        except UpdateRejected:
            return
        self._oracle.blame("P13", f"{run} took an update that its validator refuses: {told!r}")

    async def _inquire(self, inquiry: Inquiry) -> bytes:
        return await self._insist(lambda engine: engine.inquire(inquiry))

    # -- people and operators

    async def answer(self, request: Request, person: str) -> None:
        """Somebody answers, if nobody was faster."""
        await self._some_time()
        value = f'"{person} answers {request.prompt}"'.encode()
        try:
            accepted = await self._deliver(request.run, "answer", request.id, value)
        except RequestClosed:
            self._place.note("people", f"{person} is too late for {request.id}")
            return
        question = self._oracle.runs[request.run].questions.get(request.id)
        if accepted.new and question is not None and question.answer != value:
            self._oracle.blame("P13", f"{person} was told that {request.id} took {value!r}; it has {question.answer!r}")

    async def resume(self, run: str) -> None:
        """An operator gives a run another try that was set aside as poison."""
        await self._place.pause(5.0)
        await self._deliver(run, "resume", self._word("resume"), None)

    # -- calling

    async def _deliver(self, run: str, kind: Any, key: str, value: bytes | None, *, name: str = "") -> Accepted:
        def deliver(engine: Engine) -> Coroutine[Any, Any, Accepted]:
            return engine.deliver(Delivery(run, kind, key, self._place.wall.now(), value, name=name))

        return await self._insist(deliver)

    async def _insist(self, call: Callable[[Engine], Coroutine[Any, Any, T]], *, patience: float = 10.0) -> T:
        """Call one process after the other until one replies."""
        while True:
            try:
                return await self._call(call, patience)
            except (HungUp, StoreUnavailable):
                await self._place.pause(self._random.uniform(0.1, 2.0))

    async def _call(self, call: Callable[[Engine], Coroutine[Any, Any, T]], patience: float) -> T:
        process = await self._place.any_process()
        task = process.call(call)
        waits = {task, process.gone}
        await asyncio.wait(waits, timeout=self._random.uniform(0.1, patience), return_when=asyncio.FIRST_COMPLETED)
        if task.done() and not task.cancelled():
            return task.result()
        # It may go on unheard, as a request whose caller has hung up.
        if self._random.random() < 0.5:
            task.cancel()
        raise HungUp

    async def _some_time(self) -> None:
        await self._place.pause(self._random.expovariate(1 / 5.0))

    def _word(self, what: str) -> str:
        """A key that nobody else uses."""
        self._words += 1
        return f"{what} {self._words}"


_WHIMS: Final = (
    "nothing", "nothing", "repeat", "repeat", "cancel", "cancel", "terminate", "suspend", "await", "await", "restart",
    "rewind", "fork",
)  # fmt: skip
