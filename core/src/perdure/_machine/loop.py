"""The event loop that durable code runs on: asyncio's scheduling, nothing of the outside world.

It is driven synchronously: ``drain`` runs callbacks until none is ready, as a guest of whichever loop is
running. Timers become durable through ``TimerPort``. Every method that would touch a socket, file, thread,
process or signal refuses with the way out; so does what cannot be made deterministic.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import weakref
from asyncio import events
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeAlias, cast

from perdure._machine.tasks import Branch, MachineFuture, MachineTask
from perdure.errors import ForbiddenInWorkflow, NonDeterminism

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from contextvars import Context
    from types import FrameType

MAX_CALLBACKS: Final = 100_000
"""Callbacks in one activation beyond which code is taken to never rest."""

_log = logging.getLogger("perdure.machine")
_TASKS_FILE: Final = asyncio.tasks.__file__
_NEVER: Final = float("inf")

_Host: TypeAlias = "tuple[asyncio.AbstractEventLoop | None, Any]"
"""The loop and the async generator hooks of the thread that a machine is a guest of."""


class Evicted(BaseException):
    """Unwinds code whose machine is given up; never seen by anyone else.

    Private and no ``Exception``, so that an author's ``except Exception`` does not hold it up.
    """


class TimerPort(Protocol):
    """What the loop needs of its machine."""

    def set_timer(self, handle: DurableTimer) -> None:
        """A timer was set."""
        ...

    def drop_timer(self, handle: DurableTimer) -> None:
        """It was cancelled before it fired."""
        ...


class DurableTimer(events.TimerHandle):
    """A timer with a structural identity."""

    __slots__ = ("path",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: MachineLoop,
        context: Context | None,
        path: str,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.path: str = path


class MachineLoop(asyncio.AbstractEventLoop):
    """See the module. ``now`` is set by the machine and stands still within an activation."""

    def __init__(self, timers: TimerPort, *, now: float, debug: bool) -> None:
        self.now = now
        self.root: Branch = Branch()
        self.tasks: dict[int, MachineTask] = {}
        self.refusing: bool = False
        self._timers: TimerPort | None = timers
        self._debug = debug
        # No deque, and no WeakSet before it is needed: they would be the largest parts of a parked machine.
        self._ready: list[events.Handle] = []
        self._ordinal = 0
        self._generators: weakref.WeakSet[AsyncGenerator[Any, Any]] | None = None
        self._running = False
        self._refused = 0

    # -- driving

    def drain(self) -> None:
        """Run until nothing is ready. Raises ``NonDeterminism`` naming the line if that never comes."""
        host = self._enter()
        self._running = True
        left = MAX_CALLBACKS
        try:
            while ready := self._ready:
                self._ready = []
                for handle in ready:
                    if not handle._cancelled:  # noqa: SLF001 - what asyncio's own loop does
                        handle._run()  # noqa: SLF001 - as above
                        left -= 1
                        if left < 0:
                            raise _never_rests(handle)
        finally:
            self._running = False
            _leave(host)

    def fire(self, timer: DurableTimer) -> None:
        """Make a timer's callback ready."""
        self._ready.append(timer)

    def branch(self) -> Branch:
        """The branch of the code that runs now."""
        task = asyncio.current_task(self)
        return task.branch if isinstance(task, MachineTask) else self.root

    def evict(self) -> None:
        """Unwind everything that is suspended here; see ``Evicted``.

        Throwing into the coroutines, rather than cancelling tasks, because ``except CancelledError`` blocks
        hold clean-up that must run in the machine that takes over, not here; and rather than leaving it
        to the garbage collector, which would run ``finally`` blocks at any time.
        """
        self.refusing = True
        host = self._enter()
        self._ready.clear()
        try:
            for task in list(self.tasks.values()):
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - we destroy it
                coro = cast("Coroutine[Any, Any, Any]", task.get_coro())
                # In its own context, or what it resets or sets there would be the host's.
                task.context.run(_unwind, coro.throw, Evicted())
            for generator in list(self._generators or ()):
                if not getattr(generator, "ag_running", False):
                    copy_context().run(_unwind, generator.athrow(Evicted()).send, None)
        finally:
            self.tasks.clear()
            self._ready.clear()
            _leave(host)

    def forget(self) -> None:
        """Let go of the machine, which is given up."""
        self._timers = None

    def _enter(self) -> _Host:
        """Become the running loop, as a guest; ``_leave`` gives that back."""
        host = events._get_running_loop(), sys.get_asyncgen_hooks()  # noqa: SLF001 - the only way to be a guest
        events._set_running_loop(self)  # noqa: SLF001 - as above
        # Without hooks of our own, generators that code leaves open would be closed on the host's loop.
        sys.set_asyncgen_hooks(firstiter=self._iterate, finalizer=self._finalize)
        return host

    def _iterate(self, generator: AsyncGenerator[Any, Any]) -> None:
        """An async generator is iterated over for the first time."""
        if self._generators is None:
            self._generators = weakref.WeakSet()
        self._generators.add(generator)

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        """An async generator was dropped before its end.

        asyncio would close it in a new task, at a time that the garbage collector may choose; here its
        ``finally`` blocks run at once and may not wait for anything, durable or not.
        """
        before, self.refusing, self._refused = self.refusing, True, 0
        host = self._enter()
        try:
            ended = _unwind(generator.aclose().send, None)
            if not before and (self._refused or not ended):
                _log.warning(
                    "async generator %r was left before its end, and its clean-up, which waits for something, did"
                    " not run: iterate over it in 'async with contextlib.aclosing(…)'",
                    getattr(generator, "__qualname__", generator),
                )
        finally:
            _leave(host)
            self.refusing = before

    # -- what asyncio needs

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return self._debug

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001 - asyncio's signature
        self._debug = enabled

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self.refusing

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        timer = DurableTimer(when, callback, args, self, context, self.branch().identity("timer"))
        if self.refusing:
            self._refused += 1
        elif when <= self.now:
            self._ready.append(timer)
        elif when < _NEVER and self._timers is not None:
            self._timers.set_timer(timer)
        return timer

    def _timer_handle_cancelled(self, handle: DurableTimer) -> None:
        if self._timers is not None:
            self._timers.drop_timer(handle)

    def create_future(self) -> MachineFuture:
        future = MachineFuture(loop=self)
        self._ordinal = future.ordinal = self._ordinal + 1
        return future

    def create_task(  # pyright: ignore[reportIncompatibleMethodOverride] - typeshed also allows generators
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **_: Any,
    ) -> MachineTask:
        if self.refusing:
            # Code that unwinds gets something to wait for, and ends where it does. Raising here would leave the
            # other coroutines of a gather behind, each with a warning that it was never awaited.
            self._refused += 1
            coro.close()
            return cast("MachineTask", self.create_future())
        caller = _asyncio_caller(inspect.currentframe())
        if caller == "as_completed":
            coro.close()
            msg = (
                "asyncio.as_completed() starts coroutines in the order of their memory addresses, which no replay"
                " can repeat: make tasks first, as in as_completed([tg.create_task(c) for c in coroutines]), or use"
                " gather, TaskGroup or wait"
            )
            raise ForbiddenInWorkflow(msg)
        # wait_for runs its coroutine in a task on Python 3.11 and in place from 3.12 on. Lending that task its
        # parent's branch (the parent only waits) gives the same identities on all of them.
        branch = self.branch() if caller == "wait_for" else self.branch().child()
        self._ordinal += 1
        task = MachineTask(coro, loop=self, name=name, context=context, place=(branch, self._ordinal))
        self.tasks[task.ordinal] = task
        task.add_done_callback(self._task_done)
        return task

    def start(self, coro: Coroutine[Any, Any, Any], context: Context) -> MachineTask:
        """Make the main task, in the root branch."""
        task = MachineTask(coro, loop=self, name="main", context=context, place=(self.root, 0))
        self.tasks[0] = task
        task.add_done_callback(self._task_done, context=context)
        return task

    def spawn(self, coro: Coroutine[Any, Any, Any], context: Context, scope: str) -> MachineTask:
        """Make a task that no code asked for, in a branch of its own."""
        self._ordinal += 1
        task = MachineTask(coro, loop=self, name=scope, context=context, place=(Branch(scope), self._ordinal))
        self.tasks[task.ordinal] = task
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: MachineTask) -> None:
        self.tasks.pop(task.ordinal, None)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.refusing:
            _log.error("%s: %r", context.get("message"), context, exc_info=context.get("exception"))

    default_exception_handler = call_exception_handler


