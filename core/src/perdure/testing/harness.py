"""A runtime for tests: memory store, manual clock, any model; crashes on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from perdure import config
from perdure.hookspecs import hookimpl
from perdure.runs import Run
from perdure.runtime import Runtime
from perdure.testing.clock import ManualClock
from perdure.testing.faults import Crash, CrashingStore
from perdure.testing.stores import MemoryStore

if TYPE_CHECKING:
    from perdure.messages import RequestView, RunView
    from perdure.ports import DurableStore, Model, StepInfo

T = TypeVar("T")

_PATIENCE = 30.0  # seconds of real time after which a test has gone wrong
_STILL = 1000  # moments without anything that moves, after which nothing will: a loaded disk may take its time


class _Bodies:
    """A plugin that knows how many step bodies run: while one does, time does not jump."""

    name = "perdure-harness"

    def __init__(self) -> None:
        self.running = 0

    @hookimpl
    def perdure_step_middleware(self) -> list[Any]:
        return [self._count]

    async def _count(self, step: StepInfo, proceed: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ARG002 - the port
        self.running += 1
        try:
            return await proceed()
        finally:
            self.running -= 1


class Harness:
    """What ``harness`` gives: a runtime, the time, and a switch to crash it.

    Attributes:
        process: The store as the running process sees it; dies with it.
        clock: The time; ``advance`` moves it.
        runtime: The runtime as it is now: another one after each crash.
    """

    def __init__(
        self,
        apps: tuple[object, ...],
        model: Model | None,
        store: DurableStore,
        clock: ManualClock,
        kill: Callable[[str], object] | None,
    ) -> None:
        self.clock = clock
        self.runtime: Runtime
        self._apps = apps
        self._model = model
        self._store = store
        self._kill = store.kill if kill is None and isinstance(store, MemoryStore) else kill
        self.process: CrashingStore
        self._stack = AsyncExitStack()
        self._bodies = _Bodies()

    async def start(self, callee: Any, /, *args: Any, **kwargs: Any) -> Run[Any]:
        """See ``Runtime.start``."""
        return await self.runtime.start(callee, *args, **kwargs)

    async def call(self, callee: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See ``Runtime.call``; gives up after 30 s of real time."""
        return await self.result(await self.start(callee, *args, **kwargs))

    async def result(self, run: Run[Any]) -> Any:
        """The run's result, as the type that ``start`` gave it; gives up after 30 s of real time."""
        return await self._current(run).result(_PATIENCE)

    async def skip(self, run: Run[Any]) -> Any:
        """The run's result, without waiting for time: whenever nothing moves, the clock jumps to what is due next.

        A workflow of 30 days takes milliseconds. Raises as ``Run.result``, and ``AssertionError`` if the run waits for
        something that no time brings, or 30 s of real time went by.
        """
        try:
            async with asyncio.timeout(_PATIENCE):
                still = 0
                while not ((view := await self.view(run)).finished or view.status == "parked"):
                    still = still + 1 if await self._jump() else 0
                    if still == _STILL and view.status in {"waiting", "suspended"}:
                        waits = "; ".join(request.prompt for request in view.requests) or "an event or an update"
                        msg = f"{run!r} waits for what no time brings: {waits}"
                        raise AssertionError(msg)
        except TimeoutError:
            msg = f"{run!r} does not end: after {_PATIENCE:g} s it is {(await self.view(run)).status}"
            raise AssertionError(msg) from None
        return await self.result(run)

    async def _jump(self) -> bool:
        """Jump, if nothing has moved for a moment; whether nothing moves, and nobody waits for time."""
        wake, before = self.clock.next_wake, self.process.effects
        await _moment()
        if self._bodies.running or self.process.effects != before or self.clock.next_wake != wake:
            return False
        if wake is not None:
            self.clock.set(wake)
        return wake is None

    async def until_waiting(self, run: Run[Any]) -> tuple[RequestView, ...]:
        """Until the run waits for answers; return the open requests.

        Raises:
            AssertionError: It finished, failed or was parked instead, or 30 s of real time went by.
        """
        view = await self._current(run).wait(_PATIENCE, until_waiting=True)
        if not view.requests:
            msg = f"run {run.id!r} asks for nothing; it is {view.status}: {view.error or view.result!r}"
            raise AssertionError(msg)
        return view.requests

    async def answer(self, request: RequestView | str, value: object) -> None:
        """Answer a request."""
        await self.runtime.answer(request if isinstance(request, str) else request.id, value)

    async def view(self, run: Run[Any]) -> RunView:
        """The run as it stands."""
        return await self.runtime.view(run.id)

    def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Move the time; what is due happens."""
        self.clock.advance(((days * 24 + hours) * 60 + minutes) * 60 + seconds)

    async def insist(
        self,
        act: Callable[[], Awaitable[T]],
        *,
        patience: float = _PATIENCE,
        after_death: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """Do something until it is acknowledged: whenever the process dies, start another, and do it again.

        Args:
            act: What to do.
            patience: Seconds of real time that each attempt has.
            after_death: Called between two processes.

        Returns:
            What the first attempt whose process lived to its end has returned. Raises what that has raised, and
            ``AssertionError`` when the patience is over.
        """
        while True:
            died = asyncio.ensure_future(self.process.died.wait())
            work = asyncio.ensure_future(act())
            try:
                await asyncio.wait({died, work}, return_when=asyncio.FIRST_COMPLETED, timeout=patience)
                if work.done() and not self.process.crashed:
                    return work.result()
                if not self.process.crashed:
                    msg = f"after {patience:g} s it is neither done, nor has the process died"
                    raise AssertionError(msg)
            finally:
                died.cancel()
                work.cancel()
                await asyncio.gather(died, work, return_exceptions=True)
            if after_death is not None:
                await after_death()
            await self.restart()

    async def crash(self) -> None:
        """The process dies: nothing that was not committed survives. A new one starts on the same store."""
        self.process.crash()
        await self.restart()

    async def restart(self, *, at: int | None = None, when: Literal["before", "after"] = "before") -> None:
        """Start a process after one that died (``crash`` does so); see ``open``."""
        await self.close()
        for worker in self.process.workers:  # its locks are gone with it, which a store sees at once
            if self._kill is not None:
                self._kill(worker)
            else:
                await self._store.leave(worker)
        await self.open(at=at, when=when)

    async def open(self, *, at: int | None = None, when: Literal["before", "after"] = "before") -> None:
        """Start a process (``harness`` has done so), one that dies at an effect if that is asked for."""
        self.process = CrashingStore(self._store, at=at, when=when)
        self._stack = AsyncExitStack()
        self.runtime = await self._stack.enter_async_context(
            Runtime.open(
                *self._apps,
                self._bodies,
                settings=config.Settings(plugins=config.PluginSettings(block=frozenset({"otel"}))),
                store=self.process,
                model=self._model,
                clock=self.clock,
            )
        )

    async def close(self) -> None:
        """Stop (``harness`` will do so). A process that died stops no more: it may have died of its last write."""
        with suppress(Crash):
            await self._stack.aclose()

    def _current(self, run: Run[Any]) -> Run[Any]:
        return run.on(self.runtime)


async def _moment() -> None:
    """Two milliseconds of real time."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    handle = loop.call_later(0.002, future.set_result, None)
    try:
        await future
    finally:
        handle.cancel()


@asynccontextmanager
async def harness(
    *apps: object,
    model: Model | None = None,
    store: DurableStore | None = None,
    clock: ManualClock | None = None,
    kill: Callable[[str], object] | None = None,
) -> AsyncGenerator[Harness]:
    """Open apps for a test; needs an engine plugin (``perdure-engine-embedded``).

    Args:
        *apps: Apps and other hook plugins.
        model: What every agent thinks with, such as ``Script(…)``.
        store: Where everything lies; by default a new memory store.
        clock: The time; by default a new manual clock.
        kill: Tells a store of your own that a worker (by its id) died; otherwise it is told that it left.
    """
    clock = clock or ManualClock()
    opened = Harness(apps, model, store or MemoryStore(clock), clock, kill)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()
