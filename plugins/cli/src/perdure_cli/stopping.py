"""How commands that run until they are stopped hear of it; of other plugins, too."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def stopped_by_signals() -> Generator[asyncio.Event]:
    """The first SIGTERM or SIGINT sets the event; a second one ends the process."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)

    def release() -> None:
        for each in signals:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(each)

    def stop() -> None:
        release()
        stopped.set()

    for each in signals:
        with suppress(NotImplementedError):  # Windows, where Ctrl-C interrupts at once
            loop.add_signal_handler(each, stop)
    try:
        yield stopped
    finally:
        release()
