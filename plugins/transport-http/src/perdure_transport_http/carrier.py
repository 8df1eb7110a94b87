"""A WebSocket as a carrier: each packet of the link is one binary message. The same at both ends."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from aiohttp import WSCloseCode, WSMsgType

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse
    from aiohttp.web import WebSocketResponse

    from perdure_hosting.carrier import Principal

GOODBYE: Final = 1.0
"""Seconds that a close waits for the other side to close, too; then the connection is ended without."""

_REASON: Final = 120
"""Bytes that a WebSocket's close has for its reason, nearly."""


class WebSocketCarrier:
    """Fills ``perdure_hosting.Carrier``.

    ``close`` does not wait, for a host closes many, and one whose other side is gone would keep it; ``ended`` does.

    Args:
        websocket: An open one.
        principal: Who is at the other end.
    """

    def __init__(self, websocket: ClientWebSocketResponse | WebSocketResponse, principal: Principal) -> None:
        self._websocket = websocket
        self._principal = principal
        self._socket: Any = websocket.get_extra_info("socket")
        self._over = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def principal(self) -> Principal:
        """Who is at the other end."""
        return self._principal

    async def send(self, data: bytes) -> None:
        """Hand on; return when there is room for more. Raises ``ConnectionError``."""
        if self._closing is not None:
            msg = "the WebSocket is closed"
            raise ConnectionResetError(msg)
        await self._websocket.send_bytes(data)

    async def receive(self) -> bytes | None:
        """The next message; ``None`` for good when there will be none. A message of text ends it: that is no packet."""
        if self._over:
            return None
        message: Any = await self._websocket.receive()
        if message.type is WSMsgType.BINARY:
            return message.data
        self._over = True
        if message.type is WSMsgType.TEXT:
            self._close(WSCloseCode.UNSUPPORTED_DATA, "expected binary messages")
        return None

    async def close(self, reason: str = "") -> None:
        """Begin to close. Idempotent."""
        self._close(WSCloseCode.OK, reason)

    @property
    def gone(self) -> bool:
        """Whether nothing is left of the connection."""
        return self._closing is not None and self._closing.done()

    async def ended(self) -> None:
        """Close, and return when nothing is left of the connection."""
        await self._close(WSCloseCode.OK, "")

    def _close(self, code: int, reason: str) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.create_task(self._end(code, reason))
        return self._closing

    async def _end(self, code: int, reason: str) -> None:
        with suppress(OSError):  # a TimeoutError is one, too: whoever is gone does not say goodbye
            async with asyncio.timeout(GOODBYE):
                await self._websocket.close(code=code, message=_shortened(reason))
        if self._socket is not None:
            # What is still to be sent to one that does not read would keep the connection for many minutes.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _shortened(reason: str) -> bytes:
    return reason.encode()[:_REASON].decode(errors="ignore").encode()
