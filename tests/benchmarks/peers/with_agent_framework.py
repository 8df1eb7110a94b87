"""Agent Framework with FileCheckpointStorage: a JSON file after every step, none of them synced to the disk.

``graph`` is a workflow of ten executors, one superstep each; ``functional`` is its function with ten steps.
"""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version
from typing import Any

from agent_framework import FileCheckpointStorage, FunctionExecutor, WorkflowBuilder, WorkflowContext, step, workflow
from report import STEPS, asked, measure, small


@step
async def one(run: int, number: int) -> dict[str, Any]:
    """One of ten."""
    return small(run, number)


@workflow
async def steps(run: int) -> int:
    """Ten, one after the other."""
    for number in range(STEPS):
        await one(run, number)
    return STEPS


def executor(number: int) -> FunctionExecutor:
    """One of ten."""

    async def middle(given: dict, ctx: WorkflowContext[dict]) -> None:
        await ctx.send_message(small(given["run"], number))

    async def last(given: dict, ctx: WorkflowContext[None, dict]) -> None:
        await ctx.yield_output(small(given["run"], number))

    return FunctionExecutor(last if number == STEPS - 1 else middle, id=f"step{number}")


def graph(storage: FileCheckpointStorage) -> Any:
    """Ten executors in a chain; one workflow object serves one run at a time."""
    chain = [executor(number) for number in range(STEPS)]
    return WorkflowBuilder(start_executor=chain[0], checkpoint_storage=storage).add_chain(chain).build()


async def main() -> None:
    """Measure."""
    logging.disable(logging.WARNING)
    task = asked()
    storage = FileCheckpointStorage(task.folder / "checkpoints")
    interface, at_once = task.setting.split("-")

    async def wave(n: int) -> None:
        if interface == "graph":
            await asyncio.gather(*(graph(storage).run(small(run, -1)) for run in range(n)))
        else:
            await asyncio.gather(*(steps.build(checkpoint_storage=storage).run(run) for run in range(n)))

    await measure(task, int(at_once), wave, version=version("agent-framework-core"))


if __name__ == "__main__":
    asyncio.run(main())
