"""Carriers over gRPC: one bidirectional stream of bytes each, seen from who dialled and from who was dialled.

Nothing here reads what it carries, so there are no serialisers: gRPC is handed bytes. What waits is batched above, in
links: each message costs several wake-ups of the loop here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from grpc import StatusCode, aio

from perdure.errors import NotPermitted
from perdure_hosting import Principal

if TYPE_CHECKING:
    from collections.abc import Awaitable

METHOD: Final = "/perdure.v1.Link/Connect"

_FAREWELL: Final = 1.0
"""Seconds that the other side gets to end a stream to which nothing more is sent."""

_REFUSED: Final = {StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED}


class Stream:
    """What both carriers have in common: ``receive`` ends when the carrier is closed from another task.

    Args:
        principal: Who is at the other end.
    """

    def __init__(self, principal: Principal) -> None:
        self._principal = principal
        self._closed = False
        self._reader: asyncio.Task[Any] | None = None
        self._interrupted = False

    @property
    def principal(self) -> Principal:
        """Who is at the other end."""
        return self._principal

    async def _read(self, read: Awaitable[Any]) -> bytes | None:
        """What gRPC reads, or ``None`` at the end."""
        self._reader = task = asyncio.current_task()
        try:
            data = await read
        except asyncio.CancelledError:
            # gRPC's own way to say that a call was cancelled, or `_interrupt`; or somebody cancels this task.
            if self._interrupted and task is not None:
                self._interrupted = False
                if task.uncancel() > 0:
                    raise
            elif task is None or task.cancelling() > 0:
                raise
            return None
        except (aio.BaseError, aio.AioRpcError, asyncio.InvalidStateError):
            return None
        finally:
            self._reader = None
        return None if data is aio.EOF or self._closed else data

    def _interrupt(self) -> None:
        """End a ``_read`` that waits."""
        self._closed = True
        if self._reader is not None and not self._interrupted:
            self._interrupted = True
            self._reader.cancel()


class DialledCarrier(Stream):
    """The end of who dialled.

    Args:
        channel: Closed with the carrier.
        call: The stream.
    """

    def __init__(self, channel: aio.Channel, call: aio.StreamStreamCall[bytes, bytes]) -> None:
        super().__init__(Principal("host"))
        self._channel = channel
        self._call = call
        self._ending: asyncio.Task[None] | None = None

    async def send(self, data: bytes) -> None:
        """Write a message; gRPC waits while the other side does not read. Raises ``ConnectionError``."""
        try:
            if not self._closed:
                await self._call.write(data)
                return
        except (aio.BaseError, aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise ConnectionResetError(str(error)) from error
        except asyncio.CancelledError:
            if not self._call.cancelled() or _cancelled():
                raise
        msg = "the stream is closed"
        raise ConnectionResetError(msg)

    async def receive(self) -> bytes | None:
        """The next message, or ``None``."""
        return None if self._closed else await self._read(self._call.read())

    async def close(self, reason: str = "") -> None:  # noqa: ARG002 - the goodbye that went before says it
        """Send no more; the stream ends when the other side ends it, or a second later."""
        if self._ending is None:
            self._interrupt()
            self._ending = asyncio.create_task(self._end())

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left."""
        return self._ending is not None and self._ending.done()

    async def ended(self) -> None:
        """Close, and wait until nothing of it is left."""
        await self.close()
        if self._ending is not None:
            await asyncio.wait({self._ending})

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._call.done_writing()
                await self._call.code()
        except (TimeoutError, aio.BaseError, asyncio.InvalidStateError):
            pass
        finally:
            self._call.cancel()
            await self._channel.close()


class AcceptedCarrier(Stream):
    """The end of who was dialled.

    Args:
        context: The stream, while gRPC's handler of the call waits for ``over``.
        principal: Who dialled.
    """

    def __init__(self, context: aio.ServicerContext[bytes, bytes], principal: Principal) -> None:
        super().__init__(principal)
        self._context = context
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def send(self, data: bytes) -> None:
        """Write a message; gRPC waits while the other side does not read. Raises ``ConnectionError``."""
        try:
            if not self._closed:
                await self._context.write(data)
                return
        except (aio.BaseError, asyncio.InvalidStateError) as error:
            raise ConnectionResetError(str(error)) from error
        msg = "the stream is closed"
        raise ConnectionResetError(msg)

    async def receive(self) -> bytes | None:
        """The next message, or ``None``."""
        return None if self._closed else await self._read(self._context.read())

    async def close(self, reason: str = "") -> None:  # noqa: ARG002 - the goodbye that went before says it
        """Let the handler return: so gRPC ends the stream, after what was written."""
        self._interrupt()
        if not self._over.done():
            self._over.set_result(None)

    async def over(self) -> None:
        """Wait until the carrier is closed; closes it when cancelled, as gRPC does when the other side is gone."""
        try:
            await asyncio.wait({self._over})
        finally:
            await self.close()


async def opened(channel: aio.Channel, call: aio.StreamStreamCall[bytes, bytes], target: str) -> DialledCarrier:
    """The carrier once the other side has admitted us. Raises ``NotPermitted``, ``ConnectionError``."""
    await call.initial_metadata()
    if call.done():
        code, details = await call.code(), await call.details()
        if code in _REFUSED:
            msg = f"{target!r} refused this worker: {details}"
            raise NotPermitted(msg)
        msg = f"there is no connection to {target!r}: {code.name}: {details}"
        raise ConnectionRefusedError(msg)
    return DialledCarrier(channel, call)


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
