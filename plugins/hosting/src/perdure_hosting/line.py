"""A carrier in use by a link: reads its packets, and writes what answers them. Thin: what they mean is elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from perdure_hosting.errors import ProtocolViolated
from perdure_hosting.link import parsed
from perdure_hosting.tasks import begun
from perdure_hosting.wire_pb2 import Goodbye, Packet

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.ports import Clock
    from perdure_hosting.carrier import Carrier
    from perdure_hosting.link import Link


_CROWD: Final = 16
"""From so many messages under way on, little waits for more."""

_GATHER: Final = 0.002
"""Seconds for which it does, after a packet. That costs as much as ten messages in it: under load each message would
otherwise travel alone, until nobody has time left."""


class Outgoing:
    """The lines of one owner that have something to write.

    What a packet brings about is written as soon as all of that packet is handled, whichever lines it goes to; anything
    else at the end of that turn of the loop. A turn of the loop more for each hop would be a fifth of a request.

    Args:
        load: How many messages are under way.
    """

    def __init__(self, load: Callable[[], int]) -> None:
        self.load = load
        self._lines: list[Line] = []
        self._held = False

    def add(self, line: Line, *, alone: bool = False) -> None:
        """It has something to write; ``alone``: nothing will come that could go with it."""
        self._lines.append(line)
        if self._held:
            return
        if alone:
            self.write()
        elif len(self._lines) == 1:
            asyncio.get_running_loop().call_soon(self.write)

    def hold(self) -> None:
        """A packet is being handled: ``write`` follows in this turn of the loop."""
        self._held = True

    def write(self) -> None:
        """Let them write."""
        self._held = False
        lines, self._lines = self._lines, []
        for line in lines:
            line.write()


class Line:
    """One carrier of one session, from its welcome to its end.

    Args:
        carrier: Over which the two sides have greeted each other.
        link: What goes over it.
        clock: The time.
        outgoing: Where it says that it has something to write.
        max_frame: Bytes of the largest frame.

    Attributes:
        heard: When a packet came last (UTC seconds).
        told: When one went last.
        packets: How many came.
        closed: Whether it is to end, or has ended.
        violated: Whether it ended because the other side broke the protocol.
    """

    def __init__(self, carrier: Carrier, link: Link, clock: Clock, outgoing: Outgoing, *, max_frame: int) -> None:
        self.carrier = carrier
        self.heard: float = clock.now()
        self.told: float = self.heard
        self.packets: int = 0
        self.closed: bool = False
        self.violated: bool = False
        self._link = link
        self._clock = clock
        self._outgoing = outgoing
        self._max_frame = max_frame
        self._quiet = False  # not before it converses, nor while it writes, nor while it is among what has to
        self._writing: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._wrote = 0.0  # of the loop's clock
        self._goodbye: Packet | None = None

    def wake(self, *, alone: bool = False) -> None:
        """There is something to write: it goes soon, with what comes until then; see ``Outgoing``."""
        if self._quiet:
            self._quiet = False
            self._outgoing.add(self, alone=alone)

    def write(self) -> None:
        """Write what there is: now, or when a little more has come."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if not (self.closed or self._gathers()):
            self._writing = begun(self._write())

    def say_goodbye(self, reason: Goodbye.Reason, message: str) -> None:
        """End it after what is waiting was written."""
        if self._goodbye is None:
            self._goodbye = Packet(goodbye=Goodbye(reason=reason, message=message))
        self.wake()

    async def close(self) -> None:
        """End it now."""
        self.closed = True
        await self.carrier.close()

    async def converse(self, arrived: Callable[[Packet], None]) -> Goodbye | None:
        """Write what the link has to say and hand over what comes, until the carrier ends.

        ``arrived`` may raise ``ProtocolViolated``: the other side is told, and the carrier ends. Returns the other
        side's goodbye, if it said one.
        """
        self.write()
        try:
            return await self._read(arrived)
        except ProtocolViolated as error:
            self.violated = True
            self.say_goodbye(error.reason, str(error))
            self._outgoing.write()
            if self._later is not None:
                self.write()
            if self._writing is not None:
                await asyncio.wait({self._writing}, timeout=1.0)
            return None
        finally:
            self.closed = True
            if self._later is not None:
                self._later.cancel()
            await self.carrier.close()
            if self._writing is not None:
                self._writing.cancel()
                await asyncio.wait({self._writing})

    async def _read(self, arrived: Callable[[Packet], None]) -> Goodbye | None:
        carrier, outgoing = self.carrier, self._outgoing
        while not self.closed and (data := await carrier.receive()) is not None:
            if self.closed:  # the session goes on over another carrier, to which this packet will come again
                break
            self.heard = self._clock.now()
            self.packets += 1
            packet = parsed(data, self._max_frame)
            if packet.HasField("goodbye"):
                return packet.goodbye
            outgoing.hold()
            try:
                arrived(packet)
                if self._link.due:
                    self.wake()
            finally:
                outgoing.write()
        return None

    async def _write(self) -> None:
        carrier, link, loop = self.carrier, self._link, asyncio.get_running_loop()
        try:
            while not self.closed and (data := link.take()) is not None:
                self.told, self._wrote = self._clock.now(), loop.time()
                await carrier.send(data)
                if not link.silent and self._gathers():
                    return
            if not self.closed and self._goodbye is None:
                self._quiet = True
                return
            if self._goodbye is not None:
                await carrier.send(self._goodbye.SerializeToString())
        except OSError:
            pass  # the reading side sees the end, too
        self.closed = True
        await carrier.close()

    def _gathers(self) -> bool:
        """Whether it waits for more; see ``_GATHER``."""
        if self._goodbye is not None or self._link.many or self._outgoing.load() < _CROWD:
            return False
        loop = asyncio.get_running_loop()
        rest = self._wrote + _GATHER - loop.time()
        if rest > 0:
            self._later = loop.call_later(rest, self.write)
        return rest > 0
