"""CPU work in child processes: a function is named, its arguments and its result travel as JSON.

Each event loop has a pool of children: at most one per CPU, started when they are wanted, ended when they were idle
for a while, when the loop is closed, and by themselves when this process is gone. A child whose caller is cancelled is
killed, with everything that it started. Knows nothing of steps: ``within`` is how an attempt gets into the child.

What is imported in a child is named by this process's own function object, never by data that was stored or received.
A child is ``python -c`` and not ``-m`` with this module, which would load it twice and look in the working directory
first. Both sides speak in pairs of lines: a header, and JSON whose type only the author's code knows.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import ExitStack, suppress
from functools import lru_cache, reduce
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, cast

from perdure.encoding import Parameters, decode, encode, returns_of
from perdure.errors import ProcessDied, ProcessFailed, RetryableError, UsageError
from perdure.messages import ErrorInfo
from perdure.steps import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from perdure.messages import JSON
    from perdure.steps import StepCall

IDLE: Final = 60.0
"""Seconds after which a child that nobody has work for is ended."""

_START: Final = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {__name__} import serve; serve()"
_MAIN: Final = "__perdure_main__"
_READ: Final = 1 << 16  # bytes
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_APART: Final[dict[str, Any]] = {
    "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    "start_new_session": True,
}
"""Ctrl-C in a terminal is for this process, which may want to let its children finish."""


async def run_in_process(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    returns: Any = Any,
    within: tuple[Callable[..., AbstractContextManager[Any]], list[JSON]] | None = None,
    heard: Callable[[Any], None] | None = None,
) -> Any:
    """Run a plain function in a child process; wait for its result, first perhaps for a free child.

    Args:
        fn: What its module defines under its own name; a child must be able to import that module.
        args: By position; they travel by the types that the function declares.
        kwargs: By name.
        returns: The type of the result here. The child writes it by the type that the function declares.
        within: A function that makes a context manager, and its arguments; the child enters it around the call.
        heard: Is told what ``tell`` was given in the child, as it comes.

    Raises:
        UsageError: The function cannot be named or imported; ``InvalidInput``, ``NotEncodable``: its arguments or
            its result cannot travel.
        ProcessDied: The child ended before it had a result.
        ProcessFailed: The function raised what is not known here. Anything else is raised again as the type it was.
    """
    name = getattr(fn, "__qualname__", repr(fn))
    address = _address(fn)
    job = {
        "path": [str(entry) for entry in sys.path],
        "argv": sys.argv,
        "fn": address,
        "within": [_address(within[0]), within[1]] if within else None,
    }
    arguments = _parameters(fn).encode(args, kwargs, repr(name))
    kind, payload = await _pool().run(b"%s\n%s\n" % (json.dumps(job).encode(), arguments), heard)
    if kind == b"value":
        return decode(payload, returns, f"the result of {name!r}")
    if kind == b"died":
        msg = f"the child process of {name!r} ended {payload.decode()}, without a result; see what it wrote to stderr"
        raise ProcessDied(msg)
    raised = json.loads(payload)
    error = _revived(name, ErrorInfo.model_validate(raised["info"]), address["module"], fn.__module__, raised)
    error.add_note(f"Raised in a child process:\n{raised['trace']}")
    raise error


async def run_apart(call: StepCall, attempt: Attempt) -> Any:
    """Run a step's body in a child: fills ``perdure.steps.Apart``."""
    within = attempting, [attempt.key, attempt.number, attempt.details]
    return await run_in_process(
        call.fn, call.args, call.kwargs, returns=call.returns, within=within, heard=attempt.heartbeat
    )


def attempting(key: str, number: int, details: JSON) -> AbstractContextManager[None]:
    """In the child, around the body: the attempt that it is part of."""
    return Attempt(key, number, details, tell).entered()


def tell(value: object) -> None:
    """In a child, give a value to ``heard`` as JSON, while the function runs; from any thread.

    Raises:
        NotEncodable: It has no JSON form.
        UsageError: This is no child.
    """
    if _voice is None:
        msg = "tell() was called outside a child process: call it in a function that run_in_process runs"
        raise UsageError(msg)
    _voice.say(b"told", encode(value, Any, "what a child process tells"))


# -- naming functions


def _address(fn: Callable[..., Any]) -> dict[str, Any]:
    """Where a child finds a function. Raises ``UsageError`` if it would find another one, or none."""
    name, module = getattr(fn, "__qualname__", ""), sys.modules.get(getattr(fn, "__module__", None) or "")
    found = _reach(module, name)
    bare = found is not fn and inspect.unwrap(found) is fn  # what a decorator has put something around
    if module is None or found is None or not (found is fn or bare) or inspect.iscoroutinefunction(inspect.unwrap(fn)):
        msg = (
            f"{fn!r} cannot run in a process: expected a plain function that its module defines under its own name, so"
            " that a child process can import it; move it to module level (no lambda, closure or method, not async)"
        )
        raise UsageError(msg)
    file, target, main = getattr(module, "__file__", None), fn.__module__, fn.__module__ == "__main__"
    if main:
        spec = getattr(module, "__spec__", None)
        target = spec.name if spec and spec.name != "__main__" else _MAIN  # `python -m package.module` has a name
        if target == _MAIN and not (file and Path(file).is_file()):
            msg = f"{name!r} cannot run in a process: it stands in no file to import it from; put it into a module"
            raise UsageError(msg)
    return {"module": target, "file": file and str(Path(file).absolute()), "name": name, "bare": bare, "main": main}


