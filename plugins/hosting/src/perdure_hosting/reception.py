"""Where sessions are accepted: by a host, and by a worker that others reach directly.

A session is one worker's, whichever carriers it comes over; it ends when the worker says so, or stays away too long.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from perdure_hosting.errors import ProtocolViolated
from perdure_hosting.line import Line, Outgoing
from perdure_hosting.link import Link, parsed
from perdure_hosting.settings import PROTOCOL
from perdure_hosting.wire_pb2 import Goodbye, Hello, Packet, Welcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure.ports import Clock
    from perdure_hosting.carrier import Carrier, Principal
    from perdure_hosting.settings import SessionSettings


_LONGEST: Final = 1000
"""Characters of a worker's name, and of its address."""


class Session:
    """One worker, as the accepting side knows it.

    Args:
        name: Of the worker.
        principal: Who it is.
        link: What goes there and what comes.
        address: Where it may be dialled; empty: nowhere.

    Attributes:
        resume: The secret by which it proves to be the same when it comes back.
        line: Its present carrier, or ``None``.
        since: When it went away (UTC seconds), while it has none.
        ended: Whether it is over for good.
    """

    def __init__(self, name: str, principal: Principal, link: Link, address: str) -> None:
        self.name = name
        self.principal = principal
        self.link = link
        self.address = address
        self.resume: str = secrets.token_urlsafe(24)
        self.line: Line | None = None
        self.since: float = 0.0
        self.ended: bool = False

    def put(self, raw: bytes, *, counted: bool = False) -> None:
        """Send it this frame."""
        self.link.put(raw, counted=counted)
        self.wake()

    def wake(self) -> None:
        """Its link has something to say."""
        if self.line is not None:
            self.line.wake()


S = TypeVar("S", bound=Session)


class Sessions(Protocol[S]):
    """Whose sessions they are."""

    def opened(self, hello: Hello, principal: Principal, name: str) -> S:
        """Make a session. Raises ``ProtocolViolated`` to refuse it."""
        ...

    def arrived(self, session: S, frames: Sequence[bytes]) -> None:
        """These came; perhaps none, but acknowledgements. Raises ``ProtocolViolated``."""
        ...

    def lost(self, session: S) -> None:
        """It is over."""
        ...

    def load(self) -> int:
        """How many messages are under way."""
        ...


