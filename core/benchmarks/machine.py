# ruff: noqa: INP001 - a script, no part of a package
"""What the machine costs: ``python core/benchmarks/machine.py``. Processor time of one core; best of several runs.

Each activation is one ``ctx.step``, from its options and fingerprint to its decoded result, one after the other. A
live machine is one that waits for one step.
"""

import asyncio
import gc
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable

from perdure.context import Callee, Context
from perdure.execution import Execution
from perdure.messages import Entry, Start

STEPS = 20_000
MACHINES = 2_000
ROUNDS = 5
BEGAN = 1_700_000_000.0


async def work(n: int) -> int:
    """The step; only its result is needed here."""
    return n


async def one_after_the_other(ctx: Context, _: bytes) -> bytes:
    """A run of many steps."""
    for n in range(STEPS):
        await ctx.step(work, n)
    return b"null"


async def side_by_side(ctx: Context, _: bytes) -> bytes:
    """A run of many steps, a hundred at once."""
    for n in range(0, STEPS, 100):
        await asyncio.gather(*(ctx.step(work, n + m) for m in range(100)))
    return b"null"


class Programs:
    """One program under every name."""

    def __init__(self, program: Callable[[Context, bytes], Awaitable[bytes]]) -> None:
        self._program = program

    def program(self, target: str, version: int) -> Callable[[Context, bytes], Awaitable[bytes]]:
        """The program, whatever it is called."""
        assert target and version  # noqa: S101, PT018 - nothing is named by nothing
        return self._program

    def version(self, target: str) -> int:
        """All have one."""
        assert target  # noqa: S101 - nothing is named by nothing
        return 1

    def target(self, callee: Callee, caller: str) -> str:
        """Nothing is called here."""
        raise NotImplementedError(callee, caller)


def execution(program: Callable[[Context, bytes], Awaitable[bytes]], run: str = "run") -> Execution:
    """A fresh execution of a program."""
    return Execution(Programs(program), Start(run, "workflow", "bench", b"", BEGAN))


def record(program: Callable[[Context, bytes], Awaitable[bytes]]) -> tuple[list[Entry], float]:
    """Drive a program to its end; its journal, and the seconds of processor time."""
    journal: list[Entry] = []
    live = execution(program)
    began = time.process_time()
    waiting = list(live.begin().opened)
    for command in waiting:
        entry = Entry("step", command.path, BEGAN, command.name, command.fingerprint, b"1")
        journal.append(entry)
        waiting.extend(live.feed(entry).opened)
    seconds = time.process_time() - began
    live.close()
    return journal, seconds


def replay(program: Callable[[Context, bytes], Awaitable[bytes]], journal: list[Entry]) -> float:
    """Seconds of processor time to bring fresh code to the end of a journal."""
    live = execution(program)
    began = time.process_time()
    live.begin(journal)
    seconds = time.process_time() - began
    live.close()
    return seconds


def bytes_per_machine() -> float:
    """Memory of one machine that waits for one step."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    live = [execution(one_after_the_other, f"run{n}") for n in range(MACHINES)]
    for one in live:
        one.begin()
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    for one in live:
        one.close()
    return (after - before) / MACHINES


def main() -> None:
    """Print the table."""
    lines = [f"Python {sys.version.split()[0]}"]
    for program in (one_after_the_other, side_by_side):
        recorded = [record(program) for _ in range(ROUNDS)]
        journal = recorded[0][0]
        live = min(seconds for _, seconds in recorded)
        again = min(replay(program, journal) for _ in range(ROUNDS))
        lines.append(f"{program.__name__:20} {STEPS / live:12,.0f} activations/s {STEPS / again:12,.0f} replayed/s")
    lines.append(f"{'a live machine':20} {bytes_per_machine():12,.0f} bytes")
    print("\n".join(lines))  # noqa: T201 - a benchmark prints its table


if __name__ == "__main__":
    main()
