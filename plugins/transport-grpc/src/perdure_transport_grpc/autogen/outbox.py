"""What waits to be written to a worker: little, for who puts in waits until there is room."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from perdure.errors import WorkerLost

if TYPE_CHECKING:
    from perdure_transport_grpc.autogen.agent_worker_pb2 import Message

_ROOM: Final = 16
"""Messages that wait beyond the one that is being written."""


class Outbox:
    """Messages to one worker, in the order in which they came. Any number of tasks put in, one takes out.

    Args:
        worker: What errors call it.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(_ROOM)
        self._closed = False

    async def put(self, message: Message) -> None:
        """Put in; wait for room, first come, first served. Raises ``WorkerLost``: nobody will take it out."""
        await self._room.acquire()
        if self._closed:
            self._room.release()  # so that the next one who waits hears of it
            msg = f"worker {self._worker!r} is gone: send it again"
            raise WorkerLost(msg)
        self._messages.put_nowait(message)

    async def take(self) -> Message | None:
        """The next one; ``None`` when it is closed and empty."""
        message = await self._messages.get()
        self._room.release()
        return message

    def close(self) -> None:
        """Take in nothing more."""
        if not self._closed:
            self._closed = True
            self._messages.put_nowait(None)
            self._room.release()
