"""One side of a session as a state machine: numbers, acknowledgements, window, packets. Sans I/O.

Frames are bytes here: what they mean is the business of who puts them in and takes them out. They outlive the carrier:
``attach`` begins with another one where the last one broke off. Of the two classes of frames, *counted* ones (requests,
events) need room in the window, so that who does not read makes its senders wait; others (replies, cancellations) go
whenever they come, for their number is bounded by that of counted ones, and waiting for them would be a deadlock.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from perdure_hosting.errors import ProtocolViolated
from perdure_hosting.wire_pb2 import Goodbye, Packet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perdure_hosting.settings import SessionSettings

BATCH_BYTES: Final = 256 * 1024
"""A packet that has reached this size takes no further frame."""

BATCH_FRAMES: Final = 128
"""A packet takes no more frames than this: what arrives at once is handled at once, and who handles what came before or
after it should be able to do so meanwhile."""

MANY_FRAMES: Final = 32
"""So many are worth a packet, whatever may still come."""

OVERHEAD: Final = 64 * 1024
"""Bytes that a packet may have beyond its frames."""


class Link:
    """What one side knows of a session.

    Args:
        settings: Window and sizes, the same at both sides.

    Attributes:
        max_frame: Bytes of the largest frame.
        received: Number of the last frame that arrived.
        acked: Number of the last own frame that the other side has.
        urgent: What waits asks for an answer at once.
        due: There is something to say, with or without frames.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self._frames = settings.window_frames
        self._bytes = settings.window_bytes
        self.max_frame: int = settings.max_frame
        self.received: int = 0
        self.acked: int = 0
        self.urgent: bool = False
        self.due: bool = False
        self._waiting: deque[bytes] = deque()
        self._written: deque[bytes] = deque()
        self._next = 1  # number of the first frame in `_waiting`
        self._highest = 0  # number of the last frame that was ever written
        self._sent = [0, 0]  # counted frames and their bytes, since the session began
        self._theirs = [0, 0]  # of those, what the other side has taken over
        self._arrived = [0, 0]  # counted frames from the other side
        self._taken = [0, 0]  # of those, what was taken over here
        self._told = [0, 0, 0]  # what the other side was told last: received, frames and bytes taken over

    # -- sending

    @property
    def room(self) -> bool:
        """Whether another counted frame may be put in."""
        return self._sent[0] - self._theirs[0] < self._frames and self._sent[1] - self._theirs[1] < self._bytes

    @property
    def last(self) -> int:
        """Number of the last frame that was put in."""
        return self._next + len(self._waiting) - 1

    @property
    def held(self) -> int:
        """Frames that the other side is not known to have."""
        return len(self._waiting) + len(self._written)

    @property
    def silent(self) -> bool:
        """Whether there is nothing to say."""
        return not (self._waiting or self.due)

    @property
    def many(self) -> bool:
        """Whether what waits is worth a packet, whatever may still come."""
        return len(self._waiting) >= MANY_FRAMES

    @property
    def swamped(self) -> bool:
        """Whether the other side asks and asks, and does not read the answers."""
        return len(self._waiting) > 4 * self._frames + 1024

    def put(self, raw: bytes, *, counted: bool = False) -> int:
        """Send this frame; return its number. Look for ``room`` before a counted one."""
        if counted:
            self._sent[0] += 1
            self._sent[1] += len(raw)
        self._waiting.append(raw)
        return self._next + len(self._waiting) - 1

    def take(self) -> bytes | None:
        """The next packet for the carrier; ``None`` if there is nothing to say."""
        if self.silent:
            return None
        waiting = self._waiting
        frames: list[bytes] = []
        size = 0
        while waiting and size < BATCH_BYTES and len(frames) < BATCH_FRAMES:
            frames.append(waiting.popleft())
            size += len(frames[-1])
        first = self._next if frames else 0
        self._written.extend(frames)
        self._next += len(frames)
        self._highest = max(self._highest, self._next - 1)
        if not waiting:  # else an answer to what arrived may still be waiting, and must not come after its receipt
            self._told[0] = self.received
        packet = Packet(
            first=first,
            ack=self._told[0],
            taken_frames=self._taken[0],
            taken_bytes=self._taken[1],
            urgent=self.urgent,
            frames=frames,
        )
        self._told[1:] = self._taken
        self.due = False
        self.urgent = self.urgent and bool(waiting)  # who asked for an answer may stand in the last packet
        return packet.SerializeToString()

    def poke(self) -> None:
        """Say something soon, and ask for an answer."""
        self.due = self.urgent = True

    def never_written(self, number: int) -> bool:
        """Whether the frame of that number has certainly not reached the other side."""
        return number > self._highest

    def unacknowledged(self) -> tuple[list[bytes], list[bytes]]:
        """What the other side may have, or not; and what it certainly has not. Oldest first."""
        everything = [*self._written, *self._waiting]
        doubtful = max(0, self._highest - self.acked)
        return everything[:doubtful], everything[doubtful:]

    # -- receiving

    def receive(self, packet: Packet) -> Sequence[bytes]:
        """The frames of a packet that had not arrived before. Raises ``ProtocolViolated``."""
        if packet.ack > self.acked:
            self._acknowledged(packet.ack)
        if packet.taken_frames > self._theirs[0]:
            self._room_made(packet.taken_frames, packet.taken_bytes)
        if packet.urgent:
            self.due = True
        frames = packet.frames
        if not frames:
            return ()
        known = self.received + 1 - packet.first
        if known < 0 or not packet.first:
            msg = f"a packet begins with frame {packet.first}, expected at most {self.received + 1}"
            raise ProtocolViolated(msg)
        new = frames[known:] if known else frames
        self.received += len(new)
        if self.received - self._told[0] >= max(1, self._frames // 4):
            self.due = True
        return new

    def arrived(self, size: int) -> None:
        """A counted frame of so many bytes came; ``took`` says when it was taken over. Raises ``ProtocolViolated``."""
        if size > self.max_frame:
            msg = f"a message of {size} bytes, more than the {self.max_frame} allowed: send a reference instead"
            raise ProtocolViolated(msg, Goodbye.OVERSIZE)
        arrived = self._arrived
        arrived[0] += 1
        arrived[1] += size
        if arrived[0] - self._taken[0] > self._frames or arrived[1] - self._taken[1] > self._bytes + self.max_frame:
            msg = f"more than {self._frames} messages or {self._bytes} bytes at once: wait until some are taken over"
            raise ProtocolViolated(msg)

    def took(self, size: int) -> None:
        """A counted frame of so many bytes was taken over: there is room for another."""
        taken, told = self._taken, self._told
        taken[0] += 1
        taken[1] += size
        if (taken[0] - told[1]) * 4 >= self._frames or (taken[1] - told[2]) * 4 >= self._bytes:
            self.due = True

    # -- carriers

    def attach(self, received: int) -> None:
        """Go on over another carrier; the other side has frames up to ``received``. Raises ``ProtocolViolated``."""
        if not self.acked <= received <= self._highest:
            msg = f"the session cannot go on after frame {received}: it stands at {self.acked} to {self._highest}"
            raise ProtocolViolated(msg)
        self._next -= len(self._written)
        self._waiting.extendleft(reversed(self._written))
        self._written.clear()
        self._acknowledged(received, resumed=True)
        self.poke()  # what asked for an answer before may be among what is sent again

    def _acknowledged(self, number: int, *, resumed: bool = False) -> None:
        source = self._waiting if resumed else self._written
        count = number - self.acked
        if count > len(source):
            msg = f"frame {number} is acknowledged, and was never sent"
            raise ProtocolViolated(msg)
        for _ in range(count):
            source.popleft()
        self.acked = number
        if resumed:
            self._next += count

    def _room_made(self, frames: int, size: int) -> None:
        if frames > self._sent[0] or size > self._sent[1]:
            msg = f"{frames} messages of {size} bytes are taken over, and {self._sent[0]} of {self._sent[1]} were sent"
            raise ProtocolViolated(msg)
        self._theirs = [frames, size]


def parsed(data: bytes, max_frame: int) -> Packet:
    """Read a packet. Raises ``ProtocolViolated``."""
    if len(data) > max_frame + BATCH_BYTES + OVERHEAD:
        msg = f"a packet of {len(data)} bytes; one message may have {max_frame}"
        raise ProtocolViolated(msg, Goodbye.OVERSIZE)
    try:
        return Packet.FromString(data)
    except DecodeError as error:
        msg = f"a packet of {len(data)} bytes cannot be read: {error}"
        raise ProtocolViolated(msg) from error
