"""A TCP proxy on the loopback that misbehaves on purpose: what a network does to a connection, switched on and off.

It stands between a client and a server of real processes and knows nothing of what they say. Its time is the event
loop's, not a manual clock's: sockets know no other. What is random comes from the seed.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

Way = Literal["up", "down"]
"""``up`` is from the client to the target, ``down`` back."""

Side = Literal["client", "target"]

_How = Literal["close", "reset", "drop"]  # with what is still to be sent; with RST; without what is still to be sent

WAYS: Final[tuple[Way, ...]] = ("up", "down")
_AT_BOTH_SIDES: Final[tuple[Side, ...]] = ("client", "target")

_CHUNK: Final = 65536  # bytes read at once
_AHEAD: Final = 64  # chunks that may wait: what a delayed way holds before it stops reading
_PACE: Final = 0.05  # seconds between the pieces of a throttled way
# A close with this option sends RST instead of FIN: linger for 0 s.
_LINGER: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is wrong with the network at the moment; fresh, nothing is.

    Attributes:
        delay: Seconds that each byte is late.
        jitter: Up to so many seconds more, drawn for each chunk; chunks do not overtake each other.
        rate: Bytes per second and way of each connection, or ``None`` for as many as there are.
        lost: The ways whose bytes are accepted and swallowed.
        stalled: The ways on which nothing moves.
        half_open: One side is not told that the other has gone.
        refused: New connections are reset.
    """

    delay: float = 0.0
    jitter: float = 0.0
    rate: float | None = None
    lost: frozenset[Way] = frozenset()
    stalled: frozenset[Way] = frozenset()
    half_open: bool = False
    refused: bool = False


