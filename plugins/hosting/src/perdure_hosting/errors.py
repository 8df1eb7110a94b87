"""What the two ends of a link say to each other when it cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import RetryableError, UsageError
from perdure_hosting.wire_pb2 import Goodbye

if TYPE_CHECKING:
    from perdure_hosting.wire_pb2 import Goodbye as GoodbyePacket


class ProtocolViolated(UsageError):
    """The other side sent what this version of the protocol does not allow.

    Args:
        message: What it was.
        reason: What it is called in the goodbye.
    """

    def __init__(self, message: str, reason: Goodbye.Reason = Goodbye.MALFORMED) -> None:
        super().__init__(message)
        self.reason: Goodbye.Reason = reason


class Refused(UsageError):
    """The other side does not take this one: wrong version, a name that is taken, no permission.

    Args:
        goodbye: What it said.
    """

    def __init__(self, goodbye: GoodbyePacket) -> None:
        name = Goodbye.Reason.Name(goodbye.reason) if goodbye.reason in Goodbye.Reason.values() else str(goodbye.reason)
        super().__init__(f"refused with {name!r}: {goodbye.message}")
        self.reason: Goodbye.Reason = goodbye.reason


class HostUnreachable(RetryableError):
    """No connection to the host came about in time."""