def _reach(start: Any, name: str) -> Any:
    return reduce(lambda found, part: getattr(found, part, None), name.split("."), start) if name else None


@lru_cache(maxsize=1024)
def _parameters(fn: Callable[..., Any]) -> Parameters:
    return Parameters(fn)


# -- errors that come back


class _TryAgain(ProcessFailed, RetryableError):
    """What was raised said that trying again may help, and so does this."""


def _revived(name: str, info: ErrorInfo, there: str, here: str, made: dict[str, Any] | None = None) -> Exception:
    """An error as the type it was where this process has that type loaded; so that ``Retry.on`` finds it.

    ``there`` and ``here`` are the names of the function's module: those of a main module differ.
    """
    kind = _known(info.type, there, here)
    for args in ((made or {}).get("args"), [info.message]):
        with suppress(Exception):  # a constructor of the author's, which may want anything
            if kind is not None and args is not None and str(error := kind(*args)) == info.message:
                error.__dict__.update((made or {}).get("state", {}))
                error.__cause__ = _revived(name, info.cause, there, here) if info.cause else None
                return error
    return (_TryAgain if info.retryable else ProcessFailed)(name, info)


def _known(name: str, there: str, here: str) -> type[Exception] | None:
    """An exception's class, if its module is loaded here; nothing is imported."""
    module, _, own = name.rpartition(".")
    found: Any = getattr(sys.modules.get(here if module == there else module or "builtins"), own, None)
    fits = isinstance(found, type) and issubclass(found, Exception)
    no_coroutine_raises = (StopIteration, StopAsyncIteration)
    return None if not fits or issubclass(found, no_coroutine_raises) else cast("type[Exception]", found)


# -- the pool


class _Lines:
    """Pairs of lines out of what a pipe brings."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._first: bytes | None = None

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The pairs that are whole now."""
        self._parts.append(data)
        pairs: list[tuple[bytes, bytes]] = []
        if b"\n" in data:
            *lines, rest = b"".join(self._parts).split(b"\n")
            self._parts = [rest]
            for line in lines:
                if self._first is None:
                    self._first = line
                else:
                    pairs.append((self._first, line))
                    self._first = None
        return pairs


class _Child(asyncio.SubprocessProtocol):
    """One child process, seen from its parent."""

    def __init__(self, forget: Callable[[_Child], None]) -> None:
        self.lost = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None
        self._forget = forget
        self._lines = _Lines()
        self._heard: Callable[[Any], None] | None = None
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None

    async def ask(self, job: bytes, heard: Callable[[Any], None] | None) -> tuple[bytes, bytes]:
        """Give it a job; wait for ``value``, ``error`` or ``died``, and what goes with it."""
        self._heard = heard
        self._answer = asyncio.get_running_loop().create_future()
        cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0)).write(job)
        return await self._answer

    def kill(self) -> None:
        """End it, and what it started. Idempotent."""
        if self._transport.get_returncode() is None:
            with suppress(ProcessLookupError, PermissionError):  # it has just ended by itself
                if sys.platform == "win32":
                    self._transport.kill()
                else:
                    os.killpg(self._transport.get_pid(), signal.SIGKILL)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - it has one such pipe
        for kind, payload in self._lines.feed(data):
            if kind != b"told":
                self._settle(kind, payload)
            elif self._heard is not None:
                self._heard(json.loads(payload))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - either way it is deaf or mute
        self.kill()

    def process_exited(self) -> None:
        self._transport.close()  # not before: closing polls the process, and its watcher would not see how it ended

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - there is none
        self._forget(self)
        self.lost.set()
        code = self._transport.get_returncode() or 0
        how = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"
        self._settle(b"died", how.encode())

    def _settle(self, kind: bytes, payload: bytes) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((kind, payload))