class FaultProxy:
    """Carries connections to a target, and harms them when told to.

    ::

        async with FaultProxy("127.0.0.1", port, seed=7) as proxy:
            client = await connect(proxy.host, proxy.port)
            proxy.black_hole()
            ...
            proxy.heal()

    Faults hold for all connections, those to come included, and add up until ``heal``; ``cut`` and ``reset`` happen
    once, to the connections of that moment. To be used from the loop that it was entered in.

    Args:
        target_host: Where connections lead. May be changed at any time, as ``target``, for those to come.
        target_port: As above.
        seed: Of everything random.
        address: Where it listens, and where its connections to the target come from: an address of the loopback
            (``127.0.0.2``, where the system has more than one), so that a client behind it stands for a machine of its
            own. By default the system chooses where they come from.

    Attributes:
        target: Host and port.
        host: Where it listens: ``address``, or 127.0.0.1.
        port: Where it listens: a free one.
        faults: What is wrong at the moment.
        connections: How many were accepted so far.
        carried: Bytes passed on so far, by way.
        swallowed: Bytes accepted and never passed on, by way.
    """

    def __init__(self, target_host: str, target_port: int, *, seed: int = 0, address: str = "") -> None:
        self.target: tuple[str, int] = (target_host, target_port)
        self.host: str = address or "127.0.0.1"
        self._source = (address, 0) if address else None
        self.port: int = 0
        self.faults: Faults = Faults()
        self.connections: int = 0
        self.carried: Counter[Way] = Counter()
        self.swallowed: Counter[Way] = Counter()
        self._random = random.Random(seed)  # noqa: S311 - a test's dice
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Listen. Raises ``OSError`` if there is no port to be had, or no such address here."""
        self._server = await asyncio.start_server(self._accept, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop listening and end what is open."""
        assert self._server is not None
        self._server.close()
        self._end("drop", _AT_BOTH_SIDES)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def open(self) -> int:
        """How many connections there are at the moment, those that only one side still has included."""
        return len(self._open)

    # -- faults that last

    def delay(self, seconds: float, *, jitter: float = 0.0) -> None:
        """Let each byte be late; one way has room for 4 MiB of late bytes."""
        self._become(replace(self.faults, delay=seconds, jitter=jitter))

    def throttle(self, rate: float) -> None:
        """Pass on so many bytes per second, for each way of each connection."""
        if rate <= 0:
            msg = f"throttle({rate!r}): expected bytes per second, more than 0; stall() lets nothing pass"
            raise ValueError(msg)
        self._become(replace(self.faults, rate=rate))

    def black_hole(self, *ways: Way) -> None:
        """Accept what is sent on these ways (on both, without any) and swallow it.

        A connection that lost bytes so does not go on when the network heals, but is reset: its stream has a hole.
        """
        self._become(replace(self.faults, lost=frozenset(ways or WAYS)))

    def stall(self, *ways: Way) -> None:
        """Let nothing move on these ways (on both, without any): a partition, after which a connection goes on."""
        self._become(replace(self.faults, stalled=frozenset(ways or WAYS)))

    def half_open(self) -> None:
        """Tell neither side when the other goes; what is sent to a side that has gone is swallowed."""
        self._become(replace(self.faults, half_open=True))

    def refuse(self) -> None:
        """Reset new connections at once."""
        self._become(replace(self.faults, refused=True))

    def heal(self) -> None:
        """Let nothing be wrong any more: what waits goes out, closes are passed on, torn connections are reset."""
        self._become(Faults())
        for connection in list(self._open):
            if connection.torn:
                connection.end("reset", _AT_BOTH_SIDES)

    # -- faults of a moment

    def cut(self, *sides: Side) -> int:
        """Close all connections towards these sides (both, without any), and swallow what was under way.

        Returns how many there were. Closed towards one side only, a connection is half-open until the next ``heal``.
        """
        return self._end("close", sides)

    def reset(self, *sides: Side) -> int:
        """As ``cut``, but with a reset instead of an orderly close: reads and writes raise ``ConnectionResetError``."""
        return self._end("reset", sides)

    def strike(self) -> str:
        """Let one fault happen, drawn by the seed; return its name. For a storm of them: ``strike``, wait, ``heal``."""
        blows: dict[str, Callable[[], object]] = {
            "delay": lambda: self.delay(0.02, jitter=0.05),
            "throttle": lambda: self.throttle(20_000),
            "cut": self.cut,
            "cut client": lambda: self.cut("client"),
            "cut target": lambda: self.cut("target"),
            "reset": self.reset,
            "black hole": self.black_hole,
            "black hole up": lambda: self.black_hole("up"),
            "black hole down": lambda: self.black_hole("down"),
            "stall": self.stall,
            "half open": self.half_open,
            "refuse": lambda: (self.refuse(), self.reset()),
        }
        name = self._random.choice(list(blows))
        blows[name]()
        return name

    # -- for tests

    async def until(self, condition: Callable[[Self], bool], *, timeout: float = 30.0) -> None:
        """Wait until something holds of this proxy, such as ``lambda proxy: proxy.open == 2``.

        Raises:
            TimeoutError: It did not come to hold within ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            while not condition(self):
                await self.changed.wait()

    # -- for connections

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change of faults, counts or connections; ask for it again after that."""
        return self._changed

    def note(self) -> None:
        """Wake those who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def lateness(self) -> float:
        """Seconds that the next chunk is late."""
        faults = self.faults
        return faults.delay + (self._random.uniform(0, faults.jitter) if faults.jitter else 0.0)

    async def pause(self, seconds: float | None) -> None:
        """Wait for the next change, but not longer than so many seconds."""
        changed = self.changed
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()

    # -- inside

    def _become(self, faults: Faults) -> None:
        self.faults = faults
        self.note()

    def _end(self, how: _How, sides: tuple[Side, ...]) -> int:
        for connection in (ended := list(self._open)):
            connection.end(how, sides or _AT_BOTH_SIDES)
        return len(ended)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._carry(_End(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.note()

    async def _carry(self, client: _End) -> None:
        target = None
        if not self.faults.refused:
            with suppress(OSError):
                target = _End(*await asyncio.open_connection(*self.target, local_addr=self._source))
        if target is None:
            client.end("reset")
            await client.closed()
            return
        connection = _Connection(self, client, target)
        self._open.add(connection)
        self.note()
        try:
            await connection.carry()
        finally:
            self._open.discard(connection)
            self.note()


class _End(NamedTuple):
    """One of a connection's two sockets."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def end(self, how: _How) -> None:
        sock: Any = self.writer.get_extra_info("socket")
        if how == "close":
            self.writer.close()
        else:
            if how == "reset":
                with suppress(OSError):  # it has gone by itself
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            self.writer.transport.abort()

    async def closed(self) -> None:
        """Wait until what was still to be sent has gone out."""
        with suppress(OSError):
            await self.writer.wait_closed()


