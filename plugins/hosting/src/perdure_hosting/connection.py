"""Keeps a peer connected: dials, greets, comes back after a break, gives up what is lost."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final, NamedTuple

from perdure.errors import NotPermitted
from perdure_hosting.errors import HostUnreachable, ProtocolViolated, Refused
from perdure_hosting.line import Line, Outgoing
from perdure_hosting.link import Link, parsed
from perdure_hosting.settings import PROTOCOL, SessionSettings
from perdure_hosting.wire_pb2 import Goodbye, Hello, Packet, Welcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.ports import Clock
    from perdure_hosting.carrier import Carrier, Dial
    from perdure_hosting.peer import Peer

_LONGEST_PAUSE: Final = 1.0
"""Seconds between two attempts to reconnect, at most."""

_PASSING: Final = {Goodbye.STOPPING, Goodbye.BUSY, Goodbye.REPLACED, Goodbye.UNKNOWN}
"""Refusals after which another attempt may succeed."""


class Introduction(NamedTuple):
    """What one says of oneself.

    Attributes:
        name: Under which others see this worker.
        address: Where others may dial it.
        ticket: From worker to worker: what the host gave for it.
    """

    name: str = ""
    address: str = ""
    ticket: str = ""


class Connection:
    """The carriers of one peer, one after the other.

    Args:
        peer: Whose.
        dial: Makes a carrier.
        address: What ``dial`` is given.
        clock: The time.
        retry: Seconds before the second attempt; each further pause is twice as long, up to a second.

    Attributes:
        me: What is said in the hello.
        failure: Why the last attempt to connect failed; empty if it did not.
        settings: What the other side has decided.
        opened: Called when a session begins, with its link: passes it on to the peer.
        lost: Called when a session is given up.
        failed: Called after each attempt that failed.
        name: What the other side calls this one.
    """

    def __init__(self, peer: Peer, dial: Dial, clock: Clock, *, address: str = "", retry: float = 0.05) -> None:
        self.me = Introduction()
        self.failure: str = ""
        self.settings = SessionSettings()
        self.name: str = ""
        self.opened: Callable[[Link], None] = peer.renewed
        self.lost: Callable[[], None] = peer.lost
        self.failed: Callable[[], None] = _nothing
        self._peer = peer
        self._dial = dial
        self._address = address
        self._clock = clock
        self._retry = retry
        self._outgoing = Outgoing(lambda: peer.load)
        self._resume = ""
        self._since = 0.0
        self._beating: asyncio.Task[None] | None = None
        self._left = False

    async def run(self, connected: asyncio.Future[None] | None = None, *, patience: float | None = None) -> None:
        """Stay connected until cancelled, until ``leave``, or for ``patience`` seconds without a connection.

        ``connected`` gets a result at the first welcome, and an exception if there can be none.
        """
        pause = 0.0
        self._since = self._clock.now()
        while not self._left:
            try:
                line = await self._greet(await self._dial(self._address))
            except (OSError, ProtocolViolated, Refused, NotPermitted) as error:
                self.failure = str(error) or repr(error)
                self.failed()
                if self._gives_up(error, connected, patience):
                    return
                pause = min(2 * pause, _LONGEST_PAUSE) or self._retry
            else:
                self.failure = ""
                if connected is not None and not connected.done():
                    connected.set_result(None)
                goodbye = await self._talk(line)
                pause = 0.0 if line.packets else min(2 * pause, _LONGEST_PAUSE) or self._retry
                if goodbye is not None and goodbye.reason in {Goodbye.LEAVING, Goodbye.STOPPING}:
                    self._forget()
                    if patience is not None:
                        return
            if pause and not self._left:
                jitter = random.uniform(0.5, 1.0)  # noqa: S311 - nobody gains by guessing it
                await self._clock.sleep_until(self._clock.now() + pause * jitter)

    def leave(self, message: str) -> None:
        """Say goodbye after what is waiting was written, and do not come back."""
        self._left = True
        if self._peer.line is not None:
            self._peer.line.say_goodbye(Goodbye.LEAVING, message)

    async def _greet(self, carrier: Carrier) -> Line:
        """Say hello; return the line of the session. Raises ``OSError``, ``Refused``, ``ProtocolViolated``."""
        try:
            received = self._peer.link.received if self._resume else 0
            name, address, ticket = self.me
            hello = Hello(
                protocol=PROTOCOL, name=name, resume=self._resume, received=received, ticket=ticket, address=address
            )
            await carrier.send(Packet(hello=hello).SerializeToString())
            data = await self._answer(carrier)
            packet = parsed(data, self.settings.max_frame)
            if packet.HasField("goodbye"):
                raise Refused(packet.goodbye)  # noqa: TRY301 - as below, the carrier is closed in one place
            if not packet.HasField("welcome") or packet.welcome.protocol != PROTOCOL:
                msg = f"the other side does not speak version {PROTOCOL} of the protocol"
                raise ProtocolViolated(msg, Goodbye.WRONG_PROTOCOL)  # noqa: TRY301 - as above
            return self._welcomed(carrier, packet.welcome)
        except BaseException:
            await carrier.close()
            raise

    async def _answer(self, carrier: Carrier) -> bytes:
        receiving = asyncio.ensure_future(carrier.receive())
        timer = asyncio.ensure_future(self._clock.sleep_until(self._clock.now() + self.settings.silence))
        try:
            await asyncio.wait({receiving, timer}, return_when=asyncio.FIRST_COMPLETED)
            data = receiving.result() if receiving.done() else None
        finally:
            receiving.cancel()
            timer.cancel()
        if data is None:
            msg = "the other side did not answer the hello"
            raise ConnectionResetError(msg)
        return data

    def _welcomed(self, carrier: Carrier, welcome: Welcome) -> Line:
        peer = self._peer
        if welcome.resumed:
            peer.link.attach(welcome.received)
        else:
            self.settings = SessionSettings(
                window_frames=welcome.window_frames,
                window_bytes=welcome.window_bytes,
                max_frame=welcome.max_frame,
                heartbeat=welcome.heartbeat,
                silence=welcome.silence,
                grace=welcome.grace,
                deadline=welcome.deadline,
            )
            self._resume, self.name = welcome.resume, welcome.name
            self.opened(Link(self.settings))
        peer.line = Line(carrier, peer.link, self._clock, self._outgoing, max_frame=self.settings.max_frame)
        return peer.line

    async def _talk(self, line: Line) -> Goodbye | None:
        peer = self._peer
        beating = asyncio.create_task(self._beat(line))
        try:
            return await line.converse(lambda packet: peer.arrived(peer.link.receive(packet)))
        finally:
            beating.cancel()
            peer.line = None
            self._since = self._clock.now()
            if line.violated:
                self._forget()

    async def _beat(self, line: Line) -> None:
        """Say something when there was nothing to say; give the carrier up when nothing is heard."""
        settings, clock = self.settings, self._clock
        while True:
            await clock.sleep_until(clock.now() + settings.heartbeat / 2)
            now = clock.now()
            if now - line.heard > settings.silence:
                await line.close()
                return
            if now - max(line.told, line.heard) >= settings.heartbeat:
                self._peer.link.poke()
                line.wake()

    def _gives_up(self, error: Exception, connected: asyncio.Future[None] | None, patience: float | None) -> bool:
        """After an attempt that failed: whether there is no hope. What is surely lost is said to be lost."""
        if isinstance(error, ProtocolViolated) or (isinstance(error, Refused) and error.reason == Goodbye.MALFORMED):
            self._forget()  # the session cannot go on; another may begin
        away = self._clock.now() - self._since
        if self._resume and away > self.settings.grace:
            self._forget()
        for_good = isinstance(error, NotPermitted) or (isinstance(error, Refused) and error.reason not in _PASSING)
        late = patience is not None and away >= patience
        waited_for = connected is not None and not connected.done()
        if connected is not None and waited_for and (for_good or late):
            reached = isinstance(error, Refused | NotPermitted)
            connected.set_exception(error if reached else HostUnreachable(f"there is no connection: {error}"))
        return late or (for_good and (waited_for or patience is not None))

    def _forget(self) -> None:
        if self._resume:
            self._resume = ""
            self.lost()


def _nothing() -> None:
    pass
