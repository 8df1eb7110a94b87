"""What runs in child processes. Whoever holds a connection to the test is alive: it ends when the process does."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from typing import Any

from perdure import Attempt, Retry, step, tool
from perdure.errors import ModelUnavailable, RetryableError, StepFailed
from perdure.messages import ErrorInfo
from perdure_engine_embedded.processes import tell

held: list[socket.socket] = []


@dataclass
class Point:
    x: int
    y: float = 0.0


class Own(Exception):
    pass


class Picky(Exception):
    def __init__(self, code: int, *, live: object) -> None:
        super().__init__(f"code {code}")
        self.live = live


class PickyButPassing(RetryableError):
    def __init__(self, *, live: object) -> None:
        super().__init__("busy")
        self.live = live


def add(a: int, b: int = 1, *, c: float = 0.5) -> float:
    return a + b + c


def move(points: list[Point], day: date) -> dict[str, Point]:
    return {day.strftime("%A"): Point(sum(point.x for point in points), max(point.y for point in points))}


def tupled() -> tuple[int, ...]:
    return 1, 2


def double(text: str) -> str:
    return text * 2


def pid() -> int:
    return os.getpid()


def search_path() -> list[str]:
    return sys.path


def mumble(text: str) -> str:
    print(text, "printed")  # noqa: T201 - that it does no harm is what is tested
    os.write(1, f"{text} written\n".encode())
    subprocess.run([sys.executable, "-c", f"print({text!r}, 'inherited')"], check=True)
    return sys.stdin.read()


def misfit() -> int:
    return "one"  # type: ignore[return-value]


FAILURES: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("wrong"),
    "key": lambda: KeyError("lost"),
    "own": lambda: Own("mine", 3, None),
    "picky": lambda: Picky(7, live=object()),
    "passing": lambda: PickyButPassing(live=object()),
    "late": lambda: ModelUnavailable("busy", retry_after=45.0),
    "bytes": lambda: FileNotFoundError("no file 'caf\udce9.md'"),
    "carried": lambda: StepFailed("inner", ErrorInfo(type="KeyError", message="'k'")),
    "stop": lambda: StopIteration("over"),
    "local": lambda: type("Local", (Exception,), {})("here"),
    "exit": lambda: SystemExit(4),
}


def fail(how: str) -> None:
    error = FAILURES[how]()
    raise error


def chained() -> None:
    try:
        fail("own")
    except Own as error:
        raise ValueError("outer") from error


def no_such_file(name: str) -> str:
    with open(name) as file:  # noqa: PTH123 - the shortest way to an OSError
        return file.read()


def leave(code: int) -> None:
    os._exit(code)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def mute() -> None:
    os.closerange(3, 64)
    threading.Event().wait()


def hold(port: int) -> int:
    held.append(socket.create_connection(("127.0.0.1", port)))
    return os.getpid()


def hold_and_spin(port: int) -> None:
    hold(port)
    while True:
        pass


def meet(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.recv(1)
    return os.getpid()


def have_another_spin(port: int) -> None:
    program = f"import socket; socket.create_connection(('127.0.0.1', {port})).recv(1)"
    subprocess.run([sys.executable, "-c", program], check=False)


def report(count: int) -> int:
    threads = [threading.Thread(target=tell, args=(["x" * 70_000, number],)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tell(Point(count))
    return count


_current: ContextVar[list[Any]] = ContextVar("current")


@contextmanager
def standing_in(*what: Any) -> Generator[None]:
    token = _current.set([*what])
    try:
        yield
    finally:
        _current.reset(token)


def where_am_i() -> list[Any]:
    return _current.get([])


@step(process=True, retry=Retry(on=(Own,)))
def attempted(word: str) -> tuple[str, str, int, Any]:
    attempt = Attempt.current()
    attempt.heartbeat({"word": word})
    if attempt.number == 1:
        raise Own(word)
    return word, attempt.key, attempt.number, attempt.details


@tool
def as_tool(word: str) -> str:
    return word.upper()


def twice(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def doubled(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs) * 2

    return doubled


@twice
def wrapped(word: str) -> str:
    return word


class House:
    @staticmethod
    def static(word: str) -> str:
        return word

    def method(self) -> None: ...


async def on_the_loop() -> None: ...


def closure() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


nameless = lambda: None  # noqa: E731 - it is what is refused


def hidden() -> int:
    return 1


shown = hidden
hidden = pid