def _leave(host: _Host) -> None:
    loop, hooks = host
    sys.set_asyncgen_hooks(*hooks)
    events._set_running_loop(loop)  # noqa: SLF001 - as in MachineLoop._enter


def _unwind(push: Callable[[Any], Any], first: Any) -> bool:
    """Push until the code has unwound; whether it came to its end without wanting more.

    Code that keeps awaiting is left after a while.
    """
    for _ in range(32):
        try:
            push(first)
        except (StopIteration, StopAsyncIteration):
            return True
        except (Evicted, asyncio.CancelledError):
            return False
        except BaseException:  # noqa: BLE001 - an error of clean-up code in a machine that is given up
            _log.debug("clean-up code failed in an evicted machine", exc_info=True)
            return False
    _log.warning("code keeps awaiting while it is unwound; a 'finally' block loops")
    return False


def _asyncio_caller(frame: FrameType | None) -> str:
    """The asyncio function that makes a task, looking through its internal callers; empty if it is none."""
    frame = frame.f_back if frame is not None else None
    while frame is not None and frame.f_code.co_filename == _TASKS_FILE:
        name = frame.f_code.co_name
        if name == "wait_for":
            return name
        if frame.f_code.co_qualname.startswith(("as_completed", "_AsCompletedIterator")):
            return "as_completed"
        frame = frame.f_back
    return ""


def _never_rests(handle: events.Handle) -> NonDeterminism:
    """Names the author's innermost line that the callback would go on from."""
    task = getattr(handle._callback, "__self__", None)  # noqa: SLF001 - to name the line
    inner: Any = task.get_coro() if isinstance(task, asyncio.Task) else None
    place = ""
    while inner is not None:
        frame: FrameType | None = getattr(inner, "cr_frame", None)
        if frame is not None and frame.f_code.co_filename != _TASKS_FILE:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        inner = getattr(inner, "cr_await", None)
    return NonDeterminism(f"durable code did not come to rest; it loops without waiting at {place or repr(handle)}")


def _refuse(name: str) -> Callable[..., NoReturn]:
    def method(self: MachineLoop, *_: Any, **__: Any) -> NoReturn:
        if self.refusing:
            raise Evicted
        msg = (
            f"durable code called loop.{name}(), which reaches outside the machine: do that in a function and run"
            " it with 'await ctx.step(function, …)'"
        )
        raise ForbiddenInWorkflow(msg)

    method.__name__ = name
    return method


def _refuse_the_rest() -> None:
    for name in dir(asyncio.AbstractEventLoop):
        if not name.startswith("_") and name not in vars(MachineLoop):
            setattr(MachineLoop, name, _refuse(name))


_refuse_the_rest()