class Reception(Generic[S]):
    """Greets who comes, and keeps the sessions.

    Args:
        owner: Whose they are.
        settings: Of each session.
        clock: The time.

    Attributes:
        sessions: By name.
    """

    def __init__(self, owner: Sessions[S], settings: SessionSettings, clock: Clock) -> None:
        self.sessions: dict[str, S] = {}
        self._owner = owner
        self._settings = settings
        self._clock = clock
        self._outgoing = Outgoing(owner.load)
        self._by_resume: dict[str, S] = {}
        self._greeting: dict[int, tuple[Carrier, float]] = {}
        self._closed = ""

    async def serve(self, carrier: Carrier) -> None:
        """Talk with whoever is at the other end, until the carrier ends."""
        self._greeting[id(carrier)] = carrier, self._clock.now()
        try:
            data = await carrier.receive()
        finally:
            del self._greeting[id(carrier)]
        if data is None:
            return
        try:
            session, line = await self._greeted(carrier, data)
        except ProtocolViolated as error:
            await _refuse(carrier, error)
            return
        except OSError:
            return  # gone before it was welcomed
        goodbye: Goodbye | None = None
        try:
            goodbye = await line.converse(lambda packet: self._arrived(session, packet))
        finally:  # whatever ends it, also a carrier that cancels who serves it
            if session.line is line:
                session.line, session.since = None, self._clock.now()
                if line.violated or (goodbye is not None and goodbye.reason == Goodbye.LEAVING):
                    self.end(session)

    def end(self, session: S) -> None:
        """The session is over: its owner hears of it."""
        if not session.ended:
            session.ended = True
            self.sessions.pop(session.name, None)
            self._by_resume.pop(session.resume, None)
            self._owner.lost(session)

    async def sweep(self) -> None:
        """Look after those that are silent, or have been away for too long. Call it several times per heartbeat."""
        now, settings = self._clock.now(), self._settings
        for carrier, since in list(self._greeting.values()):
            if now - since > settings.silence:
                await carrier.close("no hello")
        for session in list(self.sessions.values()):
            line = session.line
            if line is None:
                if now - session.since > settings.grace:
                    self.end(session)
            elif now - line.heard > settings.silence or session.link.swamped:
                if session.link.swamped:
                    self.end(session)
                await line.close()
            elif now - max(line.told, line.heard) >= settings.heartbeat:
                session.link.poke()
                line.wake()

    def close_doors(self, message: str) -> None:
        """Refuse new sessions from here on."""
        self._closed = message

    async def stop(self, reason: Goodbye.Reason, message: str) -> None:
        """Say goodbye to all; their sessions are over."""
        self.close_doors(message)
        for session in list(self.sessions.values()):
            if session.line is not None:
                session.line.say_goodbye(reason, message)
            self.end(session)
        for carrier, _ in list(self._greeting.values()):
            await carrier.close(message)

    def _arrived(self, session: S, packet: Packet) -> None:
        self._owner.arrived(session, session.link.receive(packet))

    async def _greeted(self, carrier: Carrier, data: bytes) -> tuple[S, Line]:
        """The session that goes on over this carrier. Raises ``ProtocolViolated``, ``OSError``."""
        packet = parsed(data, self._settings.max_frame)
        hello, settings = packet.hello, self._settings
        if not packet.HasField("hello"):
            msg = "the first packet is no hello"
            raise ProtocolViolated(msg)
        if hello.protocol != PROTOCOL:
            msg = (
                f"version {hello.protocol} of the protocol, expected {PROTOCOL}: install the same release on both sides"
            )
            raise ProtocolViolated(msg, Goodbye.WRONG_PROTOCOL)
        session = self._by_resume.get(hello.resume) if hello.resume else None
        resumed = session is not None and session.principal.name == carrier.principal.name
        if session is None or not resumed:
            session = self._opened(hello, carrier.principal)
        while (old := session.line) is not None:  # again, if yet another carrier came for it meanwhile
            session.line = None
            await old.close()
        received = session.link.received
        session.link.attach(hello.received if resumed else 0)
        line = Line(carrier, session.link, self._clock, self._outgoing, max_frame=settings.max_frame)
        session.line = line
        session.principal = carrier.principal
        welcome = Welcome(
            protocol=PROTOCOL,
            name=session.name,
            resume=session.resume,
            resumed=resumed,
            received=received,
            window_frames=settings.window_frames,
            window_bytes=settings.window_bytes,
            max_frame=settings.max_frame,
            heartbeat=settings.heartbeat,
            silence=settings.silence,
            grace=settings.grace,
            deadline=settings.deadline,
        )
        try:
            await carrier.send(Packet(welcome=welcome).SerializeToString())
        except OSError:
            if session.line is line:
                session.line, session.since = None, self._clock.now()
            raise
        return session, line

    def _opened(self, hello: Hello, principal: Principal) -> S:
        if self._closed:
            raise ProtocolViolated(self._closed, Goodbye.STOPPING)
        if len(self.sessions) >= self._settings.sessions:
            msg = (
                f"there are {len(self.sessions)} sessions already: raise the setting 'sessions', or start another host"
            )
            raise ProtocolViolated(msg, Goodbye.BUSY)
        if len(hello.name) > _LONGEST or len(hello.address) > _LONGEST:
            msg = f"a name or address of more than {_LONGEST} characters"
            raise ProtocolViolated(msg)
        name = hello.name or f"worker-{secrets.token_hex(6)}"
        holder = self.sessions.get(name)
        if holder is not None:
            if holder.line is not None or holder.principal.name != principal.name:
                msg = f"a worker named {name!r} is here already: give each worker a name of its own, or none"
                raise ProtocolViolated(msg, Goodbye.DUPLICATE_NAME)
            self.end(holder)  # it died, and was started again before its grace was over
        session = self._owner.opened(hello, principal, name)
        self.sessions[name] = self._by_resume[session.resume] = session
        return session


async def _refuse(carrier: Carrier, error: ProtocolViolated) -> None:
    goodbye = Goodbye(reason=error.reason, message=str(error))
    with suppress(OSError):  # it may be gone already
        await carrier.send(Packet(goodbye=goodbye).SerializeToString())
    await carrier.close(str(error))
