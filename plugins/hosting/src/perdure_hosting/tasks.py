"""Tasks that begin at once."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


def begun(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that has run up to where it waits, where Python can do so: most handlers need no turn of the loop."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), eager_start=True)
    return asyncio.get_running_loop().create_task(coroutine)