class _Connection:
    """Two sockets and the two ways between them."""

    def __init__(self, proxy: FaultProxy, client: _End, target: _End) -> None:
        self._proxy = proxy
        self._ends: dict[Side, _End] = {"client": client, "target": target}
        self._gone: set[Side] = set()
        self._silent: set[Side] = set()
        self._ended = asyncio.Event()
        self.torn = False

    async def carry(self) -> None:
        """Pass bytes on until both ways have ended, or it was ended."""
        client, target = self._ends["client"], self._ends["target"]
        carrying = asyncio.gather(
            _Carrier(self._proxy, self, "up", client, target).run(),
            _Carrier(self._proxy, self, "down", target, client).run(),
        )
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait([carrying, ended], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (carrying, ended):
                task.cancel()
            await asyncio.gather(carrying, ended, return_exceptions=True)
            for end in (client, target):
                end.end("close")
        await client.closed()
        await target.closed()

    def end(self, how: _How, sides: tuple[Side, ...]) -> None:
        """Close or reset it towards some sides. The other one stays open, knowing nothing, until the network heals."""
        for side in sides:
            self._ends[side].end(how)
        self._gone.update(sides)
        self.torn = True
        if len(self._gone) == len(self._ends):
            self._ended.set()

    def gone(self, side: Side) -> bool:
        """Whether this side was taken away from the other without a word."""
        return side in self._gone

    def fall_silent(self, side: Side) -> None:
        """This side will send nothing more. When none will, there is nothing left to carry."""
        self._silent.add(side)
        if len(self._silent) == len(self._ends):
            self._ended.set()


class _Carrier:
    """Carries one way of a connection: one task reads, so that late bytes do not keep others waiting, one writes."""

    def __init__(self, proxy: FaultProxy, connection: _Connection, way: Way, source: _End, sink: _End) -> None:
        self._proxy = proxy
        self._connection = connection
        self._way: Way = way
        self._source = source
        self._sink = sink
        self._late: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_AHEAD)
        self._deaf = False  # nobody is left who reads there, or what was swallowed would be missed

    async def run(self) -> None:
        reading = asyncio.create_task(self._read())
        try:
            await self._write()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        """Queue chunks with the time at which they are due; an empty one is an orderly end, ``None`` a reset."""
        loop, due = asyncio.get_running_loop(), 0.0
        chunk: bytes | None = b"-"
        while chunk:
            try:
                chunk = await self._source.reader.read(_CHUNK)
            except OSError:
                chunk = None
            due = max(due, loop.time() + self._proxy.lateness())
            await self._late.put((due, chunk))

    async def _write(self) -> None:
        while True:
            due, chunk = await self._late.get()
            if not chunk:
                await self._until_due(due)
                await self._finish(chunk)
                return
            while chunk:
                await self._until_due(due)
                rate = self._proxy.faults.rate
                piece = chunk if rate is None else chunk[: max(1, int(rate * _PACE))]
                chunk = chunk[len(piece) :]
                await self._pass(piece)
                if rate is not None:
                    await self._proxy.pause(len(piece) / rate)

    async def _until_due(self, due: float) -> None:
        """Until the network lets something through that is due at a time of the loop."""
        loop = asyncio.get_running_loop()
        while True:
            faults = self._proxy.faults
            wait = due - loop.time() if faults.delay or faults.jitter else 0.0
            if self._way in faults.stalled:
                await self._proxy.pause(None)
            elif wait > 0:
                await self._proxy.pause(wait)
            else:
                return

    async def _pass(self, piece: bytes) -> None:
        proxy = self._proxy
        if self._way in proxy.faults.lost:
            self._deaf = self._connection.torn = True
        if not self._deaf:
            try:
                self._sink.writer.write(piece)
                await self._sink.writer.drain()
            except OSError:
                self._deaf = True
        (proxy.swallowed if self._deaf else proxy.carried)[self._way] += len(piece)
        proxy.note()

    async def _finish(self, ending: bytes | None) -> None:
        """Pass on how the source ended."""
        source: Side = "client" if self._way == "up" else "target"
        self._connection.fall_silent(source)
        while self._proxy.faults.half_open or self._way in self._proxy.faults.lost or self._connection.gone(source):
            await self._proxy.pause(None)
        if ending is None:
            self._connection.end("reset", _AT_BOTH_SIDES)
        elif not (self._deaf or self._sink.writer.is_closing()):
            with suppress(OSError):
                self._sink.writer.write_eof()
