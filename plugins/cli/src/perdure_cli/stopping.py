"""What commands that run until they are stopped have in common; those of other plugins, too."""

from __future__ import annotations

import asyncio
import gc
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


def settle() -> None:
    """Call it when all is up: what stands then stays, and no collection looks through it again.

    Else each full one would, which with what is imported takes tens of milliseconds, and everybody waits for it.
    """
    gc.collect()
    gc.freeze()
