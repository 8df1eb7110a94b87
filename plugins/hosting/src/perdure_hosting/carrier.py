"""What moves packets: the port that gRPC and WebSockets fill, and a pair of ends in one process for tests.

A carrier knows nothing of what it carries. It keeps order, and it may break at any time: sessions outlive it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_QUEUE: Final = 2
"""Packets that lie between two ends in one process before the sender waits. Few: a cut loses what nobody has read, and
who sends all of it before anybody reads would, cut each time, never get on."""


class Principal(NamedTuple):
    """Who is at the other end, as the carrier authenticated it, and what it may do.

    Attributes:
        name: Sessions of one principal go on only over carriers of the same.
        may_host: Patterns (``newsroom.*``) of the agent types that may live there, and in whose name it may send.
        may_send: Of the agent types that it may send to.
        may_publish: Of the topic types that it may publish on.
        may_store: Whether it may use the host's store, and so see and change all that is in it; ``None``: if it may
            host anything.
    """

    name: str = "anyone"
    may_host: tuple[str, ...] = ("*",)
    may_send: tuple[str, ...] = ("*",)
    may_publish: tuple[str, ...] = ("*",)
    may_store: bool | None = None

    @property
    def stores(self) -> bool:
        """Whether it may use the host's store."""
        return bool(self.may_host) if self.may_store is None else self.may_store


def permits(patterns: tuple[str, ...], name: str) -> bool:
    """Whether one of the patterns fits the name; upper and lower case differ."""
    return any(pattern == "*" or fnmatchcase(name, pattern) for pattern in patterns)


class Carrier(Protocol):
    """Whole messages of bytes, both ways, in order. One task at a time calls ``send``, another one ``receive``."""

    @property
    def principal(self) -> Principal:
        """Who is at the other end."""
        ...

    async def send(self, data: bytes) -> None:
        """Hand on; return when there is room for more. Raises ``ConnectionError`` when it is closed or broken."""
        ...

    async def receive(self) -> bytes | None:
        """The next message; ``None`` for good when it is closed or broken, by whichever side."""
        ...

    async def close(self, reason: str = "") -> None:
        """What was sent still arrives if it can; ``receive`` returns ``None`` at both ends. Idempotent."""
        ...


class Dial(Protocol):
    """Makes a carrier: to the host, or to the address of a worker."""

    def __call__(self, address: str = "", /) -> Awaitable[Carrier]:
        """Connect. Raises ``OSError`` (``ConnectionError`` is one) when that fails, ``NotPermitted`` if refused."""
        ...


class MemoryCarrier:
    """One end of a ``pair``.

    Args:
        principal: Who is at the other end.

    Attributes:
        sent: How many messages went in here.
        on_send: Called before each of them with their number, from 1; may ``cut``.
    """

    def __init__(self, principal: Principal) -> None:
        self._principal = principal
        self._inbox: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        self._other: MemoryCarrier = self
        self.sent: int = 0
        self.on_send: Callable[[int], None] | None = None

    @property
    def principal(self) -> Principal:
        """Who is at the other end."""
        return self._principal

    def joined(self, other: MemoryCarrier) -> MemoryCarrier:
        """This end, from here on the opposite of that one."""
        self._other = other
        return self

    def cut(self) -> None:
        """Break at once: what has not been received is lost, at both ends."""
        for end in (self, self._other):
            end._closed = True  # noqa: SLF001 - the other end is of this class
            end._inbox.clear()  # noqa: SLF001 - as above
            end._changed.set()  # noqa: SLF001 - as above

    async def send(self, data: bytes) -> None:
        """Put into the other end's inbox; wait while that is full."""
        self.sent += 1
        if self.on_send is not None:
            self.on_send(self.sent)
        other = self._other
        while len(other._inbox) >= _QUEUE and not self._closed:  # noqa: SLF001 - as above
            other._changed.clear()  # noqa: SLF001 - as above
            await other._changed.wait()  # noqa: SLF001 - as above
        if self._closed or other._closed:  # noqa: SLF001 - as above
            msg = "the carrier in memory is closed"
            raise ConnectionResetError(msg)
        other._inbox.append(data)  # noqa: SLF001 - as above
        other._changed.set()  # noqa: SLF001 - as above

    async def receive(self) -> bytes | None:
        """Take from the inbox; what was sent before the other end closed still arrives."""
        while not self._inbox:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        data = self._inbox.popleft()
        self._changed.set()
        return data

    async def close(self, reason: str = "") -> None:  # noqa: ARG002 - nobody at the other end reads it
        """Nothing more goes in, at either end."""
        for end in (self, self._other):
            end._closed = True  # noqa: SLF001 - as above
            end._changed.set()  # noqa: SLF001 - as above


def pair(near: Principal | None = None, far: Principal | None = None) -> tuple[MemoryCarrier, MemoryCarrier]:
    """Two ends in one process; ``near`` is who dials, as seen from the second end, ``far`` who answers."""
    first, second = MemoryCarrier(far or Principal()), MemoryCarrier(near or Principal())
    return first.joined(second), second.joined(first)
