"""A process with a runtime of its own; `test_two_processes.py` starts it, kills it and stops it.

It is told what to do as lines of JSON on stdin, and answers each with one on stdout. Its log goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perdure import App, Context, Runtime, workflow


class Approval(BaseModel):
    approved: bool


def leg(folder: str, number: int) -> int:
    """Note on the disk, for good, that this was done and by whom."""
    with Path(folder, "witness").open("a") as file:
        file.write(f"{number} {os.getpid()}\n")
        file.flush()
        os.fsync(file.fileno())
    return os.getpid()


async def pass_gate(port: int) -> int:
    """Say who is there, and go on when the test opens the gate."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"%d\n" % os.getpid())
        await reader.readexactly(1)
    finally:
        writer.close()
    return os.getpid()


@workflow
async def journey(ctx: Context, folder: str, port: int) -> list[int]:
    """Three legs, the gate, three legs; who did each."""
    before = [await ctx.step(leg, folder, number) for number in range(3)]
    gate = await ctx.step(pass_gate, port)
    after = [await ctx.step(leg, folder, number) for number in range(3, 6)]
    return [*before, gate, *after]


@workflow
async def approve(ctx: Context, folder: str) -> list[int]:
    """Who asked, and who went on."""
    before = await ctx.step(leg, folder, 0)
    await ctx.ask("Go on?", Approval)
    return [before, await ctx.step(leg, folder, 1)]


app = App("travel", workflows=[journey, approve])


async def start(runtime: Runtime, target: str, payload: dict[str, Any], key: str | None = None) -> Any:
    run = await runtime.submit(target, json.dumps(payload).encode(), key=key)
    return {"run": run.id, "new": run.new}


async def result(runtime: Runtime, run: str) -> Any:
    return await runtime.handle(run).result()


async def request(runtime: Runtime, run: str) -> Any:
    view = await runtime.handle(run).wait(until_waiting=True)
    return view.requests[0].id


async def answer(runtime: Runtime, request: str, value: Any) -> Any:
    await runtime.answer(request, value)


async def journal(runtime: Runtime, run: str) -> Any:
    return [[entry.path, (entry.value or b"").decode()] for entry in await runtime.query.journal(run)]


ORDERS = {"start": start, "result": result, "request": request, "answer": answer, "journal": journal}


async def main() -> None:
    async with app.open() as runtime:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order, *words = json.loads(line)
            reply = await ORDERS[order](runtime, *words)
            print(json.dumps(reply), flush=True)  # noqa: T201 - how it speaks


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    asyncio.run(main())
