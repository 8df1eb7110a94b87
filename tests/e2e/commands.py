"""Processes of the command line that run until they are told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

PATIENCE = 100
PROCESSES = Path(__file__).with_name("processes")


@asynccontextmanager
async def perdure(
    folder: Path, *words: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Any]]:
    """A process, once it is ready, and what it said then; told to stop at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure_cli", *words, "--json"),
        cwd=folder,
        env=os.environ | (env or {}),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
            assert line, f"{words} has died"
            yield process, json.loads(line)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
