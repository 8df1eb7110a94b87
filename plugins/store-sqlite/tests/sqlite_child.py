"""A process of its own on a store's file; `test_sqlite_processes.py` starts it and kills it.

It says what it did as lines on stdout, and does the next thing when it is given a line.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from perdure.errors import PerdureError
from perdure.messages import Commit, Entry, Start
from perdure_store_sqlite import SqliteStore


def say(*words):
    print(*words, flush=True)  # noqa: T201 - how it speaks


async def told():
    await asyncio.to_thread(sys.stdin.readline)


def entry(n, value=b"1"):
    return Entry("step", f"0/s#{n}", float(n), "s", value=value)


def keep_ticking(store):
    store.tick("child", 0.0)
    asyncio.get_running_loop().call_later(0.05, keep_ticking, store)


async def begin(store):
    await store.claim("child", 0.0)
    _, claims = await store.accept([Start("r", "workflow", "app.flow", b"{}", 0.0)], worker="child")
    return claims[0]


async def drive(store):
    """Commit without end, saying each acknowledged length of the journal."""
    claim = await begin(store)
    for n in range(10**9):
        await store.commit(Commit("r", claim.epoch, n, float(n), (entry(n),)), worker="child")
        say(n + 1)


async def hold(store):
    """Hold a run, tick, and commit once when told."""
    claim = await begin(store)
    keep_ticking(store)
    say("held")
    await told()
    try:
        await store.commit(Commit("r", claim.epoch, 0, 0.0, (entry(0, b'"stale"'),)), worker="child")
    except PerdureError as error:
        say(type(error).__name__)
    else:
        say("committed")


async def accept(store):
    """Accept a hundred runs, one after the other, when told."""
    say("ready")
    await told()
    for n in range(100):
        await store.accept([Start(f"{sys.argv[3]}-{n}", "workflow", "app.flow", b"{}", 0.0)])
    say("accepted")


async def fill(store):
    """Commit what does not fit on the disk, beside what does; then again when there is room."""
    claim = await begin(store)
    size = sum(file.stat().st_size for file in Path(sys.argv[1]).parent.glob("*.db-wal"))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 64 * 1024, unlimited[1]))
    too_large = Commit("r", claim.epoch, 0, 0.0, (entry(0, b"x" * 10**6),))
    outcomes = await asyncio.gather(
        store.commit(too_large, worker="child"),
        store.accept([Start("small", "workflow", "app.flow", b"{}", 0.0)]),
        return_exceptions=True,
    )
    say(*(type(outcome).__name__ for outcome in outcomes))
    say(len(await store.journal("r")))
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    await store.commit(too_large, worker="child")
    say(len((await store.journal("r"))[0].value or b""))


async def make(store):
    """When told, open files that nobody has made yet, each with all the others, and let go of them again."""
    say("ready")
    await told()
    for n in range(8):
        for _ in range(2):
            other = SqliteStore(Path(sys.argv[1]).with_name(f"new{n}.db"))
            await other.accept([Start(sys.argv[3], "workflow", "app.flow", b"{}", 0.0)])
            await other.claim(sys.argv[3], 0.0)
            await other.runs()
            await other.close()
    say("made")


async def main():
    store = SqliteStore(Path(sys.argv[1]), lease=float(sys.argv[4]))
    await {"drive": drive, "hold": hold, "accept": accept, "fill": fill, "make": make}[sys.argv[2]](store)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main())
