"""The process's standard input and output, as the wire that the protocol is spoken on.

The SDK's own streams are read in worker threads that cannot be abandoned: after a SIGTERM the process would stay until
its client closes the pipe. These are read and written in daemon threads, which hold up nothing; and they are taken
before any app is imported, so that whatever prints cannot get between the messages.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Self

from perdure.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2


class _Caller:
    """Makes blocking calls for an event loop, one after the other, in a daemon thread of its own."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, fn: Callable[[], Any]) -> asyncio.Future[Any]:
        """What the call returns or raises, in a while."""
        outcome = asyncio.get_running_loop().create_future()
        self._calls.put((fn, outcome))
        return outcome

    def _run(self) -> None:
        while True:
            fn, outcome = self._calls.get()
            value: Any = None
            error: Exception | None = None
            try:
                value = fn()
            except Exception as raised:  # noqa: BLE001 - the one who waits gets it
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                outcome.get_loop().call_soon_threadsafe(_settle, outcome, value, error)


def _settle(outcome: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if outcome.done():
        return
    if error is None:
        outcome.set_result(value)
    else:
        outcome.set_exception(error)


class Lines:
    """What the client says, line by line; ends with the pipe, or when it is closed from here."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._caller = _Caller("perdure-mcp-stdin")
        self._next: asyncio.Future[bytes] | None = None
        self._closed = False

    def close(self) -> None:
        """From here on, this is at its end."""
        self._closed = True
        if self._next is not None:
            _settle(self._next, b"", None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._closed:
            raise StopAsyncIteration
        self._next = self._caller.call(self._file.readline)
        try:
            line = await self._next
        except OSError:
            line = b""  # a terminal that is gone says so this way
        if not line:
            raise StopAsyncIteration
        return line.decode("utf-8", errors="replace")


class Output:
    """What is said to the client. One who no longer listens has left: that ends the input, too."""

    def __init__(self, descriptor: int, left: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._left = left
        self._caller = _Caller("perdure-mcp-stdout")

    async def write(self, text: str) -> None:
        """All of it, at once; returns when the pipe has it."""
        try:
            await self._caller.call(partial(_write, self._descriptor, text.encode()))
        except OSError:
            self._left()

    async def flush(self) -> None:
        """Done by ``write``."""


def _write(descriptor: int, data: bytes) -> None:
    # Without a buffer, so that the interpreter has nothing to flush to a client who has gone.
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


class Wire(NamedTuple):
    """Both directions."""

    lines: Lines
    output: Output


@contextmanager
def standard_streams() -> Generator[Wire]:
    """Take stdin and stdout for the protocol; everything else finds an empty stdin, and stderr as stdout.

    Raises:
        UsageError: They are closed.
    """
    try:
        private_in, private_out = os.dup(_STDIN), os.dup(_STDOUT)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
            os.dup2(nothing.fileno(), _STDIN)
        os.dup2(_STDERR, _STDOUT)
    except OSError as error:
        msg = f"stdin, stdout or stderr is closed ({error}): MCP is spoken over them, start this from an MCP client"
        raise UsageError(msg) from error
    # Not closed at the end: a thread may still be blocked in a read, and must never read another file's bytes.
    lines = Lines(os.fdopen(private_in, "rb", closefd=False))
    try:
        yield Wire(lines, Output(private_out, lines.close))
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()  # what was printed meanwhile belongs to stderr
        os.dup2(private_in, _STDIN)
        os.dup2(private_out, _STDOUT)
