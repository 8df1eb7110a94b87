"""A process that writes a line for each call of its store that was acknowledged; ``test_bites_power.py`` traces it.

``python unsynced.py FILE LINES SYNCHRONOUS``
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Literal

from perdure.messages import Commit, Delivery, Entry, Start
from perdure_store_sqlite import SqliteStore


async def main(file: str, lines: str, synchronous: Literal["full", "normal"]) -> None:
    witness = os.open(lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    store = SqliteStore(Path(file), synchronous=synchronous, lease=3600.0)

    await store.claim("w", 0.0)

    def acknowledged(what: str) -> None:
        os.write(witness, f"{what}\n".encode())

    for number in range(3):
        run = f"r{number}"
        _, (claim,) = await store.accept([Start(run, "workflow", "app.flow", b"{}", 0.0)], worker="w")
        acknowledged("start")
        entry = Entry("step", "0/s#1", 0.0, "s", value=b"1")
        await store.commit(Commit(run, claim.epoch, 0, 0.0, (entry,), status="waiting", active=False), worker="w")
        acknowledged("step")
        await store.accept([Delivery(run, "event", "e", 0.0, b"1", name="said")])
        acknowledged("event")
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))  # type: ignore[arg-type]
