"""Dead letters: events that were accepted and that nobody could handle."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from perdure.messages import Envelope, ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

_log: Final = logging.getLogger("perdure.messaging")


class DeadLetter(NamedTuple):
    """An event that was not handled.

    Attributes:
        envelope: As it arrived.
        error: Why.
        at: When (UTC seconds).
    """

    envelope: Envelope
    error: ErrorInfo
    at: float


class DeadLetters:
    """The last ones, and how many there were. A letter is never delivered again by itself.

    Args:
        limit: How many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._letters: deque[DeadLetter] = deque(maxlen=limit)
        self.count = 0

    def put(self, envelope: Envelope, error: BaseException, at: float) -> None:
        """Keep an event with its error. What it says stays out of the log."""
        info = ErrorInfo.of(error)
        self.count += 1
        self._letters.append(DeadLetter(envelope, info, at))
        _log.warning(
            "event %r of type %r to %s is a dead letter: %s", envelope.id, envelope.type, envelope.target, info.type
        )

    def list(self) -> Sequence[DeadLetter]:
        """Oldest first."""
        return tuple(self._letters)
