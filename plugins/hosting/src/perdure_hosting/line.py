"""A carrier in use by a link: one task writes packets, the other reads them. Thin: what they mean is elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure_hosting.errors import ProtocolViolated
from perdure_hosting.link import parsed
from perdure_hosting.wire_pb2 import Goodbye, Packet

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.ports import Clock
    from perdure_hosting.carrier import Carrier
    from perdure_hosting.link import Link


class Line:
    """One carrier of one session, from its welcome to its end.

    Args:
        carrier: Over which the two sides have greeted each other.
        link: What goes over it.
        clock: The time.
        max_frame: Bytes of the largest frame.

    Attributes:
        heard: When a packet came last (UTC seconds).
        told: When one went last.
        packets: How many came.
        closed: Whether it is to end, or has ended.
        violated: Whether it ended because the other side broke the protocol.
    """

    def __init__(self, carrier: Carrier, link: Link, clock: Clock, *, max_frame: int) -> None:
        self.carrier = carrier
        self.heard: float = clock.now()
        self.told: float = self.heard
        self.packets: int = 0
        self.closed: bool = False
        self.violated: bool = False
        self._link = link
        self._clock = clock
        self._max_frame = max_frame
        self._idle: asyncio.Future[None] | None = None
        self._goodbye: Packet | None = None
        self._reading: asyncio.Task[bytes | None] | None = None

    def wake(self) -> None:
        """There is something to write: it goes at the end of this turn of the loop, with what comes until then."""
        idle = self._idle
        if idle is not None:
            self._idle = None
            if not idle.done():
                idle.set_result(None)

    def say_goodbye(self, reason: Goodbye.Reason, message: str) -> None:
        """End it after what is waiting was written."""
        if self._goodbye is None:
            self._goodbye = Packet(goodbye=Goodbye(reason=reason, message=message))
        self.wake()

    async def close(self) -> None:
        """End it now."""
        self.closed = True
        await self.carrier.close()
        self.wake()

    async def converse(self, arrived: Callable[[Packet], None]) -> Goodbye | None:
        """Write what the link has to say and hand over what comes, until the carrier ends.

        ``arrived`` may raise ``ProtocolViolated``: the other side is told, and the carrier ends. Returns the other
        side's goodbye, if it said one.
        """
        writing = asyncio.create_task(self._write())
        try:
            return await self._read(arrived)
        except ProtocolViolated as error:
            self.violated = True
            self.say_goodbye(error.reason, str(error))
            await asyncio.wait({writing}, timeout=1.0)
            return None
        finally:
            self.closed = True
            writing.cancel()
            await self.carrier.close()
            await asyncio.wait({writing})

    async def _read(self, arrived: Callable[[Packet], None]) -> Goodbye | None:
        carrier = self.carrier
        while not self.closed and (data := await carrier.receive()) is not None:
            if self.closed:  # the session goes on over another carrier, to which this packet will come again
                break
            self.heard = self._clock.now()
            self.packets += 1
            packet = parsed(data, self._max_frame)
            if packet.HasField("goodbye"):
                return packet.goodbye
            arrived(packet)
            if self._link.due:
                self.wake()
        return None

    async def _write(self) -> None:
        carrier, link = self.carrier, self._link
        try:
            while not self.closed:
                data = link.take()
                if data is not None:
                    self.told = self._clock.now()
                    await carrier.send(data)
                elif self._goodbye is not None:
                    await carrier.send(self._goodbye.SerializeToString())
                    break
                else:
                    self._idle = asyncio.get_running_loop().create_future()
                    await self._idle
        except OSError:
            pass  # the reading side sees the end, too
        self.closed = True
        await carrier.close()
