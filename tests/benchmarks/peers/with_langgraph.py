"""LangGraph with its SQLite checkpointers and ``durability="sync"``.

Both of its interfaces: ``graph``, ten nodes one after the other, and ``tasks``, an entrypoint that calls ten tasks.
Both of its savers: ``async`` (AsyncSqliteSaver) with so many runs at once, and ``sync`` (SqliteSaver), which takes one
run after the other and is the faster for it. Both set WAL up and leave synchronous at FULL.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from contextlib import closing
from importlib.metadata import version
from typing import Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from report import STEPS, Task, asked, measure, measure_blocking, small

threads = itertools.count()


class State(TypedDict):
    """What a node returns."""

    run: int
    step: int
    ok: bool


def config() -> dict[str, Any]:
    """A thread of its own for each run."""
    return {"configurable": {"thread_id": str(next(threads))}}


def graph(saver: Any, *, blocking: bool) -> Any:
    """Ten nodes."""

    def node(number: int) -> Any:
        def step(state: State) -> Any:
            return small(state["run"], number)

        async def async_step(state: State) -> Any:
            return small(state["run"], number)

        return step if blocking else async_step

    builder: StateGraph[Any] = StateGraph(State)
    names = [f"step{number}" for number in range(STEPS)]
    for number, name in enumerate(names):
        builder.add_node(name, node(number))
    for before, after in itertools.pairwise([START, *names, END]):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=saver)


def tasks(saver: Any, *, blocking: bool) -> Any:
    """Ten tasks."""
    if blocking:
        blocking_step = task(small)

        @entrypoint(checkpointer=saver)
        def steps(state: State) -> int:
            for number in range(STEPS):
                blocking_step(state["run"], number).result()
            return STEPS

        return steps

    @task
    async def step(run: int, number: int) -> dict[str, Any]:
        return small(run, number)

    @entrypoint(checkpointer=saver)
    async def async_steps(state: State) -> int:
        for number in range(STEPS):
            await step(state["run"], number)
        return STEPS

    return async_steps


def begin(run: int) -> Any:
    """The input."""
    return {"run": run, "step": -1, "ok": True}


async def measure_async(given: Task, make: Any, at_once: int) -> None:
    """All at once."""
    async with AsyncSqliteSaver.from_conn_string(str(given.folder / "langgraph.db")) as saver:
        made = make(saver, blocking=False)

        async def wave(n: int) -> None:
            await asyncio.gather(*(made.ainvoke(begin(run), config(), durability="sync") for run in range(n)))

        await measure(given, at_once, wave, version=version("langgraph"))


def measure_sync(given: Task, make: Any, at_once: int) -> None:
    """One after the other, as this saver takes them."""
    with closing(sqlite3.connect(given.folder / "langgraph.db", check_same_thread=False)) as connection:
        made = make(SqliteSaver(connection), blocking=True)

        def wave(n: int) -> None:
            for run in range(n):
                made.invoke(begin(run), config(), durability="sync")

        measure_blocking(given, at_once, wave, version=version("langgraph"))


if __name__ == "__main__":
    asked_for = asked()
    which, saver_kind, n = asked_for.setting.split("-")
    maker = {"graph": graph, "tasks": tasks}[which]
    if saver_kind == "async":
        asyncio.run(measure_async(asked_for, maker, int(n)))
    else:
        measure_sync(asked_for, maker, int(n))
