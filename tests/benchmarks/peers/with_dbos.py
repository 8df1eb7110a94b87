"""DBOS with its SQLite system database.

``async`` and ``thread`` are its two interfaces; then how many runs at once: its threads contend for the file and the
interpreter, so that fewer are faster, and a thousand the slowest. The file is in WAL mode, which DBOS leaves as it
finds it: with the rollback journal that it makes by itself it is half as fast. It syncs at every commit in both.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from importlib.metadata import version
from typing import Any

import sqlalchemy
from dbos import DBOS, DBOSConfig
from report import STEPS, asked, measure, measure_blocking, small


@DBOS.step()
async def async_step(run: int, number: int) -> dict[str, Any]:
    """One of ten."""
    return small(run, number)


@DBOS.workflow()
async def async_steps(run: int) -> int:
    """Ten, one after the other."""
    for number in range(STEPS):
        await async_step(run, number)
    return STEPS


@DBOS.step()
def step(run: int, number: int) -> dict[str, Any]:
    """One of ten."""
    return small(run, number)


@DBOS.workflow()
def steps(run: int) -> int:
    """Ten, one after the other."""
    for number in range(STEPS):
        step(run, number)
    return STEPS


async def async_wave(n: int) -> None:
    """So many at once, to the end."""
    handles = [await DBOS.start_workflow_async(async_steps, run) for run in range(n)]
    await asyncio.gather(*(handle.get_result(polling_interval_sec=0.05) for handle in handles))


def wave(n: int) -> None:
    """So many at once, to the end."""
    handles = [DBOS.start_workflow(steps, run) for run in range(n)]
    for handle in handles:
        handle.get_result(polling_interval_sec=0.05)


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def _know_the_time(connection: sqlite3.Connection, _: object) -> None:
    # Its tables call unixepoch('subsec'), which is NULL before SQLite 3.42: then it cannot start at all.
    if sqlite3.sqlite_version_info < (3, 42):
        connection.create_function("unixepoch", 1, lambda _: time.time())


def main() -> None:
    """Measure."""
    task = asked()
    file = task.folder / "dbos.sqlite"
    interface, at_once = task.setting.split("-")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": f"sqlite:///{file}",
        "log_level": "ERROR",
        "application_version": "1",
    }
    DBOS(config=config)
    DBOS.launch()
    try:
        if interface == "async":
            asyncio.run(measure(task, int(at_once), async_wave, version=version("dbos")))
        else:
            measure_blocking(task, int(at_once), wave, version=version("dbos"))
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    main()
