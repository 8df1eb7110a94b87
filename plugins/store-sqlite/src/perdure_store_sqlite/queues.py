"""How the threads of the store take what waits for them: together, for to be handed it one by one costs more."""

from __future__ import annotations

from contextlib import suppress
from queue import Empty
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from queue import SimpleQueue

T = TypeVar("T")


def gathered(queue: SimpleQueue[T | None], *, timeout: float | None = None, most: int = 0) -> list[T] | None:
    """All that waits, or so much of it; empty after so many seconds without anything; ``None`` at the end.

    The end is a ``None`` in the queue, which stays there for as long as there is something before it.
    """
    try:
        first = queue.get(timeout=timeout)
    except Empty:
        return []
    if first is None:
        return None
    found = [first]
    with suppress(Empty):
        while len(found) != most:
            each = queue.get_nowait()
            if each is None:
                queue.put(None)
                break
            found.append(each)
    return found
