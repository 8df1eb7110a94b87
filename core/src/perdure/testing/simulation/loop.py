"""An event loop whose order is drawn from a seed: several processes, one thread, virtual time.

asyncio's scheduling and nothing of the outside world. Each process is a *lane*: what is ready in it runs first come
first served, as asyncio does it; which lane moves next is drawn. When nothing is ready, time jumps to the next timer. A
handle belongs to the lane that its context names, so whatever a process starts stays in it, and a lane can be
stopped (``SIGSTOP``), let go on, or never run again (``SIGKILL``) between any two callbacks.
"""

from __future__ import annotations

import asyncio
import inspect
from asyncio import events
from collections import deque
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

_HASTE: Final = 0.02
"""How often time passes although something is ready: a process that takes its time, as long as this (seconds)."""
_LAG: Final = 1.0
_EVER: Final = float("inf")


class Lane:
    """A process: what is ready there, and whether it runs.

    Attributes:
        name: What traces call it.
        stopped: It does not run for now.
        context: What its tasks see; copy it for each.
    """

    __slots__ = ("context", "name", "ready", "stopped")

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.ready: deque[events.Handle] = deque()
        self.stopped: bool = False
        self.context: Context = Context()
        self.context.run(_lane.set, self)


_lane: ContextVar[Lane] = ContextVar("perdure_simulated_lane")


class SimulatedFuture(asyncio.Future[Any]):
    """Hashes by order of creation: by address, the order of a set of them would change from process to process."""

    __slots__ = ("ordinal",)

    ordinal: int

    def __hash__(self) -> int:
        return self.ordinal


class SimulatedTask(asyncio.Task[Any]):
    """Hashes by order of creation, as above."""

    __slots__ = ("lane", "ordinal")

    def __init__(self, coro: Coroutine[Any, Any, Any], place: tuple[Lane, int], **options: Any) -> None:
        # Before super().__init__: from Python 3.12 on an eager task runs code in there.
        self.lane: Lane = place[0]
        self.ordinal: int = place[1]
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.ordinal


class SimulatedLoop(asyncio.AbstractEventLoop):
    """See the module.

    Args:
        random: What the order is drawn from.

    Attributes:
        handled: How many callbacks have run.
        outside: The lane of what belongs to no process: clients, people, chaos.
        tasks: All that were ever made.
        problems: What asyncio would have logged, such as exceptions in callbacks.
    """

    def __init__(self, random: random.Random) -> None:
        self.handled: int = 0
        self.tasks: list[SimulatedTask] = []
        self.problems: list[tuple[Lane, str]] = []
        self.outside: Lane = Lane("outside")
        self._random = random
        self._lanes: list[Lane] = [self.outside]
        self._time = 0.0
        self._timers: list[tuple[float, int, events.TimerHandle]] = []
        self._ordinals = count()
        self._halted = False
        self._closed = False

    # -- driving

    def lane(self, name: str) -> Lane:
        """A new process."""
        lane = Lane(name)
        self._lanes.append(lane)
        return lane

    def leave(self, lane: Lane) -> None:
        """It never runs again, and keeps what was ready: see ``enter``."""
        self._lanes.remove(lane)

    def enter(self, lane: Lane) -> None:
        """Let one that was left run again, so that its code can be unwound."""
        self._lanes.append(lane)

    def spawn(self, coro: Coroutine[Any, Any, Any], lane: Lane, name: str = "") -> SimulatedTask:
        """Make a task in a lane, whatever lane runs now."""
        return self.create_task(coro, name=name or None, context=lane.context.copy())

    def halt(self) -> None:
        """Let ``run`` return after the callback that runs now."""
        self._halted = True

    def run(self, most: int) -> bool:
        """Run until ``halt``; ``False`` if nothing was left to run before that, or after ``most`` callbacks."""
        host = events._get_running_loop()  # noqa: SLF001 - the only way to be a guest of another loop
        events._set_running_loop(self)  # noqa: SLF001 - as above
        self._halted = False
        last = self.handled + most
        try:
            while not self._halted:
                handle = self._next()
                if handle is None or self.handled > last:
                    return False
                self.handled += 1
                handle._run()  # noqa: SLF001 - what asyncio's own loop does
        finally:
            events._set_running_loop(host)  # noqa: SLF001 - as above
        return True

    def _next(self) -> events.Handle | None:
        while True:
            lanes = [lane for lane in self._lanes if lane.ready and not lane.stopped]
            if not lanes:
                if not self._pass_time(_EVER):
                    return None
                continue
            if self._random.random() < _HASTE and self._pass_time(self._time + _LAG):
                continue
            lane = lanes[int(self._random.random() * len(lanes))] if len(lanes) > 1 else lanes[0]
            handle = lane.ready.popleft()
            if not handle._cancelled:  # noqa: SLF001 - what asyncio's own loop does
                return handle

    def _pass_time(self, limit: float) -> bool:
        """Go to the next timer; ``False`` if there is none before the limit."""
        while self._timers and self._timers[0][0] <= limit:
            when, _, timer = heappop(self._timers)
            if not timer._cancelled:  # noqa: SLF001 - what asyncio's own loop does
                self._time = max(self._time, when)
                self._add(timer)
                return True
        return False

    def _add(self, handle: events.Handle) -> None:
        handle._context.get(_lane, self.outside).ready.append(handle)  # noqa: SLF001 - which process it belongs to

    @property
    def current(self) -> Lane:
        """Whose code runs."""
        return _lane.get(self.outside)

    def unheard(self, lane: Lane) -> list[asyncio.Task[Any]]:
        """The lane's tasks that failed without anybody taking notice."""
        return [task for task in self.tasks if task.lane is lane and task.done() and task._log_traceback]  # noqa: SLF001 - as asyncio finds out

    # -- what asyncio needs

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._time

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Forget everything; what is destroyed from here on is nobody's loss."""
        self._closed = True
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - we destroy it
            coro = task.get_coro()
            if task.done() and not task.cancelled():
                task.exception()
            elif inspect.iscoroutine(coro) and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
                coro.close()
        self._timers.clear()
        for lane in self._lanes:
            lane.ready.clear()

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._add(handle)
        return handle

    call_soon_threadsafe = call_soon  # there is but one thread

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        timer = events.TimerHandle(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._ordinals), timer))
        return timer

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """It is dropped when its time has come."""

    def create_future(self) -> SimulatedFuture:
        future = SimulatedFuture(loop=self)
        future.ordinal = next(self._ordinals)
        return future

    def create_task(  # pyright: ignore[reportIncompatibleMethodOverride] - typeshed also allows generators
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> SimulatedTask:
        ordinal = next(self._ordinals)
        lane = _lane.get(self.outside) if context is None else context.get(_lane, self.outside)
        name = name or f"task-{ordinal}"
        task = SimulatedTask(coro, (lane, ordinal), loop=self, name=name, context=context, **options)
        self.tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> SimulatedFuture:  # noqa: ARG002 - asyncio's signature
        """Run it here, at a time of the seed's choosing."""
        future = self.create_future()
        self.call_later(self._random.random(), _run_into, future, func, *args)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._closed:
            task = context.get("task") or context.get("future")
            lane = getattr(task, "lane", None) or _lane.get(self.outside)
            self.problems.append((lane, f"{context.get('message')}: {context.get('exception')!r}"))

    default_exception_handler = call_exception_handler


def _run_into(future: asyncio.Future[Any], func: Callable[..., Any], *args: Any) -> None:
    if future.done():
        return
    try:
        future.set_result(func(*args))
    except Exception as error:  # noqa: BLE001 - what a thread raises is its caller's
        future.set_exception(error)
