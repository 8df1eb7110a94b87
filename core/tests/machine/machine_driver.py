"""A driver without I/O: carries out a machine's commands in an order that a seed chooses, and keeps the journal."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import pytest
from pydantic_core import to_json

from perdure._machine import Evicted
from perdure.context import Callee, Context
from perdure.execution import Activation, Command, Execution, Outcome
from perdure.messages import Entry, ErrorInfo, Start

BEGAN = 1_700_000_000.0
TOO_MANY = 2_000

Code = Callable[[Context], Awaitable[Any]]
T = TypeVar("T")


class Library:
    """Corpus programs as durable code; keeps the context that the latest of them got."""

    def __init__(self, programs: Mapping[str, Code]) -> None:
        self._programs = programs
        self.context: Context | None = None

    def program(self, target: str, version: int) -> Callable[[Context, bytes], Awaitable[bytes]]:
        code = self._programs[target]

        async def run(ctx: Context, _: bytes) -> bytes:
            self.context = ctx
            return to_json(await code(ctx))

        return run

    def version(self, target: str) -> int:
        assert target
        return 1

    def target(self, callee: Callee, caller: str) -> str:
        assert caller
        return callee.name


class Seen(NamedTuple):
    """What one activation brought, comparably."""

    opened: tuple[str, ...]
    closed: tuple[str, ...]
    outcome: str | None


def seen(activation: Activation) -> Seen:
    return Seen(
        tuple(f"{c.kind} {c.path} {c.fingerprint}" for c in activation.opened),
        tuple(f"{c.kind} {c.path}" for c in activation.closed),
        None if activation.outcome is None else told(activation.outcome),
    )


def told(outcome: Outcome) -> str:
    """An outcome as text: equal texts are equal outcomes."""
    if outcome.status == "completed":
        return f"completed {outcome.value.decode()}"
    error = outcome.error
    inner = [f"{type(e).__name__}: {e}" for e in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    return f"{outcome.status} {type(error).__name__}: {error} {inner or ''}".rstrip()


@dataclass
class Driver:
    """Drives one run from a journal's prefix to its end.

    ``trace`` holds what each activation of this driver brought; ``ran`` counts the steps whose bodies it ran.
    """

    library: Library
    name: str
    seed: int
    cancelled: bool = False
    debug: bool = False
    journal: list[Entry] = field(default_factory=list)
    trace: list[Seen] = field(default_factory=list)
    ran: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - to be repeated
        self._now = max([BEGAN, *(entry.at for entry in self.journal)])
        self._cancels = self.cancelled and all(entry.kind != "cancel" for entry in self.journal)
        self.execution = execution(self.library, self.name, debug=self.debug)

    def begin(self) -> None:
        """Bring the code to where the journal ends."""
        self._note(intact(lambda: self.execution.begin(self.journal)))

    def run(self) -> str:
        """Go on to the end; return the outcome as text."""
        self.begin()
        return self.go_on()

    def go_on(self) -> str:
        while self.execution.outcome is None:
            assert len(self.journal) < TOO_MANY, f"{self.name} does not end"
            self.move()
        return told(self.execution.outcome)

    def move(self) -> None:
        """Make one thing happen, and record it."""
        entry = self._next()
        self.journal.append(entry)
        activation = intact(lambda: self.execution.feed(entry))
        if entry.kind == "attempt":
            assert activation == Activation()
            assert self.execution.machine.attempts[entry.path] == entry.attempt
        self._note(activation)

    def _note(self, activation: Activation) -> None:
        self.trace.append(seen(activation))
        recorded = {entry.path for entry in self.journal if entry.kind != "attempt"}
        assert not recorded & self.execution.pending.keys(), "what is recorded is asked for again"

    def _next(self) -> Entry:
        self._now += self._random.choice((0.0, 0.25, 1.0))
        others = [command for command in self.execution.pending.values() if command.kind != "timer"]
        wake_at = self.execution.wake_at()
        if self._cancels and (self._random.random() < 0.15 or not (others or wake_at)):
            self._cancels = False
            return Entry("cancel", f"cancel:{len(self.journal)}", self._now, "enough of it")
        if wake_at is not None and (not others or self._random.random() < 0.3):
            self._now = max(self._now, wake_at)
            timer = self.execution.due(self._now)
            assert timer is not None
            return self._entry(timer)
        assert others, f"{self.name} waits for nothing: {self.trace[-1]}"
        command = self._random.choice(others)
        if command.kind == "step" and self._random.random() < 0.05:
            tries = self.execution.machine.attempts.get(command.path, 0) + 1
            return Entry("attempt", command.path, self._now, command.name, attempt=tries, error=b"{}")
        return self._entry(command)

    def _entry(self, command: Command) -> Entry:
        carry_out = {"step": self._step, "call": self._call, "answer": self._answer, "timer": self._timer}
        value, error = carry_out[command.kind](command)
        return Entry(command.kind, command.path, self._now, command.name, command.fingerprint, value, error)

    def _step(self, command: Command) -> tuple[bytes | None, bytes | None]:
        self.ran[command.path] += 1
        call = command.body
        try:
            return call.encode(call.fn(*call.args, **call.kwargs))[0], None
        except Exception as error:  # noqa: BLE001 - that is what becomes of a step that raises
            return None, to_json(ErrorInfo.of(error))

    def _call(self, command: Command) -> tuple[bytes | None, bytes | None]:
        child = Driver(self.library, command.body.target, self._random.getrandbits(32))
        child.run()
        outcome = child.execution.outcome
        assert outcome is not None
        child.execution.close()
        return (outcome.value, None) if outcome.error is None else (None, to_json(ErrorInfo.of(outcome.error)))

    def _answer(self, command: Command) -> tuple[bytes | None, bytes | None]:
        return to_json(f"{command.body.prompt} yes"), None

    def _timer(self, command: Command) -> tuple[bytes | None, bytes | None]:
        assert command.body.due <= self._now
        return None, None


def execution(library: Library, name: str, *, debug: bool = False) -> Execution:
    return Execution(library, Start(f"run_{name}", "workflow", name, b"", BEGAN), debug=debug)


def replay(library: Library, name: str, journal: Iterable[Entry], *, debug: bool = False) -> list[Seen]:
    """Feed a whole journal to fresh code; return what each activation brought."""
    fresh = execution(library, name, debug=debug)
    brought = [seen(intact(fresh.begin))]
    brought += [seen(intact(lambda entry=entry: fresh.feed(entry))) for entry in journal]
    intact(fresh.close)
    return brought


def crash_at_every_prefix(first: Driver) -> None:
    """Drive to the end; then, from every prefix of that journal, go on in another order, and compare with a replay."""
    first.run()
    first.execution.close()
    for length in range(len(first.journal) + 1):
        prefix = first.journal[:length]
        park_and_evict(first, prefix)
        second = replace(first, seed=first.seed + length + 1, journal=list(prefix), trace=[], ran=Counter())
        outcome = second.run()
        second.execution.close()
        assert not {entry.path for entry in prefix if entry.kind == "step"} & second.ran.keys()
        happened = Counter(entry.path for entry in second.journal if entry.kind != "attempt")
        assert happened.total() == len(happened), "something happened twice"
        brought = replay(first.library, first.name, second.journal, debug=first.debug)
        assert brought[-1].outcome == outcome
        assert brought[: length + 1] == first.trace[: length + 1]
        assert brought[length + 1 :] == second.trace[1:]


def park_and_evict(driver: Driver, prefix: Sequence[Entry]) -> None:
    """Bring code to where a journal ends and give it up there: nothing happens any more."""
    parked = execution(driver.library, driver.name, debug=driver.debug)
    intact(lambda: parked.begin(prefix))
    context = driver.library.context
    assert context is not None
    intact(parked.close)
    assert parked.machine.state == "evicted"
    assert not parked.pending
    assert not parked.machine.loop.tasks
    wish = context.step(str, "after the end")
    with pytest.raises(Evicted):
        wish.send(None)


def intact(act: Callable[[], T]) -> T:
    """Act as a guest; check that the host's loop, task and async generator hooks are as they were."""
    before = _surroundings()
    try:
        return act()
    finally:
        assert _surroundings() == before


def _surroundings() -> Sequence[object]:
    loop = asyncio._get_running_loop()  # noqa: SLF001 - there may be none
    return loop, loop and asyncio.current_task(loop), sys.get_asyncgen_hooks()