class _Pool:
    """The children of one event loop. Those that are idle are there: who is lost is forgotten at once."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(os.cpu_count() or 1)
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._keeper: asyncio.Task[None] | None = None

    async def run(self, job: bytes, heard: Callable[[Any], None] | None) -> tuple[bytes, bytes]:
        """Have a child do a job, and return its answer. A child that was not let finish is killed and waited for."""
        async with self._slots:
            child = self._idle.pop() if self._idle else await self._start()  # the last one, so that others stay idle
            if child.timer is not None:
                child.timer.cancel()
            try:
                answer = await child.ask(job, heard)
            except BaseException:
                child.kill()
                await child.lost.wait()
                raise
            if not child.lost.is_set():
                child.timer = asyncio.get_running_loop().call_later(IDLE, self._retire, child)
                self._idle.append(child)
            return answer

    async def _start(self) -> _Child:
        path = json.dumps([str(entry) for entry in sys.path])
        child = _Child(self._forget)
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: child, sys.executable, "-P", "-u", "-c", _START, path, stderr=None, **_APART
            )
        except OSError as error:
            msg = f"a child process could not be started: {error}"
            raise ProcessDied(msg) from error
        self._children.add(child)
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name="perdure-processes")
        return child

    async def _keep(self) -> None:
        """Be there as long as there are children: a loop that is closed cancels its tasks, and with this one them."""
        try:
            while self._children:
                await next(iter(self._children)).lost.wait()
        finally:
            for child in (ending := list(self._children)):
                child.kill()
            for child in ending:
                await child.lost.wait()

    def _retire(self, child: _Child) -> None:
        self._idle.remove(child)
        child.kill()

    def _forget(self, child: _Child) -> None:
        self._children.discard(child)
        if child in self._idle:
            self._retire(child)


_pools: dict[asyncio.AbstractEventLoop, _Pool] = {}


def _pool() -> _Pool:
    loop = asyncio.get_running_loop()
    if loop not in _pools:
        for closed in [each for each in _pools if each.is_closed()]:
            del _pools[closed]
        _pools[loop] = _Pool()
    return _pools[loop]


# -- the child's side


class _Voice:
    """How a child answers: through what was its standard output, which is now its standard error's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Bare descriptors: a file object would be closed while the interpreter ends, before the exit code is there.
        self.ears = os.dup(0)
        self._mouth = os.dup(1)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing if cast("Any", sys.stderr) is None else 2, 1)

    def say(self, kind: bytes, payload: bytes) -> None:
        """Write a pair of lines, whole."""
        rest = memoryview(b"%s\n%s\n" % (kind, payload))
        with self._lock:
            while rest:
                rest = rest[os.write(self._mouth, rest) :]


_voice: _Voice | None = None


def serve() -> None:
    """Be a child: do one job after the other, in the main thread, until the parent has no more or is gone."""
    global _voice  # noqa: PLW0603 - the process has one standard output
    _voice = voice = _Voice()
    jobs: SimpleQueue[tuple[bytes, bytes]] = SimpleQueue()
    threading.Thread(target=_listen, args=(voice.ears, jobs), name="perdure-processes", daemon=True).start()
    while True:
        voice.say(*_answer(*jobs.get()))


def _listen(ears: int, jobs: SimpleQueue[tuple[bytes, bytes]]) -> None:
    """Take jobs in; end this process at once when its parent is gone, whatever it is doing."""
    lines = _Lines()
    while data := os.read(ears, _READ):
        for pair in lines.feed(data):
            jobs.put(pair)
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _answer(header: bytes, arguments: bytes) -> tuple[bytes, bytes]:
    job = json.loads(header)
    try:
        sys.path[:], sys.argv[:] = job["path"], job["argv"]
        fn = _resolved(job["fn"])
        where = repr(job["fn"]["name"])
        given = _parameters(fn).decode(arguments, where)
        with ExitStack() as stack:
            if job["within"]:
                address, extra = job["within"]
                stack.enter_context(_resolved(address)(*extra))
            value = fn(**given)
        return b"value", encode(value, returns_of(fn), f"the result of {where}")
    except Exception as error:  # noqa: BLE001 - whatever the author's code raises travels back
        state = {key: value for key, value in vars(error).items() if type(value) in _SCALARS}
        raised = {
            "info": ErrorInfo.of(error).model_dump(),
            "args": list(error.args) if _SCALARS.issuperset(map(type, error.args)) else None,
            "state": state,
            "trace": "".join(traceback.format_tb(error.__traceback__)),
        }
        return b"error", json.dumps(raised).encode()


def _resolved(address: dict[str, Any]) -> Callable[..., Any]:
    """The function of an address, its module imported. Raises ``UsageError``."""

    async def load() -> ModuleType:
        return _loaded(address["module"], address["file"])

    try:
        module = sys.modules.get(address["module"])
        if module is None and address["main"]:
            # A main module that starts its program when it is imported meets a loop that runs, and fails, instead of
            # starting the program anew in each child.
            module = asyncio.run(load())
        module = module or _loaded(address["module"], address["file"])
    except (Exception, SystemExit) as error:
        msg = (
            f"{address['name']!r} cannot run in a process: a child process cannot import its module"
            f" {address['module']!r} ({error}); what starts a program belongs under 'if __name__ == \"__main__\"'"
        )
        raise UsageError(msg) from error
    found = _reach(module, address["name"])
    return inspect.unwrap(found) if address["bare"] else found


def _loaded(name: str, file: str | None) -> ModuleType:
    """A module by its name, or from its file where only the parent's own importer (pytest's) knows the name."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if file is None or not f"{name}.".startswith(f"{error.name}."):
            raise
    loader = SourceFileLoader(name, file)
    module = sys.modules[name] = module_from_spec(cast("ModuleSpec", spec_from_loader(name, loader)))
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
